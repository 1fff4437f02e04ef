"""Single fields of a manifest's line: reading each with its checks, and gathering what is wrong with a line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import InputProblem

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


class BadField(Exception):  # noqa: N818 - carries a fault to `LineFaults`, and no further
    """A field is wrong."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got


class LineFaults:
    """What is wrong with one line. A line is read to its end, so that all of it is said at once."""

    def __init__(self, where: str) -> None:
        self.found: list[InputProblem] = []
        self._where = where

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Note a bad field and go on after the block."""
        try:
            yield
        except BadField as bad:
            self.found.append(InputProblem(self._where, bad.field, bad.expected, bad.got))


def given(entry: Mapping[str, Any], key: str) -> bool:
    """Whether a field is there; null is the same as nothing."""
    return entry.get(key) is not None


def read_text(value: Any, field: str) -> str:
    """Read a text, trimmed as the chat template trims it."""
    if not isinstance(value, str):
        raise BadField(field, "a text", kind_of(value))
    text = value.strip()
    if not text:
        raise BadField(field, "a text", "an empty one")
    if found := [token for token in STRUCTURAL_TOKENS if token in text]:
        raise BadField(field, "a text without the markers of the chat format", ", ".join(found))
    return text


def read_clip(entry: Mapping[str, Any], audio_key: str, codes_key: str, folder: Path, *, at: str = "") -> Clip:
    """Read the path of a clip: of audio, or of codes in its place.

    Args:
        entry: the object that names it.
        audio_key: key of an audio file.
        codes_key: key of a file of codes.
        folder: what paths are relative to.
        at: where the entry is in its line, with a dot behind it.
    """
    keys = [key for key in (audio_key, codes_key) if given(entry, key)]
    if len(keys) != 1:
        raise BadField(f"{at}{audio_key}", f"a path, or {codes_key} in its place", "both" if keys else "neither")
    key = keys[0]
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise BadField(f"{at}{key}", "a path", show(value))
    path = folder / value
    # Not Path.is_file() and is_dir(): these raise for a name that is too long or may not be looked up.
    if not os.path.isfile(path):  # noqa: PTH113
        found = "a folder" if os.path.isdir(path) else "not there"  # noqa: PTH112
        raise BadField(f"{at}{key}", "a file", f"{value!r}, which is {found}")
    return Clip(path, encoded=key == codes_key, field=f"{at}{key}")


def read_seconds(entry: Mapping[str, Any], key: str, *, at: str) -> float | None:
    """Read a time in seconds, if there is one."""
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise BadField(f"{at}{key}", "seconds, at least 0", show(value))
    return float(value)


def kind_of(value: Any) -> str:
    """Name the JSON type of a value."""
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
    """Show a value that is short enough to show; else name its type."""
    return kind_of(value) if value is None or isinstance(value, (list, dict)) else repr(value)
