"""Manifests: JSON Lines with a sample a line, in the simple form or as Boson's ChatML.

Reading a manifest checks the form of every line and lists every problem. `prepare` checks the content of the files.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.data.fields import (
    BadField,
    LineProblems,
    given,
    kind_of,
    read_clip,
    read_seconds,
    read_text,
    show,
)
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.errors import InputProblem, UserError

__all__ = ["DEFAULT_SYSTEM_PROMPT", "Clip", "Sample", "Turn", "read_manifest"]

#: Text of the system turn for samples without a system turn. The base model was trained with this prompt.
DEFAULT_SYSTEM_PROMPT = "Generate audio following instruction."


def read_manifest(path: str | Path) -> tuple[list[Sample], list[InputProblem]]:
    """Read a manifest.

    Args:
        path: File in JSON Lines.

    Returns:
        Samples of the lines without problems, and the problems of all other lines.

    Raises:
        UserError: The file does not exist or cannot be read.

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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name a manifest (JSON Lines).") from error
    samples: list[Sample] = []
    problems: list[InputProblem] = []
    lines_of_ids: dict[str, int] = {}
    for number, line in _lines(data):
        where = f"{path}:{number}"
        line_problems = LineProblems(where)
        with line_problems.collected():
            entry = _parse(line)
            sample_id = _read_id(entry, number, lines_of_ids, line_problems)
            turns = _read_turns(entry, path.parent, line_problems)
            if not line_problems.found:
                samples.append(Sample(sample_id, turns, where))
        problems.extend(line_problems.found)
    if not samples and not problems:
        problems.append(InputProblem(f"{path}:1", "manifest", "at least one sample", "an empty file"))
    return samples, problems


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    # Only the newline ends a line. str.splitlines() would also split a text at U+2028.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
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


def _read_id(entry: Mapping[str, Any], number: int, lines_of_ids: dict[str, int], problems: LineProblems) -> str:
    value = entry.get("id")
    sample_id = ""
    with problems.collected():
        if value is None and given(entry, "messages"):  # Boson's samples have no id
            sample_id = f"line-{number}"
        elif isinstance(value, int) and not isinstance(value, bool):
            sample_id = str(value)
        else:
            sample_id = read_text(value, "id")
        first = lines_of_ids.setdefault(sample_id, number)
        if first != number:
            raise BadField("id", "a unique id", f"{sample_id!r}, as in line {first}")
    return sample_id


def _read_turns(entry: Mapping[str, Any], folder: Path, problems: LineProblems) -> tuple[Turn, ...]:
    read = _chatml_turns if given(entry, "messages") else _simple_turns
    return tuple(read(entry, folder, problems))


def _simple_turns(entry: Mapping[str, Any], folder: Path, problems: LineProblems) -> Iterator[Turn]:
    yield Turn("system", (DEFAULT_SYSTEM_PROMPT,))
    with problems.collected():
        if given(entry, "scene"):
            yield Turn("scene", (read_text(entry["scene"], "scene"),))
    yield from _reference_turns(entry, folder, problems)
    with problems.collected():
        yield Turn("user", (read_text(entry.get("text"), "text"),))
    with problems.collected():
        yield Turn("assistant", (read_clip(entry, "audio", "codes", folder),), supervised=True)


def _reference_turns(entry: Mapping[str, Any], folder: Path, problems: LineProblems) -> Iterator[Turn]:
    has_reference = given(entry, "ref_audio") or given(entry, "ref_codes")
    with problems.collected():
        if given(entry, "ref_text"):
            if not has_reference:
                raise BadField("ref_audio", "the recording of ref_text", "nothing")
            yield Turn("user", (read_text(entry["ref_text"], "ref_text"),))
    with problems.collected():
        if has_reference:
            yield Turn("assistant", (read_clip(entry, "ref_audio", "ref_codes", folder),))


