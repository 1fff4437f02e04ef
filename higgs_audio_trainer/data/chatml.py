"""Turns of a manifest line in Boson's ChatML form, a list of messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.fields import (
    BadField,
    Fields,
    LineProblems,
    kind_of,
    read_clip,
    read_stretch,
    read_text,
    show,
)
from higgs_audio_trainer.data.known_fields import MESSAGE, PART
from higgs_audio_trainer.data.sample import Clip, Turn

_FIELDS_OF_TYPE = {
    "text": {"type", "text"},
    "audio": {"type", "audio_url", "codes", "raw_audio", "offset", "end", "duration"},
}


def chatml_turns(line: Fields, default_system: Turn, folder: Path, problems: LineProblems) -> Iterator[Turn]:
    """Yield the turns of a line.

    Args:
        line: Fields of the line.
        default_system: System turn of a line without a system turn.
        folder: Folder of relative paths.
        problems: Report of the line.

    Raises:
        BadField: The messages are no list, or an empty list.
    """
    messages = line["messages"]
    if not isinstance(messages, list) or not messages:
        raise BadField("messages", "a list of messages", "an empty list" if messages == [] else kind_of(messages))
    start_index = 0
    with problems.collected():
        start_index = _start_index(line, messages)
    if _role(messages[0]) != "system":  # the chat template requires a system turn
        yield default_system
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        with problems.collected():
            if not isinstance(message, dict):
                raise BadField(at, "an object with role and content", kind_of(message))
            _check_place(messages, index, at)
            fields = MESSAGE.read(message, f"{at}.", problems)
            yield _turn(fields, at, folder, problems, supervised=index >= start_index)


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _start_index(line: Fields, messages: list[Any]) -> int:
    value = line.get("start_index", 0)
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


def _turn(message: Fields, at: str, folder: Path, problems: LineProblems, *, supervised: bool) -> Turn:
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


def _recipient(message: Fields, at: str) -> str | None:
    if "recipient" not in message:
        return None
    if message["role"] != "assistant":
        raise BadField(f"{at}.recipient", "a recipient only in assistant turns", f"a {message['role']} turn")
    return read_text(message["recipient"], f"{at}.recipient")


def _parts(content: Any, at: str, folder: Path, problems: LineProblems) -> Iterator[str | Clip]:
    if not isinstance(content, list):
        yield _part(content, at, folder, problems)
        return
    if not content:
        raise BadField(at, "a text or audio", "an empty list")
    for index, item in enumerate(content):
        with problems.collected():
            yield _part(item, f"{at}[{index}]", folder, problems)


def _part(item: Any, at: str, folder: Path, problems: LineProblems) -> str | Clip:
    if isinstance(item, str):
        return read_text(item, at)
    kind = item.get("type") if isinstance(item, dict) else None
    if kind not in ("text", "audio"):
        got = show(kind) if isinstance(item, dict) else kind_of(item)
        raise BadField(at, "a text, or an object of type text or audio", got)
    part = PART.read(item, f"{at}.", problems)
    for other in part.keys() - _FIELDS_OF_TYPE[kind]:
        problems.add(BadField(part.place(other), f"no such field in a part of type {kind}", show(part[other])))
    if kind == "text":
        return read_text(part.get("text"), part.place("text"))
    if part.get("raw_audio"):
        raise BadField(part.place("raw_audio"), "a path in audio_url, as inline audio is not read", "inline audio")
    return read_stretch(read_clip(part, "audio_url", "codes", folder), part)
