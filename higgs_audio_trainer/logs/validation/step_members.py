"""Checks that the events of one step have one epoch and one batch, and that `train_step` names the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from higgs_audio_trainer.logs.lines import LogLine, int_field
from higgs_audio_trainer.logs.typed import Record, is_any_marked
from higgs_audio_trainer.logs.validation.training_rules import settings_of
from higgs_audio_trainer.logs.validation.violation import Violation

_MOST_NAMES = 64  # samples that a `train_step` names (`extraction/extraction.py`)
_USED = ("epoch", "samples", "sample_id", "fingerprint", "logits_shape", "split", "modality")
_HEADS = {"train": "train_step", "eval": "eval_result"}


class StepMembers:
    """The events of the current step of one rank and attempt, and the epoch of the step before."""

    def __init__(self) -> None:
        self._epoch = 0.0
        self._seq: int | None = None
        self._follows = False
        self.begin()

    def begin(self) -> None:
        """Forget the events of the step before."""
        self._heads: dict[str, LogLine] = {}  # `train_step` and `eval_result`
        self._batches: dict[tuple[str, str], LogLine] = {}  # first sample of each split and modality
        self._is_whole = self._follows  # no number is missing since the step before

    def follow(self, line: LogLine) -> None:
        """Note the number of a line of any kind, before its step begins."""
        before, self._seq = self._seq, int_field(line.record, "seq")
        self._follows = before is not None and self._seq == before + 1
        if not self._follows:
            self._is_whole = False

    def take(self, line: LogLine, start: Record) -> Iterable[Violation]:
        """Check a line of the step, valid by the schema."""
        record, event = line.record, line.record["event"]
        if event not in ("train_step", "eval_result", "prediction_sample") or is_any_marked(record, _USED):
            return ()
        if event == "prediction_sample":
            return self._of_sample(line, start)
        self._heads[event] = line
        before, self._epoch = self._epoch, max(self._epoch, record["epoch"])
        if event == "train_step" and record["epoch"] < before:
            return [_violation(line, "epoch", f"at least {before:g}, the epoch of the logged step before")]
        return ()

    def _of_sample(self, line: LogLine, start: Record) -> Iterator[Violation]:
        record = line.record
        split, modality = record["split"], record["modality"]
        is_whole_record = settings_of(start).get("processors") == "none"  # else names are changed, or events dropped
        head = self._heads.get(_HEADS.get(split, ""))
        if head is not None:
            if record["epoch"] != head.record["epoch"]:
                expected = f"{head.record['epoch']:g}, as in {head.record['event']} at {head.where}"
                yield _violation(line, "epoch", expected)
            if split == "train" and is_whole_record:
                yield from _of_names(line, head)
        elif split in _HEADS and self._is_whole and is_whole_record:
            expected = f"{split} after a {_HEADS[split]} of the step"
            yield _violation(line, "split", expected)
        if split in _HEADS:
            first = self._batches.setdefault((split, modality), line)
            if (shape := first.record["logits_shape"]) != record["logits_shape"]:
                yield _violation(line, "logits_shape", f"{shape}, the shape of the same batch at {first.where}")


def _of_names(line: LogLine, head: LogLine) -> Iterator[Violation]:
    """Check that the step has the sample. Of two samples with one id, the step names the last."""
    names, record = head.record.get("samples"), line.record
    if not names or len(names) >= _MOST_NAMES:
        return
    if record["sample_id"] not in names:
        yield _violation(line, "sample_id", f"a sample of train_step at {head.where}")
    elif record["fingerprint"] != names[record["sample_id"]]:
        yield _violation(line, "fingerprint", f"{names[record['sample_id']]!r}, as train_step at {head.where} has")


def _violation(line: LogLine, name: str, expected: str) -> Violation:
    value = line.record[name]
    return Violation(
        line.where, f"$.{name}", expected, f"{value:g}" if isinstance(value, float) else repr(value), "value"
    )
