"""The text of a `prediction_sample`: predictions beside labels, in the wording of the original feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sinks.protocol import Record
from sinks.rendering.history import has_control_tokens_only, shapes_of
from sinks.rendering.text_format import TextFormat
from sinks.rendering.token_columns import MASKED, render_token_columns
from sinks.terminal.style import BOLD, CORRECT, DIM, WRONG

#: Size of a Higgs vocabulary of audio codes, whose last two entries are no codes.
_HIGGS_VOCABULARY = 1026
_CONTROL_TOKENS: Mapping[int, str] = {1024: "stream BOS", 1025: "stop"}
_ENDS = {"first": "first wrong", "last": "wrong"}  # between the ends, slots are not logged


def render_prediction_sample(record: Record, text_format: TextFormat) -> str:
    """Return the text of a `prediction_sample`. A sample without a mistake is a heading, and the shapes of audio."""
    is_correct = 0 < record["num_targets"] == record["num_correct"]
    title = f"{_title(record)}{_split(record)}:"
    about = f"{record['sample_id']}{text_format.at_step(record)}, {_correct(record)}"
    heading = f"{text_format.style(title, BOLD)}  {text_format.style(about, CORRECT if is_correct else DIM)}"
    return "\n".join([heading, *([] if is_correct else _tokens(record, text_format)), *_shapes(record, text_format)])


def render_brief_sample(record: Record, text_format: TextFormat) -> str:
    """Return the text of a `prediction_sample` as one line, with the first mistake in the log.

    Example:
        >>> from sinks.rendering.history import RecordHistory
        >>> window = {"positions": [7, 8], "labels": [5, 60], "predictions": [4, 60]}
        >>> empty = {"positions": [], "labels": [], "predictions": []}
        >>> record = {
        ...     "step": 20, "split": "train", "modality": "audio", "codebook": 0, "sample_id": "en-1",
        ...     "num_targets": 9, "num_correct": 6, "first": window, "last": empty,
        ... }
        >>> render_brief_sample(record, TextFormat(False, None, RecordHistory()))
        '  codebook 0  en-1 at step 20, 6 of 9 correct  first wrong at 7: 4, label 5'
    """
    is_correct = 0 < record["num_targets"] == record["num_correct"]
    name = "text" if record["codebook"] is None else f"codebook {record['codebook']}"
    about = f"{record['sample_id']}{text_format.at_step(record)}, {_correct(record)}"
    about = text_format.style(about, CORRECT) if is_correct else about
    wrong = next(_mistakes(record), "")
    return "  ".join(["", f"{name}{_split(record)}", about, *([text_format.style(wrong, WRONG)] if wrong else [])])


def _title(record: Record) -> str:
    if record["modality"] == "audio":
        return f"Audio Prediction vs Label Comparison (Codebook {record['codebook']})"
    return f"Sample {record['sample_index'] + 1} Prediction vs Label Comparison"


def _split(record: Record) -> str:
    return "" if record["split"] == "train" else f" ({record['split']})"


def _correct(record: Record) -> str:
    note = " (control tokens)" if record["modality"] == "text" and has_control_tokens_only(record) else ""
    return f"{record['num_correct']} of {record['num_targets']} correct{note}"


def _tokens(record: Record, text_format: TextFormat) -> list[str]:
    is_higgs = record["modality"] == "audio" and record["logits_shape"][-1:] == [_HIGGS_VOCABULARY]
    return render_token_columns(
        {"First": record["first"], "Last": record["last"]},
        color=text_format.color,
        width=text_format.width,
        control_tokens=_CONTROL_TOKENS if is_higgs else {},
    )


def _shapes(record: Record, text_format: TextFormat) -> list[str]:
    if record["modality"] != "audio":
        return []
    if text_format.new_shapes_only and text_format.history.shapes.get("audio") == shapes_of(record):
        return []
    return [f"  {name} shape: {_shape(record[f'{name.lower()}_shape'])}" for name in ("Logits", "Labels")]


def _shape(sizes: Sequence[int]) -> str:
    return f"torch.Size([{', '.join(map(str, sizes))}])"


def _mistakes(record: Record) -> Iterator[str]:
    for end, words in _ENDS.items():
        window = record[end]
        for position, label, predicted in zip(
            window["positions"], window["labels"], window["predictions"], strict=True
        ):
            if label not in (MASKED, predicted):
                yield f"{words} at {position}: {predicted}, label {label}"
