"""Checks between the counts of one step: `train_step`, `token_counts` and the samples of the first micro-batch.

One recorder sums all of these over the same slots, whoever trains, so a contradiction is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        self._shown: dict[_Series, tuple[int, int, int]] = {}  # sums of `_OF_SAMPLES` over the shown samples

    def take(self, line: LogLine) -> Iterable[Violation]:
        """Check a line of the step, valid by the schema. Lines whose values were changed before writing don't count."""
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

    def _of_counts(self, line: LogLine) -> Iterator[Violation]:
        for name, least in zip(
            _OF_SAMPLES, self._shown.get((line.record["modality"], line.record["codebook"]), ()), strict=False
        ):
            if line.record[name] < least:
                expected = f"at least {least}, the sum over the samples of the step"
                yield Violation(line.where, f"$.{name}", expected, str(line.record[name]), "value")
        if self._step is not None:
            yield from self._of_step(line, self._step)

    def _of_step(self, line: LogLine, step: LogLine) -> Iterator[Violation]:
        codebook, targets = line.record["codebook"], line.record["num_targets"]
        if codebook is None:
            total = step.record["text_targets"]
            if targets != total:
                expected = f"{total}, text_targets of train_step at {step.where}"
                yield Violation(line.where, "$.num_targets", expected, str(targets), "value")
            else:
                yield from _of_accuracy(line, step, step.record["text_accuracy"], "text_accuracy")
            return
        accuracies = step.record["audio_accuracy_per_codebook"]
        if 0 <= codebook < len(accuracies):  # else reported by another rule
            yield from self._of_codebooks(line, step, len(accuracies))
            yield from _of_accuracy(line, step, accuracies[codebook], f"audio_accuracy_per_codebook[{codebook}]")

    def _of_codebooks(self, line: LogLine, step: LogLine, count: int) -> Iterator[Violation]:
        self._audio[line.record["codebook"]] = line.record["num_targets"]
        total, counted = step.record["audio_targets"], sum(self._audio.values())
        if counted > total or (len(self._audio) == count and counted != total):
            expected = f"{total} over all codebooks, audio_targets of train_step at {step.where}"
            got = f"{counted} in {len(self._audio)} of {count} codebooks"
            yield Violation(line.where, "$.num_targets", expected, got, "value")


def _of_accuracy(line: LogLine, step: LogLine, accuracy: Any, name: str) -> Iterable[Violation]:
    """Check the correct slots against an accuracy of `train_step`, null without targets."""
    targets, correct = line.record["num_targets"], line.record["num_correct"]
    if accuracy is not None and targets:
        if abs(correct - accuracy * targets) <= _TOLERANCE * targets:
            return ()
        expected = f"{accuracy * targets:.6g}, num_targets x {name} of train_step at {step.where}"
        return [Violation(line.where, "$.num_correct", expected, str(correct), "value")]
    if accuracy is None and not targets:
        return ()
    least = "0" if accuracy is None else "more than 0"
    value = "null" if accuracy is None else f"{accuracy:.6g}"
    expected = f"{least} because {name} of train_step at {step.where} is {value}"
    return [Violation(line.where, "$.num_targets", expected, str(targets), "value")]


_COMPARED = {
    "train_step": ("text_targets", "audio_targets", "text_accuracy", "audio_accuracy_per_codebook"),
    "prediction_sample": _OF_SAMPLES,
    "token_counts": _OF_SAMPLES,
}
