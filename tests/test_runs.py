"""Runs of a log are told apart by `run_id`, whatever the files are called, and are never joined."""

import gzip
import io
import json
import sys

import pytest

import higgs_audio_trainer
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.logs.diff.compare import diff
from higgs_audio_trainer.logs.follow import Follower
from higgs_audio_trainer.logs.logged_runs import runs_in
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.runs import selected
from tests.builders import diagnosis, run_end, run_start, train_step
from tests.test_reader import dump, file_of, loaded, records_of, write
from tests.test_validate import a_run

OLD, NEW = "aa11", "ab22"


def run_of(run_id, steps, day, *, attempt=0, resumed=None):
    """Return the records of a run that began on a day and made one logged step after the other."""
    events = [run_start(resumed_from_step=resumed, num_codebooks=2), *(train_step(step=step) for step in steps)]
    records = records_of([*events, run_end(step=steps[-1])], attempt=attempt)
    for seq, record in enumerate(records):
        record |= {"run_id": run_id, "ts": f"2026-01-{day:02}T00:00:{seq:02}.000000Z", "attempt": attempt}
    records[-1]["events_written"] = len(records) - 1
    return records


@pytest.fixture
def folder(tmp_path):
    """Make a folder with two trainings, as a logger makes that begins anew in the same folder."""
    write(tmp_path, run_of(OLD, [1, 2, 3], 1), attempt=0)
    write(tmp_path, run_of(NEW, [1, 2], 2, attempt=1), attempt=1)
    return tmp_path


@pytest.fixture
def file(tmp_path):
    """Make a file with two logs, as `cat` writes."""
    path = tmp_path / "two.jsonl"
    path.write_bytes(dump(run_of(NEW, [1, 2], 2)) + dump(run_of(OLD, [1, 2, 3], 1)))
    return path


def shown(capsys, *arguments):
    """Run a command and return the exit status, standard output and standard error."""
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def steps_of(log, run=None):
    """Return run and step of each logged step that is read, and the messages."""
    said = []
    lines = read_lines(log, run=run, on_notice=said.append)
    return [(line.record["run_id"], line.record["step"]) for line in lines if "loss" in line.record], said


@pytest.mark.parametrize("log", ["folder", "file"])
def test_the_latest_run_is_read_and_the_others_are_named(log, request):
    """Of two runs, the run that began last is read, and one line names both."""
    steps, said = steps_of(request.getfixturevalue(log))
    assert steps == [(NEW, 1), (NEW, 2)]
    (text,) = said
    assert "2 runs: " in text
    assert f"{OLD} (begun 2026-01-01 00:00:00)" in text
    assert f"This is {NEW}, the latest; --run ID chooses another" in text


@pytest.mark.parametrize("log", ["folder", "file"])
@pytest.mark.parametrize(("run", "steps"), [(OLD, 3), ("aa", 3), ("ab", 2)])
def test_a_run_is_chosen_by_the_beginning_of_its_id(log, run, steps, request):
    """The beginning of an id is enough, and a choice needs no message."""
    read, said = steps_of(request.getfixturevalue(log), run)
    assert len(read) == steps
    assert said == []


@pytest.mark.parametrize(("run", "message"), [("a", "begins aa11, ab22"), ("x", "(aa11, ab22)")])
def test_a_beginning_of_no_run_or_several_runs_is_refused(run, message, folder):
    """The error lists the runs to choose from."""
    with pytest.raises(UserError) as refused:
        steps_of(folder, run)
    assert message in str(refused.value)
    assert repr(run) in str(refused.value)


def test_interleaved_runs_are_read_apart(tmp_path):
    """Lines that two processes wrote in turn belong to their runs."""
    path = tmp_path / "both.jsonl"
    pairs = zip(run_of(OLD, [1, 2], 1), run_of(NEW, [1, 2], 2), strict=True)
    path.write_bytes(dump([record for pair in pairs for record in pair]))
    assert steps_of(path)[0] == [(NEW, 1), (NEW, 2)]
    assert steps_of(path, OLD)[0] == [(OLD, 1), (OLD, 2)]


