"""The user's names of the columns with texts, recordings and speakers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from higgs_audio_trainer.data.known_fields import SIMPLE_LINE
from higgs_audio_trainer.errors import UserError, suggestion


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns. None where the name is one of the known spellings.

    Attributes:
        text: Column of the texts, `--text_column`.
        audio: Column of the recordings, `--audio_column`.
        speaker: Column of the speakers, `--speaker_column`.

    Example:
        >>> Columns(text="caption").renamed({"caption": "Hello.", "text": "hello", "wav": "a.wav"})
        {'text': 'Hello.', 'wav': 'a.wav'}
    """

    text: str | None = None
    audio: str | None = None
    speaker: str | None = None

    @property
    def key(self) -> str:
        """Names of the given columns, for fingerprints."""
        return ",".join(f"{field}={name!r}" for field, name in self.given())

    @property
    def settled(self) -> frozenset[str]:
        """Fields with a given column."""
        return frozenset(field for field, _ in self.given())

    def given(self) -> Iterator[tuple[str, str]]:
        """Yield the field and the name of each given column."""
        for field in ("text", "audio", "speaker"):
            if name := getattr(self, field):
                yield field, name

    def fields_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return the column of each known field, a given column before other columns of the field."""
        fields: dict[str, str] = {}
        for name in names:
            if known := "messages" if name == "messages" else SIMPLE_LINE.known(name):
                fields.setdefault(known, name)
        return fields | dict(self.given())

    def require(self, where: str, names: Iterable[str], fields: Mapping[str, str]) -> None:
        """Check that the given columns exist, and that there are columns of recordings and of texts.

        Args:
            where: Source, for the message.
            names: Names of the source's columns.
            fields: Column of each known field.

        Raises:
            UserError: A column is missing. The message lists all columns.
        """
        names = list(names)
        self.check(where, names)
        for field, others, kind in (("audio", {"codes", "messages"}, "recordings"), ("text", {"messages"}, "texts")):
            if fields.keys().isdisjoint({field, *others}):
                raise UserError(
                    f"{where}: expected a column of {kind}, such as {field}, got the columns {', '.join(names)}. "
                    f"Name the column with --{field}_column."
                )

    def require_once(self, where: str, names: Iterable[str]) -> None:
        """Check that no column that is read has the name of another column.

        Args:
            where: Source, for the message.
            names: Names of the source's columns.

        Raises:
            UserError: A column of a known field, or a given column, occurs twice.
        """
        given = {name for _, name in self.given()}
        for name, count in Counter(names).items():
            if count > 1 and (name in given or SIMPLE_LINE.known(name)):
                raise UserError(f"{where}: expected one column {name!r}, got {count}. Rename the others in the header.")

    def renamed(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an entry with the given columns under the names of their fields, without other columns of the fields.

        An entry without a given column lacks the field.
        """
        for field, name in self.given():
            others = {other: value for other, value in entry.items() if SIMPLE_LINE.known(other) != field}
            others.pop(name, None)
            entry = {field: entry[name], **others} if name in entry else others
        return entry

    def check(self, where: str, names: Iterable[str]) -> None:
        """Check that the given columns exist.

        Args:
            where: Source, for the message.
            names: Names of the source's columns.

        Raises:
            UserError: A column does not exist. The message lists all columns.
        """
        names = list(names)
        for field, name in self.given():
            if name not in names:
                raise UserError(
                    f"{where}: --{field}_column: expected one of the columns {', '.join(names)}, got {name!r}."
                    f"{suggestion(name, names)}"
                )
