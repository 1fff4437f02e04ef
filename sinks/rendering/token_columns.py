"""Token ids of a sample in columns, predictions above labels."""

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


class _TokenRow(NamedTuple):
    """One row of token ids before the alignment of the columns."""

    title: str
    kind: str
    cells: Sequence[str]
    wrong: Sequence[bool]
    text: str | None


def render_token_columns(windows: Mapping[str, Mapping[str, Any]], *, color: bool, width: int | None) -> list[str]:
    r"""Return the lines of the token windows of a sample.

    Args:
        windows: Windows of a `prediction_sample` by the word for the title, such as "First". Labels of None are not
            shown.
        color: True marks mismatches by colour, False by a `*`.
        width: Columns of a line; longer rows are split into blocks of slots, with decoded text below. None for lines
            of any length.

    Example:
        >>> window = {"labels": [5, 60], "predictions": [4, 60], "label_text": "b", "predicted_text": "a"}
        >>> print(*render_token_columns({"First": window}, color=False, width=None), sep="\n")
          First 2 - Predictions: [*4, 60]  "a"
          First 2 - Labels:      [ 5, 60]  "b"
    """
    pairs = [pair for name, window in windows.items() if (pair := _pair(name, window, "" if color else "*"))]
    if not pairs:
        return ["  no slot of this sample is supervised"]
    rows = [row for pair in pairs for row in pair]
    layout = _TokenColumns(max(len(row.title) for row in rows), max(max(map(len, row.cells)) for row in rows), color)
    lines = [layout.line(row) for row in rows]
    if width is None or all(columns(line) <= width for line in lines):
        return lines
    return [line for pair in pairs for line in layout.blocks(pair, width)]


def _pair(name: str, window: Mapping[str, Any], mark: str) -> list[_TokenRow]:
    """Return the rows of the predictions and of the labels of a window, or no row for an empty window."""
    labels, predictions = window["labels"], window["predictions"]
    if not predictions:
        return []
    title = f"{name} {len(predictions)}"
    compared = [_IGNORED] * len(predictions) if labels is None else labels
    wrong = [label not in (_IGNORED, predicted) for label, predicted in zip(compared, predictions, strict=True)]
    cells = ["-" if predicted is None else str(predicted) for predicted in predictions]
    if mark:
        cells = [mark * is_wrong + cell for cell, is_wrong in zip(cells, wrong, strict=True)]
    rows = [_TokenRow(title, _PREDICTIONS, cells, wrong, window.get("predicted_text"))]
    if labels is not None:
        rows.append(_TokenRow(title, _LABELS, list(map(str, labels)), [False] * len(labels), window.get("label_text")))
    return rows


class _TokenColumns(NamedTuple):
    """The column layout that all rows of a sample share.

    Attributes:
        title_width: Length of the longest title.
        cell_width: Length of the longest cell.
        color: True marks mismatches by colour.
    """

    title_width: int
    cell_width: int
    color: bool

    def line(self, row: _TokenRow) -> str:
        """Return a row as a line."""
        decoded = "" if row.text is None else "  " + self._quoted(row.text)
        return f"{self._head(row.title, row.kind)} [{self._cells(row, 0, len(row.cells))}]{decoded}"

    def blocks(self, pair: Sequence[_TokenRow], width: int) -> Iterator[str]:
        """Yield the lines of a window in blocks of as many slots as fit into the width."""
        count, title = len(pair[0].cells), pair[0].title
        heads = [self._head("", row.kind) for row in pair]
        first_heads = [self._head(title, row.kind) for row in pair]
        fitting = self._fitting(width - len(heads[0]) - len(" ["))
        if fitting < min(_FEWEST, count):  # the titles leave too little room, so one line explains short titles
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

    def _cells(self, row: _TokenRow, start: int, stop: int) -> str:
        cells = [cell.rjust(self.cell_width) for cell in row.cells[start:stop]]
        if self.color and True in row.wrong:
            wrong = row.wrong[start:stop]
            cells = [styled(cell, RED, is_wrong) for cell, is_wrong in zip(cells, wrong, strict=True)]
        return _SEPARATOR.join(cells)

    def _quoted(self, text: str) -> str:
        return styled(f'"{text}"', DIM, self.color)
