"""Datasets that a grid can name by a short word.

Adding an entry is enough for plan, forecast, prefetch and training; README lists it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A dataset whose rows are as Alpaca, Tulu 3 or OpenHermes has them.

    hub: its id on the hub; None for rows that `study.cldr.instructions` generates.
    num_rows: of the dataset; a generated one has as many unless the grid gives `num_examples`.
    tokens_per_row: a rough mean. Both are for the forecast, which calls None unknown.
    """

    hub: str | None = None
    num_rows: int | None = None
    tokens_per_row: float | None = None


# rows as the datasets' cards state them; tokens of the generated ones with the word-level tokenizer
PRESETS: Mapping[str, Preset] = {
    "alpaca": Preset("tatsu-lab/alpaca", 52_002, 110),
    "tulu3": Preset("allenai/tulu-3-sft-mixture", 939_343, 600),
    "openhermes": Preset("teknium/OpenHermes-2.5", 1_001_551, 400),
    "tulu_stanford_alpaca": Preset("arazd/tulu_stanford_alpaca", 52_002, 110),  # Alpaca's rows as messages
    "cldr-instruct": Preset(num_rows=1_000, tokens_per_row=20),
    "cldr-pretrain": Preset(num_rows=100_000, tokens_per_row=17),
}
