"""Metrics of the diagnoses: parts of a change, positions of answers, slices of items, rank correlations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.metrics import ece
from analysis.metrics.binned import without_rounding
from study.bins import FloatArray, check_finite, check_predictions, check_probabilities
from study.languages import LANGUAGES

if TYPE_CHECKING:
    import pyarrow as pa

NUM_PERMUTATIONS = 9999


@dataclass(frozen=True)
class Change:
    """A change of an error, after - before, and the contributions of its two causes, which add up to it."""

    total: float
    from_confidence: float
    from_accuracy: float


def decompose_change(
    before: tuple[ArrayLike, ArrayLike],
    after: tuple[ArrayLike, ArrayLike],
    metric: Callable[[FloatArray, FloatArray], float] = ece,
) -> Change:
    """How much of a change in `metric` comes from new confidences, and how much from new correctness.

    before, after: (confidence, correct), each (N,), of the same examples in the same order. Confidence is
    exchanged first and then correctness, and the other way round, and the two are averaged (Shapley), so that
    neither is favoured. For `confidence_gap` the parts are the change in mean confidence, and minus the
    change in accuracy.
    """
    (c0, y0), (c1, y1) = check_predictions(*before), check_predictions(*after)
    if len(c0) != len(c1):
        raise ValueError(f"before has {len(c0)} examples but after has {len(c1)}.")
    start, end = metric(c0, y0), metric(c1, y1)
    new_confidence, new_correct = metric(c1, y0), metric(c0, y1)
    return Change(
        total=without_rounding(end - start),
        from_confidence=without_rounding((new_confidence - start + end - new_correct) / 2.0),
        from_accuracy=without_rounding((new_correct - start + end - new_confidence) / 2.0),
    )


@dataclass(frozen=True, eq=False)
class PositionBias:
    """The positions of predictions and labels among the options; arrays are (C,), by position."""

    predicted: FloatArray
    """Share of predictions."""
    labelled: FloatArray
    """Share of labels."""
    recall: FloatArray
    """Share of right predictions among examples labelled so; NaN where there are none."""

    @property
    def distance(self) -> float:
        """Total variation between the two shares, 0..1: predictions that would have to move."""
        return float(np.abs(self.predicted - self.labelled).sum() / 2.0)

    @property
    def recall_deviation(self) -> float:
        """Standard deviation of recall over the positions that have labels (RStd: Zheng et al. 2024)."""
        return float(np.nanstd(self.recall))


def position_bias(predicted: ArrayLike, label: ArrayLike, *, num_positions: int) -> PositionBias:
    """Which positions predictions prefer. predicted, label: (N,), 0..num_positions - 1.

    Examples with few options have no late label either, so this does not count as bias.
    """
    chosen = _check_positions(predicted, "predicted", num_positions)
    truth = _check_positions(label, "label", num_positions)
    if len(chosen) != len(truth):
        raise ValueError(f"predicted has {len(chosen)} examples but label has {len(truth)}.")
    count = np.bincount(truth, minlength=num_positions)
    with np.errstate(invalid="ignore"):  # 0 / 0: no label there
        recall = np.bincount(truth, chosen == truth, minlength=num_positions) / count
    predictions = np.bincount(chosen, minlength=num_positions)
    return PositionBias(predictions / len(chosen), count / len(truth), recall)


@dataclass(frozen=True)
class OptionMass:
    """The probability on all option letters together, 0..1."""

    mean: float
    low: float
    """10% of examples have less."""
    share_below_half: float
    """Share of examples with most probability elsewhere: their renormalised confidence says little."""


def option_mass(mass: ArrayLike) -> OptionMass:
    """mass: (N,), `option_mass` of the records. Raises ValueError for missing values."""
    values = check_probabilities(mass, "option_mass", num_dims=1)
    return OptionMass(float(np.mean(values)), float(np.quantile(values, 0.1)), float(np.mean(values < 0.5)))


def token_premium(
    num_tokens: ArrayLike, example_ids: Sequence[str], num_tokens_en: ArrayLike, example_ids_en: Sequence[str]
) -> float:
    """Tokens of a language's prompts for each token of the same prompts in English (Petrov et al. 2023).

    num_tokens: (N,), num_prompt_tokens of the records. Rows are matched by id, in any order. Raises
    ValueError where the ids differ or one occurs twice.
    """
    ours, english = (check_finite(v, "num_tokens", num_dims=1) for v in (num_tokens, num_tokens_en))
    for ids, values in ((example_ids, ours), (example_ids_en, english)):
        if len(set(ids)) != len(ids) or len(ids) != len(values):
            raise ValueError("token_premium needs one row for each example id.")
    if set(example_ids) != set(example_ids_en):
        raise ValueError("token_premium needs the same examples in both languages.")
    if min(ours.min(), english.min()) < 1:
        raise ValueError("num_tokens must be at least 1.")
    return float(ours.sum() / english.sum())


def slice_rows(example_ids: Sequence[str], items: pa.Table, column: str) -> dict[str, NDArray[np.int64]]:
    """Group rows by `column` of an items table: subject, category, cultural_sensitivity (CS or CA), quality.

    Returns value -> places of its rows, sorted by value; a row whose item has no value is in no slice.

    items: as `evaluation.items.load.items_table` makes it. Raises ValueError for a column that is missing or
    not text, for an item that occurs twice, and for a row whose item is not in the table.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column not in items.column_names or not pa.types.is_string(items.schema.field(column).type):
        raise ValueError(f"the items have no text column {column!r}.")
    names = items["example_id"].combine_chunks()
    if len(names.unique()) < len(names):
        raise ValueError("an item occurs twice.")
    place = pc.index_in(pa.array(example_ids, pa.string()), value_set=names)
    if place.null_count:
        raise ValueError(f"there is no item '{example_ids[place.is_null().index(True).as_py()]}'.")
    values = items[column].combine_chunks().take(place).dictionary_encode()
    code = values.indices.fill_null(-1).to_numpy()
    groups = {str(name): np.flatnonzero(code == k) for k, name in enumerate(values.dictionary.to_pylist())}
    return dict(sorted(groups.items()))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over languages."""

    rho: float
    p_value: float
    """Two-sided, by permutation."""
    num_languages: int


def resource_correlation(values: Mapping[str, float], *, seed: int = 0) -> Correlation:
    """Rank correlation of a number for each language (code -> value) with its Joshi class, 0 poor to 5 rich.

    Leave out missing languages. Raises ValueError for a NaN, a language that is not in the project's table,
    and fewer than 4 languages.
    """
    unknown = [code for code in values if code not in LANGUAGES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not in the table of languages.")
    return spearman([LANGUAGES[code].joshi for code in values], list(values.values()), seed=seed)


def by_translation(values: Mapping[str, float]) -> dict[str, tuple[float, int]]:
    """Mean and number of languages for each kind of translation (H, B, M; English is `orig`).

    values: code -> number. Languages of unknown kind, such as those that only MMLU-ProX has, are left out.
    """
    groups: dict[str, list[float]] = {}
    for code, value in values.items():
        if code in LANGUAGES and LANGUAGES[code].translation:
            groups.setdefault(LANGUAGES[code].translation, []).append(value)
    return {
        kind: (float(np.mean(check_finite(group, "values", num_dims=1))), len(group))
        for kind, group in sorted(groups.items())
    }


def spearman(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> Correlation:
    """Spearman's rho of x and y, (N,), N >= 4, ties by mid-ranks, with a permutation p-value.

    Raises ValueError if one of them does not vary.
    """
    a, b = check_finite(x, "x", num_dims=1), check_finite(y, "y", num_dims=1)
    if len(a) != len(b) or len(a) < 4:
        raise ValueError(f"spearman needs two columns of at least 4 numbers, not {len(a)} and {len(b)}.")
    ranks = [_standardised_ranks(a), _standardised_ranks(b)]
    rho = float(ranks[0] @ ranks[1])
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(ranks[1], (NUM_PERMUTATIONS, 1)), axis=1)
    as_far = int(np.sum(np.abs(shuffled @ ranks[0]) >= abs(rho) - 1e-12))
    return Correlation(rho, (as_far + 1) / (NUM_PERMUTATIONS + 1), len(a))


def _standardised_ranks(values: FloatArray) -> FloatArray:
    """Mid-ranks with mean 0 and length 1."""
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(ties) - (ties - 1) / 2.0)[place]
    centred = rank - rank.mean()
    length = math.sqrt(float(centred @ centred))
    if length == 0.0:
        raise ValueError("spearman needs numbers that are not all equal.")
    return np.asarray(centred / length, dtype=np.float64)


def _check_positions(values: ArrayLike, name: str, num_positions: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be whole numbers of shape (N,), not {array.dtype} {array.shape}.")
    if array.min() < 0 or array.max() >= num_positions:
        raise ValueError(f"{name} must lie in 0..{num_positions - 1}.")
    return array.astype(np.int64)
