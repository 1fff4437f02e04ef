"""Files of recordings from bytes, named by content."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path, PurePosixPath

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.data.spellings import RECORDINGS
from higgs_audio_trainer.errors import UserError

_MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"\xff\xfb", ".mp3"))


def write_audio(data: bytes, name: str, folder: Path) -> Path:
    """Write a recording to a file, unless the file exists.

    Args:
        data: Content of an audio file.
        name: Name of the recording, whose ending is used. May be empty.
        folder: Folder of the files. Folders below are named by the first letters of the content's hash.

    Raises:
        UserError: The file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = write_audio(b"RIFF...", "", Path(folder))
        ...     path == write_audio(b"RIFF...", "a.wav", Path(folder)), path.suffix, path.parent.name in path.name
        (True, '.wav', True)
    """
    digest = blake2b(data, digest_size=16).hexdigest()
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if ending not in RECORDINGS:
        ending = next((known for magic, known in _MAGIC if data.startswith(magic)), "")
    path = folder / digest[:2] / f"{digest}{ending}"
    try:
        if not path.exists() or path.stat().st_size != len(data):
            make_folder(path.parent)
            with atomic_file(path) as file:
                file.write(data)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: {error.strerror}. The recordings of the data set are written to {folder}."
        ) from error
    return path
