"""The README's commands, run as printed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_run import read_log

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]

RUN_BY_CI = {
    "pip install -e . && higgs-audio-trainer demo",
    "pip install -e '.[dev]' && pytest",
    "python examples/recorded_prompts.py recorded",
}
RUN_UNDER_TORCHRUN = [command for command in COMMANDS if command.startswith("torchrun")]
HELP = [command for command in COMMANDS if "--help" in command]
CI_USERS = [
    command
    for command in COMMANDS
    if command.startswith(("higgs-audio-trainer tiny", "higgs-audio-trainer train --base"))
]
READING = [command for command in COMMANDS if command.startswith("jq")]
OWN_SINK = [command for command in COMMANDS if command.startswith("PYTHONPATH=examples")]


def shell(command, cwd):
    """Run a command as a user's shell does, with the console script of this environment."""
    command = command.replace("higgs-audio-trainer ", f"{shlex.quote(sys.executable)} -m higgs_audio_trainer ")
    done = subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_every_command_is_run_by_a_test_or_by_ci():
    """A command that nothing runs may not stand in the README."""
    groups = [RUN_BY_CI, RUN_UNDER_TORCHRUN, HELP, CI_USERS, READING, OWN_SINK]
    assert sorted(COMMANDS) == sorted(command for group in groups for command in group)
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(command in script for command in RUN_BY_CI)


def test_the_quick_start_has_two_commands():
    """One for the demo, one for the tests."""
    section = README.partition("## Quick start")[2].partition("\n## ")[0]
    assert re.findall(r"```bash\n(.*)\n```", section) == [
        "pip install -e . && higgs-audio-trainer demo",
        "pip install -e '.[dev]' && pytest",
    ]


@pytest.mark.parametrize("command", HELP)
def test_help(command, tmp_path):
    """Help is printed and exits 0."""
    assert "--log_steps" in shell(command, tmp_path)


def test_the_torchrun_line(tiny, clips, tmp_path):
    """The line works as printed but for paths, processes and a checkpoint that fits on this machine."""
    (command,) = RUN_UNDER_TORCHRUN
    for printed, here in (
        (
            "torchrun --nproc_per_node=8",
            f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone --nproc_per_node=1",
        ),
        ("/path/train.jsonl", shlex.quote(str(clips))),
        ("/path/out", shlex.quote(str(tmp_path / "out"))),
    ):
        assert printed in command
        command = command.replace(printed, here)
    base = f" --base_ckpt {tiny.model_dir} --audio_tokenizer {tiny.codec_dir} --max_steps 1"
    shell(command + base, tmp_path)
    assert read_log(tmp_path / "out")[-1]["reason"] == "completed"


def test_the_commands_for_ci_users(clips, tmp_path):
    """A tiny checkpoint is made and trained on a manifest."""
    shutil.copytree(clips.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.jsonl").rename(tmp_path / "m.jsonl")
    for command in CI_USERS:
        shell(command.replace("--max_steps 30", "--max_steps 6"), tmp_path)
    assert [event["step"] for event in read_log(tmp_path / "out") if event["event"] == "train_step"] == [1, 5]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed; CI installs it")
def test_the_lines_that_read_the_log(demo):
    """Each jq line works on the demo's log: two print figures, two print nothing because nothing is wrong."""
    folder, _ = demo
    curve, mismatches, copies, no_stop = (shell(command, folder) for command in READING)
    accuracies = [float(line.split("\t")[2]) for line in curve.splitlines()]
    assert accuracies[0] < 0.05
    assert max(accuracies) > 0.6
    first = mismatches.splitlines()[0].split("\t")
    assert first[0] == "1"
    assert first[3] != first[4]
    assert copies == ""
    assert no_stop == ""


def test_the_example_of_an_own_sink(demo):
    """A third party's sink, as printed, writes its file."""
    folder, _ = demo
    (command,) = OWN_SINK
    shell(command.replace("PYTHONPATH=examples", f"PYTHONPATH={shlex.quote(str(ROOT / 'examples'))}"), folder)
    rows = (folder / "higgs-demo/curves/rank00000-attempt000.csv").read_text().splitlines()
    assert len(rows) == 1 + 5
