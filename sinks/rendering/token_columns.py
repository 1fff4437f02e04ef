"""Token ids of a sample in columns, predictions above labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sinks.terminal.fold import columns
from sinks.terminal.style import CORRECT, DIM, WRONG, styled

MASKED = -100  # label of a slot that the loss ignores
_SEPARATOR = ", "
_FEWEST = 3  # slots side by side
_PREDICTIONS, _LABELS = "Predictions", "Labels"
_DECODED = {_PREDICTIONS: "Predicted text", _LABELS: "Label text"}
_KEY = f"P: {_PREDICTIONS}, L: {_LABELS}"


class _TokenRow(NamedTuple):
    """One row of token ids before the alignment of the columns.

    Attributes:
        title: Number of the slots, such as "First 5".
        kind: Predictions or labels.
        cells: Token ids.
        styles: Style of each token; "" for none.
        text: Decoded text; None without one.
        note: Meaning of control tokens among the ids; "" for none.
    """

    title: str
    kind: str
    cells: Sequence[str]
    styles: Sequence[str]
    text: str | None
    note: str


def render_token_columns(
    windows: Mapping[str, Mapping[str, Any]],
    *,
    color: bool,
    width: int | None,
    control_tokens: Mapping[int, str] = MappingProxyType({}),
    wrong: str = WRONG,
) -> list[str]:
    r"""Return the lines of the token windows of a sample. A `*` marks a mismatch.

    Args:
        windows: Windows of a `prediction_sample` by the word for the title, such as "First". Labels of None are not
            shown.
        color: True shows correct predictions green, wrong predictions in the style `wrong`, and masked slots dim.
        width: Columns of a line; longer rows of ids are split into blocks of slots, with decoded text below. None
            for lines of any length.
        control_tokens: Meaning of each control token by its id.
        wrong: Style of a mismatch.

    Example:
        >>> window = {"labels": [5, 60], "predictions": [4, 60], "label_text": "b", "predicted_text": "a"}
        >>> print(*render_token_columns({"First": window}, color=False, width=None), sep="\n")
          First 2 - Predictions: [*4, 60]  "a"
          First 2 - Labels:      [ 5, 60]  "b"
    """
    pairs = [pair for name, window in windows.items() if (pair := _pair(name, window, control_tokens, wrong))]
    if not pairs:
        return ["  no slot of this sample is supervised"]
    rows = [row for pair in pairs for row in pair]
    layout = _TokenColumns(max(len(row.title) for row in rows), max(max(map(len, row.cells)) for row in rows), color)
    if width is None or all(columns(layout.ids(row)) <= width for row in rows):
        return [layout.line(row) for row in rows]  # a fold puts a text that does not fit below its ids
    return [line for pair in pairs for line in layout.blocks(pair, width)]


def _pair(name: str, window: Mapping[str, Any], control_tokens: Mapping[int, str], wrong: str) -> list[_TokenRow]:
    """Return the rows of the predictions and of the labels of a window, or no row for an empty window."""
    labels, predictions = window["labels"], window["predictions"]
    if not predictions:
        return []
    title = f"{name} {len(predictions)}"
    compared = predictions if labels is None else labels
    slots = list(zip(predictions, compared, strict=True))
    is_wrong = [label not in (MASKED, predicted) for predicted, label in slots]
    cells = [
        "*" * mark + ("-" if predicted is None else str(predicted))
        for mark, predicted in zip(is_wrong, predictions, strict=True)
    ]
    styles = [
        "" if labels is None else DIM if label == MASKED else wrong if mark else CORRECT
        for mark, (_, label) in zip(is_wrong, slots, strict=True)
    ]
    noted = _note(labels or (), control_tokens)
    note = "" if noted else _note(predictions, control_tokens)
    rows = [_TokenRow(title, _PREDICTIONS, cells, styles, window.get("predicted_text"), note)]
    if labels is not None:
        masked = [DIM if label == MASKED else "" for label in labels]
        rows.append(_TokenRow(title, _LABELS, list(map(str, labels)), masked, window.get("label_text"), noted))
    return rows


def _note(tokens: Sequence[int | None], control_tokens: Mapping[int, str]) -> str:
    """Return the meaning of the control tokens among token ids."""
    meanings = [meaning for token, meaning in control_tokens.items() if token in tokens]
    return f"control token{'s' * (len(meanings) > 1)}: {', '.join(meanings)}" if meanings else ""


class _TokenColumns(NamedTuple):
    """The column layout that all rows of a sample share.

    Attributes:
        title_width: Length of the longest title.
        cell_width: Length of the longest cell.
        color: True shows the styles of the tokens.
    """

    title_width: int
    cell_width: int
    color: bool

    def ids(self, row: _TokenRow) -> str:
        """Return the token ids of a row as a line."""
        return f"{self._head(row.title, row.kind)} [{self._cells(row, 0, len(row.cells))}]"

    def line(self, row: _TokenRow) -> str:
        """Return a row as a line, with its decoded text."""
        decoded = "" if row.text is None else "  " + self._quoted(row.text)
        note = row.note and "  " + styled(row.note, DIM, self.color)
        return f"{self.ids(row)}{decoded}{note}"

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
            if row.note:
                yield f"  {title:<{self.title_width}} - {styled(row.note, DIM, self.color)}"

    def _head(self, title: str, kind: str) -> str:
        return f"  {title:<{self.title_width}} - {kind + ':':<12}"

    def _fitting(self, room: int) -> int:
        return (room - 1 + len(_SEPARATOR)) // (self.cell_width + len(_SEPARATOR))

    def _cells(self, row: _TokenRow, start: int, stop: int) -> str:
        cells = [cell.rjust(self.cell_width) for cell in row.cells[start:stop]]
        styles = row.styles[start:stop]
        shown = [styled(cell, style, self.color and bool(style)) for cell, style in zip(cells, styles, strict=True)]
        return _SEPARATOR.join(shown)

    def _quoted(self, text: str) -> str:
        return styled(f'"{text}"', DIM, self.color)
