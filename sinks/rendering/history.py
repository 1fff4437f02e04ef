"""Earlier records that the text of a record depends on: the last losses, the vocabularies, the shapes."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from sinks.protocol import Record
from sinks.rendering.token_columns import MASKED
from sinks.rendering.trend import MOST

_CONTROL_TOKENS = re.compile(r"(?:<\|[^<>|]+\|>\s*)+")


class RecordHistory:
    """Earlier records of one attempt on one rank. The text of a record alone has an empty history.

    A value of another type than its event has changes nothing.

    Attributes:
        total_steps: Optimizer steps of the run; None if unknown.
        shown_step: Step whose line was shown last; None before the first.
        step: Last `train_step`.
        evaluation: Last `eval_result`.
        best: Lowest loss of an evaluation, and its step.
        losses: Last finite losses of the logged steps, by modality.
        vocabularies: Number of tokens that the model predicts from, by modality.
        learns_control_tokens_only: True if the targets of all text samples were control tokens; None without a sample.
        shapes: Rank and vocabulary of the logits and rank of the labels that were shown last, by modality.

    Example:
        >>> history = RecordHistory()
        >>> history.take({"event": "run_start", "total_steps": 60})
        >>> history.take({"event": "train_step", "audio_loss": 6.9, "audio_targets": 81})
        >>> history.total_steps, list(history.losses["audio"])
        (60, [6.9])
    """

    def __init__(self) -> None:
        self.total_steps: int | None = None
        self.shown_step: int | None = None
        self.step: Record = {}
        self.evaluation: Record = {}
        self.best: tuple[float, int] | None = None
        self.losses: dict[str, deque[float]] = {"text": deque(maxlen=MOST), "audio": deque(maxlen=MOST)}
        self.vocabularies: dict[str, int] = {}
        self.learns_control_tokens_only: bool | None = None
        self.shapes: dict[str, Any] = {}

    def take(self, record: Record) -> None:
        """Add a record, after its text was made."""
        match record:
            case {"event": "run_start"}:
                self._begin(record)
            case {"event": "train_step"}:
                self.step = record
                for modality, losses in self.losses.items():
                    loss: Any = record.get(f"{modality}_loss")
                    if record.get(f"{modality}_targets") and is_finite(loss):
                        losses.append(loss)
            case {"event": "eval_result", "loss": loss, "step": int(step)}:
                self.evaluation = record
                if is_finite(loss) and (self.best is None or loss < self.best[0]):
                    self.best = loss, step
            case {
                "event": "prediction_sample",
                "modality": "text" | "audio" as modality,
                "logits_shape": [*_, int(vocabulary)],
                "labels_shape": [*_],
                "first": {"labels": [*_]},
                "last": {"labels": [*_]},
                "num_targets": int(),
            }:
                self.vocabularies[modality] = vocabulary
                self.shapes[modality] = shapes_of(record)
                if modality == "text":
                    self.learns_control_tokens_only = (
                        self.learns_control_tokens_only is not False and has_control_tokens_only(record)
                    )

    def _begin(self, run_start: Record) -> None:
        total_steps = run_start.get("total_steps")
        self.total_steps = total_steps if isinstance(total_steps, int) else None
        for modality, name in (("text", "vocab_size"), ("audio", "codebook_size")):
            if isinstance(size := run_start.get(name), int):
                self.vocabularies[modality] = size

    def chance(self, modality: str) -> float | None:
        """Return the loss of equal probabilities for all tokens, in nats. None if the vocabulary is unknown."""
        vocabulary = self.vocabularies.get(modality)
        return math.log(vocabulary) if vocabulary and vocabulary > 1 else None


class RecordHistories:
    """The history of each run, attempt and rank. A `run_start` begins a new history."""

    def __init__(self) -> None:
        self._histories: dict[str, RecordHistory] = {}

    def of(self, record: Record) -> RecordHistory:
        """Return the history that a record belongs to."""
        key = str([record.get(name) for name in ("run_id", "attempt", "rank")])
        if record.get("event") == "run_start":
            self._histories[key] = RecordHistory()
        return self._histories.setdefault(key, RecordHistory())


def is_finite(value: Any) -> bool:
    """Return True for a number that is neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def shapes_of(record: Record) -> tuple[int, Sequence[int], int]:
    """Return rank and vocabulary of the logits and rank of the labels. The other sizes change with each batch."""
    logits, labels = record["logits_shape"], record["labels_shape"]
    return len(logits), logits[-1:], len(labels)


def has_control_tokens_only(record: Record) -> bool:
    """Return True if every target of a text sample is shown and decoded, and is a control token.

    Example:
        >>> windows = {
        ...     "first": {"labels": [264, -100], "label_text": "<|audio_out_bos|>"},
        ...     "last": {"labels": [261], "label_text": "<|eot_id|>"},
        ... }
        >>> has_control_tokens_only(windows | {"num_targets": 2}), has_control_tokens_only(windows | {"num_targets": 9})
        (True, False)
    """
    windows = record["first"], record["last"]
    shown = sum(label != MASKED for window in windows for label in _labels(window))
    texts = [window.get("label_text") for window in windows if _labels(window)]
    return shown == record["num_targets"] > 0 and all(
        text == "" or (isinstance(text, str) and _CONTROL_TOKENS.fullmatch(text)) for text in texts
    )


def _labels(window: Record) -> Sequence[int]:
    labels: Sequence[int] = window["labels"]
    return labels
