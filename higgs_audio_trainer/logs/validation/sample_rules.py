"""Rules between the values of a `prediction_sample`, which `extraction` fulfils for every batch.

Each rule takes a line and the `run_start`, and yields the inconsistent fields of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import inf, isclose
from operator import eq
from typing import Any

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.typed import Record

Rule = Callable[[Record, Record], Iterable[InvalidField]]  # takes a line and the `run_start`, empty if missing

LEAST_LOSS = -1e-3  # a cross-entropy is at least 0, apart from rounding
_MOST_PROBABLE = 1 - LEAST_LOSS
_LISTS = ("positions", "inputs", "labels", "predictions")
_LABEL_RANKS = ("label_ranks", "label_probabilities")
_TEXTS = ("predicted_text", "label_text")


def of_modality(record: Record, start: Record) -> Iterator[InvalidField]:
    """Check the codebook: null for text, a valid number for audio."""
    codebook, count = record["codebook"], record["num_codebooks"]
    if record["modality"] == "text":
        for name, value in (("codebook", codebook), ("num_codebooks", count)):
            if value is not None:
                yield InvalidField(f"$.{name}", "null because the modality is text", str(value))
        return
    if count is None or count < 1:
        yield InvalidField("$.num_codebooks", "at least 1 because the modality is audio", _shown(count))
    elif start.get("num_codebooks") not in (None, count):
        yield InvalidField("$.num_codebooks", f"{start['num_codebooks']}, as in run_start", str(count))
    if codebook is None or codebook < 0 or (count is not None and codebook >= count):
        yield InvalidField(
            "$.codebook", "a number from 0 to num_codebooks - 1 because the modality is audio", _shown(codebook)
        )


def _shapes(record: Record, _start: Record) -> Iterator[InvalidField]:
    logits, labels = record["logits_shape"], record["labels_shape"]
    is_text = record["modality"] == "text"
    if len(logits) != (2 if is_text else 3) or min(logits) < 0:
        form = "[N, V]" if is_text else "[N, K, C]"
        yield InvalidField("$.logits_shape", f"{form} because the modality is {record['modality']}", str(logits))
        return
    expected = logits[:1] if is_text else [logits[1], logits[0]]
    if labels != expected:
        yield InvalidField("$.labels_shape", f"{expected} because logits_shape is {logits}", str(labels))
    if record["num_targets"] > logits[0]:
        yield InvalidField(
            "$.num_targets", f"at most {logits[0]}, the rows of logits_shape", str(record["num_targets"])
        )


def _shape_of_codebooks(record: Record, _start: Record) -> Iterator[InvalidField]:
    logits, count = record["logits_shape"], record["num_codebooks"]
    if record["modality"] == "audio" and logits[1:-1] not in ([], [count]):
        yield InvalidField("$.logits_shape[1]", f"num_codebooks, {_shown(count)}", str(logits[1]))


def _shift(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["shift"] < 0:  # 0: the data are shifted, so that the row at a position predicts its label
        yield InvalidField("$.shift", "at least 0", str(record["shift"]))


def _step(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["split"] == "train" and record["step"] < 1:
        yield InvalidField("$.step", "at least 1 because the split is train", str(record["step"]))


def _counts(record: Record, _start: Record) -> Iterator[InvalidField]:
    targets = record["num_targets"]
    for name in ("num_correct", "stop_targets"):
        if record[name] > targets:
            yield InvalidField(f"$.{name}", f"at most num_targets, {targets}", str(record[name]))


def _accuracy(record: Record, _start: Record) -> Iterator[InvalidField]:
    accuracy, correct, targets = record["accuracy"], record["num_correct"], record["num_targets"]
    if not targets:
        if accuracy is not None:
            yield InvalidField("$.accuracy", "null because num_targets is 0", repr(accuracy))
    elif accuracy is None or not isclose(accuracy, correct / targets, rel_tol=1e-6):
        yield InvalidField("$.accuracy", f"num_correct / num_targets, {correct / targets:.6g}", _shown(accuracy))


def _loss(record: Record, _start: Record) -> Iterator[InvalidField]:
    loss, targets = record["loss"], record["num_targets"]
    if loss is None and targets:
        yield InvalidField("$.loss", f"a number because num_targets is {targets}", "null")
    elif loss is not None and not targets:
        yield InvalidField("$.loss", "null because num_targets is 0", repr(loss))
    elif loss is not None and loss < LEAST_LOSS:
        yield InvalidField("$.loss", "a cross-entropy, at least 0", repr(loss))


def of_stop_token(record: Record, _start: Record) -> Iterator[InvalidField]:
    """Check the stop token's rank and probability: numbers if the stop token is a label, else null."""
    stops, rank, probability = record["stop_targets"], record["stop_rank"], record["stop_probability"]
    for name, value in (("stop_rank", rank), ("stop_probability", probability)):
        if value is None and stops:
            yield InvalidField(f"$.{name}", f"a number because stop_targets is {stops}", "null")
        elif value is not None and not stops:
            yield InvalidField(f"$.{name}", "null because stop_targets is 0", repr(value))
    yield from _probability("$.stop_probability", probability)


