"""Studies whose scores are softer or sharper than the labels deserve, by a temperature that is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from study.records import Prediction
from tests.analysis.studies import StudyFolder, letter

TRUE = {"en": 2.0, "sw": 4.0, "yo": 1.0}
BASE = {"model": "m"}


def trained(**axes: Any) -> dict[str, Any]:
    return {"model": "m", "dataset": "d", "learning_rate": 1e-5, "label_smoothing": 0.0, "seed": 0, **axes}


def drawn(seed: int, count: int, true: float, prefix: str = "q") -> list[Prediction]:
    """Items with four options whose labels come from softmax(scores / true), and depend on the seed alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        logits = rng.normal(size=4) * 1.5
        label = int(rng.choice(4, p=np.exp(logits) / np.exp(logits).sum()))
        probabilities = 0.9 * np.exp(logits * true) / np.exp(logits * true).sum()
        row = letter(probabilities.tolist(), label, number)
        rows.append(replace(row, example_id=f"{prefix}-{number}"))
    return rows


def with_validation(
    folder: StudyFolder,
    *,
    cells: Iterable[Mapping[str, Any]] = (BASE,),
    count: int = 1500,
    skip: Iterable[str] = (),
    test_labels_shifted: bool = False,
    prefix: str = "v",
) -> StudyFolder:
    """Test and validation shards of each cell in three languages; `skip`: validation languages not done."""
    for cell in cells:
        for place, (language, true) in enumerate(TRUE.items()):
            test = drawn(place, count, true)
            if test_labels_shifted:
                test = [replace(row, label=(row.label + 1) % 4) for row in test]
            folder.add(cell, language, test)
            rows = None if language in skip else drawn(100 + place, count, true, prefix)
            folder.add(cell, language, rows, split="validation")
    return folder


def plain_ece(confidence: Iterable[float], correct: Iterable[bool], num_bins: int = 15) -> float:
    """By its definition, a bin at a time."""
    pairs = list(zip(confidence, correct, strict=True))
    total = 0.0
    for b in range(num_bins):
        inside = [(c, y) for c, y in pairs if b / num_bins < c <= (b + 1) / num_bins]
        if inside:
            total += abs(math.fsum(y for _, y in inside) - math.fsum(c for c, _ in inside))
    return total / len(pairs)
