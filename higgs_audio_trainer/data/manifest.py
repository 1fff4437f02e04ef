"""The manifest: JSON Lines, one sample a line, in the simple form or as Boson's ChatML.

Reading it checks the form of every line and finds every fault; what the files behind it hold is checked by
`prepare`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from higgs_audio_trainer.errors import Fault, UserError

#: What the system turn says when a sample has none; the prompt that the base model was trained with.
DEFAULT_SYSTEM_PROMPT = "Generate audio following instruction."

#: Markers that only the renderer may write: in a text they would break the turn structure.
STRUCTURAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|recipient|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_out_bos|>",
    "<|AUDIO_OUT|>",
    "<|audio_eos|>",
    "<|reserved_special_token_6|>",
)

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Speech of one turn: an audio file, or codes that were encoded before.

    Attributes:
        path: the file.
        encoded: the file holds codes, not audio.
        offset_s: where the clip begins in the audio file; seconds.
        duration_s: how long it is; seconds; None for all that follows.
        field: where the manifest names it, for messages.
    """

    path: Path
    encoded: bool
    offset_s: float = 0.0
    duration_s: float | None = None
    field: str = "audio"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: texts and clips in their order. Only assistant turns hold clips or are supervised."""

    role: Role
    parts: tuple[str | Clip, ...]
    supervised: bool = False
    recipient: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation of the manifest. `where` is `file:line`."""

    id: str
    turns: tuple[Turn, ...]
    where: str

    @property
    def clips(self) -> list[Clip]:
        """Every clip, in the order of the turns."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Clip)]


class _Bad(Exception):  # noqa: N818 - carries a fault to the line's reader, never leaves this file
    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(field)
        self.field, self.expected, self.got = field, expected, got


def read_manifest(path: str | Path) -> tuple[list[Sample], list[Fault]]:
    """Read a manifest.

    Returns:
        The samples whose lines are in order, and the faults of all others.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: expected a manifest (JSON Lines), got {error.strerror}. Check the path.") from error
    samples: list[Sample] = []
    faults: list[Fault] = []
    first_seen: dict[str, str] = {}
    for number, line in _lines(data):
        where = f"{path}:{number}"
        try:
            sample = _parse_line(line, where, path.parent)
            if sample.id in first_seen:
                raise _Bad("id", f"an id of its own, {first_seen[sample.id]} has this one", repr(sample.id))  # noqa: TRY301 - joins the faults below
        except _Bad as bad:
            faults.append(Fault(where, bad.field, bad.expected, bad.got))
            continue
        first_seen[sample.id] = f"line {number}"
        samples.append(sample)
    if not samples and not faults:
        faults.append(Fault(f"{path}:1", "manifest", "at least one sample", "an empty file"))
    return samples, faults


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    # Bytes are split on the newline alone: str.splitlines() would break a text at U+2028.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _parse_line(line: bytes, where: str, folder: Path) -> Sample:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _Bad("line", "a JSON object in UTF-8", f"{error.msg} (column {error.colno})") from error
    if not isinstance(entry, dict):
        raise _Bad("line", "a JSON object", _kind(entry))
    turns = _chatml_turns(entry, folder) if "messages" in entry else _simple_turns(entry, folder)
    return Sample(_sample_id(entry, where), tuple(turns), where)


def _sample_id(entry: Mapping[str, Any], where: str) -> str:
    value = entry.get("id")
    if value is None and "messages" in entry:  # Boson's samples have no id of their own
        return f"line-{where.rpartition(':')[2]}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "id")


def _simple_turns(entry: Mapping[str, Any], folder: Path) -> Iterator[Turn]:
    text = _text(entry.get("text"), "text")
    speech = _clip(entry, "audio", "codes", folder)
    yield _system_turn(entry)
    if _given(entry, "ref_audio") or _given(entry, "ref_codes"):
        if _given(entry, "ref_text"):
            yield Turn("user", (_text(entry["ref_text"], "ref_text"),))
        yield Turn("assistant", (_clip(entry, "ref_audio", "ref_codes", folder),))
    elif _given(entry, "ref_text"):
        raise _Bad("ref_audio", "the audio that ref_text is the text of", "nothing")
    yield Turn("user", (text,))
    yield Turn("assistant", (speech,), supervised=True)


def _system_turn(entry: Mapping[str, Any]) -> Turn:
    if not _given(entry, "scene"):
        return Turn("system", (DEFAULT_SYSTEM_PROMPT,))
    return Turn("system", (with_scene(DEFAULT_SYSTEM_PROMPT, _text(entry["scene"], "scene")),))


def with_scene(system: str, scene: str) -> str:
    """Fold a scene description into the text of the system turn, as the chat template does."""
    return f"{system}\n\n<|scene_desc_start|>\n{scene}\n<|scene_desc_end|>"


