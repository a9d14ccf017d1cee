"""One shard's prediction records as numbers.

Confidence comes in two kinds, always named. The predicted option has the highest score (letter protocol) or
the highest score per token (option_text); `raw` is its probability over the full vocabulary, exp(score)
(option_text: exp(score / tokens), so 1 / perplexity); `renormalised` is its share after a softmax over the
options. NLL and Brier follow from the same softmax. The first option wins a tie.

An item that was asked once for every rotation of its options is one example: the probability of each option
is its mean over the rotations, wherever the option stood, and so is the mass on the options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.bins import FloatArray, check_probabilities

if TYPE_CHECKING:
    import pyarrow as pa

CONFIDENCES = ("renormalised", "raw")
"""The kinds, that of the claims first."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The examples of one shard; arrays are (N,) or (N, C), C the most options of an example."""

    example_ids: NDArray[np.str_]
    """(N,), each once."""
    label: NDArray[np.int64]
    num_options: NDArray[np.int64]
    score: FloatArray
    """(N, C) nats, of the option (letter) or per token (option_text); -inf where there is no option."""
    option_mass: FloatArray | None
    """(N,), 0..1; None where no record has one."""
    is_per_token: bool = False
    """Raw confidence is that of an average token of the answer: not a probability to be right."""

    def is_probability(self, kind: str) -> bool:
        """Whether this kind of confidence can be compared with the accuracy."""
        return not (kind == "raw" and self.is_per_token)


def read_scored(table: pa.Table, protocol: str) -> Scored:
    """Arrays from a table of prediction records (`study.records.COLUMNS`).

    Rotated records become one row an item, in the order in which the items first come.
    Raises ValueError for an unknown protocol, no rows, fewer than two options, a label that is not an option,
    scores that are not finite, option masses that are not probabilities or that only some records have,
    option_text tokens that are missing or below 1, rotations under option_text, and an item without all its
    rotations or with another right option in one of them.
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
    option_mass = _option_mass(table["option_mass"])
    ids = table["example_id"].to_numpy().astype(np.str_)
    scored = Scored(ids, label, num_options, score, option_mass, protocol == "option_text")
    rotation = table["rotation"].to_numpy().astype(np.int64)
    if not rotation.any():
        return scored
    if protocol != "letter":
        raise ValueError("records of option_text are rotated, which changes nothing under that protocol.")
    item = table["example_id"].combine_chunks().dictionary_encode()
    return _over_rotations(scored, rotation, item.indices.to_numpy().astype(np.int64), item.dictionary)


def _option_mass(column: pa.ChunkedArray[Any]) -> FloatArray | None:
    """(N,), or None where no record has one."""
    if column.null_count == len(column):
        return None
    if column.null_count:
        raise ValueError("option_mass is there for some records, and null for others.")
    return check_probabilities(column.to_numpy(), "option_mass", num_dims=1)


def _over_rotations(
    scored: Scored, rotation: NDArray[np.int64], item: NDArray[np.int64], names: pa.Array[Any]
) -> Scored:
    """The mean of each item over its rotations. Rotation r shows options r, r + 1, ..., and the first r last.

    rotation, item: (N,), one per record; item is a place in `names`, the example ids.
    """
    order = np.lexsort((rotation, item))  # the records of an item side by side, by rotation
    item, rotation, num_options = item[order], rotation[order], scored.num_options[order]
    count = np.bincount(item)
    starts = np.cumsum(count) - count
    label = (scored.label[order] + rotation) % num_options
    is_complete = (num_options == count[item]) & (rotation == np.arange(len(item)) - starts[item])
    for good, problem in (
        (is_complete, "does not have each rotation of its options once"),
        (label == label[starts][item], "has another right option in one rotation than in the others"),
    ):
        if not good.all():
            raise ValueError(f"example '{names[int(item[np.argmin(good)])]}' {problem}.")
    column = np.arange(scored.score.shape[1])
    shown_at = (column - rotation[:, None]) % num_options[:, None]
    score = np.take_along_axis(scored.score[order], shown_at, axis=1)
    score[column >= num_options[:, None]] = -np.inf
    with np.errstate(divide="ignore"):  # log 0 where there is no option
        highest = np.maximum.reduceat(score.max(axis=1), starts)
        total = np.add.reduceat(np.exp(score - highest[item][:, None]), starts)
        mean = np.log(total / count[:, None]) + highest[:, None]
    mass = scored.option_mass
    return Scored(
        np.asarray(names.to_pylist(), dtype=np.str_),  # in the order of `starts`
        label[starts],
        num_options[starts],
        mean,
        None if mass is None else np.add.reduceat(mass[order], starts) / count,
    )


def _ragged(column: pa.ChunkedArray[Any]) -> tuple[FloatArray, NDArray[np.int64]]:
    """All elements of a column of lists, and the length of each list, (N,); a null has length 0."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    flat = pc.list_flatten(column)
    return flat.to_numpy().astype(np.float64), lengths.to_numpy().astype(np.int64)


@dataclass(frozen=True, eq=False)
class PerExample:
    """Correctness and confidence of each example; metrics are means of these, or come from bins of them."""

    correct: NDArray[np.bool_]
    """(N,)"""
    confidence: dict[str, FloatArray]
    """(N,) by kind: the probability of the predicted option."""
    log_probs: FloatArray
    """(N, C) nats, over the options; -inf where there is no option."""


def per_example(scored: Scored) -> PerExample:
    """Confidence and correctness of each example of a shard."""
    rows = np.arange(len(scored.label))
    predicted = np.argmax(scored.score, axis=1)
    log_probs = _log_softmax(scored.score)
    confidence = {
        "raw": np.exp(scored.score[rows, predicted]),
        "renormalised": np.exp(log_probs[rows, predicted]),
    }
    return PerExample(predicted == scored.label, confidence, log_probs)


def _log_softmax(score: FloatArray) -> FloatArray:
    """Over the last axis; -inf stays -inf."""
    shifted = score - score.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)
