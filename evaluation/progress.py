"""Accuracy, confidence and ECE of the questions scored so far: scalars to watch, not results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from study.bins import bin_predictions, error_over_bins


@dataclass
class RunningMetrics:
    """The option with the highest score, per token for option text, is the prediction."""

    correct: list[bool] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    renormalised: list[float] = field(default_factory=list)

    def add(self, scores: Sequence[float], num_tokens: Sequence[int] | None, label: int) -> None:
        """Add a question. scores: nats, summed over tokens; num_tokens: of each option, None for letters."""
        values = [s / n for s, n in zip(scores, num_tokens or [1] * len(scores), strict=True)]
        best = max(values)
        self.correct.append(values.index(best) == label)
        self.raw.append(math.exp(best))
        self.renormalised.append(1 / sum(math.exp(value - best) for value in values))

    def scalars(self) -> dict[str, float]:
        """Means and ECEs (15 bins of equal width), for a log."""
        num_items = len(self.correct)
        return {
            "num_items": num_items,
            "accuracy": sum(self.correct) / num_items,
            "confidence_raw": math.fsum(self.raw) / num_items,
            "confidence_renormalised": math.fsum(self.renormalised) / num_items,
            "ece_raw": error_over_bins(bin_predictions(self.raw, self.correct)),
            "ece_renormalised": error_over_bins(bin_predictions(self.renormalised, self.correct)),
        }
