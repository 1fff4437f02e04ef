"""WAV files of a run inside the page, as far as there is room."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from sinks.wav_file import read_wav

MOST_BYTES = 2_500_000  # of all files together; base64 adds a third
LONGEST_FILE = 1_500_000  # bytes, half a minute


class EmbeddedAudio(NamedTuple):
    """WAV file for the page.

    Attributes:
        link: Path of the file in the log.
        source: `data:` URI of the file. None if the page cannot contain the file.
        problem: Reason why the page cannot contain the file.
    """

    link: str
    source: Markup | None = None
    problem: str = ""


class AudioEmbedder:
    """Makes `data:` URIs of WAV files until the page is full."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def embed(self, folder: Path | None, link: str) -> EmbeddedAudio:
        """Return a file of a run as a `data:` URI, or the reason why the page cannot contain the file.

        Args:
            folder: Output directory of the run. None if the directory is unknown.
            link: Path of the file in the log, relative to the output directory.

        Example:
            >>> AudioEmbedder().embed(Path("run"), "../secret.wav").problem
            "not a file of the run's audio folder"
        """
        try:
            data = read_wav(folder, link, longest=LONGEST_FILE, left=self._left)
        except (OSError, ValueError) as error:  # a null byte in the name is a ValueError
            problem = getattr(error, "strerror", None) or str(error)
            limit = f", the limit of a page is {MOST_BYTES / 1e6} MB of audio" if problem == "no room left" else ""
            return EmbeddedAudio(link, problem=problem + limit)
        self._left -= len(data)
        source = f"data:audio/wav;base64,{b64encode(data).decode()}"
        return EmbeddedAudio(link, Markup(source))  # noqa: S704 - base64 has no markup
