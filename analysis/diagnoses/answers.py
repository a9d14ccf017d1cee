"""tables/diagnostics.csv: how a cell answers. Which positions it prefers, how much of its probability is on
the options at all, how many tokens a language costs, and what rotating the options changed.

Position bias counts the options as they were shown, each rotation by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.diagnoses.rows import Row, Table, language_rows
from analysis.metrics.diagnostics import option_mass, position_bias, token_premium
from analysis.reading.cell_records import Answers, CellRecords
from analysis.reading.scored import per_example, read_scored

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "n",
    "chance",
    "accuracy",
    "position_distance",
    "position_recall_deviation",
    "most_predicted_position",
    "most_predicted_share",
    "option_mass_mean",
    "option_mass_low",
    "option_mass_share_below_half",
    "prompt_tokens",
    "token_premium",
    "token_premium_missing",
    "accuracy_original_order",
    "accuracy_averaged",
    "share_rotation_dependent",
)


def answering_rows(records: CellRecords) -> list[Row]:
    """One row for each language of a cell."""

    def numbers(language: str) -> Row:
        answers = records.answers[language]
        return {
            "n": len(answers.scored.label),
            "chance": float(np.mean(1.0 / answers.scored.num_options)),
            "accuracy": float(np.mean(answers.examples.correct)),
            **_positions(answers, records.test[2]),
            **_mass(answers),
            **_tokens(records, language),
        }

    english = [records.shards["en"]] if "en" in records.shards else []
    return language_rows(records, {}, numbers, lambda language: english)


def _positions(answers: Answers, protocol: str) -> Row:
    """Position bias, and what the rotations changed where records are rotated."""
    shown = read_scored(_unrotated(answers.table), protocol)
    predicted = np.argmax(shown.score, axis=1)
    bias = position_bias(predicted, shown.label, num_positions=shown.score.shape[1])
    result: Row = {
        "position_distance": bias.distance,
        "position_recall_deviation": bias.recall_deviation,
        "most_predicted_position": int(np.argmax(bias.predicted)),
        "most_predicted_share": float(np.max(bias.predicted)),
    }
    rotation = answers.table["rotation"].to_numpy().astype(np.int64)
    if rotation.any():
        original = rotation == 0
        # in the item's own order: rotation r shows option r first
        option = (predicted + rotation) % shown.num_options
        result |= {
            "accuracy_original_order": float(np.mean(per_example(shown).correct[original])),
            "accuracy_averaged": float(np.mean(answers.examples.correct)),
            "share_rotation_dependent": _share_varying(answers.table, option),
        }
    return result


def _unrotated(table: pa.Table) -> pa.Table:
    """The same records, each taken as a separate item."""
    import pyarrow as pa

    place = table.schema.get_field_index("rotation")
    zeros = pa.array(np.zeros(table.num_rows, dtype=np.int16))
    return table.set_column(place, table.schema.field(place), zeros)


def _share_varying(table: pa.Table, value: NDArray[np.int64]) -> float:
    """The share of items whose records do not all have one value."""
    item = table["example_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    lowest = np.full(int(item.max()) + 1, np.iinfo(np.int64).max)
    highest = np.full_like(lowest, -1)
    np.minimum.at(lowest, item, value)
    np.maximum.at(highest, item, value)
    return float(np.mean(lowest != highest))


def _mass(answers: Answers) -> Row:
    if answers.scored.option_mass is None:
        return {}
    mass = option_mass(answers.scored.option_mass)
    return {
        "option_mass_mean": mass.mean,
        "option_mass_low": mass.low,
        "option_mass_share_below_half": mass.share_below_half,
    }


def _tokens(records: CellRecords, language: str) -> Row:
    """Tokens of a prompt, and how many there are for each token of the same prompts in English."""
    ids, tokens = _prompt_tokens(records.answers[language].table)
    if (tokens < 1).any():  # -1 where nobody counted: an import without the model's tokenizer
        return {"token_premium_missing": "nobody counted the tokens of its prompts"}
    result: Row = {"prompt_tokens": float(np.mean(tokens))}
    if "en" not in records.answers:
        return {**result, "token_premium_missing": "no records of en"}
    ids_en, tokens_en = _prompt_tokens(records.answers["en"].table)
    if (tokens_en < 1).any():
        return {**result, "token_premium_missing": "nobody counted the tokens of en"}
    if set(ids) != set(ids_en):
        return {**result, "token_premium_missing": "other items than en"}
    return {**result, "token_premium": token_premium(tokens, ids, tokens_en, ids_en)}


def _prompt_tokens(table: pa.Table) -> tuple[list[str], NDArray[np.int64]]:
    """The item of each prompt with the options in their original order, and its tokens.

    The other rotations are as long.
    """
    first = table["rotation"].to_numpy() == 0
    return (
        [name for name, kept in zip(table["example_id"].to_pylist(), first, strict=True) if kept],
        table["num_prompt_tokens"].to_numpy().astype(np.int64)[first],
    )


TABLE = Table("diagnostics", ("level", "name"), COLUMNS, answering_rows)
