"""tables/metrics.csv: every metric of `analysis.metrics` under its own name, by kind of confidence.

The tables of `analysis/tables/files.py` have the few that a paper shows, with intervals; here are all,
without. A number of a cell that has none, such as the AUROC where every answer is right, is empty, and so are
its means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from analysis import metrics
from analysis.diagnoses.rows import Row, finished, named, with_macro
from analysis.metrics import binned
from analysis.metrics.hendrycks import BETA
from analysis.reading.cell_records import CellRecords
from analysis.reading.scored import CONFIDENCES, PerExample, Scored
from study.bins import bin_predictions, error_over_bins

COLUMNS = (
    "n",
    "accuracy",
    "chance_normalised_accuracy",
    "mean_confidence",
    "chance_normalised_confidence",
    "confidence_gap",
    "ece",
    "ece_floor",
    "ace",
    "mce",
    "rms_ce",
    "debiased_l2",
    "smooth_ece",
    "over_confidence",
    "under_confidence",
    "classwise_ece",
    "hendrycks_rms",
    "mmlu_rms",
    "auroc",
    "aurc",
    "top_label_brier",
    "reliability",
    "resolution",
    "uncertainty",
    "within",
)
"""`ace`: the ECE over bins of equal mass. `classwise_ece` is of the softmax over the options: renormalised
alone. The last five are of the chosen option: Brier = reliability - resolution + uncertainty + within.
"""


def metric_rows(here: CellRecords, axes: Sequence[str]) -> Iterator[Row]:
    """The rows of one cell: each language by each kind of confidence, then macro means."""
    for kind in CONFIDENCES:
        rows = []
        for language, shard in here.shards.items():
            row = {
                **named(here.test, here.cell, axes),
                "level": "language",
                "name": language,
                "average": "none",
                "confidence": kind,
            }
            numbers: Row | str = str(shard.missing)
            if language in here.answers:
                answers = here.answers[language]
                numbers = all_metrics(answers.scored, answers.examples, kind)
            rows.append(finished(row, numbers, COLUMNS, [shard.job_id]))
        yield from with_macro(rows, COLUMNS)


def all_metrics(scored: Scored, examples: PerExample, kind: str) -> Row:
    """Every metric of one shard by one kind of confidence; what is not defined for it is left out."""
    conf, correct = examples.confidence[kind], examples.correct
    bins = bin_predictions(conf, correct)
    brier = float(np.mean((conf - correct) ** 2))
    parts = binned.brier_parts(bins, brier)
    row: Row = {
        "n": len(conf),
        "accuracy": metrics.accuracy(correct),
        "chance_normalised_accuracy": metrics.chance_normalised_accuracy(correct, scored.num_options),
        "mean_confidence": metrics.mean_confidence(conf),
        "chance_normalised_confidence": metrics.chance_normalised_confidence(conf, scored.num_options),
        "confidence_gap": metrics.confidence_gap(conf, correct),
        "ece": error_over_bins(bins),
        "ece_floor": binned.floor(bins),
        "ace": metrics.ace(conf, correct),
        "mce": binned.mce(bins),
        "rms_ce": binned.rms_ce(bins),
        "smooth_ece": metrics.smooth_ece(conf, correct),
        "over_confidence": binned.over_confidence(bins),
        "under_confidence": binned.under_confidence(bins),
        "aurc": metrics.aurc(conf, correct),
        "top_label_brier": brier,
        "reliability": parts.reliability,
        "resolution": parts.resolution,
        "uncertainty": parts.uncertainty,
        "within": parts.within,
    }
    if bins.count.max() >= 2:
        row["debiased_l2"] = binned.debiased_l2(bins)
    if 0 < np.count_nonzero(correct) < len(correct):
        row["auroc"] = metrics.auroc(conf, correct)
    if len(conf) >= 2 * BETA:
        row["hendrycks_rms"] = metrics.hendrycks_rms(conf, correct)
    if len(conf) >= BETA:
        row["mmlu_rms"] = metrics.mmlu_rms(conf, correct)
    if kind == "renormalised":
        probs = np.exp(examples.log_probs)
        row["classwise_ece"] = metrics.classwise_ece(probs, scored.label, num_options=scored.num_options)
    return row
