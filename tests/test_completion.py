"""Completion scripts in real shells."""

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from higgs_audio_trainer.cli import COMMANDS, main
from higgs_audio_trainer.cli.completion import parser
from higgs_audio_trainer.config import flags
from higgs_audio_trainer.events import EVENTS

SHELLS = ("bash", "zsh", "fish")
ABSENT = {name for name in SHELLS if shutil.which(name) is None and "CI" not in os.environ}
BASH_FUNCTION = "_shtab_higgs_audio_trainer"


def needs(shell):
    """Skip a test if a shell is missing. In CI a missing shell is a failure."""
    return pytest.mark.skipif(shell in ABSENT, reason=f"{shell} is not installed; CI installs it")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Write the script of each shell to a file."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        command = [sys.executable, "-m", "higgs_audio_trainer", "completion", shell]
        (folder / shell).write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    return {shell: folder / shell for shell in SHELLS}


@pytest.fixture
def folder(tmp_path):
    """Make a folder with a manifest and a subfolder."""
    (tmp_path / "manifest.jsonl").touch()
    (tmp_path / "models").mkdir()
    return tmp_path


def completed_by_bash(script, line, cwd):
    """Return the completions of bash for the last word of a command line."""
    words = line.split(" ")
    program = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        f'{BASH_FUNCTION}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], cwd=cwd, capture_output=True, text=True, check=True, timeout=60)
    return [word for word in done.stdout.split("\n") if word]


