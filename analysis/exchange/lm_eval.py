"""`import-lm-eval`: makes a study from samples that lm-evaluation-harness logged.

`lm_eval --log_samples --output_path DIR` writes, for each model, `results_<date>.json` and a file of samples
for each task. A sample of a multiple_choice task has the log-probability of each option, in nats, not
normalised: a score. The tasks of one benchmark and language (`global_mmlu_full_sw_anatomy`, ...) become one
shard, each of them a subject.

Options that are the letters A, B, C, ... mean the letter protocol. All others mean option_text, where
confidence is exp(score / tokens). The harness does not log how many tokens an option has: they are counted
with the model's tokenizer, or the task is refused. Characters or bytes would give wrong numbers.

Without a tokenizer the number of tokens of a prompt is unknown, -1.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.exchange.lm_eval_samples import (
    CountTokens,
    Task,
    name_task,
    predictions_of,
    read_samples,
    token_counter,
)
from study.errors import RecordError, UserError
from study.files import canonical, digest, read_json, write_atomic, write_json
from study.jobs.plan import PLAN_VERSION
from study.paths import StudyPaths
from study.rows import Row, parse_line

if TYPE_CHECKING:
    from rich.console import Console

    from study.records import Prediction, ShardInfo

SEPARATE_FOLDER = "give a separate folder"
RUN_SETTINGS = ("batch_size", "batch_sizes", "device", "use_cache", "limit", "bootstrap_iters")
"""Keys of the harness's config that do not tell models apart."""


@dataclass
class Imported:
    """Ids of jobs: shards that are new, and shards imported before. refused: task -> why."""

    new: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 1 if self.refused else 0


def import_lm_eval(
    folder: Path, study_dir: Path, *, language: str | None = None, tokenizer: Path | None = None
) -> Imported:
    """Add everything that the harness logged below `folder` to the study in `study_dir`.

    language: that of tasks whose name has none. tokenizer: the model's `tokenizer.json` or its folder.
    Raises UserError where there are no samples, `study_dir` holds a study that was swept, or a model was
    asked the same in two ways; RecordError where a file, or what it says, is broken.
    """
    paths = StudyPaths(study_dir)
    if paths.grid.is_file():
        raise UserError("is a study that was swept", where=str(study_dir), remedy=SEPARATE_FOLDER)
    results = sorted(folder.rglob("results_*.json"))
    if not results:
        remedy = "give the --output_path of lm_eval --log_samples"
        raise UserError("holds no results_*.json", where=str(folder), remedy=remedy)
    count = None if tokenizer is None else token_counter(tokenizer)
    outcome, shards = Imported(), list[_Shard]()
    for file in results:
        shards += _shards(file, language, count, outcome)
    if not shards and not outcome.refused:
        raise UserError("holds no samples", where=str(folder), remedy="run lm_eval with --log_samples")
    if shards:  # a plan without jobs is not a study
        _write(shards, paths, outcome)
    return outcome


@dataclass(frozen=True)
class _Shard:
    job_id: str
    model: dict[str, Any]
    spec: dict[str, Any]
    predictions: tuple[Prediction, ...]

    @property
    def model_entry(self) -> dict[str, Any]:
        return {"model": self.model, "cell": {"model": self.model["name"]}}

    @property
    def info(self) -> ShardInfo:
        from study.records import ShardInfo

        name, benchmark = f"{self.model['name']}@{self.model['revision']}", self.spec["benchmark"]
        return ShardInfo(
            self.job_id,
            name,
            benchmark["name"],
            self.spec["language"],
            benchmark["split"],
            self.spec["protocol"],
        )


@dataclass(frozen=True)
class _Member:
    """A task whose samples became records."""

    task: Task
    samples: tuple[Row, ...]
    predictions: list[Prediction]


