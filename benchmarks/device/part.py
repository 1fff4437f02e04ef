"""One part of the device check, in a process of its own.

    python -m benchmarks.device.part NAME [--quick] [--until S] FILE

Each row is appended to FILE as a JSON line as soon as the row is measured, and an error as `{"error": "..."}`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.device.compiled import compiled
from benchmarks.device.full_size import full_size, full_size_tts3
from benchmarks.device.logged import logged
from benchmarks.device.methods import methods
from benchmarks.device.plan import Plan, plan_of
from benchmarks.device.suite import suite
from benchmarks.device.synchronisations import synchronisations
from benchmarks.device.trainings import demo, prompts
from benchmarks.rows import ResultRow


@dataclass(frozen=True, slots=True)
class Part:
    """Part of the device check.

    Attributes:
        measure: Yields the rows of the part.
        seconds: Time of the part. The times of all usual parts are less than 8 minutes.
        is_usual: False for a part that only `--only` runs.
    """

    measure: Callable[[Plan], Iterator[ResultRow]]
    seconds: float
    is_usual: bool = True

    @property
    def name(self) -> str:
        """Name of the part."""
        return self.measure.__name__


#: The cheapest and most telling parts come first.
PARTS = (
    Part(demo, 75),
    Part(suite, 50),
    Part(synchronisations, 40),
    Part(full_size, 80),
    Part(full_size_tts3, 60),
    Part(logged, 60),
    Part(prompts, 60),
    Part(compiled, 55),
    Part(methods, 150, is_usual=False),
)


def error_line(error: BaseException) -> str:
    """Return the type and the first line of an error.

    Example:
        >>> error_line(ValueError("no card"))
        'ValueError: no card'
    """
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def write_rows(part: Part, plan: Plan, file: Path) -> bool:
    """Measure a part and append its rows to a file. Return False after an error, which is appended too."""
    with file.open("a", encoding="utf-8", buffering=1) as lines:
        try:
            for row in part.measure(plan):
                lines.write(json.dumps(asdict(row)) + "\n")
        except Exception as error:  # noqa: BLE001 - the check goes on, and reports any error
            traceback.print_exc()
            lines.write(json.dumps({"error": error_line(error)}) + "\n")
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one part on the CUDA device. Return 1 after an error."""
    by_name = {part.name: part for part in PARTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=by_name)
    parser.add_argument("--quick", action="store_true", help="use few rounds")
    # The clock is that of the machine. The imports, some 20 s on a fresh machine, are part of the part's time.
    parser.add_argument(
        "--until", type=float, default=math.inf, help="`time.monotonic()` at the end of the part's time"
    )
    parser.add_argument("file", type=Path, help="file of the rows")
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    plan = plan_of(quick=given.quick, deadline=given.until)
    return int(not write_rows(by_name[given.name], plan, given.file))


if __name__ == "__main__":
    sys.exit(main())
