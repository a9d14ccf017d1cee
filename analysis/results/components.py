"""How changes vary with questions and seeds, measured in a study: what a forecast of power needs."""

from __future__ import annotations

import statistics

from analysis.inference.power import Components
from analysis.reading.shards import Study
from analysis.results.differences import DifferenceRow, difference_rows

METRICS = {"accuracy": "accuracy", "confidence_renormalised": "confidence", "gap_renormalised": "gap"}
"""The metrics with a forecast, and what people call them. The L2 ECE has none: its error depends on its "
"size."""
ASSUMED = {
    "accuracy": Components(0.29, 0.0, 0.005),
    "confidence_renormalised": Components(0.10, 0.0, 0.005),
    "gap_renormalised": Components(0.31, 0.0, 0.005),
}
"""From a pilot of one 270M model, 6 languages x 80 questions: of no use but for an order of magnitude."""


def measured(study: Study) -> dict[str, Components]:
    """By metric, the medians over the contrasts of a study; without those that it cannot say.

    The spread over seeds is that of ASSUMED where no contrast has several.
    """
    by_contrast: dict[object, list[DifferenceRow]] = {}
    for row in difference_rows(study):
        if row.missing is None:
            by_contrast.setdefault(row.contrast, []).append(row)
    components = {}
    for metric in METRICS:
        single = [one for rows in by_contrast.values() if (one := _of_contrast(rows, metric)) is not None]
        if single:
            seed_sds = [seed_sd for *_, seed_sd in single if seed_sd is not None]
            components[metric] = Components(
                statistics.median(question_sd for question_sd, _, _ in single),
                statistics.median(correlation for _, correlation, _ in single),
                statistics.median(seed_sds) if seed_sds else ASSUMED[metric].seed_sd,
            )
    return components


def _of_contrast(rows: list[DifferenceRow], metric: str) -> tuple[float, float, float | None] | None:
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
    together = variance * (1.0 - difference.seed_share) * whole.a.n / mean
    correlation = min(max((together - 1.0) / (number - 1), 0.0), 1.0) if number > 1 else 0.0
    seeds = whole.a.num_seeds
    seed_sd = (variance * difference.seed_share * seeds) ** 0.5 if seeds > 1 else None
    return mean**0.5, correlation, seed_sd
