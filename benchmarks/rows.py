"""Rows of the table of results, and the command line of all benchmarks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

_HOLDS = {True: "yes", False: "**no**", None: ""}
_WHOLE_FROM = 1000  # larger figures have no decimals


@dataclass(frozen=True)
class ResultRow:
    """Figure, the figure of a peer or floor, and whether the target is met.

    Attributes:
        name: Name of the measurement.
        figure: Measured value. Times are medians over the rounds. None without a value.
        unit: Unit of the figure, or the reason for its absence, such as "out of memory".
        against: Peer or floor measured in the same run, or "".
        ratio: Ratio of the figure and the figure of the peer or floor, or None without a peer. `target` shows the
            direction of the ratio.
        target: Target of the ratio, or of the figure, or "".
        holds: Whether the target is met, or None without a target.
    """

    name: str
    figure: float | None
    unit: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    holds: bool | None = None


def table(rows: Iterable[ResultRow]) -> str:
    """Return rows as a Markdown table.

    Example:
        >>> print(table([ResultRow("read", 11.283, "µs per event", "jq -c .", 2.8, "> 1", holds=True)]))
        | name | figure | against | ratio | target | holds |
        |---|---|---|---|---|---|
        | read | 11.28 µs per event | jq -c . | 2.8 | > 1 | yes |
    """
    names = [field.name for field in fields(ResultRow) if field.name != "unit"]  # the figure's cell has the unit
    return markdown(
        names,
        (
            (
                row.name,
                row.unit if row.figure is None else f"{rounded(row.figure)} {row.unit}",
                row.against,
                "" if row.ratio is None else rounded(row.ratio),
                row.target,
                _HOLDS[row.holds],
            )
            for row in rows
        ),
    )


def markdown(names: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table.

    Args:
        names: Names of the columns.
        rows: Cells of each row.

    Example:
        >>> print(markdown(["step", "loss"], [[1, 7.5], [20, 4.1]]))
        | step | loss |
        |---|---|
        | 1 | 7.5 |
        | 20 | 4.1 |
    """
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(names)}", *lines[1:]])


def rounded(value: float) -> str:
    """Return a number with at most four significant digits and without an exponent.

    Example:
        >>> rounded(12_345.6), rounded(0.70719)
        ('12,346', '0.7072')
    """
    return f"{value:,.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.4g}"


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of all benchmarks, `--quick` and `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use small sizes; the figures mean little")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the rows to FILE as JSON")
    return parser


def report(rows: Sequence[ResultRow], json_file: Path | None) -> None:
    """Print rows as a table and, if a file is given, write the rows as a JSON array of objects."""
    print(table(rows))
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def run_alone(measure: Callable[[bool], Sequence[ResultRow]], description: str) -> None:
    """Run the command line of a benchmark.

    Args:
        measure: Function from `quick` to rows.
        description: Description for `--help`.
    """
    given = argument_parser(description).parse_args()
    report(measure(given.quick), given.json)
