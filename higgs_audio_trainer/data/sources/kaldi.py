"""A Kaldi data folder: `wav.scp`, `text`, `utt2spk` and `segments`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.file_kind import other_encoding
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.data.sources.text_file import TextFile
from higgs_audio_trainer.errors import UserError

_SPACES = re.compile(r"[ \t]+")


@dataclass(frozen=True)
class KaldiFolder:
    """A Kaldi data folder.

    Attributes:
        folder: The folder.
    """

    folder: Path
    form = "a Kaldi data folder"

    def __post_init__(self) -> None:
        if not (self.folder / "text").is_file():
            raise UserError(f"{self.folder}: expected wav.scp and text, as in a Kaldi data folder, got no text")
        first = next(self._lines("wav.scp"), None)
        if first is None:
            raise UserError(f"{self.folder}/wav.scp: expected at least one recording, got an empty file")
        if first[1].endswith("|"):
            raise UserError(
                f"{self.folder}/wav.scp: expected paths of recordings, got the command {first[1][:80]!r}. "
                "Write the recordings to files, and name these files in wav.scp."
            )

    @property
    def name(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    @cached_property
    def decisions(self) -> tuple[str, ...]:
        """Names of the files of the folder with samples."""
        return (f"read {', '.join(self._names)}",)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' places and contents."""
        digest = blake2b(digest_size=16)
        for name in self._names:
            digest.update(TextFile(self.folder / name).fingerprint.encode())
        return digest.hexdigest()

    @cached_property
    def _names(self) -> list[str]:
        return [name for name in ("wav.scp", "segments", "text", "utt2spk") if (self.folder / name).is_file()]

    def entries(self) -> Iterator[Entry]:
        """Yield the utterances of `text`. Files in the same order as `text` are not held.

        Raises:
            UserError: A file cannot be read.
        """
        has_segments = "segments" in self._names
        recordings = _Lookup(self._lines("wav.scp"), holds=has_segments)  # segments share a few recordings
        segments, speakers = (
            _Lookup(self._lines(name) if name in self._names else iter(())) for name in ("segments", "utt2spk")
        )
        for number, (utterance, text) in enumerate(self._lines("text"), start=1):
            fields: dict[str, Any] = {"id": utterance, "text": text, "speaker": speakers.get(utterance)}
            where = f"{self.folder}/text:{number}"
            try:
                recording = utterance
                if has_segments:
                    recording, fields["offset"], fields["end"] = _segment(segments.get(utterance))
                fields["audio"] = self._path(recordings.get(recording))
            except BadField as bad:
                first = self._first_lines.get(utterance, number)
                again = BadField("id", "a unique utterance", f"{utterance!r}, as in line {first}")
                yield Entry(where, {}, bad if first == number else again)
            else:
                yield Entry(where, fields)

    @cached_property
    def _first_lines(self) -> dict[str, int]:
        """First line of each utterance in `text`. Read only after a problem, as the utterances take memory."""
        lines: dict[str, int] = {}
        for number, (utterance, _) in enumerate(self._lines("text"), start=1):
            lines.setdefault(utterance, number)
        return lines

    def _path(self, value: str | None) -> str:
        """Return a path. Kaldi's recipes write paths relative to the working folder."""
        if value is None:
            raise BadField("audio", "a recording in wav.scp", "nothing")
        if value.endswith("|"):
            raise BadField("audio", "the path of a recording in wav.scp", f"the command {value[:80]!r}")
        is_beside = (self.folder / value).exists()
        return value if is_beside or not Path(value).exists() else str(Path(value).absolute())

    def _lines(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the key and the value of each line.

        Raises:
            UserError: The file cannot be read, or is no text in UTF-8.
        """
        path = self.folder / name
        for number, line in enumerate(TextFile(path).lines(), start=1):
            try:
                key, *value = _SPACES.split(line.decode().strip(), maxsplit=1)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: expected a text in UTF-8, got {other_encoding(line, name)}"
                ) from error
            if key:
                yield key, "".join(value)


class _Lookup:
    """Values of a file by key, read as far as needed.

    Args:
        lines: Keys and values.
        holds: Keep all values. Otherwise a value that is asked for in the order of the file can be asked for once.
    """

    def __init__(self, lines: Iterator[tuple[str, str]], *, holds: bool = False) -> None:
        self._lines = lines
        self._holds = holds
        self._read: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""
        if key in self._read:
            return self._read[key]
        for found, value in self._lines:
            if self._holds or found != key:
                self._read[found] = value
            if found == key:
                return value
        return None


def _segment(value: str | None) -> tuple[str, float, float | None]:
    """Return the recording, the start and the end of a segment; seconds. A negative end is the recording's end."""
    if value is None:
        raise BadField("segments", "the utterance in segments", "nothing")
    try:
        recording, start, end = value.split()[:3]
        return recording, float(start), float(end) if float(end) >= 0 else None
    except ValueError as error:
        raise BadField("segments", "a recording, a start and an end", repr(value)) from error