def _chatml_turns(entry: Mapping[str, Any], folder: Path) -> Iterator[Turn]:
    messages = entry["messages"]
    if not isinstance(messages, list) or not messages:
        raise _Bad("messages", "a list of messages", _kind(messages))
    start_index = _start_index(entry, messages)
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _Bad(at, "an object with role and content", _kind(message))
        if message.get("role") == "scene":
            turns = [_fold_scene(turns, _parts(message.get("content"), f"{at}.content", folder), at)]
            continue
        turns.append(_chatml_turn(message, at, folder, first=not turns, supervised=index >= start_index))
    if not any(turn.supervised for turn in turns):
        raise _Bad("start_index", "an assistant turn at or after it", str(start_index))
    if turns[0].role != "system":  # the chat template refuses a conversation without one
        turns.insert(0, Turn("system", (DEFAULT_SYSTEM_PROMPT,)))
    yield from turns


def _start_index(entry: Mapping[str, Any], messages: list[Any]) -> int:
    value = entry.get("start_index")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(messages):
        raise _Bad("start_index", f"an integer from 0 to {len(messages) - 1}", _show(value))
    return value


def _fold_scene(turns: list[Turn], parts: tuple[str | Clip, ...], at: str) -> Turn:
    if len(turns) != 1 or turns[0].role != "system":
        raise _Bad(f"{at}.role", "a scene right after the system turn", "a scene elsewhere")
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) != 1 or len(parts) != 1:
        raise _Bad(f"{at}.content", "one text", f"{len(parts)} parts")
    return Turn("system", (with_scene("".join(map(str, turns[0].parts)), texts[0]),))


def _chatml_turn(message: Mapping[str, Any], at: str, folder: Path, *, first: bool, supervised: bool) -> Turn:
    role = message.get("role")
    if role not in ("system", "user", "assistant") or (role == "system" and not first):
        expected = "system (first), user or assistant" if role != "system" else "a system turn only at the beginning"
        raise _Bad(f"{at}.role", expected, _show(role))
    parts = _parts(message.get("content"), f"{at}.content", folder)
    if role != "assistant" and any(isinstance(part, Clip) for part in parts):
        raise _Bad(
            f"{at}.content", "text: Higgs Audio v2 hears speech only in assistant turns", f"audio in a {role} turn"
        )
    recipient = message.get("recipient")
    if recipient is not None and role != "assistant":
        raise _Bad(f"{at}.recipient", "a recipient only in assistant turns", f"one in a {role} turn")
    return Turn(
        role,
        parts,
        supervised=supervised and role == "assistant",
        recipient=None if recipient is None else _text(recipient, f"{at}.recipient"),
    )


def _parts(content: Any, at: str, folder: Path) -> tuple[str | Clip, ...]:
    if isinstance(content, list) and content:
        return tuple(_part(item, f"{at}[{index}]", folder) for index, item in enumerate(content))
    return (_part(content, at, folder),)


def _part(item: Any, at: str, folder: Path) -> str | Clip:
    if isinstance(item, str):
        return _text(item, at)
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text":
        return _text(item.get("text"), f"{at}.text")
    if kind == "audio":
        if _given(item, "raw_audio"):
            raise _Bad(f"{at}.raw_audio", "audio_url, a path: inline audio is not read", "inline audio")
        return _clip(item, "audio_url", "codes", folder, at=f"{at}.")
    raise _Bad(at, "a text, or an object of type text or audio", _show(kind) if isinstance(item, dict) else _kind(item))


def _clip(entry: Mapping[str, Any], audio_key: str, codes_key: str, folder: Path, *, at: str = "") -> Clip:
    keys = [key for key in (audio_key, codes_key) if _given(entry, key)]
    if len(keys) != 1:
        got = "both" if keys else "neither"
        raise _Bad(f"{at}{audio_key}", f"a path, or {codes_key} in its place", got)
    key = keys[0]
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise _Bad(f"{at}{key}", "a path", _show(value))
    path = folder / value
    if not path.is_file():
        raise _Bad(f"{at}{key}", "a file", f"{value!r}, which is {'a folder' if path.is_dir() else 'not there'}")
    return Clip(
        path,
        encoded=key == codes_key,
        offset_s=_seconds(entry, "offset", at) or 0.0,
        duration_s=_seconds(entry, "duration", at) if audio_key == "audio_url" else None,
        field=f"{at}{key}",
    )


def _seconds(entry: Mapping[str, Any], key: str, at: str) -> float | None:
    # Only ChatML's audio content slices a file; in the simple form `duration` is a common note about it.
    value = entry.get(key) if "type" in entry else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise _Bad(f"{at}{key}", "seconds, at least 0", _show(value))
    return float(value)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _Bad(field, "a text", _kind(value))
    text = value.strip()
    if not text:
        raise _Bad(field, "a text", "an empty one")
    found = [token for token in STRUCTURAL_TOKENS if token in text]
    if found:
        raise _Bad(field, "a text without the markers of the chat format", ", ".join(found))
    return text


def _given(entry: Mapping[str, Any], key: str) -> bool:
    return entry.get(key) is not None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names[type(value)]


def _show(value: Any) -> str:
    return _kind(value) if value is None or isinstance(value, (list, dict)) else repr(value)
