"""Rules between the values of a `generation_sample`: its codes, its recording and its waveform.

Each rule takes a line and the `run_start`, and yields the inconsistent fields of the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.sample_rules import Rule

_ENDS = ("first", "last")


def _probe(record: Record, _start: Record) -> Iterator[InvalidField]:
    if not record["probe"]:
        yield InvalidField("$.probe", "the id of a prompt", "an empty string")


def _limit(record: Record, start: Record) -> Iterator[InvalidField]:
    """Check the frames against the limit. Speech at the limit may lack the frames of the delay pattern."""
    frames, limit = record["frames"], int_field(record["decoding"], "max_frames")
    if limit is None:
        return
    num_codebooks = int_field(start, "num_codebooks")
    if frames > limit:
        yield InvalidField("$.frames", f"at most {limit}, decoding.max_frames", str(frames))
    elif not record["stopped"] and num_codebooks is not None and frames < limit - num_codebooks - 1:
        expected = f"about {limit}, decoding.max_frames, because the model did not stop"
        yield InvalidField("$.frames", expected, str(frames))


def _repeats(record: Record, _start: Record) -> Iterator[InvalidField]:
    frames, run, share = record["frames"], record["longest_run"], record["repeat_share"]
    if not min(frames, 1) <= run <= frames:
        yield InvalidField("$.longest_run", f"{min(frames, 1)} to frames, {frames}", str(run))
    elif (run > 1) != (share > 0):
        expected = f"more than 0 because longest_run is {run}" if run > 1 else f"0 because longest_run is {run}"
        yield InvalidField("$.repeat_share", expected, repr(share))


def _agreement(record: Record, start: Record) -> Iterator[InvalidField]:
    agreement, label = record["agreement"], record["frames_label"]
    if (agreement is None) != (label is None):
        expected = "null because frames_label is null" if label is None else f"a list because frames_label is {label}"
        yield InvalidField("$.agreement", expected, "null" if agreement is None else str(agreement))
        return
    count = int_field(start, "num_codebooks")
    if agreement is not None and count is not None and len(agreement) != count:
        yield InvalidField("$.agreement", f"{count} items, num_codebooks of run_start", str(len(agreement)))
    for index, share in enumerate(agreement or ()):
        if share is not None and not 0 <= share <= 1:
            yield InvalidField(f"$.agreement[{index}]", "a share from 0 to 1", repr(share))


def _ends(record: Record, start: Record) -> Iterator[InvalidField]:
    """Check the codes at both ends."""
    for name in _ENDS:
        seen = set()
        for index, end in enumerate(record[name]):
            path, codebook = f"$.{name}[{index}]", end["codebook"]
            count = int_field(start, "num_codebooks")
            if codebook < 0 or (count is not None and codebook >= count):
                known = "" if count is None else f" to {count - 1}"
                yield InvalidField(f"{path}.codebook", f"a codebook from 0{known}", str(codebook))
            elif codebook in seen:
                yield InvalidField(f"{path}.codebook", f"each codebook once in {name}", f"{codebook} again")
            seen.add(codebook)
            yield from _of_end(record, path, end)
    yield from _lengths(record, start)


def _of_end(record: Record, path: str, end: Record) -> Iterator[InvalidField]:
    for part in ("codes", "labels"):
        for place, code in enumerate(end[part] or ()):
            if code < 0:
                yield InvalidField(f"{path}.{part}[{place}]", "a code, at least 0", str(code))
    label = record["frames_label"]
    if (end["labels"] is None) != (label is None):
        expected = "null because frames_label is null" if label is None else f"a list because frames_label is {label}"
        yield InvalidField(f"{path}.labels", expected, "null" if end["labels"] is None else str(end["labels"]))


def _lengths(record: Record, start: Record) -> Iterator[InvalidField]:
    """Check the number of codes at both ends. The ends never overlap, and are as long as `--log_window` allows."""
    firsts = {end["codebook"]: len(end["codes"]) for end in record["first"]}
    lasts = {end["codebook"]: len(end["codes"]) for end in record["last"]}
    config, frames = start.get("config"), record["frames"]
    window = int_field(config, "log_window") if isinstance(config, dict) else None
    for name, lengths in zip(_ENDS, (firsts, lasts), strict=True):
        for index, (codebook, length) in enumerate(lengths.items()):
            most = frames if name == "first" else frames - firsts.get(codebook, 0)
            if window is not None and length != (fitting := max(0, min(window, most))):
                expected = f"{fitting} codes because frames is {frames} and log_window is {window}"
                yield InvalidField(f"$.{name}[{index}].codes", expected, str(length))
            elif length > most:
                expected = f"at most {max(0, most)} codes because frames is {frames} and the ends never overlap"
                yield InvalidField(f"$.{name}[{index}].codes", expected, str(length))


def _audio(record: Record, _start: Record) -> Iterator[InvalidField]:
    audio = record["audio"]
    if audio is not None and not _is_within(audio):
        yield InvalidField("$.audio", "a path within the output directory", repr(audio))


def _is_within(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _together(one: str, other: str) -> Rule:
    """Return a rule for two numbers that are known together or null together."""

    def rule(record: Record, _start: Record) -> Iterator[InvalidField]:
        a, b = record[one], record[other]
        if (a is None) != (b is None):
            expected = f"null because {one} is null" if a is None else f"a number because {one} is {a!r}"
            yield InvalidField(f"$.{other}", expected, _shown(b))

    return rule


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


#: Each rule with its fields.
GENERATION_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("probe",), _probe),
    (("frames", "decoding", "stopped"), _limit),
    (("frames", "longest_run", "repeat_share"), _repeats),
    (("agreement", "frames_label"), _agreement),
    (("first", "last", "frames", "frames_label"), _ends),
    (("audio",), _audio),
    (("silence_share", "peak"), _together("silence_share", "peak")),
    (("cer", "wer"), _together("cer", "wer")),
)
