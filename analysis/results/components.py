"""How changes vary with questions and seeds, measured in a study: what a forecast of power needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import astuple

from analysis.inference.estimates import Estimate
from analysis.inference.power import Components, SquaredComponents, correlation_of, squared_components
from analysis.reading.shards import Study
from analysis.results.differences import DifferenceRow, difference_rows

METRICS = {
    "accuracy": "accuracy",
    "confidence_renormalised": "confidence",
    "gap_renormalised": "gap",
    "ece_l2_renormalised": "L2 ECE",
}
"""The metrics with a forecast, and what people call them."""
SQUARED = "ece_l2_renormalised"
Numbers = tuple[float | None, ...]
AnyComponents = Components | SquaredComponents
ASSUMED: dict[str, AnyComponents] = {
    "accuracy": Components(0.29, 0.0, 0.005),
    "confidence_renormalised": Components(0.10, 0.0, 0.005),
    "gap_renormalised": Components(0.31, 0.0, 0.005),
    SQUARED: SquaredComponents(0.1, 0.4, 0.0, 1.0, 0.0, 0.005),
}
"""Of no use but for an order of magnitude: from a pilot of one 270M model, 6 languages x 80 questions; for
the L2 ECE, from residuals of variance .2 of which two models share half."""


def measured(study: Study) -> dict[str, AnyComponents]:
    """By metric, the medians over the contrasts of a study; without those that it cannot say.

    The spread over seeds is that of ASSUMED where no contrast has several.
    """
    by_contrast: dict[object, list[DifferenceRow]] = {}
    for row in difference_rows(study):
        if row.missing is None:
            by_contrast.setdefault(row.contrast, []).append(row)
    contrasts = list(by_contrast.values())
    components: dict[str, AnyComponents] = {}
    for metric in METRICS:
        of_metric = _of_square if metric == SQUARED else _of_contrast
        several = [numbers for rows in contrasts if (numbers := of_metric(rows, metric)) is not None]
        if several:
            make: Callable[..., AnyComponents] = SquaredComponents if metric == SQUARED else Components
            *medians, seed_sd = (_median(column) for column in zip(*several, strict=True))
            components[metric] = make(*medians, ASSUMED[metric].seed_sd if seed_sd is None else seed_sd)
    return components


def _median(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return statistics.median(known) if known else None


def _of_contrast(rows: Sequence[DifferenceRow], metric: str) -> Numbers | None:
    """(SD of a question's change, correlation between languages, SD over seeds where there are several)."""
    of_language = [
        row.a.n * difference.standard_error**2 * (1.0 - difference.seed_share)
        for row in rows
        if row.level == "language" and row.a is not None and row.a.n
        if (difference := row.differences.get(metric)) is not None
        if difference.standard_error is not None and difference.seed_share is not None
    ]
    whole = next((row for row in rows if row.level == "all" and metric in row.differences), None)
    if not of_language or whole is None or whole.a is None or not whole.a.n:
        return None
    mean = statistics.fmean(of_language)
    number, difference = len(of_language), whole.differences[metric]
    if difference.standard_error is None or difference.seed_share is None or mean <= 0.0:
        return None
    variance = difference.standard_error**2
    together = variance * (1.0 - difference.seed_share) * whole.a.n  # the questions of all languages
    return mean**0.5, correlation_of(together, mean, number), _seed_sd(whole, metric)


def _of_square(rows: Sequence[DifferenceRow], metric: str) -> Numbers | None:
    """The numbers of `SquaredComponents`, in their order, the last None without several seeds."""
    pairs = {row.name: _estimates(row, metric) for row in rows if row.level in ("language", "all")}
    whole = next((row for row in rows if row.level == "all"), None)
    languages = [pair for name, pair in pairs.items() if name != "all" and pair is not None]
    of_all = pairs.get("all")
    if whole is None or of_all is None or not languages:
        return None
    components = squared_components(languages, of_all)
    return None if components is None else (*astuple(components)[:-1], _seed_sd(whole, metric))


def _estimates(row: DifferenceRow, metric: str) -> tuple[Estimate, Estimate] | None:
    a, b = (side.estimate(metric) if side is not None else None for side in (row.a, row.b))
    return None if a is None or b is None else (a, b)


def _seed_sd(row: DifferenceRow, metric: str) -> float | None:
    """The standard deviation over seeds of a change; None without several."""
    difference = row.differences.get(metric)
    seeds = row.a.num_seeds if row.a is not None else 1
    if seeds == 1 or difference is None or difference.standard_error is None:
        return None
    return difference.standard_error * math.sqrt((difference.seed_share or 0.0) * seeds)
