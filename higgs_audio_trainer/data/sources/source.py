"""The contract of a source, with entries in order and a fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from higgs_audio_trainer.data.fields import BadField


class Entry(NamedTuple):
    """An object of a manifest, or the problem of the line that holds no object.

    Attributes:
        where: Place of the object, `file:line`. No two entries of a source have the same place.
        fields: Fields of the object, as of a line in JSON Lines.
        problem: Problem of the line. None for an object.
        name: Name of which an id is made if the object has none. By default the path of the recording is used.
        settled: Known fields for which no unknown field can stand, as the user has named the column, for example.
    """

    where: str
    fields: Mapping[str, Any]
    problem: BadField | None = None
    name: str = ""
    settled: frozenset[str] = frozenset()


class Source(Protocol):
    """A manifest, a table, a folder or a data set, as entries.

    Attributes:
        name: Name of the source, for messages.
        folder: Folder of relative paths.
        form: Recognized form, such as "JSON Lines".
        decisions: Sentences about the decisions that the form left open, such as the column of the texts.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def folder(self) -> Path: ...  # noqa: D102

    @property
    def form(self) -> str: ...  # noqa: D102

    @property
    def decisions(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def fingerprint(self) -> str:
        """Hash of everything on which the samples depend, without the content of recordings.

        The fingerprint covers the folder of relative paths. A change of a recording does not change the fingerprint.
        """

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order. Each call begins anew, and holds one entry at a time.

        Raises:
            UserError: The source cannot be read any further.
        """