def test_a_run_without_run_start_counts_from_its_first_event(tmp_path):
    """A run whose `run_start` is lost is a run, and is as old as its first event."""
    path = tmp_path / "cut.jsonl"
    path.write_bytes(dump(run_of(OLD, [1, 2], 1)) + dump(run_of(NEW, [1, 2], 2)[1:]))
    assert steps_of(path)[0] == [(NEW, 1), (NEW, 2)]


def test_many_lines_of_two_runs(tmp_path, monkeypatch):
    """Blocks of one run are counted, not parsed; a line of another run is found in any place."""
    monkeypatch.setattr("higgs_audio_trainer.logs.logged_runs._BLOCK_BYTES", 3_000)
    old, new = run_of(OLD, range(1, 60), 1), run_of(NEW, [7], 2)
    for place in (1, 30, len(old)):
        path = tmp_path / f"{place}.jsonl"
        path.write_bytes(dump(old[:place]) + dump(new) + dump(old[place:]))
        assert steps_of(path)[0] == [(NEW, 7)]
        assert len(steps_of(path, OLD)[0]) == 59
        assert {run.run_id for log in selected([path], OLD) for run in runs_in(log.files)} == {OLD, NEW}


def test_attempts_of_one_run_are_one_run(tmp_path):
    """A resumed run reads the same from its folder, from a file of all its lines, and in any order of attempts."""
    first, second = run_of(OLD, [1, 2, 3, 4], 1), run_of(OLD, [3, 4, 5], 2, attempt=1, resumed=2)
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", first, attempt=0)
    write(tmp_path / "run", second, attempt=1)
    expected = [line.record for line in read_lines(tmp_path / "run")]
    assert sum(record["event"] == "train_step" for record in expected) == 5
    for name, records in (("cat", first + second), ("reversed", second + first)):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(dump(records))
        read = [line.record for line in read_lines(path)]
        assert sorted(read, key=str) == sorted(expected, key=str)
        assert len(list(read_lines(path, all_attempts=True))) == len(records)


def test_lines_without_a_run_id_are_no_part_of_a_run(tmp_path):
    """A golden beside a run is left out, and is chosen as `none`."""
    path = tmp_path / "both.jsonl"
    run = loaded(run_of(OLD, [1], 1))
    golden = [{name: value for name, value in record.items() if name not in VOLATILE_FIELDS} for record in run]
    path.write_bytes(dump(golden) + dump(run))
    assert [line.record for line in read_lines(path, on_notice=list)] == run
    assert [line.record for line in read_lines(path, run="none")] == golden


def test_a_stray_line_without_a_run_id_is_read_with_any_run(tmp_path):
    """A line that someone added by hand has no id, and costs the run no message."""
    path, run = tmp_path / "run.jsonl", run_of(OLD, [1], 1)
    stray = {"event": "remark", "v": 1, "rank": 0, "level": "info"}
    for place in range(len(run) + 1):
        path.write_bytes(dump([*run[:place], stray, *run[place:]]))
        for wanted in (None, OLD):
            assert len([*read_lines(path, run=wanted, on_notice=pytest.fail)]) == len(run) + 1


def test_the_api_warns(folder):
    """The Python functions say by a warning that a log has several runs, and take the id."""
    for function in (higgs_audio_trainer.read, higgs_audio_trainer.diagnose):
        with pytest.warns(UserWarning, match="2 runs"):
            function(folder)
        function(folder, run=OLD)
    assert not diff(folder, folder, run=(OLD, NEW)).same
    assert diff(folder, folder, run=OLD).same
    assert higgs_audio_trainer.validate(folder, run=OLD).errors == 0


def placed(command, folder):
    """Return the arguments of a command, with paths in a folder."""
    places = {"PAGE": folder / "page.html", "OUT": folder / "out", "LOG": folder / "newer.jsonl"}
    return [places.get(argument, argument) for argument in command.split()]


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "show --raw",
        "show --summary",
        "diagnose",
        "validate",
        "merge",
        "report -o PAGE",
        "export --to parquet -o OUT",
        "export --to tensorboard -o OUT",
    ],
)
@pytest.mark.parametrize("log", ["folder", "file"])
def test_every_command_says_which_run(command, log, request, tmp_path, capsys):
    """Every command that reads a log names the runs of the log, and takes `--run`."""
    name, *flags = placed(command, tmp_path)
    path = request.getfixturevalue(log)
    status, _, said = shown(capsys, name, path, *flags)
    assert status in (0, 1)
    (line,) = (line for line in said.splitlines() if "2 runs" in line)
    assert OLD in line
    assert NEW in line
    assert "--run ID" in line
    status, _, said = shown(capsys, name, path, *flags, "--run", OLD)
    assert status in (0, 1)
    assert "2 runs" not in said
    status, out, said = shown(capsys, name, path, *flags, "--run", "a")
    assert (status, out) == (2, "")
    assert "which begins" in said


