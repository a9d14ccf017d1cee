"""The headline metrics, one entry each: how a metric is computed, what it is called and where it is shown.

To add a metric that is a mean over examples, write a function from a shard's examples to (N,) values and an
entry in `METRICS`. It then has a value and a 95% interval in every table, figure and report that its `shown`
names. Gap, ECE and L2 ECE are computed from the bins and the confidences (`analysis/reading/measure.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.metrics.ranking import aurc_values, auroc_values
from analysis.reading.scored import CONFIDENCES, PerExample, Scored
from study.bins import FloatArray

SHORT_CONFIDENCES = {"raw": "raw", "renormalised": "ren."}
Shown = Literal["everywhere", "claims", "differences", "tables"]
"""`everywhere`: in every view. `claims`: in tables, differences and the sentences about them. `differences`:
in tables and differences. `tables`: in tables alone."""


@dataclass(frozen=True)
class Metric:
    """One metric, by one kind of confidence where it depends on the confidence."""

    kind: str
    title: str
    """`Confidence`: in figures, reports and sentences."""
    short: str
    """`conf.`: in tables."""
    ends: tuple[float, float]
    """What the metric cannot be below or above."""
    shown: Shown
    confidence: str | None = None
    """One of CONFIDENCES."""
    of_examples: Callable[[Scored, PerExample], FloatArray | None] | None = None
    """(N,) values whose mean is the metric, None where the protocol has none; None for those that are
    computed from bins."""
    has_interval: bool = True
    has_floor: bool = False
    """About what a perfectly calibrated model with the same confidences would show on average."""
    is_squared: bool = False
    """It is the root of what is averaged over languages and seeds."""

    @property
    def name(self) -> str:
        """`ece_raw`: its column in CSV and Parquet."""
        return self.kind if self.confidence is None else f"{self.kind}_{self.confidence}"

    @property
    def floor_name(self) -> str:
        """`ece_floor_raw`."""
        return replace(self, kind=f"{self.kind}_floor").name

    @property
    def heading(self) -> str:
        """`ECE ren.`: short, for tables."""
        return self._with_confidence(self.short, SHORT_CONFIDENCES)

    @property
    def floor_heading(self) -> str:
        """`floor ren.`."""
        return self._with_confidence("floor", SHORT_CONFIDENCES)

    @property
    def figure_title(self) -> str:
        """`ECE, ren.`: beside the axis of a figure."""
        return self._with_confidence(f"{self.title},", SHORT_CONFIDENCES)

    @property
    def long_heading(self) -> str:
        """`ECE, renormalised`."""
        return self.title if self.confidence is None else f"{self.title}, {self.confidence}"

    @property
    def subject(self) -> str:
        """`ECE (renormalised)`: the subject of a sentence."""
        return self.title if self.confidence is None else f"{self.title} ({self.confidence})"

    def _with_confidence(self, text: str, names: Mapping[str, str]) -> str:
        return text.rstrip(",") if self.confidence is None else f"{text} {names[self.confidence]}"


def _chance(scored: Scored, examples: PerExample) -> FloatArray:
    return np.asarray(1.0 / scored.num_options, dtype=np.float64)


def _accuracy(scored: Scored, examples: PerExample) -> FloatArray:
    return examples.correct.astype(np.float64)


def _nll(scored: Scored, examples: PerExample) -> FloatArray:
    return -examples.log_probs[np.arange(len(scored.label)), scored.label]


def _brier(scored: Scored, examples: PerExample) -> FloatArray:
    probs = np.exp(examples.log_probs)
    squares = (probs**2).sum(axis=1) + 1.0 - 2.0 * probs[np.arange(len(probs)), scored.label]
    return np.asarray(squares, dtype=np.float64)


def _option_mass(scored: Scored, examples: PerExample) -> FloatArray | None:
    return scored.option_mass


def _of_confidence(kind: str) -> tuple[Metric, ...]:
    def confidence(scored: Scored, examples: PerExample) -> FloatArray:
        return examples.confidence[kind]

    def auroc(scored: Scored, examples: PerExample) -> FloatArray | None:
        if examples.correct.all() or not examples.correct.any():
            return None
        return auroc_values(examples.confidence[kind], examples.correct)

    def aurc(scored: Scored, examples: PerExample) -> FloatArray:
        return aurc_values(examples.confidence[kind], examples.correct)

    return (
        Metric("confidence", "Confidence", "conf.", (0.0, 1.0), "everywhere", kind, confidence),
        Metric("gap", "Gap", "gap", (-1.0, 1.0), "claims", kind),
        Metric("ece", "ECE", "ECE", (0.0, 1.0), "differences", kind, has_interval=False, has_floor=True),
        Metric("ece_l2", "L2 ECE", "L2 ECE", (-1.0, 1.0), "everywhere", kind, is_squared=True),
        Metric("auroc", "AUROC", "AUROC", (0.0, 1.0), "differences", kind, auroc),
        Metric("aurc", "AURC", "AURC", (0.0, 1.0), "differences", kind, aurc),
    )


METRICS: tuple[Metric, ...] = (
    Metric("chance", "Chance", "chance", (0.0, 1.0), "tables", None, _chance, has_interval=False),
    Metric("accuracy", "Accuracy", "accuracy", (0.0, 1.0), "everywhere", None, _accuracy),
    *(metric for kind in CONFIDENCES for metric in _of_confidence(kind)),
    Metric("nll", "NLL", "NLL", (0.0, math.inf), "claims", None, _nll),
    Metric("brier", "Brier score", "Brier", (0.0, 2.0), "differences", None, _brier),
    Metric("option_mass", "Option mass", "mass", (0.0, 1.0), "tables", None, _option_mass),
)
"""In the order of the columns of CSV and Parquet. `chance` is the accuracy of a guess, `gap` the mean
confidence minus the accuracy, `ece` the plug-in ECE, which is biased upward and so has a floor instead of an
interval, `ece_l2` the root of the squared error without bias (`analysis/inference/squared.py`), `aurc` the
area under the risk-coverage curve (small is good), `option_mass` the mean probability on the option letters;
NLL in nats. AUROC and AURC over all examples together are means over languages, by their numbers of examples.
"""
BY_NAME = {metric.name: metric for metric in METRICS}


def has(protocol: str, metric: Metric) -> bool:
    """Whether the protocol has this metric.

    Under option_text, raw confidence is the probability of an average token of the answer, 1 / perplexity.
    It is no probability to be right, so it has neither gap nor ECE.
    """
    per_token = protocol == "option_text" and metric.confidence == "raw"
    return not (per_token and metric.kind in ("gap", "ece", "ece_l2"))


def _by_kind(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """The kinds of confidence of one metric side by side."""
    chosen = list(metrics)
    kinds = list(dict.fromkeys(metric.kind for metric in chosen))
    return tuple(sorted(chosen, key=lambda metric: kinds.index(metric.kind)))


HEADLINE = _by_kind(metric for metric in METRICS if metric.shown == "everywhere")
CLAIMED = _by_kind(metric for metric in METRICS if metric.shown in ("everywhere", "claims"))
WITH_DIFFERENCES = _by_kind(metric for metric in METRICS if metric.shown != "tables")
IN_TABLES = _by_kind(metric for metric in METRICS if metric.kind != "chance")
ECE, L2_ECE = (
    {metric.confidence: metric for metric in METRICS if metric.kind == kind} for kind in ("ece", "ece_l2")
)
