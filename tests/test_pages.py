"""The commands of the README and of the pages of `docs/`, run as printed."""

import gzip
import json
import re
import shlex
import shutil
import sys

import pytest

from tests.readme import PAGES, PHASE_LINE, ROOT, call, commands, finished, section, shell
from tests.test_run import read_log

COMMANDS = sorted({command for text in PAGES.values() for command in commands(text)})

RUN_BY_CI = {
    "pip install -e . && higgs-audio-trainer demo",
    "pip install -e '.[dev]' && pytest",
    "python examples/recorded_prompts.py recorded",
}
RUN_UNDER_TORCHRUN = [command for command in COMMANDS if command.startswith("torchrun")]
HELP = [command for command in COMMANDS if "--help" in command]
CI_USERS = commands(PAGES["docs/ci.md"])
READING = commands(PAGES["docs/log.md"])
TOOLS = commands(PAGES["docs/tools.md"])  # tests/test_tools.py
DIAGNOSES = commands(PAGES["docs/diagnose/index.md"])  # tests/test_silent_voice.py
MANY_RANKS = commands(PAGES["docs/design/reading.md"])  # tests/test_many_ranks.py
EXPORTS = [command for command in commands(PAGES["docs/sinks.md"]) if " export " in command]
TO_A_VOICE = commands(section("docs/index.md", "From a folder to a voice"))
ONE_DEVICE = "higgs-audio-trainer train --train_manifest train.jsonl --output_dir out"
DOCTOR = [command for command in COMMANDS if command.startswith("higgs-audio-trainer doctor")]
OWN_SINK = [command for command in COMMANDS if command.startswith("PYTHONPATH=examples") and "--sinks" in command]
OWN_PROCESSOR = [command for command in COMMANDS if command.startswith("PYTHONPATH=examples") and "--proc" in command]


def test_every_command_is_run_by_a_test_or_by_ci():
    """A command that nothing runs may stand neither in the README nor on a page."""
    groups = [RUN_BY_CI, RUN_UNDER_TORCHRUN, HELP, CI_USERS, DIAGNOSES, READING, TOOLS, MANY_RANKS, EXPORTS]
    groups += [OWN_SINK, OWN_PROCESSOR, TO_A_VOICE, [ONE_DEVICE], DOCTOR]
    assert sorted(command for group in groups for command in group) == COMMANDS
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert all(command in script for command in RUN_BY_CI)


def test_every_python_example_is_run_by_a_test():
    """A page with an example in Python is named here beside the test that runs the example."""
    run = {
        "README.md": "test_prediction_logger",
        "docs/any_trainer.md": "test_prediction_logger",
        "docs/ci.md": "test_golden_run",
        "docs/log.md": "test_pages",
        "docs/native_loading.md": "test_native_loading",
    }
    assert [page for page, text in PAGES.items() if "```python" in text] == list(run)


@pytest.mark.parametrize("command", HELP)
def test_help(command, here, tmp_path):
    """Help is printed and exits 0."""
    assert "--log_steps" in here(command, tmp_path)


def test_a_plan_before_any_download(tmp_path, capsys):
    """Both commands exit 0, and the plan is the printed one but for its figures."""
    for command in DOCTOR:
        capsys.readouterr()
        call(command, tmp_path)
    shown = re.sub(r"[ \d.,]+", " ", capsys.readouterr().out)
    assert f"```text\n{shown}```" in re.sub(r"[ \d.,]+", " ", PAGES["docs/memory.md"])


def test_the_torchrun_line(tiny, clips, tmp_path):
    """The line works as printed but for paths, two processes and a checkpoint that fits on this machine."""
    (command,) = RUN_UNDER_TORCHRUN
    for printed, here in (
        (
            "torchrun --nproc_per_node=8",
            f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone --nproc_per_node=2",
        ),
        ("/path/train.jsonl", shlex.quote(str(clips))),
        ("/path/out", shlex.quote(str(tmp_path / "out"))),
    ):
        assert printed in command
        command = command.replace(printed, here)
    base = f" --base_ckpt {tiny.model_dir} --audio_tokenizer {tiny.codec_dir} --use_cpu true"
    said = shell(command + base + " --max_steps 2 --log_all_ranks", tmp_path)
    names = sorted(path.name for path in (tmp_path / "out" / "events").glob("rank*"))
    assert names == ["rank00000-attempt000.jsonl", "rank00001-attempt000.jsonl"]
    one, other = read_log(tmp_path / "out"), read_log(tmp_path / "out", rank=1)
    assert one[-1]["reason"] == other[-1]["reason"] == "completed"
    assert one[0]["world_size"] == 2
    assert one[0]["run_id"] == other[0]["run_id"]
    losses = [[event["loss"] for event in log if event["event"] == "train_step"] for log in (one, other)]
    assert losses[0] == losses[1], "figures are of the whole step"
    assert said.count("run ended: completed at step 2") == 1