def test_two_runs_of_one_folder_are_compared(folder, tmp_path, capsys):
    """`diff` and `report` take a run for each of the two logs."""
    status, out, _ = shown(capsys, "diff", folder, folder, "--run", OLD, "--run", NEW)
    assert (status, "train_step" in out) == (1, True)
    assert shown(capsys, "diff", folder, folder, "--run", OLD)[0] == 0
    page = tmp_path / "page.html"
    assert shown(capsys, "report", folder, folder, "--run", OLD, "--run", NEW, "-o", page)[0] == 0
    assert OLD in page.read_text()
    assert NEW in page.read_text()
    assert shown(capsys, "report", folder, "--run", OLD, "--run", NEW, "-o", page)[0] == 2


def test_a_run_is_compared_with_the_log_that_lacks_it(file, tmp_path, capsys):
    """One `--run` counts for the log that has the run; a golden has no id."""
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", run_of("c3", [1, 2, 3], 5))
    for order in ([file, tmp_path / "b"], [tmp_path / "b", file]):
        assert shown(capsys, "diff", *order, "--run", OLD)[0] == 0
    assert shown(capsys, "diff", *order, "--run", "x")[0] == 2
    golden = tmp_path / "golden.jsonl"
    assert shown(capsys, "diff", golden, file, "--bless", "--run", OLD)[0] == 0
    assert shown(capsys, "diff", golden, file, "--run", OLD)[0] == 0
    assert shown(capsys, "diff", golden, file, "--run", NEW)[0] == 1