def _probability(path: str, value: float | None) -> Iterator[InvalidField]:
    if value is not None and not 0 <= value <= _MOST_PROBABLE:
        yield InvalidField(path, "a probability from 0 to 1", repr(value))


def at_least_0(*names: str) -> Rule:
    """Return a rule for numbers that are null or at least 0.

    Example:
        >>> list(at_least_0("epoch")({"epoch": -1.0}, {}))
        [InvalidField(field='$.epoch', expected='at least 0', got='-1.0')]
    """

    def rule(record: Record, _start: Record) -> Iterator[InvalidField]:
        for name in names:
            if record[name] is not None and record[name] < 0:
                yield InvalidField(f"$.{name}", "at least 0", repr(record[name]))

    return rule


def _windows(record: Record, _start: Record) -> Iterable[InvalidField]:
    if not record["logits_shape"]:
        return []  # reported by another rule
    found = [wrong for name in ("first", "last") for wrong in _of_window(record, name)]
    return found or _of_both_windows(record)


def _of_window(record: Record, name: str) -> Iterator[InvalidField]:
    window = record[name]
    size = len(window["positions"])
    for part in _LISTS:
        if len(window[part]) != size:
            yield InvalidField(f"$.{name}.{part}", f"{size} items, as many as positions", str(len(window[part])))
            return
    yield from _of_positions(record, name)
    yield from _of_tokens(record, name)
    yield from _of_label_ranks(record, name)
    if window["predicted_text"] is not None or window["label_text"] is not None:
        yield from _of_texts(record, name)


def _of_texts(record: Record, name: str) -> Iterator[InvalidField]:
    window = record[name]
    texts = [window[part] for part in _TEXTS]
    if texts.count(None) == 1:
        yield InvalidField(f"$.{name}.{_TEXTS[texts.index(None)]}", "a text because the other text is decoded", "null")
    elif texts[0] is not None and record["modality"] == "audio":
        yield InvalidField(f"$.{name}.{_TEXTS[0]}", "null because the modality is audio", repr(texts[0]))


def _of_positions(record: Record, name: str) -> Iterator[InvalidField]:
    positions = record[name]["positions"]
    is_text = record["modality"] == "text"  # an audio codebook's slots may belong to several clips
    for index, (one, other) in enumerate(pairwise(positions), start=1):
        if other != one + 1 and (is_text or other <= one):
            expected = f"{one + 1}, the next position" if is_text else f"more than {one}, the previous position"
            yield InvalidField(f"$.{name}.positions[{index}]", expected, str(other))
    if positions and positions[0] < record["shift"]:
        expected = f"at least {record['shift']} because no row precedes position 0"
        yield InvalidField(f"$.{name}.positions[0]", expected, str(positions[0]))


def _of_tokens(record: Record, name: str) -> list[InvalidField]:
    """Check each slot of a window. Returns a list for speed, because slots are most of a log's values."""
    window, found, size = record[name], [], record["logits_shape"][-1]
    # Text inputs may exceed the size of the logits, for example the placeholders of audio.
    inputs_end = size if record["modality"] == "audio" else inf
    slots = zip(window["inputs"], window["labels"], window["predictions"], strict=True)
    for index, (token, label, prediction) in enumerate(slots):
        if token is not None and not 0 <= token < inputs_end:
            known = f" less than {size}" if token >= 0 else ""
            found.append(InvalidField(f"$.{name}.inputs[{index}]", f"a token{known} or null", str(token)))
        if label == IGNORE_INDEX:
            if prediction is not None:
                expected = f"null because the label is {IGNORE_INDEX}"
                found.append(InvalidField(f"$.{name}.predictions[{index}]", expected, str(prediction)))
        elif not 0 <= label < size:
            expected = f"a token, less than {size}," if label >= 0 else "a token"
            found.append(InvalidField(f"$.{name}.labels[{index}]", f"{expected} or {IGNORE_INDEX}", str(label)))
        elif prediction is None or not 0 <= prediction < size:
            known = f" less than {size}" if prediction is not None and prediction >= 0 else ""
            expected = f"a token{known} because the label is {label}"
            found.append(InvalidField(f"$.{name}.predictions[{index}]", expected, _shown(prediction)))
    return found


