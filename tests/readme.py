"""The README and the pages of `docs/`, the commands on them, and functions to run the commands."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from higgs_audio_trainer.cli import main

ROOT = Path(__file__).parent.parent
#: A line on stderr about a phase that took over a second, which any phase does on a busy machine.
PHASE_LINE = re.compile(r"[a-z ]+( \.\.\.|: done in \d+ s)")
#: Text of the README and of each page, by the path from the root.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
README = PAGES["README.md"]


def commands(text):
    """Find the commands in the blocks of a text. A command with an open quote continues on the next line."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        begun = ""
        for line in block.splitlines():
            begun += line
            try:
                shlex.split(begun)
            except ValueError:
                begun += "\n"
            else:
                found.append(begun)
                begun = ""
        assert not begun
    return found


def section(page, title):
    """Return the text of a section of a page."""
    text = PAGES[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, (page, title)
    return text


def shell(command, cwd, **environment):
    """Run a command as a user's shell does, with the console script and the tools of this environment."""
    done = finished(command, cwd, **environment)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def finished(command, cwd, **environment):
    """Run a command as a user's shell does, to whatever end."""
    python = shlex.quote(sys.executable)
    command = command.replace("higgs-audio-trainer ", f"{python} -m higgs_audio_trainer ")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def call(command, cwd):
    """Run a command of this package in this process, which has already imported torch.

    Other tests show that a process can start with such a command line.
    """
    name, *arguments = shlex.split(command)
    assert name == "higgs-audio-trainer"
    with chdir(cwd):
        assert main(arguments) == 0, command
