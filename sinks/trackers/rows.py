"""Records in the form of trackers: scalars by name, and a flat row for a sample. Pure functions for all trackers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from sinks.protocol import Record
from sinks.rendering.record import render
from sinks.shorten import MOST_SHOWN_BYTES, limited

Scalars = dict[str, float]
Row = dict[str, int | float | str | None]

_PREFIX = {"train_step": "train", "eval_result": "eval"}
#: Fields that become scalars. An absent or null field is not a scalar.
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
    "padding_share",
    "tokens_per_s",
    "audio_seconds_per_s",
    "samples_per_s",
    "data_wait_ms",
    "peak_memory_bytes",
    "num_samples",
    "duration_s",
)
#: Fields of generated speech that become scalars.
_OF_SPEECH = (
    "frames",
    "frames_label",
    "stopped",
    "longest_run",
    "repeat_share",
    "silence_share",
    "peak",
    "cer",
    "wer",
    "speaker_similarity",
    "duration_s",
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_ALERT_LEVELS = ("warning", "error")
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

#: Names of the columns of a row, in order.
COLUMNS = (*_OF_SAMPLE, *(f"{end}_{name}" for end in ("first", "last") for name in _OF_WINDOW))


def admitted(record: Record) -> Record | None:
    """Return a record, shortened if very long, or None if no tracker shows the event.

    Example:
        >>> admitted({"event": "eval_result", "level": "info", "loss": 4.5})["loss"]
        4.5
        >>> admitted({"event": "checkpoint", "level": "info"}) is None
        True
    """
    if record.get("event") not in (*_PREFIX, "run_start", "prediction_sample", "generation_sample") and not is_alert(
        record
    ):
        return None
    return limited(record, MOST_SHOWN_BYTES)


def scalars(record: Record) -> Scalars:
    """Return the losses, accuracies and other scalars of a step, an evaluation or generated speech, by name.

    Other events have none.

    The loss of a modality or codebook without targets is 0 in the record and is omitted here. A chart would show a
    perfect loss. The losses of codebooks stand beside their mean `train/audio_loss/mean`, because a store may keep
    names as files and folders.

    Example:
        >>> scalars({"event": "train_step", "loss": 4.1, "text_targets": 3, "text_loss": 0.8, "audio_targets": 0})
        {'train/loss': 4.1, 'train/text_targets': 3.0, 'train/audio_targets': 0.0, 'train/text_loss': 0.8}
    """
    if record.get("event") == "generation_sample":
        prefix, values = probe(record), _values_of_speech(record)
    elif record.get("event") in _PREFIX:
        prefix, values = _PREFIX[record["event"]], _values(record)
    else:
        return {}
    return {f"{prefix}/{name}": float(value) for name, value in values if isinstance(value, (int, float))}


def probe(record: Record) -> str:
    """Return the prefix of the names of a probe. An id that trackers may refuse gets the first digits of its hash.

    Example:
        >>> probe({"probe": "en-1"}), probe({"probe": "../ar 1"})
        ('probe/en-1', 'probe/ar_1-5ddca798')
    """
    given = str(record.get("probe"))
    if _PLAIN_NAME.fullmatch(given):
        return f"probe/{given}"
    digits = sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", given).strip("_")[:48]
    return f"probe/{plain}-{digits}" if plain else f"probe/{digits}"


def _values_of_speech(record: Record) -> Iterator[tuple[str, Any]]:
    for name in _OF_SPEECH:
        yield name, record.get(name)
    for index, share in enumerate(record.get("agreement") or ()):
        yield f"agreement/codebook_{index}", share


def _values(record: Record) -> Iterator[tuple[str, Any]]:
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
    """Return the row of a `prediction_sample`, with a cell for each of `COLUMNS`. Lists become JSON arrays as text."""
    made: Row = {name: record.get(name) for name in _OF_SAMPLE}
    for end in ("first", "last"):
        window = record.get(end)
        window = window if isinstance(window, dict) else {}  # a replaced value
        made |= {f"{end}_{name}": _cell(window.get(name)) for name in _OF_WINDOW}
    return made


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def place(row: Row) -> str:
    """Return the name of a row among the rows of a step.

    Example:
        >>> place({"split": "train", "modality": "audio", "codebook": 0, "sample_index": 1})
        'train/samples/audio_codebook_0/1'
    """
    codebook = "" if row["codebook"] is None else f"_codebook_{row['codebook']}"
    return f"{row['split']}/samples/{row['modality']}{codebook}/{row['sample_index']}"


def is_alert(record: Record) -> bool:
    """Return True if the level of a record is warning or error."""
    return record.get("level") in _ALERT_LEVELS


def title(record: Record) -> str:
    """Return the title of an alert: the code of a diagnosis, or the name of another event."""
    return str(record.get("code") or record.get("event"))


def text(record: Record) -> str:
    """Return the text of an alert: the message of a diagnosis, or another record as text."""
    return str(record.get("message") or render(record))
