"""The text of a `generation_sample`: facts of the speech, and its codes beside the codes of the recording."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sinks.protocol import Record
from sinks.rendering.text_format import TextFormat
from sinks.rendering.token_columns import MASKED, render_token_columns
from sinks.terminal.style import BOLD, DIM

#: Frames of the Higgs codec a second. The record counts frames and does not state the rate, so another codec needs
#: another rate here.
FRAME_RATE_HZ = 25


def render_generation(record: Record, text_format: TextFormat) -> str:
    """Return the text of a `generation_sample`. Seconds are those of the Higgs codec, of 25 frames a second.

    Codes that differ from the recording have no colour, since a sentence may be spoken in many ways.
    """
    lines = [render_generation_line(record, text_format)]
    lasts = {end["codebook"]: end for end in record["last"]}
    for first in record["first"]:
        codebook = first["codebook"]
        windows = {"First": _window(first, at_end=False)}
        if codebook in lasts:
            windows["Last"] = _window(lasts[codebook], at_end=True)
        if all(window["predictions"] == window["labels"] for window in windows.values()):
            continue
        if any(window["predictions"] for window in windows.values()):
            tokens = render_token_columns(windows, color=text_format.color, width=text_format.width, wrong="")
            lines += [f"  Codebook {codebook}:", *tokens]
    return "\n".join(lines)


def render_generation_line(record: Record, text_format: TextFormat) -> str:
    """Return the facts of a `generation_sample` as one line.

    Example:
        >>> from sinks.rendering.history import RecordHistory
        >>> record = {
        ...     "step": 50, "probe": "p-1", "frames": 80, "frames_label": 85, "stopped": True, "agreement": [0.5],
        ...     "longest_run": 2, "silence_share": 0.12, "cer": 0.08, "wer": 0.25,
        ... }
        >>> print(render_generation_line(record, TextFormat(False, None, RecordHistory())))
        Generated p-1 at step 50: 3.2 s of 3.4 s, stopped by itself, 12 % silent, 50 % as recorded, CER 8 %, WER 25 %
    """
    head = text_format.style(f"Generated {record['probe']}", BOLD)
    place = text_format.style(text_format.at_step(record), DIM)
    return f"{head}{place}: {', '.join(_facts(record))}"


def _facts(record: Record) -> Iterator[str]:
    seconds, label = f"{record['frames'] / FRAME_RATE_HZ:.1f} s", record["frames_label"]
    yield seconds if label is None else f"{seconds} of {label / FRAME_RATE_HZ:.1f} s"
    yield "stopped by itself" if record["stopped"] else "did not stop"
    if record["longest_run"] > FRAME_RATE_HZ:
        yield f"one frame {record['longest_run']} times in a row"
    if record["silence_share"] is not None:
        yield f"{_percent(record['silence_share'])} silent"
    if record["agreement"] and record["agreement"][0] is not None:
        yield f"{_percent(record['agreement'][0])} as recorded"
    for name in ("cer", "wer"):
        if record.get(name) is not None:
            yield f"{name.upper()} {_percent(record[name])}"
    if record.get("speaker_similarity") is not None:
        yield f"speaker similarity {record['speaker_similarity']:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _window(end: Record, *, at_end: bool) -> dict[str, Any]:
    """Return the codes of an end as predictions, and the codes of the recording as labels.

    A recording with fewer codes has masked labels: in front at the end of the speech, else behind.
    """
    codes, labels = end["codes"], end["labels"]
    if labels is None:
        return {"predictions": codes, "labels": None}
    missing = [MASKED] * (len(codes) - len(labels))
    if at_end:
        return {"predictions": codes, "labels": [*missing, *labels[max(0, len(labels) - len(codes)) :]]}
    return {"predictions": codes, "labels": [*labels[: len(codes)], *missing]}
