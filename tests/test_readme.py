"""The README's commands, run as printed."""

import gzip
import os
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


def commands(text):
    """Find the commands in the blocks of a text; one goes on over lines until its quotes are closed."""
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


def section(title):
    """Return the text of a section."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


COMMANDS = commands(README)

RUN_BY_CI = {
    "pip install -e . && higgs-audio-trainer demo",
    "pip install -e '.[dev]' && pytest",
    "python examples/recorded_prompts.py recorded",
}
RUN_UNDER_TORCHRUN = [command for command in COMMANDS if command.startswith("torchrun")]
HELP = [command for command in COMMANDS if "--help" in command]
CI_USERS = commands(section("In CI"))
READING = commands(section("Read the log"))
TOOLS = commands(section("The log in other tools"))  # tests/test_tools.py
DIAGNOSES = commands(section("What the log finds by itself"))
EXPORTS = [command for command in COMMANDS if command.startswith("higgs-audio-trainer export")]
OWN_SINK = [command for command in COMMANDS if command.startswith("PYTHONPATH=examples")]


def shell(command, cwd, **environment):
    """Run a command as a user's shell does, with the console script and the tools of this environment."""
    python = shlex.quote(sys.executable)
    command = command.replace("higgs-audio-trainer ", f"{python} -m higgs_audio_trainer ")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_every_command_is_run_by_a_test_or_by_ci():
    """A command that nothing runs may not stand in the README."""
    groups = [RUN_BY_CI, RUN_UNDER_TORCHRUN, HELP, CI_USERS, DIAGNOSES, READING, TOOLS, EXPORTS, OWN_SINK]
    assert sorted(COMMANDS) == sorted(command for group in groups for command in group)
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(command in script for command in RUN_BY_CI)


def test_the_quick_start_has_two_commands():
    """One for the demo, one for the tests."""
    assert commands(section("Quick start")) == [
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
    """A tiny checkpoint is made and trained on a manifest, and the run is compared with its golden."""
    shutil.copytree(clips.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.jsonl").rename(tmp_path / "m.jsonl")
    for command in CI_USERS:
        shell(command.replace("--max_steps 30", "--max_steps 6"), tmp_path)
    assert [event["step"] for event in read_log(tmp_path / "out") if event["event"] == "train_step"] == [1, 5]


def test_the_story_of_the_silent_voice(tmp_path):
    """The demo with its mistake prints what the text shows, but for times, and the log says the same afterwards."""
    train, diagnose = DIAGNOSES
    printed = [without_times(line) for line in shell(train, tmp_path).splitlines()]
    excerpt = re.search(r"```text\n(.*?)```", section("What the log finds by itself"), re.DOTALL)[1]
    for line in excerpt.splitlines():
        assert line == "..." or without_times(line) in printed
    said = shell(diagnose, tmp_path)
    assert said.endswith("2 errors, 2 notes in 4 logged steps\nstatus 1\n")
    assert "found at 4 of 4 logged steps: in all 8 codebooks" in said


def without_times(line):
    """Leave out how long a step took, and the last digits, which another processor rounds otherwise."""
    return re.sub(r"\d+ ms$", "", re.sub(r"(\d\.\d)\d+", r"\1", line))


def test_every_diagnosis_is_in_the_table():
    """Each code that a check can write is in the table, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", section("What the log finds by itself"), re.MULTILINE)
    table = set(re.findall(r"`([a-z_]+)`", "".join(rows)))
    sources = (ROOT / "higgs_audio_trainer" / "diagnoses").glob("*.py")
    codes = {code for path in sources for code in re.findall(r'(?:code=|_error\()"([a-z_]+)"', path.read_text("utf-8"))}
    assert table == codes


def test_the_commands_that_read_the_log(demo):
    """Each does what the text around it says, on the demo's log."""
    folder, _ = demo
    show, summary, train, diff, validate, merge, schema = READING
    assert "Audio Prediction vs Label Comparison (Codebook 0)" in shell(show, folder)
    assert_same_summary(shell(summary, folder), section("Read the log"))
    shell(train.replace("--max_steps 20", "--max_steps 2"), folder)
    differs = shell(diff, folder)
    assert differs.endswith("status 1\n")
    assert "config.lr: expected 0.01, got 0.011" in differs
    assert ": clean: 61 events" in shell(validate, folder)
    shell(merge, folder)
    log = folder / "higgs-demo/run/events/rank00000-attempt000.jsonl"
    assert gzip.decompress((folder / "higgs-demo/run.jsonl.gz").read_bytes()) == log.read_bytes()
    assert '"const": "prediction_sample"' in shell(schema, folder)


def test_the_exports(demo, tmp_path):
    """Each finds its library and says where to look; every run has its scalars, samples and settings there."""
    folder, _ = demo
    for command in EXPORTS:
        said = shell(command, folder, TRACKIO_DIR=str(tmp_path))
        assert re.fullmatch(r"run \w+: \d\d events exported.* To look at it: .*\n", said)


def assert_same_summary(shown, text):
    """Compare a summary with the printed one but for numbers, their bars and the run's id."""
    (printed,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    layout = [re.sub(r"[\d.,%\u2580-\u259f]+|run +\w+", "#", part).split() for part in (shown, printed)]
    assert layout[0] == layout[1]


def test_the_python_example_of_read(demo, monkeypatch):
    """The losses by step, as printed."""
    folder, _ = demo
    monkeypatch.chdir(folder)
    (example,) = re.findall(r"```python\n(.*?)```", section("Read the log"), re.DOTALL)
    names = {}
    exec(example, names)
    assert list(names["losses"]) == [1, 20, 40, 60]


def test_the_example_of_an_own_sink(demo):
    """A third party's sink, as printed, writes its file."""
    folder, _ = demo
    (command,) = OWN_SINK
    shell(command.replace("PYTHONPATH=examples", f"PYTHONPATH={shlex.quote(str(ROOT / 'examples'))}"), folder)
    rows = (folder / "higgs-demo/curves/rank00000-attempt000.csv").read_text().splitlines()
    assert len(rows) == 1 + 5
