"""Small study folders, written record by record, so that a test can know every number in them."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.records import Prediction, ShardInfo, write_part

LANGUAGES = ("de", "en", "sw", "uk", "yo")  # high, high, low, mid, low


@dataclass
class StudyFolder:
    """A study folder under construction."""

    root: Path
    description: str | None = "A synthetic study, for tests."
    jobs: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, list[Prediction]] = field(default_factory=dict)
    contrasts: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        cell: Mapping[str, Any],
        language: str,
        predictions: Iterable[Prediction] | None,
        *,
        benchmark: str = "cldr",
        split: str = "test",
        protocol: str = "letter",
        failed: bool = False,
    ) -> str:
        """Plan one evaluate job; with predictions, also run it. Returns its id."""
        job_id = f"{len(self.jobs):016x}"
        spec = {"benchmark": {"name": benchmark, "split": split}, "language": language, "protocol": protocol}
        self.jobs.append(
            {"job_id": job_id, "kind": "evaluate", "needs": [], "cell": dict(cell), "spec": spec}
        )
        folder = self.root / "jobs" / job_id
        folder.mkdir(parents=True)
        if failed:
            (folder / "FAILED").write_text("out of memory")
        if predictions is not None:
            rows = self.records[job_id] = list(predictions)
            info = ShardInfo(job_id, str(cell["model"]), benchmark, language, split, protocol)
            half = len(rows) // 2
            if half:
                write_part(folder / "predictions", 0, rows[:half], info)
            write_part(folder / "predictions", half, rows[half:], info)
            self.write_done(job_id)
        self.write_plan()
        return job_id

    def write_done(self, job_id: str) -> None:
        """Mark a job as complete, with the parts that lie there."""
        folder = self.root / "jobs" / job_id
        parts = sorted((folder / "predictions").iterdir())
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}
        items = {record.example_id for record in self.records[job_id]}
        done = {"job_id": job_id, "num_items": len(items), "num_skipped": 0, "parts": sums}
        (folder / "DONE").write_text(json.dumps(done))

    def write_plan(self) -> None:
        others = [{"job_id": "f" * 16, "kind": "train", "needs": [], "cell": {"model": "x"}, "spec": {}}]
        evaluations = [
            {"job_id": job["job_id"], "kind": "evaluate", "model": place, "shard": place}
            for place, job in enumerate(self.jobs)
        ]
        plan = {
            "schema_version": 2,
            "study": self.root.name,
            "description": self.description,
            "models": [{"cell": job["cell"]} for job in self.jobs],
            "shards": [job["spec"] for job in self.jobs],
            "jobs": [*others, *evaluations],
            "contrasts": self.contrasts,
        }
        (self.root / "plan.json").write_text(json.dumps(plan))


def letter(probabilities: Iterable[float], label: int, number: int = 0) -> Prediction:
    """One item under the letter protocol, from its full-vocabulary probabilities."""
    p = list(probabilities)
    return Prediction(
        example_id=f"item-{number}",
        subject="capital",
        label=label,
        scores=[math.log(value) for value in p],
        option_mass=sum(p),
        option_num_tokens=None,
        rotation=0,
        num_prompt_tokens=20,
    )


def random_letters(seed: str, count: int, sharpness: float, skill: float, mass: float) -> list[Prediction]:
    """Items of a model that knows the answer with chance `skill`, and is confident by `sharpness`.

    The right option of an item is the same whatever the seed.
    """
    rng, asked = random.Random(seed), random.Random("right options")
    result = []
    for i in range(count):
        label = asked.randrange(4)
        believed = label if rng.random() < skill else rng.randrange(4)
        logits = [rng.gauss(0, 0.5) + (sharpness if k == believed else 0) for k in range(4)]
        total = sum(math.exp(z) for z in logits)
        result.append(letter([mass * math.exp(z) / total for z in logits], label, i))
    return result


def sweep(
    folder: StudyFolder,
    *,
    languages: Iterable[str] = LANGUAGES,
    seeds: int = 3,
    count: int = 60,
    skip: Iterable[tuple[float, int, str]] = (),
) -> StudyFolder:
    """A base model and its SFT with smoothing 0 and 0.1; `skip`: (smoothing, seed, language) not done."""
    skipped = set(skip)
    for language in languages:
        skill = {"de": 0.6, "en": 0.75, "uk": 0.5}.get(language, 0.3)
        folder.add(
            {"model": "cldr-tiny"}, language, random_letters(f"base{language}", count, 1.8, skill, 0.9)
        )
        for smoothing, sharpness, mass in ((0.0, 4.5, 0.99), (0.1, 3.5, 0.8)):
            for seed in range(seeds):
                cell = {
                    "model": "cldr-tiny",
                    "dataset": "cldr-instruct",
                    "learning_rate": 0.001,
                    "label_smoothing": smoothing,
                    "seed": seed,
                }
                rows = random_letters(f"{language}{smoothing}{seed}", count, sharpness, skill, mass)
                gone = (smoothing, seed, language) in skipped
                folder.add(cell, language, None if gone else rows, failed=gone and seed == 0)
    return folder
