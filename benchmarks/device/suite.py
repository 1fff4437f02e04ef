"""The tests that need a CUDA device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

from benchmarks.device.plan import Plan
from benchmarks.rows import ResultRow

_ROOT = Path(__file__).parents[2]


def suite(plan: Plan) -> Iterator[ResultRow]:
    """Run `pytest -m cuda` without the plugins of the development environment.

    Yields:
        The number of passed tests, and a row for each failed and each skipped test.

    Raises:
        RuntimeError: A test failed, or no test ran.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", *plan.tests], cwd=_ROOT, stdout=sys.stderr, check=False
        )
        cases = list(ET.parse(report).iter("testcase")) if report.is_file() else []  # noqa: S314 - our own
    passed = 0
    for case in cases:
        outcome = next((case.find(tag) for tag in ("failure", "error", "skipped") if case.find(tag) is not None), None)
        if outcome is None:
            passed += 1
        else:
            message = " ".join(outcome.get("message", "").split())[:160].replace("|", "/")
            yield ResultRow(f"test {case.get('name')}", None, outcome.tag, against=message)
    name = f"pytest {' '.join(plan.tests)}, passed of {len(cases)}"
    yield ResultRow(name, passed, "tests", target="all", holds=0 < passed == len(cases))
    if done.returncode:
        raise RuntimeError(f"pytest {' '.join(plan.tests)} ended with status {done.returncode}")
