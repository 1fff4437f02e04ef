"""Recordings beside a table or a list: perhaps in a folder of their own, perhaps named without their ending."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from higgs_audio_trainer.data.media_path import NoFileError, find_file
from higgs_audio_trainer.data.spellings import RECORDINGS

#: Folders of recordings beside LJSpeech's `metadata.csv`, Common Voice's `train.tsv`, and others.
FOLDERS = ("wavs", "wav", "clips", "audio", "audios", "recordings", "sounds", "data")
_MOST_SEARCHES = 1_000  # without a result; after that, only the places of other recordings are tried


class RecordingFinder:
    """Finds the recordings that a table names.

    Paths are relative to the folder of the table, to the working folder, or to the folder above, as in VITS, whose
    lists are in a folder of their own.

    Args:
        folder: Folder of the table.

    Attributes:
        bases: Folders below which recordings are searched.
        places: Folders and endings of the recordings found so far, the last first.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     (Path(folder) / "wavs").mkdir()
        ...     (Path(folder) / "wavs" / "LJ001-0001.wav").touch()
        ...     RecordingFinder(Path(folder)).path("LJ001-0001")
        'wavs/LJ001-0001.wav'
    """

    def __init__(self, folder: Path) -> None:
        home = folder.absolute()
        self.bases = list(dict.fromkeys(map(str, (home, Path.cwd(), home.parent))))
        self.places: list[tuple[str, str]] = []
        prefixes = ["", *(os.path.join(base, "") for base in self.bases[1:])]  # noqa: PTH118
        self._folders = [prefix + name for prefix in prefixes for name in ("", *FOLDERS)]
        self._folder = folder
        self._searches = 0

    def path(self, name: str) -> str:
        """Return the path of a recording, relative to the folder, or the name itself if there is no such recording."""
        spelled = name.replace("\\", "/")
        for place in self.places:
            if path := self._at(place, name) or (spelled != name and self._at(place, spelled)):
                return path
        if name.startswith(("/", "~", "file:")):
            return name
        if self._searches < _MOST_SEARCHES:
            self._searches += 1
            endings = ("",) if is_recording(name) else ("", *RECORDINGS)
            for place in ((folder, ending) for folder in self._folders for ending in endings):
                if place not in self.places and (path := self._at(place, spelled)):
                    self.places.insert(0, place)
                    self._searches = 0
                    return path
        return name

    def exists(self, name: str) -> bool:
        """Return True if there is such a recording."""
        try:
            find_file(self.path(name), self._folder)
        except NoFileError:
            return False
        return True

    def _at(self, place: tuple[str, str], name: str) -> str:
        path = os.path.join(place[0], f"{name}{place[1]}")  # noqa: PTH118 - a tenth of pathlib's time, for each row
        return path if os.path.isfile(os.path.join(self._folder, path)) else ""  # noqa: PTH113, PTH118


def name_elsewhere(given: object, found: object) -> str:
    """Return the name of a recording that a finder has found outside the folder of the table. Else an empty text.

    The name is the path as given, without ending, as a path from the root would differ between machines.

    Example:
        >>> name_elsewhere("ann/a.wav", "/data/ann/a.wav"), name_elsewhere("a.wav", "wavs/a.wav")
        ('ann/a', '')
    """
    if not isinstance(given, str) or not isinstance(found, str) or given == found or not found.startswith("/"):
        return ""
    return PurePosixPath(given.replace("\\", "/")).with_suffix("").as_posix()


def is_recording(name: str) -> bool:
    """Return True if a name has the ending of a recording.

    Example:
        >>> is_recording("wavs/a.WAV"), is_recording("LJ001-0001")
        (True, False)
    """
    return name.lower().endswith(RECORDINGS)
