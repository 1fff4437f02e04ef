"""A row of the table: one figure, what it is held against, and whether that is good enough."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_HOLDS = {True: "yes", False: "**no**", None: ""}
_WHOLE_FROM = 1000  # fractions say nothing from here on


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        figure: a median over the rounds, where it is a time.
        unit: of the figure.
        against: the peer or floor that was measured in the same run; "" where there is none.
        ratio: of the figure and that of the peer or floor; None where there is none. `target` says which way round.
        target: what the ratio, or the figure, is to be; "" where nothing was asked.
        holds: whether it is; None where nothing was asked.
    """

    name: str
    figure: float
    unit: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    holds: bool | None = None


def table(rows: Sequence[Row]) -> str:
    """Write rows as Markdown."""
    lines = ["| what | figure | against | ratio | target | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = "" if row.ratio is None else rounded(row.ratio)
        cells = [row.name, f"{rounded(row.figure)} {row.unit}", row.against, ratio, row.target, _HOLDS[row.holds]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rounded(value: float) -> str:
    """Write a number with four significant digits at most, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.4g}"


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a JSON array of objects."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def run_alone(measure: Callable[[bool], Sequence[Row]], description: str) -> None:
    """Be the command line of one benchmark: measure, and print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works: the figures say little"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    given = parser.parse_args()
    rows = measure(given.quick)
    print(table(rows))
    if given.json:
        write_json(rows, given.json)
