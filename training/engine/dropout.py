"""Dropout chosen by the grid, in place of the model's own while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from study.errors import JobError

OF_OTHER_HEADS = ("classifier", "summary")
OWN_RATES = "calsweep_own_dropout"


class Place(NamedTuple):
    """Where a config states a dropout. config: a language model's, or one inside it."""

    config: PreTrainedConfig
    name: str

    @property
    def rate(self) -> float:
        rate: float = getattr(self.config, self.name)
        return rate


def places(config: PreTrainedConfig) -> list[Place]:
    """Every dropout of a language model, in a fixed order.

    Architectures call them attention_dropout, hidden_dropout, resid_pdrop, attn_pdrop and more. The dropout
    of a classifier's head is left out, and so is layerdrop, which skips layers.
    """
    text = config.get_text_config()
    configs = [text, *(part for part in vars(text).values() if isinstance(part, PreTrainedConfig))]
    return [
        Place(part, name)
        for part in configs
        for name, value in sorted(vars(part).items())
        if ("dropout" in name or "pdrop" in name)
        and not name.startswith(OF_OTHER_HEADS)
        and isinstance(value, int | float)
    ]


def override(config: PreTrainedConfig, rate: float) -> list[float]:
    """Set every dropout and return the model's own rates. Most layers read it when the model is built.

    Raises JobError for an architecture without dropout.
    """
    own_rates = set_all(config, rate)
    if not own_rates:
        raise JobError(f"{config.model_type} has no dropout: remove dropout from the grid")
    return own_rates


def set_all(config: PreTrainedConfig, rate: float) -> list[float]:
    """Set every dropout, if there is any, and return the rates that they had."""
    rates = [place.rate for place in places(config)]
    _set(config, [rate] * len(rates))
    return rates


def remember(lm: PreTrainedModel, own_rates: Sequence[float]) -> None:
    """Keep the model's own rates for `restored`."""
    setattr(lm, OWN_RATES, tuple(own_rates))


@contextlib.contextmanager
def restored(lm: PreTrainedModel) -> Iterator[None]:
    """The model's own rates in its config: an exported model does not inherit the dropout of its training."""
    rates = [place.rate for place in places(lm.config)]
    _set(lm.config, getattr(lm, OWN_RATES, rates))
    try:
        yield
    finally:
        _set(lm.config, rates)


def _set(config: PreTrainedConfig, rates: Sequence[float]) -> None:
    for place, rate in zip(places(config), rates, strict=True):
        # bypasses the config's type check: MPT declares its rate as int, which allows 0 alone
        object.__setattr__(place.config, place.name, rate)
