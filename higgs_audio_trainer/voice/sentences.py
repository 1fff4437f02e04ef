"""Sentences to speak: one text, a file with a text a line, or JSON Lines. Torch-free."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_audio_trainer.bounds import MAX_TEXTS, MAX_TEXTS_BYTES
from higgs_audio_trainer.data.fields import BadField, read_text
from higgs_audio_trainer.data.media_path import NoFileError, find_file
from higgs_audio_trainer.documents import load_json, read_document, read_within
from higgs_audio_trainer.errors import UserError, suggestion

_FIELDS = ("id", "text", "ref_audio", "ref_text", "scene")
_UNSAFE = re.compile(r"[^\w.\-]+")  # in the name of a file
_LONGEST_STEM = 150  # bytes; a file system allows 255 for a whole name, and a temporary file has a longer one


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text to speak.

    Attributes:
        id: Name, unique in a file.
        text: Text to speak.
        ref_audio: Recording of the voice to speak with.
        ref_text: Text of the recording.
        scene: Description of the scene.
    """

    id: str
    text: str
    ref_audio: Path | None = None
    ref_text: str | None = None
    scene: str | None = None


def read_sentences(path: Path, flag: str = "--text_file") -> list[Sentence]:
    r"""Read a file of sentences: a text a line, or JSON Lines with `text` and perhaps the other fields of `Sentence`.

    Recordings are relative to the file. A line without an id is named by its number. A text is what a manifest may have
    as a text.

    Args:
        path: Path of the file; `-` for the standard input.
        flag: Flag that names the file, for messages.

    Raises:
        UserError: The file cannot be read, has no sentence, or a line has a fault.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "texts.txt"
        ...     _ = path.write_text("Hello.\n\nGood bye.\n")
        ...     [(sentence.id, sentence.text) for sentence in read_sentences(path)]
        [('1', 'Hello.'), ('3', 'Good bye.')]
    """
    try:
        is_stdin = path == Path("-")
        contents = read_within(sys.stdin.buffer, MAX_TEXTS_BYTES) if is_stdin else read_document(path, MAX_TEXTS_BYTES)
        lines = contents.removeprefix(b"\xef\xbb\xbf").decode().split("\n")
    except OSError as error:
        raise UserError(f"{flag}: {path}: {error.strerror}. Name a file of texts.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag}: {path}: expected UTF-8, got other bytes. Convert the file with iconv.") from error
    except ValueError as error:
        raise UserError(f"{flag}: {path}: {error}. Split the file.") from error
    if len(lines) > MAX_TEXTS:
        raise UserError(f"{flag}: {path}: expected at most {MAX_TEXTS:,} lines, got {len(lines):,}. Split the file.")
    sentences = list(_sentences(path, lines))
    if not sentences:
        raise UserError(f"{flag}: {path}: expected at least one text, got an empty file")
    seen: dict[str, None] = {}
    for sentence in sentences:
        if sentence.id in seen:
            raise UserError(f"{flag}: {path}: expected unique ids, got {sentence.id!r} twice")
        seen[sentence.id] = None
    return sentences


def safe_stem(name: str) -> str:
    """Return a name for a file without its ending: a name with `_` in place of what a file system may not like.

    Example:
        >>> safe_stem("de/1"), safe_stem("..")
        ('de_1', '_')
    """
    safe = _UNSAFE.sub("_", name).strip(".")
    return safe.encode()[:_LONGEST_STEM].decode(errors="ignore") or "_"


def file_names(sentences: Sequence[Sentence], flag: str = "--text_file") -> list[str]:
    """Return a name of a WAV file for each sentence: its id, with `_` in place of what a file system may not like.

    Args:
        sentences: Sentences of a file.
        flag: Flag that names the file, for messages.

    Raises:
        UserError: Two ids give the same name.

    Example:
        >>> file_names([Sentence("de/1", "Hallo."), Sentence("..", "Hello."), Sentence("\u00fc", "\u00dc.")])
        ['de_1.wav', '_.wav', '\u00fc.wav']
    """
    ids: dict[str, str] = {}
    for sentence in sentences:
        name = f"{safe_stem(sentence.id)}.wav"
        if name in ids:
            raise UserError(
                f"{flag}: expected ids that give files of different names, got {ids[name]!r} and {sentence.id!r}, "
                f"which both give {name}"
            )
        ids[name] = sentence.id
    return list(ids)


def checked_text(value: Any, where: str, field: str) -> str:
    """Return a text to speak or to prompt with.

    Args:
        value: Text, or any other value.
        where: Place of the value, for messages. Empty for a flag.
        field: Name of the field or flag.

    Raises:
        UserError: The value is no text, is empty, or has markers of a prompt.
    """
    try:
        text = read_text(value, field)
        text.encode()
    except BadField as bad:
        raise UserError(f"{where}: {bad}" if where else str(bad)) from bad
    except UnicodeEncodeError as error:  # Python's form of an argument's bytes that are no UTF-8
        raise UserError(f"{field}: expected UTF-8, got other bytes") from error
    return text


def checked_recording(value: str, folder: Path, where: str, field: str) -> Path:
    """Return the path of a recording.

    Args:
        value: Path, relative to the folder.
        folder: Folder of relative paths.
        where: Place of the path, for messages. Empty for a flag.
        field: Name of the field or flag.

    Raises:
        UserError: There is no such file.
    """
    try:
        return find_file(value, folder)
    except NoFileError as error:
        raise UserError(f"{where}{': ' if where else ''}{field}: expected a file, got {error}") from error


def _sentences(path: Path, lines: list[str]) -> Iterator[Sentence]:
    is_json = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            yield (
                _of_object(path, number, line) if is_json else Sentence(str(number), checked_text(line, where, "text"))
            )


def _of_object(path: Path, number: int, line: str) -> Sentence:
    where = f"{path}:{number}"
    try:
        fields = load_json(line)
    except ValueError as error:
        raise UserError(f"{where}: expected a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}")
    for name in fields:
        if name not in _FIELDS:
            raise UserError(f"{where}: expected {', '.join(_FIELDS)}, got {name!r}.{suggestion(name, _FIELDS)}")
    given = {name: value for name, value in fields.items() if value is not None}
    if isinstance(given.get("id"), int) and not isinstance(given["id"], bool):
        given["id"] = str(given["id"])
    values = {name: checked_text(value, where, name) for name, value in given.items()}
    if "text" not in values:
        raise UserError(f"{where}: text: expected a text, got nothing")
    reference = values.pop("ref_audio", None)
    if reference is None and "ref_text" in values:
        raise UserError(f"{where}: ref_audio: expected the recording of ref_text, got nothing")
    recording = None if reference is None else checked_recording(reference, path.parent, where, "ref_audio")
    return Sentence(values.pop("id", str(number)), ref_audio=recording, **values)
