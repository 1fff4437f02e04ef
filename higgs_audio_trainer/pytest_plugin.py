"""The pytest plugin: a sink that keeps events in memory, and the comparison of a log with a golden file.

pytest finds the plugin by its entry point. A test session without these fixtures only imports this file. The fixtures
import everything else.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from higgs_audio_trainer.logs.diff.compare import DiffOptions
    from sinks import MemorySink

    Log = MemorySink | Iterable[Mapping[str, Any]] | str | Path

_UPDATE = "--update-golden"
_USUAL: Mapping[str, float] = {}  # default tolerances of `diff`
_WRITTEN = "golden_written"  # property of a test with the path of a golden; xdist workers send properties in reports


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--update-golden`."""
    group = parser.getgroup("higgs-audio-trainer")
    group.addoption(_UPDATE, action="store_true", help="write the golden files instead of comparing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the paths of written golden files."""
    if not config.getoption(_UPDATE):
        return
    reports = (report for found in terminalreporter.stats.values() for report in found)
    properties = (item for report in reports for item in getattr(report, "user_properties", ()))
    for golden in sorted({value for name, value in properties if name == _WRITTEN}):
        terminalreporter.write_line(f"golden written: {golden}")


@pytest.fixture
def event_log() -> MemorySink:
    """Return a sink that keeps a run's events in the list `records`.

    Pass the sink to a training: `run_training(settings, more_sinks=[("log", event_log)])`.
    """
    import higgs_audio_trainer.own_packages  # noqa: F401 - a tested project may have a module `sinks`
    from sinks import MemorySink

    return MemorySink()


@pytest.fixture
def assert_matches_golden(request: pytest.FixtureRequest) -> AssertMatchesGolden:
    """Return `assert_matches_golden(log, path)`, which fails the test if the log differs from the golden file.

    `--update-golden` writes the golden file instead.
    """
    return AssertMatchesGolden(request)


class AssertMatchesGolden:
    """The value of the fixture `assert_matches_golden`.

    Args:
        request: Request of the test.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def __call__(
        self,
        log: Log,
        path: str | Path,
        *,
        ignore: str | Iterable[str] = (),
        only: str | Iterable[str] = (),
        rtol: float | Mapping[str, float] = _USUAL,
        atol: float | Mapping[str, float] = _USUAL,
        exact: bool = False,
    ) -> None:
        """Fail the test if a log differs from a golden file, with the report of `higgs-audio-trainer diff`.

        With `--update-golden` the golden file is written instead.

        Args:
            log: The fixture `event_log`, an iterable of records (mappings, not typed events), or the path of a log,
                such as a run's output directory. A relative path starts at the current folder.
            path: Path of the golden file. A relative path starts at the folder of the test's file.
            ignore: Names of fields and events to leave out, as for `diff --ignore`. Either a list of names or a string
                of names separated by commas.
            only: Names of fields and events to compare, in the same form.
            rtol: Relative tolerance of floats: a number for all fields, or numbers by field. Other fields have the
                defaults of `diff`.
            atol: Absolute tolerance, in the same form.
            exact: Floats must be equal bit for bit.
        """
        from higgs_audio_trainer.errors import UserError
        from higgs_audio_trainer.logs.diff.compare import DiffOptions
        from sinks.terminal.escape import printable_lines

        golden = self._request.path.parent / path
        try:
            rtol, atol = _checked("rtol", rtol), _checked("atol", atol)
            options = DiffOptions(rtol=rtol, atol=atol, exact=exact, ignore=_names(ignore), only=_names(only))
            if self._request.config.getoption(_UPDATE):
                self._write(log, golden)
                return
            text = self._difference(golden, log, options)
        except UserError as error:
            text = printable_lines(str(error))
        if text:
            pytest.fail(text, pytrace=False)

    def _write(self, log: Log, golden: Path) -> None:
        from higgs_audio_trainer.logs.diff.golden import write_golden

        write_golden(_readable(log), golden)
        self._request.node.user_properties.append((_WRITTEN, str(golden)))

    def _difference(self, golden: Path, log: Log, options: DiffOptions) -> str:
        """Return the differences and the command to accept the log; "" without a difference."""
        from higgs_audio_trainer.logs.diff.compare import diff
        from higgs_audio_trainer.logs.diff.reports import render

        if not golden.exists():
            return f"{golden}: expected a golden, got no such file.\nTo write the golden: {self._update()}"
        comparison = diff(golden, _readable(log), options=options)
        if comparison.same:
            return ""
        return f"{render(comparison, 'text').rstrip()}\nTo accept the new log: {self._update()}"

    def _update(self) -> str:
        _, separator, name = self._request.node.nodeid.partition("::")
        file = os.path.relpath(self._request.path, self._request.config.invocation_params.dir)
        return f"pytest {_UPDATE} {shlex.quote(f'{file}{separator}{name}')}"


def _names(names: str | Iterable[str]) -> frozenset[str]:
    lists = (names,) if isinstance(names, str) else names
    return frozenset(name.strip() for text in lists for name in text.split(",") if name.strip())


def _checked(name: str, given: float | Mapping[str, float]) -> float | Mapping[str, float]:
    from higgs_audio_trainer.errors import UserError

    for value in given.values() if isinstance(given, Mapping) else (given,):
        if not isinstance(value, (int, float)):
            raise UserError(f"{name}: expected a number, or one for each field that is named, got {value!r}")
    return given


def _readable(log: Log) -> str | Path | Iterable[Mapping[str, Any]]:
    """Return the log as a path or records."""
    from higgs_audio_trainer.errors import UserError
    from sinks import MemorySink

    if isinstance(log, MemorySink):
        return log.records
    if isinstance(log, (str, Path)):
        return log
    records = list(log) if isinstance(log, Iterable) and not isinstance(log, (Mapping, bytes)) else None
    if records is None or not all(isinstance(record, Mapping) for record in records):
        got = type(log).__name__ if records is None else f"{type(log).__name__} of other things"
        raise UserError(f"expected a log: event_log, a path, or records that are mappings; got {got}")
    return records
