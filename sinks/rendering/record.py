"""A record as text, in the wording of the Higgs trainers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sinks.protocol import Record
from sinks.rendering.history import RecordHistory
from sinks.rendering.renderers import RENDERERS, Renderer
from sinks.rendering.text_format import TextFormat, plain
from sinks.terminal.escape import escaped, printable
from sinks.terminal.fold import folded
from sinks.terminal.style import DIM

#: Called with the name of an event and the exception of its renderer.
OnFailure = Callable[[str, Exception], None]

# Fields that note changes of the payload, with the words for the text.
_NOTES = {"nonfinite": "not finite", "replaced": "replaced", "shortened": "shortened"}
_MOST_PATHS = 5
_LONGEST_REASON = 300


def failure_text(event: str, error: Exception) -> str:
    """Return the message about a renderer that raised.

    Example:
        >>> failure_text("train_step", KeyError("loss"))
        "cannot render train_step (KeyError: 'loss'), so such records are shown field by field"
    """
    reason = printable(f"{type(error).__name__}: {error}", longest=_LONGEST_REASON)
    return f"cannot render {event} ({reason}), so such records are shown field by field"


def warn_of_failure(event: str, error: Exception) -> None:
    """Issue a `RuntimeWarning` about a renderer that raised."""
    warnings.warn(failure_text(event, error), RuntimeWarning, stacklevel=3)


class RenderFailures:
    """Count of failed renderings. The first failure of each event is reported.

    Args:
        report: Takes the message of a failure.

    Attributes:
        count: Number of failures.

    Example:
        >>> failures = RenderFailures(print)
        >>> failures("train_step", KeyError("loss"))
        cannot render train_step (KeyError: 'loss'), so such records are shown field by field
        >>> failures("train_step", KeyError("loss"))
        >>> failures.count
        2
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.count = 0
        self._report = report
        self._reported: set[str] = set()

    def __call__(self, event: str, error: Exception) -> None:
        """Count a failure and report the first failure of the event."""
        self.count += 1
        if event not in self._reported:
            self._reported.add(event)
            self._report(failure_text(event, error))


def render(
    record: Record, *, color: bool = False, width: int | None = None, on_failure: OnFailure = warn_of_failure
) -> str:
    """Return a record as one or more lines, without the last newline.

    An unknown event is shown field by field. A golden log lacks the fields that differ from run to run, and the text
    omits such fields. Control characters of the record are escaped.

    Args:
        record: Record of a sink or of a log.
        color: True shows colours.
        width: Columns of a line, at least `sinks.terminal.fold.NARROWEST`; None for lines of any length.
        on_failure: Called where a renderer raises. The record is then shown field by field. The default warns.

    Example:
        >>> render({"event": "checkpoint", "v": 1, "step": 20, "path": "checkpoint-20"})
        'saved checkpoint-20'
        >>> render({"event": "new_event", "v": 1, "values": [1, 2]})
        'event=new_event  v=1  values=[1, 2]'
    """
    return render_as(TextFormat(color, width, RecordHistory()), RENDERERS, escaped(record), on_failure) or ""


def render_as(
    text_format: TextFormat, renderers: Mapping[str, Renderer], record: Record, on_failure: OnFailure
) -> str | None:
    """Return the text of a record in a format, or None for a record that is not shown.

    Args:
        text_format: Format of the text.
        renderers: Renderer of each event.
        record: Escaped record.
        on_failure: Called where a renderer raises; see `render`.
    """
    safe = {name: value for name, value in record.items() if name not in _NOTES}
    notes = {name: record[name] for name in _NOTES if name in record}
    event = safe.get("event")
    renderer = renderers.get(event) if isinstance(event, str) else None
    try:
        text = _field_by_field(safe) if renderer is None else renderer(safe, text_format)
    # A bug of a renderer, or a record that a user's processor or another program changed. Both raise the same
    # exceptions, and a sink knows no schema to decide. So the fields are shown, and every exception is reported.
    except Exception as error:  # noqa: BLE001 - reported
        on_failure(str(event), error)
        text = _field_by_field(safe)
    if text is None:
        return None
    noted = "; ".join(f"{_NOTES[name]}: {_paths(paths)}" for name, paths in notes.items() if paths)
    text += ("\n  " if "\n" in text else "  ") + text_format.style(f"({noted})", DIM) if noted else ""
    return text if text_format.width is None else folded(text, text_format.width)


def _paths(noted: Any) -> str:
    """Return the paths of a note, given as a list of paths or as a mapping of paths to lengths or reasons."""
    if isinstance(noted, dict):
        paths = [f"{path} ({what:,} long)" if isinstance(what, int) else path for path, what in noted.items()]
    else:
        paths = list(map(plain, noted)) if isinstance(noted, list) else [plain(noted)]
    rest = len(paths) - _MOST_PATHS
    return ", ".join(paths[:_MOST_PATHS]) + (f" and {rest:,} more" if rest > 0 else "")


def _field_by_field(record: Record) -> str:
    return "  ".join(f"{key}={plain(value)}" for key, value in record.items())
