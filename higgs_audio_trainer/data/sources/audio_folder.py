"""A folder of recordings with a text file beside each, such as LibriTTS and corpora of the Montreal Forced Aligner."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path

from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.file_kind import other_encoding
from higgs_audio_trainer.data.sources.recordings import is_recording
from higgs_audio_trainer.data.sources.source import Entry
from higgs_audio_trainer.errors import UserError

#: Endings of texts, the first that exists is read. LibriTTS has a normalized and an original text.
TEXT_ENDINGS = (".normalized.txt", ".lab", ".txt")
#: Folders of texts, beside or above the folders of recordings.
_TEXT_FOLDERS = frozenset(("txt", "text", "texts", "lab", "labs", "transcript", "transcripts", "transcriptions"))
_MICROPHONE = re.compile(r"_mic\d+$")  # recordings of one utterance, which share a text
_MOST_LEVELS = 3  # of folders above the speakers
_MOST_NAMES = 5
_HTS_LABEL = re.compile(r"\d+\s+\d+\s+\S+")  # a line with times and a phone
#: Names of folders that are no speakers.
_NO_SPEAKERS = re.compile(
    r"(train|dev|test|valid|validation|eval|wavs?|audios?|clips?|data|parts?|splits?|discs?|cd|recordings?|sounds?|raw"
    r"|chapters?|books?|sessions?|batch|other|clean)([\W\d_].*)?"
)


@dataclass(frozen=True)
class AudioFolder:
    """A folder of recordings, with folders below, where each recording has a text file of the same name beside it.

    Attributes:
        folder: The folder.
    """

    folder: Path
    form = "a folder of recordings with texts beside them"

    def __post_init__(self) -> None:
        if not _has_recordings(self.folder):
            raise UserError(
                f"{self.folder}: expected a folder of recordings, a data set, or a file of samples, got a folder "
                "without recordings. Name a manifest or a folder with recordings and their texts."
            )
        if next((entry for entry in self.entries() if "text" in entry.fields), None) is None:
            raise UserError(
                f"{self.folder}: expected a text beside each recording, such as a.txt or a.lab beside a.wav, got "
                f"recordings alone{self._files_of_samples()}."
            )

    @property
    def name(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    @cached_property
    def decisions(self) -> tuple[str, ...]:
        """Origin of the speakers."""
        names = list(dict.fromkeys(self._speakers.values()))
        listed = f"{', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''}"
        return (f"speakers from the folders {listed}",) if names else ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names, sizes and modification times of all recordings and texts."""
        digest = blake2b(str(self.folder.absolute()).encode("utf-8", "surrogateescape"), digest_size=16)
        for file in self._files():
            if is_recording(file.name) or file.name.endswith(TEXT_ENDINGS):
                stat = file.stat()
                digest.update(f"{file.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def entries(self) -> Iterator[Entry]:
        """Yield the recordings, folder by folder, in the order of their names.

        Raises:
            UserError: A text file cannot be read.
        """
        for file in self._files():
            if is_recording(file.name):
                yield self._entry(Path(file.path))

    def _entry(self, audio: Path) -> Entry:
        parts = audio.relative_to(self.folder).parts
        # In UTF-8, as in a manifest, whatever the encoding of the system.
        fields = {"audio": os.fsencode("/".join(parts)).decode("utf-8", "surrogateescape")}
        if speaker := next((self._speakers[folder] for folder in audio.parents if folder in self._speakers), ""):
            fields["speaker"] = speaker
        if audio.parent not in self._texts:
            self._texts[audio.parent] = _folders_of_texts(audio.parent, self.folder)
        try:
            return Entry(f"{audio}:1", fields | {"text": _text_of(audio, self._texts[audio.parent])})
        except BadField as bad:
            return Entry(f"{audio}:1", {}, bad)

    @cached_property
    def _texts(self) -> dict[Path, list[Path]]:
        """Folders of texts for each folder of recordings so far."""
        return {}

    @cached_property
    def _speakers(self) -> dict[Path, str]:
        """Folders whose names are speakers: several folders at the top or below the names of splits and of media.

        Recordings are in no other place, and the names are no numbers in a row, as those of parts of a data set.
        """
        level = [self.folder]
        for _ in range(_MOST_LEVELS):
            found = [file for folder in level for file in _listed(folder)]
            folders = [Path(file.path) for file in found if file.is_dir() and _has_recordings(file.path)]
            names = {folder.name for folder in folders}
            is_flat = any(is_recording(file.name) for file in found if file.is_file())
            others = [name for name in names if _NO_SPEAKERS.fullmatch(name.lower())]
            if is_flat or not names or not others:
                is_of_speakers = len(names) > 1 and not is_flat and not _count_up(names)
                return {folder: folder.name for folder in folders} if is_of_speakers else {}
            if len(others) < len(names):
                return {}
            level = folders
        return {}

    def _files(self) -> Iterator[os.DirEntry[str]]:
        return _walk(self.folder, set())

    def _files_of_samples(self) -> str:
        names = [
            os.path.relpath(file.path, self.folder)
            for file in self._files()
            if file.name.endswith((".csv", ".tsv", ".jsonl", ".json", ".txt"))
        ]
        advice = "Name such a file if it holds all texts, or put each text beside its recording"
        return f" and {', '.join(names[:_MOST_NAMES])}. {advice}" if names else ""


def _has_recordings(folder: Path | str) -> bool:
    return any(is_recording(file.name) for file in _walk(folder, set()))


def _walk(folder: Path | str, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    """Yield the files below a folder in a fixed order, without hidden files and folders."""
    try:
        stat = os.stat(folder)  # noqa: PTH116 - of strings, for speed
        if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder above
            return
    except OSError as error:
        raise _unreadable(folder, error) from error
    seen = {*seen, (stat.st_dev, stat.st_ino)}
    for file in _listed(folder):
        if file.is_dir():
            if file.name != "__MACOSX":
                yield from _walk(file.path, seen)
        elif file.is_file():
            yield file


def _listed(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the files and folders in a folder by name, without hidden ones."""
    try:
        with os.scandir(folder) as found:
            return sorted((file for file in found if not file.name.startswith(".")), key=lambda file: file.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path | str, error: OSError) -> UserError:
    return UserError(f"{folder}: {error.strerror}. Name a folder that can be read.")


def _text_of(audio: Path, folders: Iterable[Path]) -> str:
    """Return the text of a recording, beside the recording or in other folders.

    Raises:
        BadField: There is no text, or the text is in another form.
        UserError: A text file cannot be read.
    """
    stems = dict.fromkeys((audio.stem, _MICROPHONE.sub("", audio.stem)))
    for folder in (audio.parent, *folders):
        for path in (folder / f"{stem}{ending}" for stem in stems for ending in TEXT_ENDINGS):
            if path.is_file():
                return " ".join(_read(path).split())
    text = _transcripts(audio.parent).get(audio.stem)
    if text is None:
        raise BadField("text", "a text beside the recording", f"neither {audio.stem}.txt nor {audio.stem}.lab")
    return text


def _folders_of_texts(folder: Path, top: Path) -> list[Path]:
    """Return the folders of texts for a folder of recordings: `txt/ann` for `wav/ann`, as in VCTK."""
    found: list[Path] = []
    for base in (folder, *folder.parents):
        below = Path(*folder.relative_to(base).parts[1:])
        beside = (file for file in _listed(base) if file.name.lower() in _TEXT_FOLDERS and file.is_dir())
        found.extend(Path(file.path, below) for file in beside)
        if base == top:
            break
    return found


@lru_cache(maxsize=4)
def _transcripts(folder: Path) -> dict[str, str]:
    """Return the texts of LibriSpeech's lists in a folder, by the name of the recording."""
    lines = (line for path in sorted(folder.glob("*.trans.txt")) for line in _read(path).split("\n"))
    return {name: text.strip() for name, _, text in (line.strip().partition(" ") for line in lines)}


def _read(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        BadField: The file is no text in UTF-8, or holds labels with times.
        UserError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name a folder whose texts can be read.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadField("text", "a text in UTF-8", other_encoding(data, path.name)) from error
    if "\0" in text:  # UTF-16 without a byte order mark
        raise BadField("text", "a text in UTF-8", other_encoding(data, path.name))
    if _HTS_LABEL.match(text):
        raise BadField("text", "the spoken text", f"labels with times in {path.name}")
    return text


def _count_up(names: Collection[str]) -> bool:
    """Return True for numbers in a row, such as 0000 and 0001."""
    if not all(name.isdecimal() for name in names):
        return False
    numbers = sorted(map(int, names))
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
