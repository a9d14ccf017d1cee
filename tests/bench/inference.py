"""What intervals and tests do: `python -m tests.bench.inference [coverage|changes|seeds|floor] [number]`.

At most `number` studies a line are simulated from models whose true accuracy, gap, AUROC and calibration
error are known (`tests/analysis/inference/worlds.py`), analysed by the code that analyses studies, and
compared with the truth. Each line has its Monte-Carlo error (one standard error). Seeds are fixed: a line is
the same on every machine.

coverage: 95% intervals, per language (L = 1) and of macro means.
changes: size, power, bias and width for two models that answer the same questions.
seeds: three training seeds a side, paired and not.
floor: the micro floor against the mean ECE that calibrated models show.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.inference.bootstrap import Resamples, resample
from analysis.inference.changes import Change, change
from analysis.inference.estimates import Estimate, interval, over_seeds
from tests.analysis.inference.worlds import METRICS, Model, cells, draw, macro, micro, truth

REPLICATES = 300
"""Bootstrap replicates in a simulation; a study has 1,000."""

CALIBRATED, OFF_20 = Model(), Model(slope=0.8)
COVERED = {
    "calibrated": CALIBRATED,
    "slope .97": Model(slope=0.97),
    "slope .93": Model(slope=0.93),
    "slope .85": Model(slope=0.85),
    "slope .5": Model(slope=0.5),
    "crossing": Model(is_crossing=True),
    "under-confident": Model(slope=1.3),
    "raw": Model(share=0.88),
}
SIZES = [
    *((languages, items) for languages in (1, 5, 13, 42) for items in (205, 500, 2000)),
    (1, 100),
]
CHANGES = {
    "both calibrated": (CALIBRATED, CALIBRATED),
    "both slope .86": (Model(slope=0.86), Model(slope=0.86)),
    "both crossing": (Model(is_crossing=True), Model(is_crossing=True)),
    "equal error, opposite direction": (Model(slope=1.25), Model(slope=0.8147)),
    "slope .86 against .79": (Model(slope=0.86), Model(slope=0.79)),
    "calibrated against slope .80": (CALIBRATED, OFF_20),
}


@dataclass(frozen=True)
class Covered:
    """How often an interval covered the truth."""

    covered: float
    below: float
    """How often the truth lay above the interval."""
    above: float
    relative_width: float
    """Mean width in 3.92 standard deviations of the estimate."""
    error: float
    """Monte-Carlo standard error of `covered`."""


@dataclass(frozen=True)
class Tested:
    """What was said of a change."""

    rejected: float
    """How often p was below .05."""
    covered: float
    mean: float
    truth: float
    relative_width: float
    error: float
    """Monte-Carlo standard error of `rejected`."""


def coverage(model: Model, num_languages: int, num_items: int, replications: int) -> dict[str, Covered]:
    """Of 95% intervals, by metric."""
    known = truth(model)
    lines: dict[str, list[tuple[float, float, float]]] = {metric: [] for metric in METRICS}
    for rng, resamples in _studies(num_items, replications, [num_languages, num_items, 1]):
        confidence, correct = draw(rng, num_items, num_languages, [model])
        of_languages = cells(resamples, confidence[:, :, 0], correct[:, :, 0])
        for metric, values in lines.items():
            if (estimate := macro(of_languages, metric)) is not None:
                low, high = interval(estimate)
                if not low <= estimate.shown <= high:
                    raise AssertionError(f"{metric}: {estimate.shown} is not in [{low}, {high}].")
                values.append((estimate.shown, low, high))
    return {metric: _covered(np.array(values), getattr(known, metric)) for metric, values in lines.items()}


def _covered(lines: np.ndarray, known: float) -> Covered:
    value, low, high = lines.T
    inside = (low <= known) & (known <= high)
    share = float(inside.mean())
    return Covered(
        share,
        float((high < known).mean()),
        float((low > known).mean()),
        float((high - low).mean() / 3.92 / value.std()),
        math.sqrt(max(share * (1.0 - share), 1e-4) / len(lines)),
    )


def changes(
    models: Sequence[Model], num_languages: int, num_items: int, replications: int
) -> dict[str, Tested]:
    """Of the first model minus the second, by metric."""
    a, b = (truth(model) for model in models)
    lines: dict[str, list[Change]] = {metric: [] for metric in METRICS}
    for rng, resamples in _studies(num_items, replications, [num_languages, num_items, 2]):
        confidence, correct = draw(rng, num_items, num_languages, models)
        sides = [cells(resamples, confidence[:, :, m], correct[:, :, m]) for m in range(2)]
        for metric, values in lines.items():
            one, two = (macro(side, metric) for side in sides)
            if one is not None and two is not None:
                values.append(change(one, two))
    return {
        metric: _tested(values, getattr(a, metric) - getattr(b, metric)) for metric, values in lines.items()
    }


def _tested(values: Sequence[Change], known: float) -> Tested:
    for one in values:
        if not one.low <= one.value <= one.high:
            raise AssertionError(f"{one.value} is not in [{one.low}, {one.high}].")
    rejected = float(np.mean([one.p_value < 0.05 for one in values]))
    shown = np.array([one.value for one in values])
    return Tested(
        rejected,
        float(np.mean([one.low <= known <= one.high for one in values])),
        float(shown.mean()),
        known,
        float(np.mean([one.high - one.low for one in values]) / 3.92 / shown.std()),
        math.sqrt(max(rejected * (1.0 - rejected), 1e-4) / len(values)),
    )


def seeds(
    num_seeds: int, effect: float, shared: float, replications: int, *, luck: float = 0.0, paired: bool = True
) -> Tested:
    """A score with a seed effect of SD .02, of which `shared` is common to both sides' equal seeds.

    effect: true change, in SDs of one side's seeds; where seeds are paired, of a pair's difference. luck: SD
    of what a seed answers a question otherwise than its siblings; 500 questions of SD .3.
    """
    rng = np.random.default_rng([num_seeds, round(100 * shared), round(100 * luck), 3])
    resamples = resample([f"{k:03d}" for k in range(500)], num_replicates=REPLICATES)
    scale = 0.02 * (math.sqrt(2.0 * (1.0 - shared)) if paired else 1.0)
    values = []
    for _ in range(replications):
        common = rng.normal(size=num_seeds) * math.sqrt(shared)
        questions = 0.5 + 0.3 * rng.normal(size=500)
        sides = []
        for shift in (effect * scale, 0.0):
            own = 0.02 * (common + math.sqrt(1.0 - shared) * rng.normal(size=num_seeds))
            sides.append(
                over_seeds(
                    {
                        seed: _score(resamples, questions + shift + own[seed] + luck * rng.normal(size=500))
                        for seed in range(num_seeds)
                    }
                )
            )
        a, b = sides
        assert a is not None
        assert b is not None
        values.append(change(a, b, paired_seeds=paired))
    return _tested(values, effect * scale)


def _score(resamples: Resamples, values: np.ndarray) -> Estimate:
    draws = resamples.totals(values[:, None])[:, 0] / len(values)
    return Estimate(float(values.mean()), draws, np.ones(len(values)))


def floor(num_languages: int, num_items: int, replications: int) -> tuple[float, float]:
    """(mean ECE of calibrated models over all examples together, mean floor printed beside it)."""
    shown = []
    for rng, resamples in _studies(num_items, replications, [num_languages, num_items, 4]):
        confidence, correct = draw(rng, num_items, num_languages, [CALIBRATED])
        shown.append(micro(resamples, confidence[:, :, 0], correct[:, :, 0]))
    ece, floors = np.mean(shown, axis=0)
    return float(ece), float(floors)


def _studies(
    num_items: int, replications: int, seed: Sequence[int]
) -> Iterator[tuple[np.random.Generator, Resamples]]:
    """A generator and resamples for each simulated study; the resamples are drawn anew for every tenth."""
    ids = [f"{k:05d}" for k in range(num_items)]
    for replication in range(replications):
        if replication % 10 == 0:
            resamples = resample(ids, num_replicates=REPLICATES, seed=replication)
        yield np.random.default_rng([*seed, replication]), resamples


def print_coverage(replications: int) -> None:
    print("    L x n  model            metric     covered (MC error)  below  above  width / 3.92 SD")
    for num_languages, num_items in SIZES:
        few = max(50, round(replications * min(1.0, 4000 / num_languages / num_items)))
        for name, model in COVERED.items():
            for metric, line in coverage(model, num_languages, num_items, few).items():
                print(
                    f"{num_languages:>3} x {num_items:<5} {name:16} {metric:10} {line.covered:.3f} "
                    f"({line.error:.3f})       {line.below:.3f}  {line.above:.3f}  {line.relative_width:.2f}",
                    flush=True,
                )


def print_changes(replications: int) -> None:
    print(
        f"    L x n  {'models':32} metric     p < .05 (MC error)  covered  mean / truth     width / 3.92 SD"
    )
    for num_languages, num_items in ((1, 500), (13, 500), (42, 500), (13, 2000)):
        few = max(50, round(replications * min(1.0, 6500 / num_languages / num_items)))
        for name, models in CHANGES.items():
            for metric, line in changes(models, num_languages, num_items, few).items():
                print(
                    f"{num_languages:>3} x {num_items:<5} {name:32} {metric:10} {line.rejected:.3f} "
                    f"({line.error:.3f})      {line.covered:.3f}    {line.mean:+.4f} / {line.truth:+.4f}"
                    f"  {line.relative_width:.2f}",
                    flush=True,
                )


def print_seeds(replications: int) -> None:
    print("seeds  effect  shared  luck  pairing    p < .05 (MC error)  covered")
    worlds = ((0.0, 0.0, False), (0.0, 0.0, True), (0.7, 0.0, True), (0.0, 0.4, True), (0.7, 0.4, True))
    for num_seeds in (2, 3, 5):
        for effect in (0.0, 3.0):
            for shared, luck, paired in worlds:
                line = seeds(num_seeds, effect, shared, replications, luck=luck, paired=paired)
                pairing = "paired" if paired else "Welch"
                print(
                    f"{num_seeds:>5}  {effect:>6.1f}  {shared:>6.1f}  {luck:>4.1f}  {pairing:8}"
                    f"   {line.rejected:.3f} ({line.error:.3f})       {line.covered:.3f}",
                    flush=True,
                )


def print_floor(replications: int) -> None:
    print("    L x n     mean ECE of calibrated models   floor   ratio")
    for num_languages, num_items in ((1, 400), (13, 400), (42, 400)):
        ece, shown = floor(num_languages, num_items, max(30, replications // num_languages))
        print(f"{num_languages:>5} x {num_items:<5} {ece:>25.4f} {shown:>13.4f} {shown / ece:>7.2f}")


PRINTS: dict[str, Callable[[int], None]] = {
    "coverage": print_coverage,
    "changes": print_changes,
    "seeds": print_seeds,
    "floor": print_floor,
}


def main(which: Sequence[str], replications: int) -> None:
    for name in which:
        started = time.perf_counter()
        print(f"\n{name}: {replications} replications at most, {REPLICATES} replicates")
        PRINTS[name](replications)
        print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    counts = [int(text) for text in arguments if text.isdecimal()]
    main([text for text in arguments if not text.isdecimal()] or list(PRINTS), counts[0] if counts else 400)
