"""`validate` as a process: text, JSON, exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from higgs_audio_trainer.cli import main
from tests.builders import checkpoint, run_end, run_start
from tests.test_reader import dump, file_of
from tests.test_validate import a_run


def run_of(tmp_path, monkeypatch, *events):
    """Write a run and change to its folder, for short file names in messages."""
    monkeypatch.chdir(tmp_path)
    Path("events").mkdir()
    records = a_run(*events)
    file_of("events").write_bytes(dump(records))
    return records


def test_a_clean_log(tmp_path, monkeypatch, capsys):
    """A clean log prints one line with exit status 0."""
    run_of(tmp_path, monkeypatch)
    assert main(["validate", "."]) == 0
    assert capsys.readouterr() == (".: clean: 6 events, 1 rank, 1 attempt, seq without gaps\n", "")


def test_findings_as_text(tmp_path, monkeypatch, capsys):
    """Each finding is a line with escaped data, followed by a summary. The exit status is 1."""
    records = run_of(tmp_path, monkeypatch)
    records[2]["split"] = "\x1b[2J"
    del records[4]
    file_of("events").write_bytes(dump(records))
    assert main(["validate", "."]) == 1
    place = "events/rank00000-attempt000.jsonl"
    size = [sum(len(line) for line in dump(records).splitlines(keepends=True)[:count]) for count in (2, 4)]
    assert capsys.readouterr().out == (
        f"{place}:3 (byte {size[0]}): $.split: expected train or eval or probe, got '\\x1b[2J'\n"
        f"{place}:5 (byte {size[1]}): $.seq: expected seq 4, got none, and no event explains the gap\n"
        ".: 2 findings: 4 events, 1 rank, 1 attempt\n"
    )


def test_notes_leave_the_exit_status_alone(tmp_path, monkeypatch, capsys):
    """Notes are marked and keep exit status 0."""
    records = run_of(tmp_path, monkeypatch)
    records[4]["novel"] = 1
    file_of("events").write_bytes(dump(records))
    assert main(["validate", "."]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("note: events/rank00000-attempt000.jsonl:5 (byte ")
    assert last == ".: clean and 1 note: 6 events, 1 rank, 1 attempt, seq without gaps"


def test_many_findings_are_counted(tmp_path, monkeypatch, capsys):
    """100 findings are printed, then the counts by kind."""
    run_of(tmp_path, monkeypatch, run_start(), *[checkpoint(step=-1)] * 150, run_end(events_written=151))
    assert main(["validate", "."]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 102
    assert lines[-2:] == [
        "150 errors, of which 100 are shown. By kind: 150 schema",
        ".: 150 findings: 152 events, 1 rank, 1 attempt",
    ]


def test_json(tmp_path, monkeypatch, capsys):
    """The JSON report has counts and findings."""
    records = run_of(tmp_path, monkeypatch)
    file_of("events").write_bytes(dump(records[:-1]))
    assert main(["validate", ".", "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (finding,) = report.pop("findings")
    assert report == {
        "clean": False,
        "events": 5,
        "ranks": [0],
        "attempts": [0],
        "errors": 1,
        "notes": 0,
        "kinds": {"run_end": 1},
    }
    assert finding.pop("where").startswith("events/rank00000-attempt000.jsonl:5 (byte ")
    assert finding == {
        "path": "$.event",
        "expected": "run_end as the last line",
        "got": "checkpoint: the process was killed, or is still running",
        "kind": "run_end",
        "severity": "error",
    }


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_name_that_is_no_text(output, tmp_path, capsys):
    """Bytes of a file name that are not UTF-8 are escaped."""
    path = os.fsencode(tmp_path) + b"/a\xff.jsonl"
    Path(os.fsdecode(path)).write_bytes(b"[]\n")
    assert main(["validate", os.fsdecode(path), "--format", output]) == 1
    assert "a\\udcff.jsonl" in capsys.readouterr().out.replace("\\\\", "\\")


def command(*arguments, encoding="utf-8", **settings):
    """Run a command as a process."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.Popen(
        [sys.executable, "-m", "higgs_audio_trainer", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **settings,
    )


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_terminal_that_lacks_a_script(output, tmp_path):
    """Characters outside the terminal's encoding are escaped."""
    folder = tmp_path / "سجل"
    folder.mkdir()
    file_of(folder).write_bytes(b"[]\n")
    with command("validate", folder, "--format", output, encoding="ascii") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (1, b"")
    assert rb"\u0633\u062c\u0644" in out


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_reader_that_goes_away_leaves_the_status(output, tmp_path):
    """A closed pipe like `| head -1` keeps exit status 1."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"[]\n" * 3000)
    with command("validate", path, "--format", output) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_what_cannot_be_read(tmp_path, capsys):
    """A missing log or a missing path is exit status 2 with a message."""
    assert main(["validate", str(tmp_path / "none")]) == 2
    assert "none: No such file or directory. Name a file or a folder of logs." in capsys.readouterr().err
    assert main(["validate"]) == 2


def test_help_fits_a_screen(capsys):
    """The help fits 24 lines of 80 columns and has an example."""
    for command in ("validate", "merge"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
        assert any(line.startswith("example: ") for line in lines)


def test_merged_to_standard_input(tmp_path):
    """The output of `merge` for a clean log is clean."""
    file_of(tmp_path).write_bytes(dump(a_run()))
    command = [sys.executable, "-m", "higgs_audio_trainer"]
    merged = subprocess.run([*command, "merge", str(tmp_path)], capture_output=True, check=True).stdout
    done = subprocess.run([*command, "validate", "-"], input=merged, capture_output=True, check=True)
    assert done.stdout == b"-: clean: 6 events, 1 rank, 1 attempt, seq without gaps\n"
