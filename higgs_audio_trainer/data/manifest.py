"""Manifests: JSON Lines with a sample a line, in the simple form or as Boson's ChatML.

Reading a manifest checks the form of every line and lists every problem. `prepare` checks the content of the files.
Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.data.chatml import chatml_turns
from higgs_audio_trainer.data.fields import (
    BadField,
    Fields,
    LineProblems,
    kind_of,
    read_clip,
    read_stretch,
    read_text,
    show_key,
)
from higgs_audio_trainer.data.file_kind import kind_of_file, kind_of_text
from higgs_audio_trainer.data.known_fields import CHATML_LINE, SIMPLE_LINE
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.errors import InputProblem, UserError

__all__ = ["DEFAULT_SYSTEM_PROMPT", "Clip", "Sample", "Turn", "read_manifest"]

#: Text of the system turn for samples without a system turn. The base model was trained with this prompt.
DEFAULT_SYSTEM_PROMPT = "Generate audio following instruction."
_DEFAULT_SYSTEM = Turn("system", (DEFAULT_SYSTEM_PROMPT,))
_HEAD = 4_096  # bytes that show the kind of a file
_MOST_FIELDS = 20  # in a line about fields


def _silent(text: str) -> None:
    """Print nothing."""


def read_manifest(path: str | Path, say: Callable[[str], None] = _silent) -> tuple[list[Sample], list[InputProblem]]:
    """Read a manifest.

    Args:
        path: File in JSON Lines.
        say: Prints the fields that are read under another name, and the fields that are not used.

    Returns:
        Samples of the lines without problems, and the problems of all other lines.

    Raises:
        UserError: The file does not exist, cannot be read, or is no JSON Lines at all.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "train.jsonl"
        ...     _ = path.write_text('{"id": "a", "messages": [{"role": "assistant", "content": "Hello."}]}')
        ...     samples, problems = read_manifest(path)
        >>> [turn.role for turn in samples[0].turns], problems
        (['system', 'assistant'], [])
    """
    path = Path(path)
    samples: list[Sample] = []
    problems: list[InputProblem] = []
    lines_of_ids: dict[str, int] = {}
    renamed: Counter[tuple[str, str]] = Counter()
    unused: Counter[tuple[str, str]] = Counter()
    for number, line in _lines(_read(path)):
        where = f"{path}:{number}"
        line_problems = LineProblems(where)
        with line_problems.collected():
            entry = _parse(line)
            has_messages = entry.get("messages") is not None
            fields = (CHATML_LINE if has_messages else SIMPLE_LINE).read(entry, "", line_problems)
            sample_id = _read_id(fields, number, lines_of_ids, line_problems)
            turns = tuple(_turns(fields, path.parent, line_problems))
            if not line_problems.found:
                samples.append(Sample(sample_id, turns, where))
        problems.extend(line_problems.found)
        renamed.update(line_problems.renamed)
        unused.update(line_problems.unused)
    if not samples and not problems:
        problems.append(InputProblem(f"{path}:1", "manifest", "at least one sample", "an empty file"))
    _say_fields(path, renamed, unused, say)
    return samples, problems


def _read(path: Path) -> bytes:
    """Return the text of a manifest.

    Raises:
        UserError: The file cannot be read, or is no JSON Lines.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            kind = kind_of_file(head, path.name)
            data = head if kind else head + file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name a manifest (JSON Lines).") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    kind = kind or kind_of_text(data)
    if kind:
        raise UserError(f"{path}: expected a manifest in JSON Lines, got {kind}")
    return data


def _say_fields(
    path: Path, renamed: Counter[tuple[str, str]], unused: Counter[tuple[str, str]], say: Callable[[str], None]
) -> None:
    """Print each other spelling and each unused field once, with the number of lines."""
    if renamed:
        listed = [
            f"{show_key(name)} as {field} ({_lines_of(count)})" for (name, field), count in sorted(renamed.items())
        ]
        say(f"{path}: fields read under another name: {_shortened(listed)}")
    if unused:
        listed = [
            f"{show_key(name)} ({_lines_of(count)}{f', nearest known field: {near}' if near else ''})"
            for (name, near), count in sorted(unused.items())
        ]
        say(f"{path}: fields that are not used: {_shortened(listed)}")


def _lines_of(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _shortened(listed: list[str]) -> str:
    more = len(listed) - _MOST_FIELDS
    return ", ".join(listed[:_MOST_FIELDS]) + (f" and {more:,} more" if more > 0 else "")


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    # Only the newline ends a line. str.splitlines() would also split a text at U+2028.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadField("line", "a JSON object in UTF-8", f"{error.msg} (column {error.colno})") from error
    if not isinstance(entry, dict):
        raise BadField("line", "a JSON object", kind_of(entry))
    return entry


def _read_id(line: Fields, number: int, lines_of_ids: dict[str, int], problems: LineProblems) -> str:
    value = line.get("id")
    sample_id = ""
    with problems.collected():
        if value is None and "messages" in line:  # Boson's samples have no id
            sample_id = f"line-{number}"
        elif isinstance(value, int) and not isinstance(value, bool):
            sample_id = str(value)
        else:
            sample_id = read_text(value, line.place("id"))
        first = lines_of_ids.setdefault(sample_id, number)
        if first != number:
            raise BadField(line.place("id"), "a unique id", f"{sample_id!r}, as in line {first}")
    return sample_id


def _turns(line: Fields, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    if "messages" in line:
        return chatml_turns(line, _DEFAULT_SYSTEM, folder, problems)
    return _simple_turns(line, folder, problems)


def _simple_turns(line: Fields, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    yield _DEFAULT_SYSTEM
    with problems.collected():
        if "scene" in line:
            yield Turn("scene", (read_text(line["scene"], line.place("scene")),))
    yield from _reference_turns(line, folder, problems)
    with problems.collected():
        yield Turn("user", (read_text(line.get("text"), line.place("text")),))
    with problems.collected():
        clip = read_stretch(read_clip(line, "audio", "codes", folder), line)
        yield Turn("assistant", (clip,), supervised=True)


def _reference_turns(line: Fields, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    has_reference = "ref_audio" in line or "ref_codes" in line
    with problems.collected():
        if "ref_text" in line:
            if not has_reference:
                raise BadField("ref_audio", f"the recording of {line.place('ref_text')}", "nothing")
            yield Turn("user", (read_text(line["ref_text"], line.place("ref_text")),))
    with problems.collected():
        if has_reference:
            yield Turn("assistant", (read_clip(line, "ref_audio", "ref_codes", folder),))
