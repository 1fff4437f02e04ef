"""Speed of a training: throughput and padding of a step, and the time left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from higgs_audio_trainer.extraction.batch_sizes import BatchSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Facts of a step that the host knows. None for an unknown fact.

    Attributes:
        data_wait_ms: Time that the step waited for its micro-batches; milliseconds.
        peak_memory_bytes: Most memory of the device in use since the last logged step.
        total_steps: Optimizer steps of the whole training.
        num_ranks: Number of ranks whose times are in the sums of the step.
    """

    data_wait_ms: float | None = None
    peak_memory_bytes: int | None = None
    total_steps: int | None = None
    num_ranks: int = 1


UNKNOWN = HostFacts()


class Pace:
    """Estimates the time left from the mean duration of a step, without the first step, which may compile and warm up.

    Example:
        >>> pace = Pace()
        >>> pace.seconds_left(step=1, total_steps=11, began=0.0, now=5.0)
        50.0
        >>> pace.seconds_left(step=3, total_steps=11, began=6.0, now=7.0)
        8.0
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None  # first logged step, and time at its end

    def seconds_left(self, *, step: int, total_steps: int, began: float, now: float) -> float:
        """Return the estimate; seconds.

        Args:
            step: Optimizer step that ends, counted from 1.
            total_steps: Optimizer steps of the whole training.
            began: Beginning of the step; seconds.
            now: End of the step; seconds.
        """
        if self._first is None:
            self._first = step, now
        first, ended = self._first
        per_step = now - began if step == first else (now - ended) / (step - first)
        return per_step * max(total_steps - step, 0)


def throughput(sizes: BatchSizes | None, seconds: float) -> dict[str, Any]:
    """Return the fields of `TrainStep` about the sizes of the batches.

    Args:
        sizes: Sizes of all batches of the step; None if unknown.
        seconds: Duration of the step.

    Example:
        >>> sizes = BatchSizes(positions=400, tokens=300, audio_seconds=8.0, samples=4)
        >>> throughput(sizes, seconds=2.0)
        {'padding_share': 0.25, 'tokens_per_s': 150.0, 'audio_seconds_per_s': 4.0, 'samples_per_s': 2.0}
    """
    if sizes is None or seconds <= 0 or sizes.positions <= 0:
        return {}
    return {
        "padding_share": 1 - sizes.tokens / sizes.positions,
        "tokens_per_s": sizes.tokens / seconds,
        "audio_seconds_per_s": sizes.audio_seconds / seconds,
        "samples_per_s": sizes.samples / seconds,
    }
