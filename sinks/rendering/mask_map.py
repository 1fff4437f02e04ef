"""The mask map of a sample. Text and each codebook have a row of signs, with a sign for each slot.

A sign shows whether a slot is supervised, and why a slot is masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sinks.terminal.fold import folded
from sinks.terminal.style import BOLD, RED, styled

#: Meaning of each sign in the field `strip` of `token_counts`.
SIGNS = {
    "p": "prompt",
    "_": "placeholder",
    "#": "supervised",
    "E": "supervised stop",
    "r": "reference audio",
    "B": "stream BOS",
    "d": "delay prefix",
    "e": "EOS fill",
    "-": "no slot",
    "?": "masked, should be supervised",
    "!": "supervised, should be masked",
}
_STYLES = {"#": BOLD, "E": BOLD, "?": RED, "!": RED}
_MORE = "."  # between two equal signs of a long run; ASCII, for any terminal
_NOTHING = " "  # after the end of a shorter row
_LONGEST_RUN = 6  # equal columns that are drawn one by one
_WIDTH = 79  # default
_FEWEST = 10  # columns beside the row names
_MOST_BLOCKS = 4
_LONGEST_NAME = 20
_RULER = "position"
_RUN = re.compile(r"([1-9][0-9]{0,8})([!-~])")


class _Column(NamedTuple):
    """One column of the map: the sign of each row, and the slot position for the first column of a run."""

    signs: tuple[str, ...]
    position: int | None


def render_mask_map(runs: Any, *, color: bool, width: int | None) -> list[str]:
    r"""Return the lines of a mask map.

    Args:
        runs: Runs of each row by the name of the row, as in the field `strip` of `token_counts`, escaped for a
            terminal.
        color: True makes supervised slots bold and mistakes red.
        width: Columns of a line. A wider map is drawn in blocks. None for 79.

    Returns:
        A ruler with positions, the rows and a legend. No line if a row is malformed.

    Example:
        >>> print(*render_mask_map({"text": "57p 3#", "codebook 0": "58- 1B 1#"}, color=False, width=None), sep="\n")
          position    0  57
          text        p.p###
          codebook 0  -.--B#
          p prompt  # supervised  B stream BOS  - no slot  . more of the same
    """
    rows = {name: _parsed(text) for name, text in runs.items()} if isinstance(runs, Mapping) else {}
    if not all(rows.values()) or any(len(name) > _LONGEST_NAME for name in rows):
        return []
    columns = list(_columns(list(rows.values())))
    indent = 4 + max(map(len, [_RULER, *rows]), default=0)
    size = max(_FEWEST, (width or _WIDTH) - indent)
    lines: list[str] = []
    for start in range(0, min(len(columns), _MOST_BLOCKS * size), size):
        block = columns[start : start + size]
        if ruler := _ruler(block):
            lines.append(f"  {_RULER:<{indent - 2}}{ruler}")
        lines += [
            f"  {name:<{indent - 2}}{_row([column.signs[index] for column in block], color)}".rstrip()
            for index, name in enumerate(rows)
        ]
    if len(columns) > _MOST_BLOCKS * size:
        lines.append(f"  and {len(columns) - _MOST_BLOCKS * size:,} more columns")
    return [*lines, *_legend(columns, width or _WIDTH)]


def _parsed(text: Any) -> list[tuple[int, str]]:
    """Return runs such as `57p 1#` as (count, sign) pairs, or no pair for a malformed text."""
    found = [_RUN.fullmatch(part) for part in text.split(" ")] if isinstance(text, str) else []
    return [(int(run[1]), run[2]) for run in found if run] if all(found) else []


def _columns(rows: Sequence[Sequence[tuple[int, str]]]) -> Iterator[_Column]:
    """Yield the columns to draw. A long run of equal columns becomes three columns."""
    position = 0
    for signs, parts in groupby(_pieces(rows), key=lambda piece: piece[1]):
        length = sum(size for size, _ in parts)
        drawn = [signs] * length if length <= _LONGEST_RUN else [signs, (_MORE,) * len(signs), signs]
        yield _Column(signs, position)
        yield from (_Column(column, None) for column in drawn[1:])
        position += length


def _pieces(rows: Sequence[Sequence[tuple[int, str]]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the pieces without a change in any row, as (number of slots, sign of each row)."""
    left = [list(reversed(row)) for row in rows]
    while any(left):
        size = min(row[-1][0] for row in left if row)
        yield size, tuple(row[-1][1] if row else _NOTHING for row in left)
        for row in left:
            if row:
                count, sign = row.pop()
                if count > size:
                    row.append((count - size, sign))


def _ruler(block: Sequence[_Column]) -> str:
    """Return the line with the position of each run, as far as there is room."""
    text = ""
    for index, column in enumerate(block):
        if column.position is None or (text and len(text) >= index):
            continue
        number = str(column.position)
        if index + len(number) <= len(block):
            text = text.ljust(index) + number
    return text


def _row(signs: Sequence[str], color: bool) -> str:
    parts = ((style, "".join(run)) for style, run in groupby(signs, key=lambda sign: _STYLES.get(sign, "")))
    return "".join(styled(text, style, color and bool(style)) for style, text in parts)


def _legend(columns: Sequence[_Column], width: int) -> list[str]:
    signs = {sign for column in columns for sign in column.signs}
    known = [f"{sign} {meaning}" for sign, meaning in {**SIGNS, _MORE: "more of the same"}.items() if sign in signs]
    return folded(f"  {'  '.join(known)}", width).split("\n") if known else []
