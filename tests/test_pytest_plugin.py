"""The pytest plugin as its users see it: sessions of pytest whose tests use the fixtures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from higgs_audio_trainer.cli import main

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
TRAINING = """
from higgs_audio_trainer.pipeline.emit import Pipeline
from tests.builders import audio_sample, run_end, run_start, train_step, window

def run(sink, token=7891):
    emit = Pipeline([("sink", sink)], run_id="20260102-030405-abcd")
    emit(run_start())
    emit(train_step())
    emit(audio_sample(first=window([1234, 5678, 9012, 3456, 7891], [1234, 5678, 9012, 3456, token])))
    emit(run_end())
"""
HOLDS = """
from training import run

def test_it(event_log, assert_matches_golden):
    run(event_log)
    assert_matches_golden(event_log, "goldens/run.jsonl")
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Return pytest in a folder of its own, whose tests can import `run`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(pytester.path), str(ROOT))))  # for workers of xdist
    monkeypatch.syspath_prepend(ROOT)
    pytester.syspathinsert()
    pytester.makepyfile(training=TRAINING)
    return pytester


@pytest.fixture
def golden(session):
    """Return the path of a golden of `run`, written by the option."""
    session.makepyfile(test_golden=HOLDS)
    session.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    return session.path / "goldens" / "run.jsonl"


def failure_of(result):
    """Return the text that a session shows of its one failure."""
    result.assert_outcomes(failed=1)
    return re.search(r"\n_+ \w+ _+\n(.*?)\n=+ short test summary", result.stdout.str(), re.DOTALL)[1]


