"""The tests that need a CUDA device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest
import torch

from benchmarks.device.plan import Plan
from benchmarks.rows import ResultRow

_ROOT = Path(__file__).parents[2]
_OPTIONS = ("-o", "addopts=", "-q", "-p", "no:cacheprovider", "--durations=5")


def suite(plan: Plan) -> Iterator[ResultRow]:
    """Run `pytest -m cuda` without the plugins of the development environment, in this process, which has torch loaded.

    Yields:
        The number of passed tests, and a row for each failed and each skipped test.

    Raises:
        RuntimeError: A test failed, or no test ran.
    """
    torch.set_num_threads(1)  # tests/conftest.py asks for it too late here, and tiny models gain nothing by more
    outcomes = _Outcomes(plan)
    with chdir(_ROOT), redirect_stdout(sys.stderr):
        status = pytest.main([*_OPTIONS, *plan.tests], plugins=[outcomes])
    yield from outcomes.rows
    name = f"pytest {' '.join(plan.tests)}, passed of {outcomes.collected}"
    passed = outcomes.passed
    yield ResultRow(name, passed, "tests", target="all", holds=0 < passed == outcomes.collected)
    if status and not outcomes.is_late:
        raise RuntimeError(f"pytest {' '.join(plan.tests)} ended with status {int(status)}")


class _Outcomes:
    """Plugin of pytest that gathers the outcomes, and ends the run before the time of the part is used up.

    Attributes:
        collected: Number of selected tests.
        passed: Number of passed tests.
        rows: Rows of the failed and skipped tests.
        is_late: True if the run was ended.
    """

    def __init__(self, plan: Plan) -> None:
        self.collected = self.passed = 0
        self.rows: list[ResultRow] = []
        self.is_late = False
        self._plan = plan

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the number of tests."""
        self.collected = len(session.items)
        self._session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep an outcome."""
        if report.passed:
            self.passed += report.when == "call"
        else:
            message = " ".join(_message(report).split())[:160].replace("|", "/")
            self.rows.append(ResultRow(f"test {report.nodeid.rpartition('::')[2]}", None, report.outcome, message))

    def pytest_runtest_logfinish(self) -> None:
        """End the run if there is no time for a further test."""
        if not self._plan.has_time():
            self.is_late = True
            self._session.shouldstop = "the time is used up"


def _message(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else report.longreprtext