def test_one_device(tiny, clips, tmp_path):
    """The line without torchrun works as printed but for a checkpoint that fits on this machine and a few steps."""
    shutil.copytree(clips.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.jsonl").rename(tmp_path / "train.jsonl")
    base = f" --base_ckpt {tiny.model_dir} --audio_tokenizer {tiny.codec_dir}"
    call(f"{ONE_DEVICE}{base} --use_cpu true --max_steps 1 --say_steps 0", tmp_path)
    assert read_log(tmp_path / "out")[-1]["reason"] == "completed"


def test_from_a_folder_to_a_voice(tiny, clips, tmp_path):
    """The three commands work as printed but for a checkpoint that fits on this machine and a few steps."""
    (tmp_path / "recordings").mkdir()
    for line in clips.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        shutil.copy(clips.parent / entry["audio"], tmp_path / "recordings")
        text = tmp_path / "recordings" / entry["audio"].replace(".flac", ".txt")
        text.write_text(entry["text"], encoding="utf-8")
    base = f" --base_ckpt {tiny.model_dir} --audio_tokenizer {tiny.codec_dir}"
    few_steps = " --use_cpu true --max_steps 2 --log_steps 1 --log_audio 1 --val_steps 2"
    assert len(TO_A_VOICE) == 3
    for command, more in zip(TO_A_VOICE, ("", base, base + few_steps), strict=True):
        call(command + more, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 7
    assert all("ref_audio" in line for line in lines)
    names = [event["event"] for event in read_log(tmp_path / "voice")]
    assert {"dataset_audit", "eval_result"} <= set(names)
    assert list((tmp_path / "voice" / "audio").rglob("*.wav"))
    assert (tmp_path / "voice" / "adapter_model.safetensors").exists()


def test_the_commands_for_ci_users(clips, tmp_path, here):
    """A tiny checkpoint is made and trained on a manifest, and the run is compared with its golden."""
    shutil.copytree(clips.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.jsonl").rename(tmp_path / "m.jsonl")
    tiny, train, bless, diff = CI_USERS
    here(tiny, tmp_path)
    done = finished(train.replace("--max_steps 30", "--max_steps 6"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Sample 1 Prediction vs Label Comparison:" in done.stdout
    assert "Audio Prediction vs Label Comparison (Codebook 0):" in done.stdout
    assert "\x1b" not in done.stdout
    said = done.stderr.splitlines()
    assert all(PHASE_LINE.fullmatch(line) for line in said), f"no bar and no warnings of third parties: {said}"
    assert [event["step"] for event in read_log(tmp_path / "out") if event["event"] == "train_step"] == [1, 5]
    here(bless, tmp_path)
    here(diff, tmp_path)


def test_the_commands_that_read_the_log(demo, here):
    """Each does what the text around it says, on the demo's log."""
    folder, _ = demo
    show, summary, report, both, train, diff, validate, merge, schema = READING
    assert "Audio Prediction vs Label Comparison (Codebook 0)" in here(show, folder)
    assert_same_summary(here(summary, folder), PAGES["docs/log.md"])
    here(train.replace("--max_steps 20", "--max_steps 2"), folder)
    differs = shell(diff, folder)
    assert differs.endswith("status 1\n")
    assert "config.lr: expected 0.006, got 0.011" in differs
    assert re.search(r"^report.html: [\d.]+ MB, 70 events$", here(report, folder), re.MULTILINE)
    assert "both.html: " in here(both, folder)
    assert ": clean: 70 events" in here(validate, folder)
    shell(merge, folder)
    log = folder / "higgs-demo/run/events/rank00000-attempt000.jsonl"
    assert gzip.decompress((folder / "higgs-demo/run.jsonl.gz").read_bytes()) == log.read_bytes()
    assert '"const": "prediction_sample"' in here(schema, folder)


def test_the_exports(demo, tmp_path):
    """Each finds its library and says where to look; every run has its scalars, samples and settings there."""
    folder, _ = demo
    for command in EXPORTS:
        said = shell(command, folder, TRACKIO_DIR=str(tmp_path))
        assert re.fullmatch(r"run \w+: \d\d events exported.* To look at it: .*\n", said)


def assert_same_summary(shown, text):
    """Compare a summary with the printed one but for numbers, their bars and the run's id."""
    (printed,) = re.findall(r"```text\n(run .*?)```", text, re.DOTALL)
    changing = re.compile(r"[\d.,%\u2580-\u259f]+|run +\w+|ran [^;]*?(?=\nsteps)")
    layout = [changing.sub("#", part).split() for part in (shown, printed)]
    assert layout[0] == layout[1]


def test_the_python_example_of_read(demo, monkeypatch):
    """The losses by step, as printed."""
    folder, _ = demo
    monkeypatch.chdir(folder)
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/log.md"], re.DOTALL)
    names = {}
    exec(example, names)
    assert list(names["losses"]) == [1, 20, 40, 60]


def test_the_example_of_an_own_sink(demo, here, monkeypatch):
    """A third party's sink, as printed, writes its file."""
    folder, _ = demo
    (command,) = OWN_SINK
    monkeypatch.syspath_prepend(ROOT / "examples")
    here(command.removeprefix("PYTHONPATH=examples "), folder)
    rows = (folder / "higgs-demo/curves/rank00000-attempt000.csv").read_text().splitlines()
    assert len(rows) == 1 + 5


def test_the_example_of_an_own_processor(demo):
    """A third party's processor, in a process of its own as printed, changes the log that `validate` accepts."""
    folder, _ = demo
    (command,) = OWN_PROCESSOR
    shell(command.replace("PYTHONPATH=examples", f"PYTHONPATH={shlex.quote(str(ROOT / 'examples'))}"), folder)
    records = read_log(folder / "higgs-demo/revised")
    assert [record["seq"] for record in records] == list(range(len(records)))
    assert all("git_revision" in record for record in records)
    assert {record["modality"] for record in records if record["event"] == "prediction_sample"} == {"audio"}
    assert "clean and " in shell("higgs-audio-trainer validate higgs-demo/revised", folder)
