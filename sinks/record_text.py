"""The text of the records of a console or a log, for the console sink and for `show`."""

from __future__ import annotations

from typing import Any, NamedTuple

from sinks.protocol import Record
from sinks.rendering.history import RecordHistories
from sinks.rendering.record import OnFailure, render_as, warn_of_failure
from sinks.rendering.renderers import DETAILS
from sinks.rendering.text_format import BLOCKS, DIGITS, TextFormat
from sinks.shorten import MOST_SHOWN_BYTES, limited
from sinks.terminal.escape import encodable_text, escaped
from sinks.terminal.fold import folded


class TextOptions(NamedTuple):
    """Amount of text of the records.

    Attributes:
        detail: full, compact for a line for each sample, or line for a line for each step.
        shapes: always, or changes to show the shapes of a sample only where they differ from the shapes before.
    """

    detail: str = "full"
    shapes: str = "always"


DEFAULT_OPTIONS = TextOptions()


class RecordText:
    r"""The text of the records of a console or a log, which depends on the records before.

    Args:
        color: True shows colours.
        encoding: Name of an existing codec; characters that the codec lacks are escaped.
        options: Amount of text.
        on_failure: Called where a renderer raises; see `render`.

    Example:
        >>> text_of = RecordText(color=False, encoding="ascii")
        >>> text_of({"event": "checkpoint", "path": "é"})
        'saved \\xe9'
    """

    def __init__(
        self,
        *,
        color: bool,
        encoding: str,
        options: TextOptions = DEFAULT_OPTIONS,
        on_failure: OnFailure = warn_of_failure,
    ) -> None:
        self._color = color
        self._encoding = encoding
        self._renderers = DETAILS[options.detail]
        self._new_shapes_only = options.shapes == "changes"
        self._bars = BLOCKS if encodable_text(BLOCKS, encoding) == BLOCKS else DIGITS
        self._on_failure = on_failure
        self._histories = RecordHistories()

    def __call__(self, record: Record, width: int | None = None) -> str | None:
        """Return the text of a record. None for a record that this amount of text omits.

        Args:
            record: Record of a sink or of a log.
            width: Columns of a line; None for lines of any length.
        """
        safe = _limited(record)
        history = self._histories.of(safe)
        text_format = TextFormat(self._color, width, history, self._bars, self._new_shapes_only)
        text = render_as(text_format, self._renderers, safe, self._on_failure)
        history.take(safe)
        if text is None:
            return None
        if safe.get("event") in ("train_step", "eval_result"):
            history.shown_step = safe.get("step")
        text = encodable_text(text, self._encoding)
        return text if width is None else folded(text, width)  # escapes make lines longer

    def skip(self, record: Record) -> None:
        """Take in a record that is not shown, for the texts of later records."""
        safe = _limited(record)
        self._histories.of(safe).take(safe)


def _limited(record: Record) -> dict[str, Any]:
    """Return a copy of a record, escaped and cut to the size that is shown."""
    try:
        return escaped(limited(record, MOST_SHOWN_BYTES))
    except TypeError:  # a third-party record with an object that JSON cannot hold can still be shown
        return escaped(record)
