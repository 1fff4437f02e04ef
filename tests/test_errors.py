"""Messages of the errors that a user can fix."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from higgs_audio_trainer.errors import InputProblem, ManifestError


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (1, "1 problem. Fix it, or pass --skip_bad_samples to train without this line."),
        (2, "2 problems. Fix them, or pass --skip_bad_samples to train without these lines."),
    ],
)
def test_manifest_error_lists_every_problem(count, advice):
    """The error lists all problems of a manifest, each with a line number, and ends with the advice."""
    problems = [InputProblem(f"m.jsonl:{line}", "audio", "a file", "nothing") for line in range(1, count + 1)]
    error = ManifestError(problems)
    *lines, last = str(error).splitlines()
    assert error.problems == tuple(problems)
    assert lines == [f"m.jsonl:{line}: audio: expected a file, got nothing" for line in range(1, count + 1)]
    assert last == advice


COMMAND = f"{shlex.quote(sys.executable)} -m higgs_audio_trainer"
LOG = shlex.quote(str(Path(__file__).parent / "fixtures" / "logs" / "trust"))


def run_in_shell(arguments, **environment):
    """Run the command with a shell's redirections."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{COMMAND} {arguments}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["schema", f"merge {LOG}", "--help", "merge --help", f"show {LOG}"])
def test_a_full_device(arguments, unbuffered):
    """The command prints one line and returns the exit status of bad input, with or without Python's buffering."""
    done = run_in_shell(f"{arguments} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    said = "higgs-audio-trainer: stdout: No space left on device."
    assert done.stderr == f"{said} Write the output to another place\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("validate - <&-", 1), (f"merge {LOG} >&-", 0), ("schema >&-", 0), ("schema <&- >&- 2>&-", 0)],
)
def test_closed_standard_streams(arguments, status):
    """Closed standard streams are no error, although nothing can be read or written."""
    done = run_in_shell(arguments)
    assert (done.returncode, done.stderr) == (status, "")


def test_merge_of_a_closed_standard_input():
    """A closed standard input holds no log."""
    done = run_in_shell("merge - <&-")
    said = "higgs-audio-trainer: -: expected a log, got no line that holds an event. Name a run's folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_text_that_the_encoding_of_stdout_lacks(tmp_path):
    """It is escaped."""
    path = tmp_path / "\N{SNOWMAN}.jsonl"
    path.write_text("")
    done = run_in_shell(f"validate {shlex.quote(str(path))}", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "\\u2603.jsonl: 1 finding" in done.stdout
