"""Dropout of a run's choosing, in place of the model's own while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedConfig, PreTrainedModel

from study.errors import JobError

OF_OTHER_HEADS = ("classifier", "summary")
OWN = "dropout_of_its_own"


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

    Architectures call them attention_dropout, hidden_dropout, resid_pdrop, attn_pdrop and more. Those of a
    classifier's head do not count, nor does layerdrop, which leaves out whole layers.
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
    """Set every dropout, before the model is built: most layers read it then. Returns the model's own rates.

    Raises JobError for an architecture without any.
    """
    found = places(config)
    if not found:
        raise JobError(f"{config.model_type} has no dropout: remove dropout from the grid")
    own = [place.rate for place in found]
    set_all(config, rate)
    return own


def set_all(config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout that there is, if any."""
    found = places(config)
    _set(found, [rate] * len(found))


def remember(lm: PreTrainedModel, own: Sequence[float]) -> None:
    """Note the model's own rates on it, for `restored`."""
    setattr(lm, OWN, tuple(own))


@contextlib.contextmanager
def restored(lm: PreTrainedModel) -> Iterator[None]:
    """With the model's own rates in its config: what is exported is not told how it was trained."""
    found = places(lm.config)
    rates = [place.rate for place in found]
    _set(found, getattr(lm, OWN, rates))
    try:
        yield
    finally:
        _set(found, rates)


def _set(found: Sequence[Place], rates: Sequence[float]) -> None:
    for place, rate in zip(found, rates, strict=True):
        # past its checks of types: MPT's rate is an int, and so no other than 0
        object.__setattr__(place.config, place.name, rate)
