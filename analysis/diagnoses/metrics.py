"""tables/metrics.csv: every metric of `analysis.metrics` under its own name, by kind of confidence.

The tables of `analysis/tables/files.py` have the few that a paper shows, with intervals; this one has all,
without. A metric that is not defined, such as the AUROC where every answer is right, is empty, and so are its
means.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from analysis import metrics
from analysis.diagnoses.multiverse import MORE_BINS
from analysis.diagnoses.rows import Row, Table, language_rows, with_macro
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
    *(f"ece_{number}" for number in MORE_BINS),
    "ace",
    *(f"ace_{number}" for number in MORE_BINS),
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
    "auroc_p_norm",
    "aurc_p_norm",
    "nll_refinement",
    "nll_calibration",
    "top_label_brier",
    "reliability",
    "resolution",
    "uncertainty",
    "within",
)
"""`ace`: the ECE over bins of equal mass. `ece_10`, `ace_10`, ...: over so many bins instead of 15.
`classwise_ece`, `nll_...` and `..._p_norm` need all options: they exist for renormalised confidence alone.
NLL = nll_refinement + nll_calibration. The last five describe the chosen option: Brier = reliability -
resolution + uncertainty + within.
"""
P_NORM = 2.0
"""The p of `p_norm_confidence`; not fitted, since one chosen on the reported examples would flatter it."""


def metric_rows(records: CellRecords) -> Iterator[Row]:
    """For each kind of confidence the languages of one cell, then macro means."""
    for kind in CONFIDENCES:
        rows = language_rows(records, {"confidence": kind}, partial(_numbers, records, kind))
        yield from with_macro(rows, COLUMNS)


def _numbers(records: CellRecords, kind: str, language: str) -> Row:
    answers = records.answers[language]
    return all_metrics(answers.scored, answers.examples, kind)


def all_metrics(scored: Scored, examples: PerExample, kind: str) -> Row:
    """Every metric of one shard by one kind of confidence; those that are not defined are left out."""
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
        **{f"ece_{number}": metrics.ece(conf, correct, num_bins=number) for number in MORE_BINS},
        **{f"ace_{number}": metrics.ace(conf, correct, num_bins=number) for number in MORE_BINS},
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
    has_auroc = 0 < np.count_nonzero(correct) < len(correct)
    if has_auroc:
        row["auroc"] = metrics.auroc(conf, correct)
    if len(conf) >= 2 * BETA:
        row["hendrycks_rms"] = metrics.hendrycks_rms(conf, correct)
    if len(conf) >= BETA:
        row["mmlu_rms"] = metrics.mmlu_rms(conf, correct)
    if kind == "renormalised":
        probs = np.exp(examples.log_probs)
        row["classwise_ece"] = metrics.classwise_ece(probs, scored.label, num_options=scored.num_options)
        row["nll_refinement"], row["nll_calibration"] = metrics.nll_refinement(
            examples.log_probs, scored.label
        )
        ranking = metrics.p_norm_confidence(scored.score, P_NORM)
        row["aurc_p_norm"] = metrics.aurc(ranking, correct)
        if has_auroc:
            row["auroc_p_norm"] = metrics.auroc(ranking, correct)
    return row


TABLE = Table("metrics", ("level", "name", "average", "confidence"), COLUMNS, metric_rows, over_seeds=True)
