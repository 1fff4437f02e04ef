"""Checks between the counts of one step: `train_step`, `token_counts` and the samples of the first micro-batch.

One recorder sums all of these over the same slots, whoever trains, so a contradiction is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.typed import is_any_marked
from higgs_audio_trainer.logs.validation.violation import Violation

_TOLERANCE = 1e-6  # an accuracy is a quotient of two counts, perhaps in float32
_OF_SAMPLES = ("num_targets", "num_correct", "stop_targets")
_LOSSES = ("loss", "text_loss", "audio_loss", "audio_loss_per_codebook")
_Series = tuple[str, int | None]  # modality and codebook


class StepTotals:
    """Counts of the current step of one rank and attempt."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the counts of the step before."""
        self._step: LogLine | None = None
        self._is_partial = False  # after a failure on any rank the sums over all ranks are 0, and the losses are NaN
        self._audio: dict[int, int] = {}  # targets by codebook
        self._counted = 0  # targets of all codebooks so far
        self._shown: dict[_Series, tuple[int, int, int]] = {}  # sums of `_OF_SAMPLES` over the shown samples

    def take(self, line: LogLine) -> Iterable[Violation]:
        """Check a line of the step, valid by the schema. Lines with marks do not count."""
        record = line.record
        event = record["event"]
        if event == "train_step":
            self._is_partial = is_any_marked(record, _LOSSES)
        if self._is_partial or event not in _COMPARED or is_any_marked(record, _COMPARED[event]):
            return ()
        if event == "token_counts":
            return self._of_counts(line)
        if event == "train_step":
            self._step = line
        elif record["split"] == "train":
            series = record["modality"], record["codebook"]
            targets, correct, stops = self._shown.get(series, (0, 0, 0))
            of_sample = record["num_targets"], record["num_correct"], record["stop_targets"]
            self._shown[series] = targets + of_sample[0], correct + of_sample[1], stops + of_sample[2]
        return ()

    def _of_counts(self, line: LogLine) -> list[Violation]:
        record = line.record
        found = []
        if (shown := self._shown.get((record["modality"], record["codebook"]))) is not None:
            for name, least in zip(_OF_SAMPLES, shown, strict=True):
                if record[name] < least:
                    expected = f"at least {least}, the sum over the samples of the step"
                    found.append(Violation(line.where, f"$.{name}", expected, str(record[name]), "value"))
        return found if self._step is None else [*found, *self._of_step(line, self._step)]

    def _of_step(self, line: LogLine, step: LogLine) -> Iterable[Violation]:
        codebook, targets = line.record["codebook"], line.record["num_targets"]
        if codebook is None:
            total = step.record["text_targets"]
            if targets == total:
                return _of_accuracy(line, step, step.record["text_accuracy"])
            expected = f"{total}, text_targets of train_step at {step.where}"
            return [Violation(line.where, "$.num_targets", expected, str(targets), "value")]
        accuracies = step.record["audio_accuracy_per_codebook"]
        if not 0 <= codebook < len(accuracies):  # reported by another rule
            return ()
        found = _of_accuracy(line, step, accuracies[codebook])
        return [*self._of_codebooks(line, step, len(accuracies)), *found]

    def _of_codebooks(self, line: LogLine, step: LogLine, count: int) -> Iterable[Violation]:
        codebook, targets = line.record["codebook"], line.record["num_targets"]
        self._counted += targets - self._audio.get(codebook, 0)
        self._audio[codebook] = targets
        total = step.record["audio_targets"]
        if self._counted <= total and (len(self._audio) < count or self._counted == total):
            return ()
        expected = f"{total} over all codebooks, audio_targets of train_step at {step.where}"
        got = f"{self._counted} in {len(self._audio)} of {count} codebooks"
        return [Violation(line.where, "$.num_targets", expected, got, "value")]


def _of_accuracy(line: LogLine, step: LogLine, accuracy: Any) -> Iterable[Violation]:
    """Check the correct slots against an accuracy of `train_step`, null without targets."""
    targets, correct = line.record["num_targets"], line.record["num_correct"]
    if accuracy is not None and targets:
        if abs(correct - accuracy * targets) <= _TOLERANCE * targets:
            return ()
        expected = f"{accuracy * targets:.6g}, num_targets x {_accuracy_of(line)} of train_step at {step.where}"
        return [Violation(line.where, "$.num_correct", expected, str(correct), "value")]
    if accuracy is None and not targets:
        return ()
    least = "0" if accuracy is None else "more than 0"
    value = "null" if accuracy is None else f"{accuracy:.6g}"
    expected = f"{least} because {_accuracy_of(line)} of train_step at {step.where} is {value}"
    return [Violation(line.where, "$.num_targets", expected, str(targets), "value")]


def _accuracy_of(line: LogLine) -> str:
    codebook = line.record["codebook"]
    return "text_accuracy" if codebook is None else f"audio_accuracy_per_codebook[{codebook}]"


_COMPARED = {
    "train_step": ("text_targets", "audio_targets", "text_accuracy", "audio_accuracy_per_codebook"),
    "prediction_sample": _OF_SAMPLES,
    "token_counts": _OF_SAMPLES,
}