def _shards(
    file: Path, language: str | None, count: CountTokens | None, outcome: Imported
) -> Iterator[_Shard]:
    """The shards of one run of the harness. A shard without one of its tasks is refused: it asks less."""
    run = parse_line(file.read_text(encoding="utf-8"), str(file))
    if any(not isinstance(run.get(key), dict) for key in ("configs", "config")) or "model_name" not in run:
        raise RecordError(f"{file}: is not a result of lm_eval")
    groups: dict[tuple[str, str, str, str], list[_Member]] = defaultdict(list)
    broken: dict[tuple[str, str], str] = {}
    for name, config in sorted(run["configs"].items()):
        samples_file = file.with_name(f"samples_{name}_{file.stem.removeprefix('results_')}.jsonl")
        task = None
        try:
            if config.get("output_type") != "multiple_choice":
                raise RecordError(f"a task of {config.get('output_type')}, which gives options no scores")
            task = name_task(name, config, list(run.get("group_subtasks") or ()), language)
            if not samples_file.is_file():
                raise RecordError(f"{samples_file}: is missing; run lm_eval with --log_samples")
            samples = read_samples(samples_file)
            protocol, predictions = predictions_of(task, samples_file, samples, count)
        except RecordError as error:
            outcome.refused[name] = str(error)
            if task is not None:
                broken[task.benchmark, task.language] = name
            continue
        key = (task.benchmark, task.split, task.language, protocol)
        groups[key].append(_Member(task, samples, predictions))
    for (benchmark, split, code, protocol), members in groups.items():
        if (benchmark, code) in broken:
            why = f"{broken[benchmark, code]}, of the same benchmark and language, was refused"
            outcome.refused |= {member.task.name: why for member in members}
        elif (doubled := _doubled(members)) is not None:
            names = ", ".join(member.task.name for member in members)
            why = f"item '{doubled}' occurs in more than one of {names}; import them into two studies"
            outcome.refused |= {member.task.name: why for member in members}
        else:
            yield _shard(run, benchmark, split, code, protocol, members)


def _doubled(members: Sequence[_Member]) -> str | None:
    """An item that two tasks have, or None."""
    ids = [prediction.example_id for member in members for prediction in member.predictions]
    return next((example_id for example_id, count in Counter(ids).items() if count > 1), None)


def _shard(
    run: Mapping[str, Any],
    benchmark: str,
    split: str,
    language: str,
    protocol: str,
    members: Sequence[_Member],
) -> _Shard:
    settings = {key: value for key, value in run["config"].items() if key not in RUN_SETTINGS}
    model = {
        "kind": "lm_eval",
        "name": str(run["model_name"]),
        "revision": digest({"source": run.get("model_source"), "settings": settings}),
    }
    names = [member.task.name for member in members]
    samples = [sample for member in members for sample in member.samples]
    spec = {
        # the harness's own hashes identify the items, and the prompts with their shots
        "benchmark": {"name": benchmark, "split": split, "items": digest([s["doc_hash"] for s in samples])},
        "language": language,
        "protocol": protocol,
        "prompting": {"version": digest([s["prompt_hash"] for s in samples])},
        "lm_eval": {
            "version": run.get("lm_eval_version"),
            "tasks": {name: (run.get("versions") or {}).get(name) for name in names},
            "num_shots": {name: (run.get("n-shot") or {}).get(name) for name in names},
        },
    }
    job_id = digest({"kind": "evaluate", "spec": {"model": model, **spec}})
    predictions = tuple(p for member in members for p in member.predictions)
    return _Shard(job_id, model, spec, predictions)


