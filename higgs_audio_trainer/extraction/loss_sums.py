"""Sums of losses and counts over micro-batches and ranks, and the exact dtype that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class LossSums:
    """Losses and counts of one step or evaluation, summed over all micro-batches and all ranks.

    Attributes:
        nll: Cross-entropy summed over the supervised slots, [1 + K]: text, then each codebook.
        correct: Correct predictions, [1 + K].
        targets: Supervised slots, [1 + K].
        grad_norm: Norm of the step's gradients; None for an evaluation.

    Example:
        >>> sums = LossSums(nll=(4.0, 6.0, 2.0), correct=(1, 1, 0), targets=(2, 2, 1))
        >>> fields = sums.event_fields(text_loss_weight=1.0)
        >>> fields["text_loss"], fields["audio_loss_per_codebook"], fields["loss"]
        (2.0, (3.0, 2.0), 4.5)
    """

    nll: tuple[float, ...]
    correct: tuple[int, ...]
    targets: tuple[int, ...]
    grad_norm: float | None = None

    def event_fields(self, text_loss_weight: float) -> dict[str, Any]:
        """Return the fields that `TrainStep` and `EvalResult` share.

        Args:
            text_loss_weight: Factor of the text loss in the total loss.
        """
        text_loss, *audio_losses = (nll / max(targets, 1) for nll, targets in zip(self.nll, self.targets, strict=True))
        text_accuracy, *audio_accuracies = map(ratio, self.correct, self.targets)
        audio_loss = sum(audio_losses) / max(len(audio_losses), 1)
        return {
            "loss": text_loss_weight * text_loss + audio_loss,
            "text_loss": text_loss,
            "audio_loss": audio_loss,
            "audio_loss_per_codebook": tuple(audio_losses),
            "text_accuracy": text_accuracy,
            "audio_accuracy_per_codebook": tuple(audio_accuracies),
            "text_targets": self.targets[0],
            "audio_targets": sum(self.targets[1:]),
        }


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the widest float dtype of a device, in which summed counts stay exact.

    Apple GPUs have no float64.

    Example:
        >>> exact_dtype(torch.device("cpu"))
        torch.float64
    """
    return torch.float32 if device.type == "mps" else torch.float64


def count_or_zero(total: float) -> int:
    """Return a summed count as an integer; 0 for NaN, the sum after a rank's extraction failed.

    Example:
        >>> count_or_zero(12.0), count_or_zero(float("nan"))
        (12, 0)
    """
    return 0 if math.isnan(total) else int(total)


def ratio(part: int, total: int) -> float | None:
    """Return `part / total`; None for an empty total.

    Example:
        >>> ratio(1, 4), ratio(0, 0)
        (0.25, None)
    """
    return part / total if total else None
