"""Tests of `report --follow`: a page that is written again while a run writes its log, until the run ends or Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest

from higgs_audio_trainer.cli import followed_report, main
from tests.builders import record_of, run_end, run_start, train_step

REFRESH = '<meta http-equiv="refresh" content="10">'
START, END = run_start(total_steps=3), run_end(step=3)


def lines_of(*events, first=0):
    """Return the lines of events."""
    return b"".join(
        orjson.dumps(record_of(event) | {"seq": seq}) + b"\n" for seq, event in enumerate(events, start=first)
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the output directory of a run that has not written its log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "events").mkdir(parents=True)
    return tmp_path / "run"


@pytest.fixture
def rounds(monkeypatch, run):
    """Return a list of functions that each run in the place of a pause, and the pages before each pause."""
    steps, pages = [], []

    def pause(_seconds):
        page = Path("page.html")
        pages.append(page.read_text("utf-8") if page.exists() else None)
        steps.pop(0)()

    monkeypatch.setattr(followed_report.time, "sleep", pause)
    return steps, pages


def appending(run, *events, first=0):
    """Return a function that appends events to the log of a run."""

    def append():
        with (run / "events" / "rank00000-attempt000.jsonl").open("ab") as file:
            file.write(lines_of(*events, first=first))

    return append


def test_the_page_grows_with_the_run_and_ends_with_it(run, rounds, capsys):
    """The page waits for the log, is written for new events alone, and loads itself until the run has ended."""
    steps, pages = rounds
    stamps = []
    steps += [
        appending(run, START, train_step(step=1)),
        lambda: stamps.append(Path("page.html").stat().st_ino),
        lambda: stamps.append(Path("page.html").stat().st_ino),
        appending(run, train_step(step=2), first=2),
        appending(run, train_step(step=3), END, first=3),
    ]
    assert main(["report", "run", "--follow", "-o", "page.html"]) == 0
    assert steps == []
    assert stamps[0] == stamps[1]  # nothing new, nothing written
    assert pages[0] is None
    assert all(REFRESH in page for page in pages[1:])
    assert "The log has 2 events" in pages[1]
    assert "The log has 3 events" in pages[4]
    last = Path("page.html").read_text("utf-8")
    assert "refresh" not in last
    assert "completed at step 3 of 3" in last
    out, err = capsys.readouterr()
    assert err == "waiting for events in run\n"
    assert re.fullmatch(
        r"page.html: [\d.]+ MB, 2 events. Written again while the run continues; Ctrl-C ends this\n"
        r"page.html: [\d.]+ MB, 5 events\n",
        out,
    )
    assert [path.name for path in Path().iterdir() if "page" in path.name] == ["page.html"]


def test_a_run_that_has_ended_is_drawn_once(run, rounds):
    """The page of a finished run does not load itself, and the command ends at once."""
    appending(run, START, train_step(step=1), END)()
    assert main(["report", "run", "-f", "-o", "page.html"]) == 0
    assert rounds[1] == []
    assert "refresh" not in Path("page.html").read_text("utf-8")


def test_a_resumed_run_goes_on(run, rounds):
    """The end of an earlier attempt does not end the page."""
    steps, pages = rounds
    appending(run, START, train_step(step=1), run_end(step=1, reason="SIGTERM"))()
    second = run / "events" / "rank00000-attempt001.jsonl"
    records = [record_of(event) | {"attempt": 1} for event in (run_start(resumed_from_step=1), train_step(step=2))]
    second.write_bytes(b"".join(orjson.dumps(record | {"seq": seq}) + b"\n" for seq, record in enumerate(records)))
    end = orjson.dumps(record_of(END) | {"attempt": 1, "seq": 2}) + b"\n"
    steps.append(lambda: second.write_bytes(second.read_bytes() + end))
    assert main(["report", "run", "-f", "-o", "page.html"]) == 0
    assert len(pages) == 1
    assert REFRESH in pages[0]


def test_ctrl_c_leaves_a_page_that_stays(run):
    """Ctrl-C writes the page once more, without the reload, and ends with 0."""
    appending(run, START, train_step(step=1))()
    command = [sys.executable, "-m", "higgs_audio_trainer", "report", "run", "--follow", "-o", "page.html"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = threading.Timer(60, following.kill)
    limit.start()
    try:
        assert following.stdout.readline().endswith("Ctrl-C ends this\n")
        assert REFRESH in Path("page.html").read_text("utf-8")
        os.kill(following.pid, signal.SIGINT)
        out, err = following.communicate()
    finally:
        limit.cancel()
    assert (following.returncode, err) == (0, "")
    assert re.fullmatch(r"page.html: [\d.]+ MB, 2 events\n", out)
    assert "refresh" not in Path("page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-"], "--follow: expected a file or folder, got standard input (-). Name the run's folder"),
        (["missing"], "missing: No such file or directory"),
    ],
)
def test_bad_input(run, capsys, arguments, said):
    """Standard input and missing paths are refused before a page is written."""
    assert main(["report", *arguments, "--follow", "-o", "page.html"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("page.html").exists()
