"""From a record to what trackers show: scalars by name, and one flat row of a sample. Pure; alike for all trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sinks.protocol import Record
from sinks.rendering import render
from sinks.shorten import fits, shortened

Scalars = dict[str, float]
Row = dict[str, int | float | str | None]

_PREFIX = {"train_step": "train", "eval_result": "eval"}
_MODALITIES = ("text", "audio")
#: Of what the training did at a step; what a record lacks, or has as null, is no scalar.
_PLAIN = (
    "epoch",
    "loss",
    "text_accuracy",
    "text_targets",
    "audio_targets",
    "learning_rate",
    "grad_norm",
    "step_ms",
    "logging_ms",
    "sequence_length",
    "num_samples",
    "duration_s",
)
_ALARMS = ("warning", "error")
_OF_SAMPLE = (
    "step",
    "split",
    "modality",
    "codebook",
    "sample_index",
    "sample_id",
    "fingerprint",
    "num_targets",
    "num_correct",
    "accuracy",
    "loss",
    "stop_targets",
)
_OF_WINDOW = ("positions", "inputs", "labels", "predictions", "label_text", "predicted_text")
_LONGEST_RECORD_BYTES = 64 * 1024  # as a line of JSON; ten million tokens are for a file

#: Names of a row's columns, in order.
COLUMNS = (*_OF_SAMPLE, *(f"{end}_{name}" for end in ("first", "last") for name in _OF_WINDOW))


def admitted(record: Record) -> Record | None:
    """Return what a tracker is to be given of a record, cut if it is very long; None where none shows it."""
    if record.get("event") not in (*_PREFIX, "run_start", "prediction_sample") and not is_alarm(record):
        return None
    return record if fits(record, _LONGEST_RECORD_BYTES) else shortened(record, _LONGEST_RECORD_BYTES)


def scalars(record: Record) -> Scalars:
    """Name the figures of a step or an evaluation, such as `train/loss`; of another record there are none.

    A modality or codebook without targets has a loss of 0 in the record, and none here: it would be drawn as perfect.
    The losses of codebooks lie beside their mean, `train/audio_loss/mean`: a store may keep names as files and folders.
    """
    prefix = _PREFIX.get(record.get("event", ""))
    if prefix is None:
        return {}
    return {f"{prefix}/{name}": float(value) for name, value in _figures(record) if isinstance(value, (int, float))}


def _figures(record: Record) -> Iterator[tuple[str, Any]]:
    for name in _PLAIN:
        yield name, record.get(name)
    if record.get("text_targets"):
        yield "text_loss", record.get("text_loss")
    if record.get("audio_targets"):
        yield "audio_loss/mean", record.get("audio_loss")
    accuracies = record.get("audio_accuracy_per_codebook") or ()
    for index, accuracy in enumerate(accuracies):
        yield f"audio_accuracy/codebook_{index}", accuracy
    for index, loss in enumerate(record.get("audio_loss_per_codebook") or ()):
        if index >= len(accuracies) or accuracies[index] is not None:
            yield f"audio_loss/codebook_{index}", loss


def row(record: Record) -> Row:
    """Make the row of a `prediction_sample`: each of `COLUMNS`, lists as the text of a JSON array."""
    made: Row = {name: record.get(name) for name in _OF_SAMPLE}
    for end in ("first", "last"):
        window = record.get(end)
        window = window if isinstance(window, dict) else {}  # a log may have it replaced
        made |= {f"{end}_{name}": _cell(window.get(name)) for name in _OF_WINDOW}
    return made


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def place(row: Row) -> str:
    """Name the place of a row among those of its step: `train/samples/audio_codebook_0/0`."""
    codebook = "" if row["codebook"] is None else f"_codebook_{row['codebook']}"
    return f"{row['split']}/samples/{row['modality']}{codebook}/{row['sample_index']}"


def is_alarm(record: Record) -> bool:
    """Tell whether a record is one that a person should look at."""
    return record.get("level") in _ALARMS


def title(record: Record) -> str:
    """Name an alarm: the code of a diagnosis, the name of another event."""
    return str(record.get("code") or record.get("event"))


def text(record: Record) -> str:
    """Word an alarm."""
    return str(record.get("message") or render(record))
