"""The slots of a sample as rows of token ids: predictions above labels, in columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sinks.terminal.fold import columns
from sinks.terminal.style import DIM, RED, styled

_IGNORED = -100
_SEPARATOR = ", "
_FEWEST = 3  # slots side by side
_PREDICTIONS, _LABELS = "Predictions", "Labels"
_DECODED = {_PREDICTIONS: "Predicted text", _LABELS: "Label text"}
_KEY = f"P: {_PREDICTIONS}, L: {_LABELS}"


class _Row(NamedTuple):
    """One line of token ids, before its columns are as wide as those of its neighbours."""

    title: str
    kind: str
    cells: Sequence[str]
    wrong: Sequence[bool]
    text: str | None


def render_windows(windows: Mapping[str, Mapping[str, Any]], *, color: bool, width: int | None) -> list[str]:
    """Render the windows of a sample.

    Args:
        windows: by the word that stands before their slots.
        color: mark mismatches by colour; without it they carry a `*`.
        width: columns that there are; what needs more is shown in blocks of slots, and what was decoded below them.
    """
    pairs = [pair for name, window in windows.items() if (pair := _pair(name, window, "" if color else "*"))]
    if not pairs:
        return ["  no slot of this sample is supervised"]
    rows = [row for pair in pairs for row in pair]
    table = _Table(max(len(row.title) for row in rows), max(max(map(len, row.cells)) for row in rows), color)
    lines = [table.line(row) for row in rows]
    if width is None or all(columns(line) <= width for line in lines):
        return lines
    return [line for pair in pairs for line in table.blocks(pair, width)]


def _pair(name: str, window: Mapping[str, Any], mark: str) -> list[_Row]:
    """Make the rows of one window: predictions and labels; none of an empty window."""
    labels, predictions = window["labels"], window["predictions"]
    if not labels:
        return []
    title = f"{name} {len(labels)}"
    wrong = [label not in (_IGNORED, predicted) for label, predicted in zip(labels, predictions, strict=True)]
    cells = ["-" if predicted is None else str(predicted) for predicted in predictions]
    if mark:
        cells = [mark * is_wrong + cell for cell, is_wrong in zip(cells, wrong, strict=True)]
    return [
        _Row(title, _PREDICTIONS, cells, wrong, window.get("predicted_text")),
        _Row(title, _LABELS, list(map(str, labels)), [False] * len(labels), window.get("label_text")),
    ]


class _Table(NamedTuple):
    """The columns that the rows of a sample share.

    Attributes:
        title_width: of the longest title.
        cell_width: of the longest cell.
        color: mark mismatches by colour.
    """

    title_width: int
    cell_width: int
    color: bool

    def line(self, row: _Row) -> str:
        """Write a row as one line."""
        decoded = "" if row.text is None else "  " + self._quoted(row.text)
        return f"{self._head(row.title, row.kind)} [{self._cells(row, 0, len(row.cells))}]{decoded}"

    def blocks(self, pair: Sequence[_Row], width: int) -> Iterator[str]:
        """Write the rows of a window block by block, each with as many slots as there is room for."""
        count, title = len(pair[0].cells), pair[0].title
        heads = [self._head("", row.kind) for row in pair]
        first_heads = [self._head(title, row.kind) for row in pair]
        fitting = self._fitting(width - len(heads[0]) - len(" ["))
        if fitting < min(_FEWEST, count):  # the words leave no room: they are said once
            yield f"  {title} - {_KEY}"
            heads = first_heads = [f"  {row.kind[0]}:" for row in pair]
            fitting = max(1, self._fitting(width - len(heads[0]) - len(" [")))
        for start in range(0, count, fitting):
            stop = min(start + fitting, count)
            for row, head in zip(pair, heads if start else first_heads, strict=True):
                opening, closing = " " if start else "[", "]" if stop == count else ","
                yield f"{head} {opening}{self._cells(row, start, stop)}{closing}"
        for row in pair:
            if row.text is not None:
                yield f"  {title:<{self.title_width}} - {_DECODED[row.kind] + ':':<15} {self._quoted(row.text)}"

    def _head(self, title: str, kind: str) -> str:
        return f"  {title:<{self.title_width}} - {kind + ':':<12}"

    def _fitting(self, room: int) -> int:
        return (room - 1 + len(_SEPARATOR)) // (self.cell_width + len(_SEPARATOR))

    def _cells(self, row: _Row, start: int, stop: int) -> str:
        cells = [cell.rjust(self.cell_width) for cell in row.cells[start:stop]]
        if self.color and True in row.wrong:
            wrong = row.wrong[start:stop]
            cells = [styled(cell, RED, is_wrong) for cell, is_wrong in zip(cells, wrong, strict=True)]
        return _SEPARATOR.join(cells)

    def _quoted(self, text: str) -> str:
        return styled(f'"{text}"', DIM, self.color)
