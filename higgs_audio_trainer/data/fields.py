"""Fields of a manifest line: reading with checks, and the list of a line's problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.media_path import NoFileError, find_file
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
    "<|tts|>",
    "<|ref_text|>",
    "<|ref_audio|>",
    "<|text|>",
    "<|audio|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
)
#: Place of a recording in the texts of other trainers.
_PLACEHOLDERS = ("<audio>",)
_LONGEST_NAME = 60
_SAME_S = 0.1  # difference between an end and the sum of offset and duration


class BadField(Exception):  # noqa: N818 - carries a problem to `LineProblems`, and no further
    """A field has a wrong value."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got


class Fields(dict[str, Any]):
    """Known fields of an object in a manifest line, by their own names, without null.

    Attributes:
        at: Place of the object in the line, with a dot behind.
        names: Names of the fields in the manifest.

    Example:
        >>> fields = Fields("messages[1].content.")
        >>> fields.add("audio_url", "url", "a.wav")
        >>> fields["audio_url"], fields.place("audio_url"), fields.place("codes")
        ('a.wav', 'messages[1].content.url', 'messages[1].content.codes')
    """

    def __init__(self, at: str = "") -> None:
        self.at = at
        self.names: dict[str, str] = {}

    def add(self, field: str, name: str, value: Any) -> None:
        """Add a field with its name in the manifest."""
        self[field] = value
        self.names[field] = name

    def place(self, field: str) -> str:
        """Return the place of a field in the line, for messages."""
        return f"{self.at}{show_key(self.names.get(field, field))}"


class LineProblems:
    """Problems of a line. Reading continues after a problem, so all problems of a line are reported at once.

    Attributes:
        found: The problems.
        renamed: Other spellings of known fields, and the known fields.
        unused: Unknown fields that change nothing, and the nearest known fields.

    Example:
        >>> problems = LineProblems("m.jsonl:7")
        >>> with problems.collected():
        ...     read_text("", "text")
        >>> [str(problem) for problem in problems.found]
        ['m.jsonl:7: text: expected a text, got an empty text']
    """

    def __init__(self, where: str) -> None:
        self.found: list[InputProblem] = []
        self.renamed: set[tuple[str, str]] = set()
        self.unused: set[tuple[str, str]] = set()
        self._where = where

    def collected(self) -> LineProblems:
        """Add the problem of a bad field in a `with` block to the list, and continue after the block."""
        return self

    def __enter__(self) -> None:  # not `contextlib`, which takes a seventh of the time for a large manifest
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, BadField):
            self.add(error)
            return True
        return False

    def add(self, bad: BadField) -> None:
        """Add the problem of a bad field to the list."""
        self.found.append(InputProblem(self._where, bad.field, bad.expected, bad.got))


def read_text(value: Any, field: str) -> str:
    """Return a text without white space around it, as the chat template trims texts.

    Raises:
        BadField: The value is no text, is empty, or contains markers of a prompt.

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
        raise BadField(field, "a text without the markers of a prompt", ", ".join(found))
    if found := [token for token in _PLACEHOLDERS if token in text]:
        raise BadField(field, "audio as an object of type audio, not in the text", ", ".join(found))
    return text


def read_clip(fields: Fields, audio_key: str, codes_key: str, folder: Path) -> Clip:
    """Return the clip of an audio file or of a file of codes.

    Args:
        fields: Fields of the object with the path.
        audio_key: Field of an audio file.
        codes_key: Field of a file of codes.
        folder: Folder of relative paths.

    Raises:
        BadField: The object has both fields or neither, or the file does not exist.
    """
    keys = [key for key in (audio_key, codes_key) if key in fields]
    if len(keys) != 1:
        raise BadField(fields.place(audio_key), f"a path, or {codes_key} instead", "both" if keys else "neither")
    key = keys[0]
    value, place = fields[key], fields.place(key)
    if not isinstance(value, str) or not value.strip():
        raise BadField(place, "a path", show(value))
    try:
        return Clip(find_file(value, folder), encoded=key == codes_key, field=place)
    except NoFileError as error:
        raise BadField(place, "a file", str(error)) from error


def read_stretch(clip: Clip, fields: Fields) -> Clip:
    """Return the clip with the stretch that is given by offset, end and duration.

    A duration without an offset is the length of the recording, or of a stretch from its beginning. The length of the
    file decides.

    Raises:
        BadField: A time is no number of at least 0, the times contradict each other, or codes have an offset or an end.
    """
    offset, end, duration = (read_seconds(fields, key) for key in ("offset", "end", "duration"))
    if clip.encoded and (offset or end is not None):
        raise BadField(clip.field, "codes without offset and end, as codes are read whole", "both")
    if clip.encoded or (offset is None and end is None):
        return clip if duration is None else replace(clip, stated_s=duration)
    start_s = offset or 0.0
    if end is not None:
        if end <= start_s:
            raise BadField(fields.place("end"), f"a time after the offset, {start_s:g} s", f"{end:g}")
        if duration is not None and abs(end - start_s - duration) > _SAME_S:
            raise BadField(fields.place("end"), f"{start_s + duration:g}, as offset and duration say", f"{end:g}")
        duration = round(end - start_s, 6)
    return replace(clip, offset_s=start_s, duration_s=duration)


def read_seconds(fields: Fields, key: str) -> float | None:
    """Return a time in seconds, or None for an absent field.

    Example:
        >>> fields = Fields()
        >>> fields.add("offset", "offset", 2)
        >>> read_seconds(fields, "offset")
        2.0
    """
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise BadField(fields.place(key), "seconds, at least 0", show(value))
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


def show_key(name: str) -> str:
    r"""Return the name of a field, for messages.

    Example:
        >>> show_key("wav"), show_key("a\nb")
        ('wav', "'a\\nb'")
    """
    short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return short if short.isprintable() and short.strip() else repr(short)
