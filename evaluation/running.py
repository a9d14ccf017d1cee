"""Accuracy and confidence of the items scored so far: scalars to watch, not results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Running:
    """Sums over items. The prediction is the option with the highest score, per token for option text."""

    num_items: int = 0
    num_correct: int = 0
    sum_raw: float = 0.0
    sum_renormalised: float = 0.0

    def add(self, scores: Sequence[float], num_tokens: Sequence[int] | None, label: int) -> None:
        """Add one item. scores: nats, summed over tokens; num_tokens: of each option, None for letters."""
        values = [s / n for s, n in zip(scores, num_tokens or [1] * len(scores), strict=True)]
        best = max(values)
        self.num_items += 1
        self.num_correct += values.index(best) == label
        self.sum_raw += math.exp(best)
        self.sum_renormalised += 1 / sum(math.exp(value - best) for value in values)

    def scalars(self) -> dict[str, float]:
        """The means, for a log."""
        return {
            "num_items": self.num_items,
            "accuracy": self.num_correct / self.num_items,
            "confidence_raw": self.sum_raw / self.num_items,
            "confidence_renormalised": self.sum_renormalised / self.num_items,
        }
