"""The slots of a sample as rows of signs, one row a series: what is trained, and what is masked why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sinks.terminal.fold import folded
from sinks.terminal.style import BOLD, RED, styled

#: What the signs of `token_counts` mean.
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
    "?": "masked, to be learned",
    "!": "supervised, to be masked",
}
_STYLES = {"#": BOLD, "E": BOLD, "?": RED, "!": RED}
_MORE = "."  # in each row between two signs: more of the same; ASCII, for any terminal
_NOTHING = " "  # of a row that is shorter than others
_LONGEST_RUN = 6  # of equal columns that is drawn whole
_WIDTH = 79  # where none is given
_FEWEST = 10  # columns beside the names
_MOST_BLOCKS = 4
_LONGEST_NAME = 20
_RULER = "position"
_RUN = re.compile(r"([1-9][0-9]{0,8})([!-~])")


class _Column(NamedTuple):
    """One column: a sign of each row, and the position of its slot where it is the first of a run."""

    signs: tuple[str, ...]
    position: int | None


def render_strip(strips: Any, *, color: bool, width: int | None) -> list[str]:
    """Draw the slots of a sample.

    Args:
        strips: the runs of each row, as `TokenCounts.strip` has them, by the row's name; harmless to a terminal.
        color: set supervised slots off.
        width: columns that there are; what needs more is drawn in blocks. None: 79.

    Returns:
        A ruler, the rows and a legend; nothing where a row cannot be understood.
    """
    rows = {name: _runs(text) for name, text in strips.items()} if isinstance(strips, Mapping) else {}
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


def _runs(text: Any) -> list[tuple[int, str]]:
    """Read `57p 1#` as counts and signs; nothing of what is none."""
    found = [_RUN.fullmatch(part) for part in text.split(" ")] if isinstance(text, str) else []
    return [(int(run[1]), run[2]) for run in found if run] if all(found) else []


def _columns(rows: Sequence[Sequence[tuple[int, str]]]) -> Iterator[_Column]:
    """Yield the columns that are drawn: of a long run of equal ones three."""
    position = 0
    for signs, parts in groupby(_pieces(rows), key=lambda piece: piece[1]):
        length = sum(size for size, _ in parts)
        drawn = [signs] * length if length <= _LONGEST_RUN else [signs, (_MORE,) * len(signs), signs]
        yield _Column(signs, position)
        yield from (_Column(column, None) for column in drawn[1:])
        position += length


def _pieces(rows: Sequence[Sequence[tuple[int, str]]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Cut the rows where one of them changes: the slots up to there, and the sign of each row."""
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
    """Write the position of each run where there is room for it."""
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
