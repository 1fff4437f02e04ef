"""Fields of a manifest line: reading with checks, and the list of a line's problems."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import InputProblem

#: Markers for the renderer alone. In a user's text they would break the turn structure.
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


class BadField(Exception):  # noqa: N818 - carries a problem to `LineProblems`, and no further
    """A field has a wrong value."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got


class LineProblems:
    """Problems of a line. Reading continues after a problem, so all problems of a line are reported at once.

    Example:
        >>> problems = LineProblems("m.jsonl:7")
        >>> with problems.collected():
        ...     read_text("", "text")
        >>> [str(problem) for problem in problems.found]
        ['m.jsonl:7: text: expected a text, got an empty text']
    """

    def __init__(self, where: str) -> None:
        self.found: list[InputProblem] = []
        self._where = where

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Add the problem of a bad field to the list, and continue after the block."""
        try:
            yield
        except BadField as bad:
            self.found.append(InputProblem(self._where, bad.field, bad.expected, bad.got))


def given(entry: Mapping[str, Any], key: str) -> bool:
    """Return True if the entry has the field. Null counts as absent.

    Example:
        >>> given({"id": 7, "scene": None}, "id"), given({"id": 7, "scene": None}, "scene")
        (True, False)
    """
    return entry.get(key) is not None


def read_text(value: Any, field: str) -> str:
    """Return a text without white space around it, as the chat template trims texts.

    Raises:
        BadField: The value is no text, is empty, or contains markers of the chat format.

    Example:
        >>> read_text("  Good morning.  ", "text")
        'Good morning.'
    """
    if not isinstance(value, str):
        raise BadField(field, "a text", kind_of(value))
    text = value.strip()
    if not text:
        raise BadField(field, "a text", "an empty text")
    if found := [token for token in STRUCTURAL_TOKENS if token in text]:
        raise BadField(field, "a text without the markers of the chat format", ", ".join(found))
    return text


def read_clip(entry: Mapping[str, Any], audio_key: str, codes_key: str, folder: Path, *, at: str = "") -> Clip:
    """Return the clip of an audio file or of a file of codes.

    Args:
        entry: Object with the path.
        audio_key: Key of an audio file.
        codes_key: Key of a file of codes.
        folder: Folder of relative paths.
        at: Place of the entry in the line, with a dot behind.

    Raises:
        BadField: The entry has both keys or neither, or the file does not exist.
    """
    keys = [key for key in (audio_key, codes_key) if given(entry, key)]
    if len(keys) != 1:
        raise BadField(f"{at}{audio_key}", f"a path, or {codes_key} instead", "both" if keys else "neither")
    key = keys[0]
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise BadField(f"{at}{key}", "a path", show(value))
    path = folder / value
    # Path.is_file() and is_dir() would raise for a name that is too long or in a protected folder.
    if not os.path.isfile(path):  # noqa: PTH113
        found = "is a folder" if os.path.isdir(path) else "does not exist"  # noqa: PTH112
        raise BadField(f"{at}{key}", "a file", f"{value!r}, which {found}")
    return Clip(path, encoded=key == codes_key, field=f"{at}{key}")


def read_seconds(entry: Mapping[str, Any], key: str, *, at: str) -> float | None:
    """Return a time in seconds, or None for an absent field.

    Example:
        >>> read_seconds({"offset": 2}, "offset", at="messages[1].content.")
        2.0
    """
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise BadField(f"{at}{key}", "seconds, at least 0", show(value))
    return float(value)


def kind_of(value: Any) -> str:
    """Return the name of a value's JSON type, for messages.

    Example:
        >>> kind_of({}), kind_of(True), kind_of(None)
        ('an object', 'a boolean', 'nothing')
    """
    names = {
        type(None): "nothing",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names[type(value)]


def show(value: Any) -> str:
    """Return a short value as text, and the name of the type for a list or an object.

    Example:
        >>> show("bot"), show([1, 2])
        ("'bot'", 'a list')
    """
    return kind_of(value) if value is None or isinstance(value, (list, dict)) else repr(value)