def test_standard_input_shows_its_first_run(file, capsys, monkeypatch):
    """Standard input is read once, so the first run is shown, and the next run is named as it is met."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    status, out, said = shown(capsys, "show", "-", "--raw")
    assert {json.loads(line)["run_id"] for line in out.splitlines()} == {NEW}
    assert (status, said) == (
        0,
        f"standard input: another run, {OLD}, is left out. --run ID chooses a run; this is {NEW}\n",
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    _, out, said = shown(capsys, "show", "-", "--raw", "--run", "aa")
    assert ({json.loads(line)["run_id"] for line in out.splitlines()}, said) == ({OLD}, "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    status, out, said = shown(capsys, "show", "-", "--raw", "--run", "x")
    assert (status, out) == (2, "")
    assert "--run: expected the id of a run of standard input or its beginning" in said


@pytest.mark.parametrize("name", ["two.jsonl", "-"])
def test_parquet_keeps_every_id(name, file, tmp_path, capsys, monkeypatch):
    """Every row of every run has the id of its run."""
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    log = file if name != "-" else name
    status, out, _ = shown(capsys, "export", log, "--to", "parquet", "-o", tmp_path / "out")
    assert status == 0
    assert f"runs {NEW}, {OLD}: 9 events exported" in out
    for run, steps in ((OLD, [1, 2, 3]), (NEW, [1, 2])):
        for event, count in (("run_start", 1), ("train_step", len(steps)), ("run_end", 1)):
            table = pq.read_table(tmp_path / f"out/event={event}/rank=0/{run}.parquet")
            assert table["run_id"].to_pylist() == [run] * count
        assert pq.read_table(tmp_path / f"out/event=train_step/rank=0/{run}.parquet")["step"].to_pylist() == steps


def test_merge_writes_every_line_of_every_run(folder, file, capsys):
    """The runs of a folder are written one after the other; a file keeps its order. `--run` writes one run."""
    old, new = dump(run_of(OLD, [1, 2, 3], 1)).decode(), dump(run_of(NEW, [1, 2], 2, attempt=1)).decode()
    assert shown(capsys, "merge", folder)[1] == old + new
    assert shown(capsys, "merge", folder, "--run", "ab")[1] == new
    assert shown(capsys, "merge", file)[1] == file.read_text()


@pytest.mark.parametrize("log", ["folder", "file"])
def test_each_run_is_validated_for_itself(log, request, capsys):
    """Two whole runs are clean. A fault of one of them is found, also without a choice of the run."""
    path = request.getfixturevalue(log)
    status, out, _ = shown(capsys, "validate", path)
    assert (status, "clean" in out) == (0, True)
    damaged = path if path.is_file() else file_of(path, attempt=0)
    lines = damaged.read_bytes().splitlines(keepends=True)
    damaged.write_bytes(b"".join(line for line in lines if not (OLD.encode() in line and b'"step":2' in line)))
    status, out, _ = shown(capsys, "validate", path)
    assert (status, "$.seq: expected seq 2, got none" in out) == (1, True)
    assert shown(capsys, "validate", path, "--run", NEW)[0] == 0
    assert shown(capsys, "validate", path, "--run", OLD)[0] == 1


def test_a_new_run_is_followed(folder):
    """The latest run is followed, and a run that begins later takes its place with a word."""
    said = []
    follower = Follower(folder, all_attempts=False, on_problem=pytest.fail, on_notice=said.append)
    assert {line.record["run_id"] for line in follower.lines()} == {NEW}
    assert "2 runs" in said.pop()
    write(folder, run_of("ac33", [1], 3, attempt=2), attempt=2)
    assert {line.record["run_id"] for line in follower.lines()} == {"ac33"}
    assert "another run began, ac33" in said.pop()
    chosen = Follower(folder, run=OLD, all_attempts=False, on_problem=pytest.fail, on_notice=said.append)
    assert {line.record["run_id"] for line in chosen.lines()} == {OLD}
    later = Follower(folder, run="zz", all_attempts=False, on_problem=pytest.fail, on_notice=said.append)
    assert list(later.lines()) == []
    write(folder, run_of("zz99", [1], 4, attempt=3), attempt=3)
    assert {line.record["run_id"] for line in later.lines()} == {"zz99"}
    assert "Waiting for a run zz" in said.pop()


TIMES = {"ts": "2026-01-02T03:04:05.000060Z"}
NEWER = "expected events of version 1, got version 2 of a newer higgs-audio-trainer"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("show", 0),
        ("show --raw", 0),
        ("show --summary", 2),
        ("diagnose", 2),
        ("validate", 1),
        ("merge", 0),
        ("report -o PAGE", 2),
        ("export --to parquet -o OUT", 0),
        ("export --to tensorboard -o OUT", 2),
        ("diff LOG", 0),
    ],
)
@pytest.mark.parametrize("is_mixed", [False, True])
def test_every_command_names_a_newer_version(command, status, is_mixed, tmp_path, capsys):
    """A log of a newer major version is named as that, in one line. Events of this version are read all the same."""
    path = tmp_path / "newer.jsonl"
    records = [record | {"v": 1 if is_mixed and record["event"] == "train_step" else 2} for record in a_run()]
    path.write_bytes(dump(records))
    name, *flags = placed(command, tmp_path)
    got, out, said = shown(capsys, name, path, *flags)
    assert got == status or (is_mixed and status == 2 and got in (0, 1))
    if name == "validate":
        assert out.count("got 2 of a newer higgs-audio-trainer") == 1
    else:
        assert said.count(NEWER) == (2 if name == "diff" else 1)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_skipped(pack, tmp_path, capsys):
    """An editor's byte order mark costs no line, compressed or not, and `cat` may leave it within the file."""
    mark, plain, marked = "\ufeff".encode(), tmp_path / "plain.jsonl", tmp_path / "marked.jsonl"
    plain.write_bytes(dump(a_run()))
    start, *rest = dump(a_run()).splitlines(keepends=True)
    marked.write_bytes(pack(mark + start + mark + b"".join(rest)))
    assert shown(capsys, "diff", plain, marked)[0] == 0
    assert shown(capsys, "validate", marked)[0] == 0
    assert shown(capsys, "merge", marked)[1].encode() == plain.read_bytes()
    follower = Follower(marked, all_attempts=False, on_problem=pytest.fail)
    assert len(list(follower.lines())) == len(a_run())
    marked.write_bytes(pack(mark))
    assert shown(capsys, "merge", marked)[0] == 2


