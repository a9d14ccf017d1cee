"""One shard's prediction records as numbers.

Confidence comes in two kinds, always named. The predicted option has the highest score (letter protocol) or
the highest score per token (option_text); `raw` is its probability over the full vocabulary, exp(score)
(option_text: exp(score / tokens), so 1 / perplexity); `renormalised` is its share after a softmax over the
options. NLL and Brier follow from the same softmax. The first option wins a tie. Each rotation of an example
counts as an example.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis import metrics
from study.bins import Bins, FloatArray, bin_predictions, error_over_bins

if TYPE_CHECKING:
    import pyarrow as pa

CONFIDENCES = ("raw", "renormalised")


@dataclass(frozen=True)
class Metrics:
    """What one shard shows, or a mean of it. Shares, confidences and ECEs lie in 0..1."""

    n: int
    """Examples; of a mean over seeds the examples of one seed."""
    chance: float
    """Accuracy of a guess: the mean of 1 / number of options."""
    accuracy: float
    confidence_raw: float
    gap_raw: float
    """Mean confidence minus accuracy."""
    ece_raw: float
    ece_floor_raw: float
    """About what a perfectly calibrated model with these confidences would show as its ECE."""
    confidence_renormalised: float
    gap_renormalised: float
    ece_renormalised: float
    ece_floor_renormalised: float
    nll: float
    """Nats, over the options."""
    brier: float
    """0..2, over the options."""
    option_mass: float | None
    """Mean probability on the option letters; None for protocols without."""


METRIC_NAMES = tuple(f.name for f in fields(Metrics))


@dataclass(frozen=True, eq=False)
class Scored:
    """The examples of one shard; arrays are (N,) or (N, C), C the most options of an example."""

    label: NDArray[np.int64]
    num_options: NDArray[np.int64]
    score: FloatArray
    """(N, C) nats, of the whole option (letter) or per token (option_text); -inf where there is no option."""
    option_mass: FloatArray | None
    """(N,), 0..1; None where a record has none."""


def read_scored(table: pa.Table, protocol: str) -> Scored:
    """Arrays from a table of prediction records (`study.records.COLUMNS`).

    Raises ValueError for an unknown protocol, no rows, fewer than two options, a label that is no option,
    scores that are not finite, and, for option_text, tokens that are missing or below 1.
    """
    if protocol not in ("letter", "option_text"):
        raise ValueError(f"protocol must be letter or option_text, not {protocol!r}.")
    flat, num_options = _ragged(table["scores"])
    label = table["label"].to_numpy().astype(np.int64)
    if len(label) == 0 or num_options.min() < 2:
        raise ValueError("each shard needs an example, and each example two options.")
    if (label < 0).any() or (label >= num_options).any():
        raise ValueError("a label is not one of the options of its example.")
    if not np.isfinite(flat).all():
        raise ValueError("scores have NaN or infinite values.")
    if protocol == "option_text":
        tokens, num_counts = _ragged(table["option_num_tokens"])
        if not np.array_equal(num_counts, num_options) or (tokens < 1).any():
            raise ValueError("option_num_tokens must count at least 1 token for every option.")
        flat = flat / tokens
    score = np.full((len(label), int(num_options.max())), -np.inf)
    score[np.arange(score.shape[1]) < num_options[:, None]] = flat
    mass = table["option_mass"]
    option_mass = None if mass.null_count else mass.to_numpy().astype(np.float64)
    return Scored(label, num_options, score, option_mass)


def _ragged(column: pa.ChunkedArray[Any]) -> tuple[FloatArray, NDArray[np.int64]]:
    """A column of lists as all their elements in one array, and the length of each list, (N,); null has 0."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    flat = pc.list_flatten(column)
    return flat.to_numpy().astype(np.float64), lengths.to_numpy().astype(np.int64)


def measure(scored: Scored) -> tuple[Metrics, dict[str, Bins]]:
    """All metrics of one shard, and its bins by kind of confidence.

    Raises ValueError where a score is above 0 (a probability above 1).
    """
    rows = np.arange(len(scored.label))
    predicted = np.argmax(scored.score, axis=1)
    correct = predicted == scored.label
    log_probs = _log_softmax(scored.score)
    confidence = {
        "raw": np.exp(scored.score[rows, predicted]),
        "renormalised": np.exp(log_probs[rows, predicted]),
    }
    bins = {kind: bin_predictions(values, correct) for kind, values in confidence.items()}
    values: dict[str, Any] = {}
    for kind, conf in confidence.items():
        values[f"confidence_{kind}"] = float(np.mean(conf))
        values[f"gap_{kind}"] = metrics.confidence_gap(conf, correct)
        values[f"ece_{kind}"] = error_over_bins(bins[kind])
        values[f"ece_floor_{kind}"] = metrics.floor_over_bins(bins[kind])
    mass = scored.option_mass
    return Metrics(
        n=len(rows),
        chance=float(np.mean(1.0 / scored.num_options)),
        accuracy=metrics.accuracy(correct),
        nll=_ragged_nll(log_probs, scored),
        brier=metrics.brier(np.exp(log_probs), scored.label),
        option_mass=None if mass is None else float(np.mean(mass)),
        **values,
    ), bins


def _log_softmax(score: FloatArray) -> FloatArray:
    """Over the last axis; -inf stays -inf."""
    shifted = score - score.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _ragged_nll(log_probs: FloatArray, scored: Scored) -> float:
    """`metrics.nll` over examples that differ in their number of options: sums by number, divided once."""
    total = 0.0
    for count in np.unique(scored.num_options):
        these = scored.num_options == count
        total += metrics.nll(log_probs[these, :count], scored.label[these]) * int(these.sum())
    return total / len(scored.label)