def test_costs_nothing_where_no_test_uses_it(tmp_path):
    """A session without our fixtures loads this package's name and the plugin's file, and nothing that they need."""
    script = (
        "import sys, pytest\n"
        "pytest.main(['-q', '-p', 'no:cacheprovider'])\n"
        "heavy = {'torch', 'numpy', 'orjson', 'msgspec', 'structlog', 'sinks', 'schemas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted(name for name in sys.modules if name.startswith('higgs_audio_trainer')))\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "1 passed" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["[]", "['higgs_audio_trainer', 'higgs_audio_trainer.pytest_plugin']"]


def test_the_sink_keeps_the_events_of_its_test_alone(session):
    """`event_log` begins empty in each test and has what was emitted."""
    session.makepyfile("""
        import pytest
        from training import run

        @pytest.mark.parametrize("time", [1, 2])
        def test_it(event_log, time):
            assert event_log.records == []
            run(event_log)
            names = [record["event"] for record in event_log.records]
            assert names == ["run_start", "train_step", "prediction_sample", "run_end"]
            assert event_log.named("train_step")[0]["step"] == 20
    """)
    session.runpytest_inprocess().assert_outcomes(passed=2)


def test_a_golden_is_written_then_holds(session):
    """Without a golden a test fails and says how to make one; `--update-golden` makes it; then the test passes."""
    session.makepyfile(test_first=HOLDS)
    golden = session.path / "goldens" / "run.jsonl"
    said = failure_of(session.runpytest_inprocess())
    assert said.startswith(f"{golden}: ")
    assert said.endswith("\nTo write the golden: pytest --update-golden test_first.py::test_it")

    update = session.runpytest_inprocess("--update-golden")
    update.assert_outcomes(passed=1)
    update.stdout.fnmatch_lines([f"golden written: {golden}"])
    records = [orjson.loads(line) for line in golden.read_bytes().splitlines()]
    assert [record["event"] for record in records] == ["run_start", "train_step", "prediction_sample", "run_end"]
    assert not any("ts" in record for record in records)

    again = session.runpytest_inprocess()
    again.assert_outcomes(passed=1)
    again.stdout.no_fnmatch_line("golden written: *")


def test_a_difference_fails_with_the_text_of_diff(session, golden, capsys):
    """One other token: the failure is what the command prints of the two logs, and how to accept it."""
    session.makepyfile(
        test_golden="""
        from pathlib import Path
        from sinks import JsonlSink
        from training import run

        def test_it(assert_matches_golden):
            run(JsonlSink(Path(__file__).parent / "log.jsonl"), token=7890)
            assert_matches_golden(Path(__file__).parent / "log.jsonl", "goldens/run.jsonl")
    """
    )
    said = failure_of(session.runpytest_inprocess())
    capsys.readouterr()
    assert main(["diff", str(golden), str(session.path / "log.jsonl")]) == 1
    printed = capsys.readouterr().out
    assert "7890" in printed
    assert said == f"{printed.rstrip()}\nTo accept the new log: pytest --update-golden test_golden.py::test_it"


@pytest.mark.parametrize(
    ("folder", "flags"), [("tests/inner", []), ("tests", []), (".", []), ("tests", ["--rootdir=.."])]
)
def test_how_to_write_it_from_another_folder(session, monkeypatch, folder, flags):
    """The command that a failure names works in the folder that pytest was started in."""
    inner = session.mkpydir("tests") / "inner"
    inner.mkdir()
    (session.path / "pytest.ini").write_text("[pytest]\n")
    (inner / "test_first.py").write_text(HOLDS)
    monkeypatch.chdir(session.path / folder)
    said = failure_of(session.runpytest_inprocess(*flags))
    command, *arguments = said.partition("To write the golden: ")[2].split()
    assert command == "pytest"
    session.runpytest_inprocess(*flags, *arguments).assert_outcomes(passed=1)
    session.runpytest_inprocess(*flags).assert_outcomes(passed=1)


def test_a_log_in_memory_is_compared_like_its_file(session, golden):
    """The failure of the same events in memory names the records, and the token that differs."""
    session.makepyfile(
        test_golden="""
        from training import run

        def test_it(event_log, assert_matches_golden):
            run(event_log, token=7890)
            assert_matches_golden(event_log, "goldens/run.jsonl")
    """
    )
    said = failure_of(session.runpytest_inprocess())
    assert "7890" in said
    assert "7891" in said
    assert "B: records (run 20260102-030405-abcd, 4 events" in said


def test_what_is_compared_can_be_chosen(session, golden):
    """Names and tolerances are those of `diff`; a text may hold several names."""
    session.makepyfile(
        test_golden="""
        import pytest
        from training import run

        @pytest.fixture
        def records(event_log):
            run(event_log, token=7890)
            event_log.records[1]["loss"] *= 1.01
            return event_log.records

        def test_ignore(records, assert_matches_golden):
            assert_matches_golden(records, "goldens/run.jsonl", ignore=["train_step", "first.predictions"], exact=True)

        def test_only(records, assert_matches_golden):
            assert_matches_golden(iter(records), "goldens/run.jsonl", only="config, world_size,")

        def test_rtol(records, assert_matches_golden):
            assert_matches_golden(records, "goldens/run.jsonl", ignore=["first.predictions"], rtol={"loss": 0.02})

        def test_loss(records, assert_matches_golden):
            assert_matches_golden(records, "goldens/run.jsonl", ignore="first.predictions")
    """
    )
    result = session.runpytest_inprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_golden.py::test_loss*"])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("assert_matches_golden(event_log, 'goldens/run.jsonl')", "events in both logs, got no common event"),
        ("assert_matches_golden('nowhere', 'goldens/run.jsonl')", "nowhere: No such file or directory"),
        ("assert_matches_golden([{}], 'goldens/run.jsonl')", "expected a record with an event name"),
        ("assert_matches_golden(None, 'goldens/run.jsonl')", "expected a log: event_log, a path, or records"),
        ("assert_matches_golden({}, 'goldens/run.jsonl')", "got dict"),
        ("assert_matches_golden([3], 'goldens/run.jsonl')", "got list of other things"),
        ("assert_matches_golden(event_log, 'goldens/run.jsonl', rtol='1e-3')", "rtol: expected a number"),
        ("assert_matches_golden(event_log, 'goldens/run.jsonl', atol={'loss': None})", "got None"),
        ("assert_matches_golden('goldens/run.jsonl', 'goldens/run.jsonl', ignore='lss')", "Did you mean loss?"),
    ],
)
def test_what_cannot_be_compared_fails_in_words(session, golden, call, expected):
    """An empty log, a missing one, a record that is none, a wrong name: the error's text, and no traceback."""
    session.makepyfile(test_golden=f"def test_it(event_log, assert_matches_golden):\n    {call}\n")
    said = failure_of(session.runpytest_inprocess())
    assert expected in said
    assert "Traceback" not in said
    assert "--update-golden" not in said  # it would not help


def test_a_golden_is_not_made_of_nothing(session):
    """`--update-golden` with a log without events fails, and leaves no file."""
    session.makepyfile(
        "def test_it(event_log, assert_matches_golden):\n    assert_matches_golden(event_log, 'g.jsonl')"
    )
    assert "expected events for a golden" in failure_of(session.runpytest_inprocess("--update-golden"))
    assert not (session.path / "g.jsonl").exists()


def test_in_workers_of_xdist(session):
    """The option reaches the workers, and the goldens that they write are named at the end."""
    session.makepyfile(test_golden=HOLDS.replace('"goldens/run.jsonl"', '"goldens/1.jsonl"'), test_more=HOLDS)
    update = session.runpytest_subprocess("-n", "2", "--update-golden")
    update.assert_outcomes(passed=2)
    goldens = session.path / "goldens"
    update.stdout.fnmatch_lines([f"golden written: {goldens / '1.jsonl'}", f"golden written: {goldens / 'run.jsonl'}"])
    session.runpytest_subprocess("-n", "2").assert_outcomes(passed=2)