def _write(shards: Sequence[_Shard], paths: StudyPaths, outcome: Imported) -> None:
    """Write the plan first: shards of an interrupted import show as not done, and the next one resumes."""
    from study.records import write_part

    plan = read_json(paths.plan) if paths.plan.is_file() else {"models": [], "shards": [], "jobs": []}
    if any("lm_eval" not in spec for spec in plan["shards"]) or any(
        "shard" not in job for job in plan["jobs"]
    ):
        raise UserError("is a study of calsweep's own jobs", where=str(paths.root), remedy=SEPARATE_FOLDER)
    known = {
        job["job_id"]: (plan["models"][job["model"]], plan["shards"][job["shard"]]) for job in plan["jobs"]
    }
    for shard in shards:
        known.setdefault(shard.job_id, (shard.model_entry, shard.spec))
    _refuse_clashes(list(known.values()), paths)
    _write_plan(known, paths)
    for shard in shards:
        folder, info = paths.job(shard.job_id), shard.info
        if folder.done.is_file():
            _refuse_different(folder.predictions, shard.predictions)
            outcome.before += [] if shard.job_id in outcome.new else [shard.job_id]
            continue
        job = {"job_id": shard.job_id, "kind": "evaluate", "needs": []}
        write_json(folder.spec, {**job, **shard.model_entry, "spec": shard.spec})
        part = write_part(folder.predictions, 0, shard.predictions, info)
        parts = {part.name: hashlib.sha256(part.read_bytes()).hexdigest()}
        counts = {"num_items": len(shard.predictions), "num_skipped": 0}
        write_json(folder.done, {"job_id": shard.job_id, **counts, "parts": parts})
        outcome.new.append(shard.job_id)


def _refuse_clashes(known: Sequence[tuple[Any, Any]], paths: StudyPaths) -> None:
    """Raises UserError where a model answers a test twice, or two models were asked different items of it."""
    items: dict[tuple[str, ...], str] = {}
    asked: set[tuple[str, ...]] = set()
    remedy = "import it into a separate study"
    for model, spec in known:
        name, benchmark = model["cell"]["model"], spec["benchmark"]
        test = (benchmark["name"], benchmark["split"], spec["language"], spec["protocol"])
        if (name, *test) in asked:
            what = f"{name} was asked {', '.join(test)} in two ways"
            raise UserError(what, where=str(paths.root), remedy=remedy)
        if items.setdefault(test, benchmark["items"]) != benchmark["items"]:
            what = f"{name} was asked other items of {', '.join(test)} than the models before it"
            raise UserError(what, where=str(paths.root), remedy=remedy)
        asked.add((name, *test))


def _refuse_different(folder: Path, predictions: Sequence[Prediction]) -> None:
    """Raises RecordError where the records in a folder are not these predictions."""
    import pyarrow as pa

    from analysis.exchange.parity import difference
    from study.records import COLUMNS, read_predictions

    theirs = pa.Table.from_pylist([asdict(p) for p in predictions], schema=COLUMNS)
    # one of two imports may have had a tokenizer, and counted what the other left unknown
    columns = [name for name in COLUMNS.names if name != "num_prompt_tokens"]
    text = difference(read_predictions(folder)[0], theirs, columns)
    if text is not None:
        raise RecordError(f"{folder}: differs from what is imported: {text}; nothing was changed")


def _write_plan(known: Mapping[str, tuple[Any, Any]], paths: StudyPaths) -> None:
    """Write plan.json in the form of `study.jobs.plan`, for the analysis; no job can run its specs."""
    jobs = [
        {"job_id": job_id, "kind": "evaluate", "model": place, "shard": place}
        for place, job_id in enumerate(known)
    ]
    plan = {
        "schema_version": PLAN_VERSION,
        "study": paths.root.resolve().name,
        "description": "Imported from lm-evaluation-harness.",
        "models": [model for model, _ in known.values()],
        "shards": [spec for _, spec in known.values()],
        "jobs": jobs,
    }
    write_atomic(paths.plan, canonical(plan) + "\n")


def print_imported(imported: Imported, console: Console) -> None:
    """Print what was imported, and what was not and why."""
    for name, why in imported.refused.items():
        console.print(f"{name}: {why}", soft_wrap=True, highlight=False, markup=False)
    counts = [f"imported {len(imported.new)} shards"]
    counts += [f"{len(imported.before)} were imported before"] if imported.before else []
    counts += [f"{len(imported.refused)} tasks refused"] if imported.refused else []
    console.print("; ".join(counts), soft_wrap=True, highlight=False)