def test_merge_of_no_log_is_refused(tmp_path, capsys, monkeypatch):
    """A missing path, an empty folder, a file without an event and an empty standard input are refused."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "text.jsonl").write_text("no event\n")
    for name in ("missing", "empty", "empty.jsonl", "text.jsonl"):
        assert shown(capsys, "merge", tmp_path / name)[:2] == (2, "")
    status, out, said = shown(capsys, "merge", "-")
    assert (status, out) == (2, "")
    assert said == "higgs-audio-trainer: -: expected a log, got no line that holds an event. Name a run's folder\n"


def test_utf_16_is_named(tmp_path, capsys):
    """A log that PowerShell wrote in UTF-16 is named as that."""
    path = tmp_path / "wide.jsonl"
    path.write_bytes(dump(a_run()).decode().encode("utf-16"))
    status, _, said = shown(capsys, "show", path)
    assert (status, "expected a JSON object in UTF-8, got UTF-16 text. Save the log as UTF-8" in said) == (2, True)


def test_a_damaged_id_is_no_run(tmp_path):
    """A line whose `run_id` is no text is invalid, and is reported with any run."""
    path, problems = tmp_path / "odd.jsonl", []
    path.write_bytes(dump(run_of(OLD, [1], 1)) + dump([record | {"run_id": [1]} for record in run_of(NEW, [1], 2)]))
    lines = list(read_lines(path, on_problem=problems.append, on_notice=pytest.fail))
    assert {line.record["run_id"] for line in lines} == {OLD}
    assert [problem.field for problem in problems] == ["$.run_id"] * 3


def test_figures_of_a_resumed_run_cover_all_attempts(tmp_path, capsys):
    """Summary and report add up the `run_end` of the attempts, and name attempts without a `run_end`."""
    first, second = run_of(OLD, [1, 2, 3], 1), run_of(OLD, [4, 5], 2, attempt=1, resumed=3)
    first[-1] |= {"events_lost": 2, "logging_ms_total": 100.0, "reason": "SIGTERM"}
    second[-1] |= {"events_lost": 1, "logging_ms_total": 40.0}
    page = tmp_path / "page.html"
    write(tmp_path, first, attempt=0)
    write(tmp_path, second, attempt=1)
    _, out, _ = shown(capsys, "show", "--summary", tmp_path)
    assert "140 ms in all; 3 events lost in 2 attempts" in out
    assert shown(capsys, "report", tmp_path, "-o", page)[0] == 0
    text = page.read_text()
    assert "140 ms in the whole run in 2 attempts" in text
    assert "2026-01-01 00:00:00 UTC" in text
    assert "The log has 9 events" in text
    write(tmp_path, first[:-1], attempt=0)
    _, out, _ = shown(capsys, "show", "--summary", tmp_path)
    assert " ".join(out.split()).count("in 1 of 2 attempts, without those that were killed or still run") == 1


def test_diagnoses_of_all_attempts_are_counted(tmp_path, capsys):
    """A problem counts with the numbers of every `run_end`, and with the events of an attempt without a `run_end`."""
    for attempt, count, resumed in ((0, 5, None), (1, 3, 20), (2, None, 40)):
        events = [run_start(resumed_from_step=resumed), diagnosis(step=20 * attempt + 10)]
        end = [] if count is None else [run_end(diagnoses={diagnosis().code: count})]
        write(
            tmp_path, records_of([*events, train_step(step=20 * attempt + 20), *end], attempt=attempt), attempt=attempt
        )
    assert f"{diagnosis().code}" in shown(capsys, "show", "--summary", tmp_path)[1]
    assert "9 times" in shown(capsys, "show", "--summary", tmp_path)[1]


def test_a_run_that_failed_at_its_start_is_valid(tmp_path, capsys):
    """A resumed run may end at step 0, before its first step. A `run_end` that is lost then is a note."""
    start, end = records_of([run_start(resumed_from_step=10), run_end(step=0, reason="error", events_written=1)])
    file_of(tmp_path).write_bytes(dump(loaded([start | TIMES, end | TIMES])))
    assert shown(capsys, "validate", tmp_path)[0] == 0
    file_of(tmp_path).write_bytes(dump(loaded([start | TIMES])))
    status, out, _ = shown(capsys, "validate", tmp_path)
    assert (status, "note: " in out, "the run failed at its start, was killed, or is still running" in out) == (
        0,
        True,
        True,
    )
