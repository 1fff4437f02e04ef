"""Help of every command: one screen, an example, a fast start."""

import os
import subprocess
import sys

import pytest

from higgs_audio_trainer.cli import COMMANDS

SCREEN = (24, 80)  # lines, columns
#: Commands with exit status 1 for findings.
WITH_FINDINGS = ("diff", "validate", "diagnose")

PROGRAM = """
import sys
from higgs_audio_trainer.cli import main
try:
    sys.exit(main())
finally:
    print(*sorted({"torch", "transformers", "numpy"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def helps():
    """Print the help of each command at 80 columns. Return the text and the heavy imports."""
    environment = os.environ | {"COLUMNS": "80"}
    return {
        name: subprocess.run(
            [sys.executable, "-c", PROGRAM, name, "--help"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        for name in COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_fits_a_screen(helps, command):
    """The help fits a terminal of the usual size."""
    lines, columns = SCREEN
    shown = helps[command].stdout.splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns


@pytest.mark.parametrize("command", COMMANDS)
def test_has_an_example_that_names_the_command(helps, command):
    """The help has an example to copy."""
    (example,) = (line for line in helps[command].stdout.splitlines() if line.startswith("example:"))
    program = "higgs_audio_trainer" if command == "train" else f"higgs-audio-trainer {command} "
    assert program in example


@pytest.mark.parametrize("command", COMMANDS)
def test_exits_with_0_and_imports_nothing_heavy(helps, command):
    """The help imports neither torch nor transformers nor numpy."""
    assert (helps[command].returncode, helps[command].stderr.strip()) == (0, "")


@pytest.mark.parametrize("command", WITH_FINDINGS)
def test_names_its_exit_codes(helps, command):
    """The help of a command with findings explains its exit codes."""
    text = " ".join(helps[command].stdout.lower().split())
    assert all(code in text.partition("exit")[2] for code in ("0", "1", "2"))


def test_the_overview_lists_every_command():
    """The overview lists each command with its description."""
    overview = [sys.executable, "-m", "higgs_audio_trainer", "--help"]
    shown = subprocess.run(overview, capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(f"\n  {name:<12}  {text}\n" in shown for name, text in COMMANDS.items())
    assert max(map(len, shown.splitlines())) <= SCREEN[1]
