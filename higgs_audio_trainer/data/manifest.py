"""Samples of a source: its entries, in the simple form or as Boson's ChatML.

Reading checks the form of every entry and reports every problem. `prepare` checks the content of the files. Torch-free.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from higgs_audio_trainer.data.chatml import chatml_turns
from higgs_audio_trainer.data.fields import (
    BadField,
    Fields,
    LineProblems,
    read_clip,
    read_stretch,
    read_text,
    show_key,
)
from higgs_audio_trainer.data.known_fields import CHATML_LINE, SIMPLE_LINE
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.data.sources import Entry, Source, open_source
from higgs_audio_trainer.data.sources.json_lines import JSON_LINES
from higgs_audio_trainer.errors import WHOLE_SOURCE, InputProblem

__all__ = ["DEFAULT_SYSTEM_PROMPT", "Clip", "Sample", "Turn", "read_manifest", "read_samples"]

#: Text of the system turn for samples without a system turn. The base model was trained with this prompt.
DEFAULT_SYSTEM_PROMPT = "Generate audio following instruction."
DEFAULT_SYSTEM = Turn("system", (DEFAULT_SYSTEM_PROMPT,))
_MOST_FIELDS = 20  # in a line about fields


def _silent(text: str) -> None:
    """Print nothing."""


def read_manifest(
    path: str | Path, say: Callable[[str], None] = _silent, **options: Any
) -> tuple[list[Sample], list[InputProblem]]:
    """Read a whole source into lists. See `open_source` for the forms, and `read_samples` for large sources.

    Args:
        path: Name of the source.
        say: Prints the fields that are read under another name, and the fields that are not used.
        **options: Options of `open_source`.

    Returns:
        Samples of the lines without problems, and the problems of all other lines.

    Raises:
        UserError: The source does not exist, cannot be read, or has no known form.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "train.jsonl"
        ...     _ = path.write_text('{"id": "a", "messages": [{"role": "assistant", "content": "Hello."}]}')
        ...     samples, problems = read_manifest(path)
        >>> [turn.role for turn in samples[0].turns], problems
        (['system', 'assistant'], [])
    """
    problems: list[InputProblem] = []
    return list(read_samples(open_source(path, **options), say, problems.append)), problems


def read_samples(
    source: Source, say: Callable[[str], None], report: Callable[[InputProblem], None]
) -> Iterator[Sample]:
    """Yield the samples of the entries without problems. Of the source, only the ids are held.

    Args:
        source: Source from `open_source`.
        say: Prints, at the end, the fields that are read under another name, and the fields that are not used.
        report: Takes each problem of the other entries.

    Raises:
        UserError: The source cannot be read any further.
    """
    ids = _Ids()
    renamed: Counter[tuple[str, str]] = Counter()
    unused: Counter[tuple[str, str]] = Counter()
    is_empty = True
    folder = source.folder.absolute()  # samples are kept, and are read from another working folder later
    if source.form != JSON_LINES:
        say(f"{source.name}: {'; '.join((source.form, *source.decisions))}")
    for entry in source.entries():
        is_empty = False
        problems = LineProblems(entry.where)
        sample = _sample(entry, folder, ids, problems)
        for problem in problems.found:
            report(problem)
        if problems.renamed or problems.unused:
            renamed.update(problems.renamed)
            unused.update(problems.unused)
        if not problems.found:
            yield sample
    if is_empty:
        got = "an empty file" if source.form.startswith(JSON_LINES) else "none"
        report(InputProblem(f"{source.name}:1", WHOLE_SOURCE, "at least one sample", got))
    if ids.num_numbered:
        say(f"{source.name}: a number is appended to ids that occur more than once ({_lines_of(ids.num_numbered)})")
    _say_fields(source.name, renamed, unused, say)


def _sample(entry: Entry, folder: Path, ids: _Ids, problems: LineProblems) -> Sample:
    """Return the sample of an entry, incomplete if a problem is added."""
    if entry.problem:
        problems.add(entry.problem)
        return Sample("", (), entry.where)
    has_messages = entry.fields.get("messages") is not None
    fields = (CHATML_LINE if has_messages else SIMPLE_LINE).read(entry.fields, "", problems, entry.settled)
    sample_id = ""
    with problems.collected():
        sample_id = ids.read(fields, entry)
    turns: tuple[Turn, ...] = ()
    with problems.collected():
        turns = tuple(_turns(fields, folder, problems))
    return Sample(sample_id, turns, entry.where, _speaker(fields), is_chat=has_messages)


class _Ids:
    """Ids of a source.

    Attributes:
        num_numbered: Number of the given ids to which a number is appended.
    """

    def __init__(self) -> None:
        self.num_numbered = 0
        self._lines: dict[str, str] = {}  # of the field with the id; empty for an id of another origin
        self._repeats = Counter[str]()

    def read(self, fields: Fields, entry: Entry) -> str:
        """Return the id of an entry: the field, or the audio's path without ending, with a number if it has been used.

        Raises:
            BadField: The id is no text or number, or the field of another entry has the same id.
        """
        line = entry.where.rpartition(":")[2]
        value = fields.get("id")
        if value is None:
            stem = entry.name or ("" if "messages" in fields else _stem(fields))  # Boson's samples have no id
            made = self._new(stem or f"line-{line}")
            self.num_numbered += bool(entry.name) and made != stem
            return made
        if isinstance(value, (int, float)):
            value = json.dumps(value)
        sample_id = read_text(value, fields.place("id"))
        if first := self._lines.get(sample_id):
            raise BadField(fields.place("id"), "a unique id", f"{sample_id!r}, as in line {first}")
        unique = self._new(sample_id)
        self.num_numbered += unique != sample_id
        self._lines[sample_id] = line
        return unique

    def _new(self, stem: str) -> str:
        name = stem
        while name in self._lines:
            self._repeats[stem] += 1
            name = f"{stem}-{self._repeats[stem] + 1}"
        self._lines[name] = ""
        return name


def _stem(fields: Fields) -> str:
    """Return the path of an entry's speech without ending, or an empty text."""
    value = fields.get("audio", fields.get("codes"))
    path = PurePosixPath(value.strip().replace("\\", "/") if isinstance(value, str) else "")
    return path.with_suffix("").as_posix() if path.name else ""


def _say_fields(
    name: str, renamed: Counter[tuple[str, str]], unused: Counter[tuple[str, str]], say: Callable[[str], None]
) -> None:
    """Print each other spelling and each unused field once, with the number of lines."""
    if renamed:
        listed = [
            f"{show_key(other)} as {field} ({_lines_of(count)})" for (other, field), count in sorted(renamed.items())
        ]
        say(f"{name}: fields read under another name: {_shortened(listed)}")
    if unused:
        listed = [
            f"{show_key(other)} ({_lines_of(count)}{f', nearest known field: {near}' if near else ''})"
            for (other, near), count in sorted(unused.items())
        ]
        say(f"{name}: fields that are not used: {_shortened(listed)}")


def _lines_of(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _shortened(listed: list[str]) -> str:
    more = len(listed) - _MOST_FIELDS
    return ", ".join(listed[:_MOST_FIELDS]) + (f" and {more:,} more" if more > 0 else "")


def _speaker(fields: Fields) -> str | None:
    value = fields.get("speaker")
    return str(value).strip() or None if isinstance(value, (str, int, float)) else None


def _turns(line: Fields, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    if "messages" in line:
        return chatml_turns(line, DEFAULT_SYSTEM, folder, problems)
    return _simple_turns(line, folder, problems)


def _simple_turns(line: Fields, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    yield DEFAULT_SYSTEM
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
