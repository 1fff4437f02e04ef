"""The format of a record's text, and figures as text."""

from __future__ import annotations

from typing import Any, NamedTuple

from sinks.protocol import Record
from sinks.rendering.history import RecordHistory
from sinks.terminal.style import styled

_ONE_DECIMAL_FROM, _NO_DECIMAL_FROM = 10, 100  # smaller figures have two significant digits
#: Heights of a bar, from 0 to 1. An encoding without these signs gets the digits 0 to 9.
BLOCKS, DIGITS = "▁▂▃▄▅▆▇█", "0123456789"


class TextFormat(NamedTuple):
    """Format of the text of a record.

    Attributes:
        color: True if the terminal has colour.
        width: Columns of a line; None for lines of any length.
        history: Earlier records of the same attempt and rank.
        bars: Signs of a bar from low to high, `BLOCKS` or `DIGITS`.
        new_shapes_only: True if a sample shows its shapes only where they differ from the shapes before.
    """

    color: bool
    width: int | None
    history: RecordHistory
    bars: str = BLOCKS
    new_shapes_only: bool = False

    def style(self, text: str, code: str) -> str:
        """Return a text in a style."""
        return styled(text, code, self.color)

    def bar(self, share: float | None) -> str:
        """Return the sign for a share between 0 and 1, or a dash for None.

        Example:
            >>> "".join(map(TextFormat(False, None, RecordHistory()).bar, (0.0, 0.5, 1.0, None)))
            '▁▅█-'
        """
        if share is None:
            return "-"
        return self.bars[max(0, min(int(share * len(self.bars)), len(self.bars) - 1))]

    def at_step(self, record: Record) -> str:
        """Return " at step N", or nothing below the line of this step."""
        return "" if record["step"] == self.history.shown_step else f" at step {record['step']}"


def plain(value: Any, *, nested: bool = False) -> str:
    """Return a value as Python writes the value, but without a second escape of backslashes in texts.

    Example:
        >>> plain({"losses": [4.1, None], "path": "a"}), plain("a")
        ("{'losses': [4.1, None], 'path': 'a'}", 'a')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {plain(item, nested=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(plain(item, nested=True) for item in value)}]"
    return f"'{value}'" if nested and isinstance(value, str) else str(value)


def short(value: float) -> str:
    """Return a positive figure with two significant digits, or all digits before the point.

    Example:
        >>> short(0.2104), short(11.52), short(1234.5)
        ('0.21', '11.5', '1,234')
    """
    if value < _ONE_DECIMAL_FROM:
        return f"{value:.2g}"
    return f"{value:.1f}" if value < _NO_DECIMAL_FROM else f"{value:,.0f}"


def percent(share: float) -> str:
    """Return a share in percent.

    Example:
        >>> percent(0.558), percent(1.0)
        ('55.8 %', '100 %')
    """
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


def change(now: float, before: Any) -> str:
    """Return the change since an earlier figure in brackets, or nothing if the earlier figure is unknown.

    Example:
        >>> change(2.526, 14.388), change(2.526, 2.531), change(2.526, None)
        (' (-11.86)', ' (-0.005)', '')
    """
    if not isinstance(before, (int, float)):
        return ""
    difference = now - before
    text = f"{difference:+.2f}" if abs(difference) >= 1 else f"{difference:+.3f}"
    return f" ({text if float(text) else '0.000'})"