def _of_label_ranks(record: Record, name: str) -> Iterator[InvalidField]:
    """Check the optional ranks and probabilities of the labels."""
    labels, predictions = record[name]["labels"], record[name]["predictions"]
    for part in _LABEL_RANKS:
        values = record[name].get(part)
        if values is None:
            continue
        if len(values) != len(labels):
            yield InvalidField(f"$.{name}.{part}", f"{len(labels)} items, as many as positions", str(len(values)))
            continue
        for index, (label, predicted, value) in enumerate(zip(labels, predictions, values, strict=True)):
            path = f"$.{name}.{part}[{index}]"
            if (value is None) != (label == IGNORE_INDEX):
                expected = "null" if label == IGNORE_INDEX else "a number"
                yield InvalidField(path, f"{expected} because the label is {label}", _shown(value))
            elif part == "label_ranks" and value is not None and (value < 1 or (value > 1 and label == predicted)):
                expected = "1 because the prediction is the label" if value > 1 else "a rank, at least 1"
                yield InvalidField(path, expected, str(value))
            elif part == "label_probabilities":
                yield from _probability(path, value)


def _of_both_windows(record: Record) -> Iterator[InvalidField]:
    first, last, targets = record["first"]["positions"], record["last"]["positions"], record["num_targets"]
    if bool(first) != bool(targets):
        yield InvalidField(
            "$.first.positions", f"{'slots' if targets else 'none'} because num_targets is {targets}", str(first)
        )
    elif len(last) > len(first):
        yield InvalidField(
            "$.last.positions", f"at most {len(first)} slots, for `first` is filled before", str(len(last))
        )
    elif first:
        yield from _between_windows(record, first, last)
        yield from _ends_of_span(record)
        yield from _counted(record, is_whole=len(last) < len(first))


def _between_windows(record: Record, first: list[int], last: list[int]) -> Iterator[InvalidField]:
    if not last:
        return
    if last[0] <= first[-1]:
        yield InvalidField("$.last.positions[0]", f"more than {first[-1]}, where `first` ends", str(last[0]))
    elif record["modality"] == "text" and len(last) < len(first) and last[0] != first[-1] + 1:
        yield InvalidField(
            "$.last.positions[0]", f"{first[-1] + 1} because the windows hold the whole span", str(last[0])
        )


def _ends_of_span(record: Record) -> Iterator[InvalidField]:
    name = "last" if record["last"]["labels"] else "first"
    end = len(record[name]["labels"]) - 1
    for window, index in (("first", 0), (name, end)):
        if record[window]["labels"][index] == IGNORE_INDEX:
            yield InvalidField(
                f"$.{window}.labels[{index}]",
                "a token because the span begins and ends with supervised slots",
                str(IGNORE_INDEX),
            )


def _counted(record: Record, *, is_whole: bool) -> Iterator[InvalidField]:
    targets, correct = record["num_targets"], record["num_correct"]
    first, last = record["first"], record["last"]
    labels, predictions = first["labels"] + last["labels"], first["predictions"] + last["predictions"]
    shown = len(labels) - labels.count(IGNORE_INDEX)
    shown_correct = sum(map(eq, labels, predictions))  # the prediction of a masked slot is null
    hidden = targets - shown
    if hidden < 0 or (is_whole and hidden):
        expected = f"{'' if is_whole else 'at least '}{shown}, as the windows show"
        yield InvalidField("$.num_targets", expected, str(targets))
    elif not shown_correct <= correct <= shown_correct + hidden:
        expected = f"{shown_correct} to {shown_correct + hidden}" if hidden else str(shown_correct)
        yield InvalidField("$.num_correct", f"{expected}, as the windows show", str(correct))


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


_SHAPES = ("modality", "logits_shape")
_WINDOWS = (*_SHAPES, "shift", "first", "last", "num_targets", "num_correct")
#: Each rule with its fields.
SAMPLE_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("modality", "codebook", "num_codebooks"), of_modality),
    ((*_SHAPES, "labels_shape", "num_targets"), _shapes),
    ((*_SHAPES, "num_codebooks"), _shape_of_codebooks),
    (("shift",), _shift),
    (("split", "step"), _step),
    (("num_targets", "num_correct", "stop_targets"), _counts),
    (("accuracy", "num_correct", "num_targets"), _accuracy),
    (("loss", "num_targets"), _loss),
    (("stop_targets", "stop_rank", "stop_probability"), of_stop_token),
    (("epoch",), at_least_0("epoch")),
    (_WINDOWS, _windows),
)
