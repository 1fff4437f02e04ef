"""Samples on their way into manifests: objects in a temporary file, and a few numbers for each sample. Torch-free."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import orjson

from higgs_audio_trainer.data.references import NONE
from higgs_audio_trainer.data.sample import Clip, Sample
from higgs_audio_trainer.data.sample_entry import entry_of, is_whole
from higgs_audio_trainer.data.split import RecordingGroups

_REFERENCES = ("ref_audio", "ref_codes")


class Draft:
    """Samples of manifests to be written. Memory holds about 40 bytes a sample.

    Args:
        folder: Folder of the manifests, for paths.
        speaker: Speaker of samples without a speaker.
        compares: Read the ends of the recordings, to know a recording under another name.

    Attributes:
        speaker_names: Names of the speakers, in the order of their first samples.
        speakers: Speaker of each sample, an index of `speaker_names` or -1.
        usable: 1 for each sample whose recording can be a reference: a whole file with a text.
        wants_reference: 1 for each sample in the simple form without a reference.
    """

    def __init__(self, folder: Path, *, speaker: str | None = None, compares: bool = False) -> None:
        self.speaker_names: list[str] = []
        self.speakers = array("i")
        self.usable = bytearray()
        self.wants_reference = bytearray()
        self._indices: dict[str, int] = {}
        self._speaker = speaker
        self._folder = folder
        self._groups = RecordingGroups() if compares else None
        self._file = TemporaryFile()  # noqa: SIM115 - closed with the draft
        self._ends = array("Q", (0,))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.speakers)

    def add(self, sample: Sample) -> None:
        """Add a sample.

        Raises:
            UserError: A recording cannot be read.
        """
        entry = entry_of(sample, self._folder)
        if self._speaker is not None:
            entry.setdefault("speaker", self._speaker)
        speaker = entry.get("speaker")
        if speaker is not None and speaker not in self._indices:
            self._indices[speaker] = len(self.speaker_names)
            self.speaker_names.append(speaker)
        self.speakers.append(NONE if speaker is None else self._indices[speaker])
        is_simple = "messages" not in entry
        speech = sample.turns[-1].parts[0]
        self.usable.append(is_simple and isinstance(speech, Clip) and is_whole(speech))
        self.wants_reference.append(is_simple and not any(field in entry for field in _REFERENCES))
        if self._groups is not None:
            self._groups.add(sample)
        self._ends.append(self._ends[-1] + self._file.write(orjson.dumps(entry)))

    def groups(self) -> Sequence[int]:
        """Return the recording of each sample. Requires `compares`."""
        assert self._groups is not None, "a draft that compares recordings"
        return self._groups.groups()

    def lines(self, samples: Iterable[int], references: Sequence[int]) -> Iterator[bytes]:
        """Yield the lines of samples.

        Args:
            samples: Indices of the samples.
            references: Index of the reference of each sample of the draft, or -1. Empty for no references.
        """
        for index in samples:
            entry = self._entry(index)
            if references and references[index] != NONE and self.wants_reference[index]:
                other = self._entry(references[index])
                fields = {f"ref_{name}": other[name] for name in ("audio", "codes", "text") if name in other}
                entry |= fields
            yield orjson.dumps(entry) + b"\n"

    def _entry(self, index: int) -> dict[str, Any]:
        start, end = self._ends[index], self._ends[index + 1]
        self._file.seek(start)
        entry: dict[str, Any] = orjson.loads(self._file.read(end - start))
        return entry