def _chatml_turns(entry: Mapping[str, Any], folder: Path, problems: LineProblems) -> Iterator[Turn]:
    messages = entry["messages"]
    if not isinstance(messages, list) or not messages:
        raise BadField("messages", "a list of messages", "an empty list" if messages == [] else kind_of(messages))
    start_index = 0
    with problems.collected():
        start_index = _start_index(entry, messages)
    if _role(messages[0]) != "system":  # the chat template requires a system turn
        yield Turn("system", (DEFAULT_SYSTEM_PROMPT,))
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        with problems.collected():
            if not isinstance(message, dict):
                raise BadField(at, "an object with role and content", kind_of(message))
            _check_place(messages, index, at)
            yield _chatml_turn(message, at, folder, problems, supervised=index >= start_index)


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _start_index(entry: Mapping[str, Any], messages: list[Any]) -> int:
    value = entry.get("start_index")
    if value is None:
        value = 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(messages):
        raise BadField("start_index", f"an integer from 0 to {len(messages) - 1}", show(value))
    if not any(_role(message) == "assistant" for message in messages[value:]):
        raise BadField("start_index", "an assistant turn at or after it", str(value))
    return value


def _check_place(messages: list[Any], index: int, at: str) -> None:
    role = _role(messages[index])
    if role == "system" and index > 0:
        raise BadField(f"{at}.role", "a system turn only at the beginning", "a later system turn")
    if role == "scene" and (index != 1 or _role(messages[0]) != "system"):
        raise BadField(f"{at}.role", "a scene right after the system turn", "a scene elsewhere")


def _chatml_turn(
    message: Mapping[str, Any], at: str, folder: Path, problems: LineProblems, *, supervised: bool
) -> Turn:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "scene", "user", "assistant"):
        raise BadField(f"{at}.role", "system, scene, user or assistant", show(role))
    if role == "scene" and isinstance(content, list) and len(content) != 1:
        raise BadField(f"{at}.content", "one text", f"{len(content)} parts")
    parts = tuple(_parts(content, f"{at}.content", folder, problems))
    if role != "assistant" and any(isinstance(part, Clip) for part in parts):
        raise BadField(
            f"{at}.content",
            "text, as Higgs Audio v2 takes speech only in assistant turns",
            f"audio in a {role} turn",
        )
    return Turn(role, parts, supervised=supervised and role == "assistant", recipient=_recipient(message, at))


def _recipient(message: Mapping[str, Any], at: str) -> str | None:
    if not given(message, "recipient"):
        return None
    if message["role"] != "assistant":
        raise BadField(f"{at}.recipient", "a recipient only in assistant turns", f"a {message['role']} turn")
    return read_text(message["recipient"], f"{at}.recipient")


def _parts(content: Any, at: str, folder: Path, problems: LineProblems) -> Iterator[str | Clip]:
    if not isinstance(content, list):
        yield _part(content, at, folder)
        return
    if not content:
        raise BadField(at, "a text or audio", "an empty list")
    for index, item in enumerate(content):
        with problems.collected():
            yield _part(item, f"{at}[{index}]", folder)


def _part(item: Any, at: str, folder: Path) -> str | Clip:
    if isinstance(item, str):
        return read_text(item, at)
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text":
        return read_text(item.get("text"), f"{at}.text")
    if kind == "audio":
        return _audio_part(item, f"{at}.", folder)
    got = show(kind) if isinstance(item, dict) else kind_of(item)
    raise BadField(at, "a text, or an object of type text or audio", got)


def _audio_part(item: Mapping[str, Any], at: str, folder: Path) -> Clip:
    if given(item, "raw_audio"):
        raise BadField(f"{at}raw_audio", "a path in audio_url, as inline audio is not read", "inline audio")
    clip = read_clip(item, "audio_url", "codes", folder, at=at)
    offset_s, duration_s = read_seconds(item, "offset", at=at), read_seconds(item, "duration", at=at)
    if clip.encoded and (offset_s or duration_s is not None):
        raise BadField(f"{at}codes", "codes without offset and duration", "both")
    return replace(clip, offset_s=offset_s or 0.0, duration_s=duration_s)
