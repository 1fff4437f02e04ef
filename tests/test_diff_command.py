"""`diff A B` as a process: output and exit status."""

import gzip
import os
import random
import subprocess
import sys
import threading

import orjson
import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.diff import sorter
from tests.builders import audio_sample, record_of, run_end, run_start, text_sample, train_step

EVENTS = [
    run_start(),
    *(make(step=step) for step in (1, 2, 3) for make in (train_step, text_sample, audio_sample)),
    run_end(step=3),
]


def lines_of(events):
    """Encode events as the lines of a log."""
    return [orjson.dumps(record_of(event) | {"seq": seq}) + b"\n" for seq, event in enumerate(events)]


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Write two logs. Log b has another loss at step 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    other = [*EVENTS]
    other[4] = train_step(step=2, loss=9.0)
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines_of(EVENTS)))
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines_of(other)))
    return tmp_path


def ended(*arguments):
    """Run the command and return the exit status."""
    return main(["diff", *map(str, arguments)])


def test_exit_status(logs, capsys):
    """The exit status is 0 for equal logs, 1 for a difference, 2 without a comparison."""
    (logs / "empty.jsonl").write_bytes(b"")
    assert ended("a.jsonl", "a.jsonl") == 0
    assert capsys.readouterr().out.endswith("Same: 11 events agree (floats within tolerance).\n")
    assert ended("a.jsonl", "b.jsonl") == 1
    assert "First divergence: step 2, train_step" in capsys.readouterr().out
    assert ended("a.jsonl", "empty.jsonl") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "expected events in both logs" in output.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a.jsonl",), "B"),
        (("a.jsonl", "none.jsonl"), "none.jsonl"),
        (("none.jsonl", "a.jsonl"), "--bless writes B to the file"),
        (("-", "-"), "standard input (-) twice"),
        (("a.jsonl", "b.jsonl", "--rtol", "loss=much"), "expected a number"),
        (("a.jsonl", "b.jsonl", "--rtol", "los=1"), "Did you mean loss?"),
        (("a.jsonl", "b.jsonl", "--ignore", "grad_nrom"), "Did you mean grad_norm?"),
        (("a.jsonl", "b.jsonl", "--format", "html"), "text"),
        (("a.jsonl", "b.jsonl", "--bless", "--only", "loss"), "Remove the flag"),
        (("new.jsonl", "a.jsonl", "--bless", "--exact"), "expected no --exact, because nothing is compared"),
        (("new.jsonl", "a.jsonl", "--bless", "--rtol", "1"), "expected no --rtol,"),
        (("new.jsonl", "a.jsonl", "--bless", "--atol", "1"), "expected no --atol,"),
        (("new.jsonl", "a.jsonl", "--bless", "--format", "text"), "expected no --format,"),
        (("b.jsonl", "a.jsonl", "--bless"), "expected a golden or no file, got a log"),
        ((".", "a.jsonl"), "rank00000-attempt000.jsonl"),
    ],
)
def test_bad_input_is_reported_in_a_line(logs, capsys, arguments, says):
    """Bad input is reported on stderr without a traceback."""
    assert ended(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert says in output.err
    assert "Traceback" not in output.err


def test_tolerances_and_names_are_taken_in_every_spelling(logs):
    """Tolerances and names may be global, by field, repeated or in a list."""
    for flags in (
        ["--rtol", "2"],
        ["--rtol=loss=2"],
        ["--atol", "1e-9", "--atol", "loss=5"],
        ["--ignore", "loss"],
        ["--ignore", "config.lr, loss"],
        ["--ignore", "seed", "--ignore", "train_step.loss"],
        ["--only", "prediction_sample"],
        ["--only=grad_norm,text_loss"],
    ):
        assert ended("a.jsonl", "b.jsonl", *flags) == 0, flags
    for flags in (["--rtol", "grad_norm=2"], ["--exact"], ["--only", "loss"]):
        assert ended("a.jsonl", "b.jsonl", *flags) == 1, flags


def test_a_log_in_disorder_is_sorted_on_disk(logs, capsys, monkeypatch):
    """Shuffled lines give the same report by sorting in a temporary file. No file remains."""
    monkeypatch.setenv("TMPDIR", str(logs / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(sorter.Sorter.__init__, "__kwdefaults__", {"chunk_bytes": 2_000})
    (logs / "tmp").mkdir()
    ended("a.jsonl", "b.jsonl")
    expected = capsys.readouterr().out
    for name in ("a.jsonl", "b.jsonl"):
        lines = (logs / name).read_bytes().splitlines(keepends=True)
        random.Random(1).shuffle(lines)
        (logs / name).write_bytes(b"".join(lines))
    assert ended("a.jsonl", "b.jsonl") == 1
    assert capsys.readouterr().out == expected
    assert list((logs / "tmp").iterdir()) == []


def test_streams_are_compared(logs):
    """Standard input, compressed or not, and a named pipe are compared, sorted or not."""
    lines = lines_of(EVENTS)
    command = [sys.executable, "-m", "higgs_audio_trainer", "diff"]
    for data in (b"".join(lines), gzip.compress(b"".join(lines)), b"".join(reversed(lines))):
        done = subprocess.run([*command, "a.jsonl", "-"], input=data, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"B: - (run" in done.stdout
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: (logs / "pipe").write_bytes(b"".join(reversed(lines))))
    writer.start()
    assert ended("pipe", "a.jsonl") == 0
    writer.join()


def test_lines_without_an_event_are_reported_once(logs, capsys):
    """A line without an event is reported once with its position. All other lines are compared."""
    lines = lines_of(EVENTS)
    (logs / "torn.jsonl").write_bytes(b"".join([*reversed(lines), b'{"event"\n', b"\x00\xff\n"]))
    assert ended("a.jsonl", "torn.jsonl") == 0
    output = capsys.readouterr()
    assert output.err.count("torn.jsonl:12 ") == output.err.count("torn.jsonl:13 ") == 1
    assert "2 invalid lines in B; lines with an event name are compared, others skipped." in output.out
    done = subprocess.run(
        [sys.executable, "-m", "higgs_audio_trainer", "diff", "a.jsonl", "-"],
        input=b"".join([*lines, b"junk\n"]),
        capture_output=True,
        check=False,
    )
    assert done.stderr.startswith(b"-:12 (byte ")


def test_lines_that_break_their_schema_are_compared(logs, capsys):
    """Lines that break their schema are compared, reported and counted in every format."""
    misfit = record_of(train_step(step=2)) | {"seq": 99, "loss": "much"}
    for name, record in (("c", misfit), ("d", misfit | {"grad_norm": 9.0}), ("e", misfit | {"loss": "little"})):
        lines = [*lines_of(EVENTS[:-1]), orjson.dumps(record) + b"\n", *lines_of(EVENTS)[-1:], b'{"event": "run_']
        (logs / f"{name}.jsonl").write_bytes(b"".join(lines))
    assert ended("c.jsonl", "c.jsonl") == 0
    assert "c.jsonl:11 (byte" in capsys.readouterr().err
    for other in ("d", "e"):
        assert ended("c.jsonl", f"{other}.jsonl") == 1
        assert "First divergence: step 2, train_step" in capsys.readouterr().out
    for form, says in (
        ("text", "2 invalid lines in A"),
        ("markdown", "2 invalid lines in B"),
        ("json", '"faults": 2'),
        ("junit", '<property name="invalid lines of B" value="2" />'),
        ("github", "::warning title=Invalid lines::2 invalid lines in A"),
    ):
        assert ended("c.jsonl", "c.jsonl", "--format", form) == 0
        assert says in capsys.readouterr().out, form


def test_bless_writes_the_golden_that_then_agrees(logs, capsys):
    """--bless writes golden A from B, and A then equals B. A killed run leaves A unchanged."""
    assert ended("golden.jsonl", "b.jsonl", "--bless") == 0
    assert capsys.readouterr().out == "golden.jsonl: golden of 11 events written\n"
    assert ended("golden.jsonl", "b.jsonl", "--exact") == 0
    assert ended("golden.jsonl", "a.jsonl") == 1
    before = (logs / "golden.jsonl").read_bytes()
    (logs / "killed.jsonl").write_bytes(b"".join(lines_of(EVENTS)[:-1]))
    assert ended("golden.jsonl", "killed.jsonl", "--bless") == 2
    assert "no run_end of rank 0" in capsys.readouterr().err
    assert (logs / "golden.jsonl").read_bytes() == before


def test_github_gets_a_summary_where_it_asks_for_one(logs, capsys, monkeypatch):
    """The Markdown report is appended to the job summary. A write error keeps the exit status."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    (logs / "summary.md").write_text("before\n")
    assert ended("a.jsonl", "b.jsonl", "--format", "github") == 1
    assert (logs / "summary.md").read_text().startswith("before\n### ")
    assert capsys.readouterr().out.startswith("::error title=First divergence%3A step 2")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "none/summary.md")
    assert ended("a.jsonl", "a.jsonl", "--format", "github") == 0
    assert "GITHUB_STEP_SUMMARY" in capsys.readouterr().err


def test_a_folder_without_room_is_reported(logs, capsys, monkeypatch):
    """The error names the folder if standard input cannot be saved."""
    monkeypatch.setattr("tempfile.tempdir", str(logs / "missing"))
    assert ended("a.jsonl", "-") == 2
    assert "missing: No such file or directory. Make room there for a temporary file" in capsys.readouterr().err


def test_the_help_fits_a_screen(capsys):
    """The help fits 24 lines of 80 columns and has an example."""
    with pytest.raises(SystemExit):
        main(["diff", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("example:" in line for line in lines)


def test_a_closed_pipe_keeps_the_verdict(logs):
    """`diff a b | head -1` ends with 1 for different logs."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "higgs_audio_trainer", "diff", "a.jsonl", "b.jsonl", "--format", "json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