def completed_by_fish(script, line, cwd):
    """Return the completions of fish for the last word of a command line, without descriptions."""
    program = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(line)}"
    environment = os.environ | {"HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd), "XDG_DATA_HOME": str(cwd)}
    done = subprocess.run(
        ["fish", "-c", program], cwd=cwd, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return [row.partition("\t")[0] for row in done.stdout.splitlines()]


class Zsh:
    """Interactive zsh in a terminal, with a `higgs-audio-trainer` that prints its arguments."""

    PROMPT = b"READY> "
    PASTE = b"\x1b[?2004h"  # the line editor is ready for a pasted text

    def __init__(self, script, cwd):
        master, slave = pty.openpty()
        self.terminal = master
        self.process = subprocess.Popen(
            ["zsh", "-f", "-i", "+o", "PROMPT_SP"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            start_new_session=True,
            env=os.environ | {"PS1": self.PROMPT.decode(), "TERM": "dumb", "HOME": str(cwd)},
        )
        os.close(slave)
        self.until_prompt()
        self.enter("stty -echo; autoload -U compinit; compinit -u -D")
        self.enter(f'eval "$(cat {shlex.quote(str(script))})"')
        self.enter("higgs-audio-trainer() { print -r -- GIVEN:${(j:|:)@}: }")

    def enter(self, line):
        """Type a line and return the output until the next prompt."""
        os.write(self.terminal, line.encode() + b"\n")
        return self.until_prompt()

    def until_prompt(self):
        shown, end = b"", time.monotonic() + 30
        while not shown.removesuffix(self.PASTE).endswith(self.PROMPT):
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert ready, shown
            shown += os.read(self.terminal, 65536)
        return shown.decode()

    def completed(self, line):
        """Type a line, Tab and Enter, and return the last argument of the command."""
        shown = self.enter(f"{line}\t")
        return shown.rpartition("GIVEN:")[2].partition(":")[0].split("|")[-1]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


UNAMBIGUOUS = [
    ("higgs-audio-trainer sch", "schema"),
    ("higgs-audio-trainer schema pred", "prediction_sample"),
    ("higgs-audio-trainer schema --wr", "--write"),
    ("higgs-audio-trainer train --lora_al", "--lora_alpha"),
    ("higgs-audio-trainer --lora_al", "--lora_alpha"),
    ("higgs-audio-trainer train --gradient_checkpointing --lora_al", "--lora_alpha"),
    ("higgs-audio-trainer train --dtype bf", "bfloat16"),
    ("higgs-audio-trainer train --train_manifest man", "manifest.jsonl"),
    ("higgs-audio-trainer --config man", "manifest.jsonl"),
    ("higgs-audio-trainer tiny m", "models"),
    ("higgs-audio-trainer manifest man", "manifest.jsonl"),
    ("higgs-audio-trainer manifest manifest.jsonl --pair", "--pair_references"),
    ("higgs-audio-trainer validate man", "manifest.jsonl"),
    ("higgs-audio-trainer show man", "manifest.jsonl"),
    ("higgs-audio-trainer show --event eval", "eval_result"),
    ("higgs-audio-trainer show manifest.jsonl --modality te", "text"),
    ("higgs-audio-trainer diff --format ju", "junit"),
    ("higgs-audio-trainer completion z", "zsh"),
]


@pytest.mark.parametrize(("line", "word"), UNAMBIGUOUS)
def test_bash_completes(scripts, folder, line, word):
    """Bash completes an unambiguous command, flag, event, file or folder."""
    assert completed_by_bash(scripts["bash"], line, folder) == [word]


@needs("fish")
@pytest.mark.parametrize(("line", "word"), UNAMBIGUOUS)
def test_fish_completes(scripts, folder, line, word):
    """Fish completes the same words."""
    assert [found.rstrip("/") for found in completed_by_fish(scripts["fish"], line, folder)] == [word]


@needs("zsh")
def test_zsh_completes(scripts, folder):
    """Zsh completes the same words in a terminal."""
    zsh = Zsh(scripts["zsh"], folder)
    try:
        found = {line: zsh.completed(line).rstrip("/") for line, _ in UNAMBIGUOUS}
    finally:
        zsh.close()
    assert found == dict(UNAMBIGUOUS)


def test_every_command_flag_and_event_is_offered(scripts, folder):
    """Bash offers all commands, flags and events."""
    script = scripts["bash"]
    assert completed_by_bash(script, "higgs-audio-trainer ", folder) == list(COMMANDS)
    offered = completed_by_bash(script, "higgs-audio-trainer train --", folder)
    assert {f"--{item.name}" for item in flags()} | {"--config", "--help", "--help_all"} <= set(offered)
    assert completed_by_bash(script, "higgs-audio-trainer schema ", folder) == list(EVENTS)
    assert "--help" in completed_by_bash(script, "higgs-audio-trainer demo -", folder)


def test_folders_are_offered_where_a_folder_is_asked_for(scripts, folder):
    """A flag that expects a folder gets no files."""
    assert completed_by_bash(scripts["bash"], "higgs-audio-trainer train --output_dir m", folder) == ["models"]


INSTALLED = {
    "bash": ("bashrc", "source ~/.bashrc; complete -p higgs-audio-trainer", BASH_FUNCTION),
    "zsh": (
        "zshrc",
        "autoload -U compinit; compinit -u -D; source ~/.zshrc; print $_comps[higgs-audio-trainer]",
        BASH_FUNCTION,
    ),
    "fish": ("config.fish", "complete -C 'higgs-audio-trainer sch'", "schema\t"),
}


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in SHELLS])
def test_the_lines_that_install_it_work(shell, tmp_path):
    """The installation line of the help installs the completion for new shells."""
    file, look, expected = INSTALLED[shell]
    (line,) = (row for row in parser("higgs-audio-trainer completion").format_help().splitlines() if file in row)
    (tmp_path / ".config/fish").mkdir(parents=True)
    console_script = tmp_path / "bin/higgs-audio-trainer"
    console_script.parent.mkdir()
    console_script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m higgs_audio_trainer "$@"\n')
    console_script.chmod(0o755)
    environment = os.environ | {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
        "PATH": f"{console_script.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    subprocess.run([shell, "-c", line], env=environment, check=True, timeout=60)
    done = subprocess.run([shell, "-c", look], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert expected in done.stdout


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in SHELLS])
def test_the_shell_takes_the_script_for_its_own(scripts, shell):
    """The script has no syntax error."""
    subprocess.run([shell, "-n", str(scripts[shell])], check=True, timeout=60)


def test_another_shell_is_an_error(capsys):
    """The error for an unknown shell lists the supported shells."""
    assert main(["completion", "tcsh"]) == 2
    error = capsys.readouterr().err
    assert "SHELL" in error
    assert all(shell in error for shell in SHELLS)
