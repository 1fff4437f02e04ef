"""The last lines of `train`: what was learned, where the files lie, and commands that work as printed."""

import shlex
from contextlib import chdir
from pathlib import Path
from signal import Signals

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.epilogue import epilogue, fitted
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.recording.milestones import Milestones
from higgs_audio_trainer.run import RunResult
from higgs_audio_trainer.training.signals import Diagnosed
from tests import forks
from tests.faults.runs import running, training
from tests.test_run import read_log


def arguments(tiny, clips, **more):
    """Return a command line of `train` whose output directory has a space in its name."""
    flags = {
        "base_ckpt": tiny.model_dir,
        "audio_tokenizer": tiny.codec_dir,
        "train_manifest": clips,
        "output_dir": "my out",
        "batch_size": 4,
        "grad_accum": 1,
        "max_steps": 2,
        "log_steps": 1,
        "use_cpu": "true",
    }
    return [word for name, value in (flags | more).items() for word in (f"--{name}", str(value))]


def trained(capfd, *command):
    """Run a command in this process, and return the last block of lines that it prints."""
    capfd.readouterr()
    assert main(list(command)) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out.rpartition("\n\n")[2].strip("\n").splitlines()


def command_of(lines, name):
    """Return the words of a printed command."""
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return shlex.split(line.partition(":")[2])


def test_each_printed_command_works(tiny, clips, tmp_path, capfd):
    """Say, report and continue, as printed, in the same folder; the figures are those of the log."""
    with chdir(tmp_path):
        lines = trained(capfd, "train", *arguments(tiny, clips, eval_manifest=clips, val_steps=1, log_audio=1))
        events = read_log(Path("my out"))
        results = [event for event in events if event["event"] == "eval_result"]
        best = min(results, key=lambda event: event["loss"])
        first, last = (event["audio_accuracy_per_codebook"][0] for event in (results[0], results[-1]))
        expected = [
            f"Trained to step 2. Evaluation: loss {results[0]['loss']:.3f} to {results[-1]['loss']:.3f}, "  # noqa: ISC004
            f"best {best['loss']:.3f} at step {best['step']}; codebook 0 {first:.1%} to {last:.1%} correct",
            "Adapter:   my out",
            "Best:      my out/best",
            "Log:       my out/events/rank00000-attempt000.jsonl",
            "Audio:     my out/audio",
        ]
        assert lines[: len(expected)] == expected
        assert [line.partition(":")[0] for line in lines[len(expected) :]] == ["Speak", "Report", "Read", "More"]
        for name in ("Speak", "Report", "Read"):
            program, *words = command_of(lines, name)
            assert program == "higgs-audio-trainer"
            assert main([*words, *(["--max_seconds", "0.4"] if words[0] == "say" else [])]) == 0
        assert Path("my out/hello-2.wav").is_file()
        assert Path("my out/report.html").is_file()
        assert lines[-1] == "More:      the same command with --resume --max_steps 4"
        more = ["--resume", "--max_steps", "4"]
        again = trained(capfd, "train", *arguments(tiny, clips, eval_manifest=clips, val_steps=1), *more)
        assert again[0].startswith(f"Trained to step 4. Evaluation: loss {results[0]['loss']:.3f} to "), (
            "the first is kept"
        )
        assert "Log:       my out/events/rank00000-attempt001.jsonl" in again
        assert read_log(Path("my out"), attempt=1)[0]["resumed_from_step"] == 2


def test_without_an_evaluation_the_logged_steps_are_shown(tiny, clips, tmp_path, capfd):
    """First and last logged step."""
    with chdir(tmp_path):
        lines = trained(capfd, "train", *arguments(tiny, clips))
        steps = [event for event in read_log(Path("my out")) if event["event"] == "train_step"]
    assert lines[0].startswith(
        f"Trained to step 2. Training: loss {steps[0]['loss']:.3f} to {steps[1]['loss']:.3f}; codebook 0 "
    )


def test_without_sinks_there_are_places_and_commands(tiny, clips, tmp_path, capfd):
    """--sinks none: no figures, no log and no report of it."""
    with chdir(tmp_path):
        lines = trained(capfd, "train", *arguments(tiny, clips, sinks="none"))
    assert [line.partition(":")[0] for line in lines] == ["Trained to step 2.", "Adapter", "Speak", "More"]


def test_a_stopped_run_says_how_to_go_on(tiny, clips, tmp_path):
    """After Ctrl-C: the same command with --resume, and the checkpoint to listen to."""
    out = tmp_path / "out"
    line = training(tiny, clips, out, max_steps=100_000)
    with running(tmp_path, *line) as run:
        run.wait_for("train_step 2")
        run.send(Signals.SIGINT)
        assert run.wait() == 130
        lines = run.out.read_text().rpartition("\n\n")[2].strip("\n").splitlines()
    step = read_log(out)[-1]["step"]
    assert lines[0].startswith(f"Stopped at step {step} by SIGINT. Training: loss ")
    assert f"Adapter:   {out}/checkpoint-{step}" in lines
    program, command, *words = command_of(lines, "Continue")
    assert (program, command, words[-1]) == ("higgs-audio-trainer", "train", "--resume")
    assert [word for word in words[:-1] if "beacon" not in word] == [word for word in line if "BEACON" not in word]
    assert command_of(lines, "Speak")[2] == f"{out}/checkpoint-{step}"


def shown(tmp_path, words, environment=None, *, sinks="none", **fields):
    """Return the lines of a run of five steps that left no files."""
    (tmp_path / "out").mkdir(exist_ok=True)
    made = TrainSettings(train_manifest="m", output_dir=str(tmp_path / "out"), sinks=sinks)
    result = RunResult("r", 5, 0, milestones=Milestones(), **fields)
    return epilogue(result, made, words, environment or {})


FINDING = Diagnosis(code="bad", severity="error", step=5, message="m", evidence={})
STOPPED = {"stopped_by": Signals.SIGTERM}
CONTINUED = [
    ("--lr 1 --resume --max-steps 5", {}, STOPPED, "higgs-audio-trainer train --lr 1 --max-steps 5 --resume"),
    ("--resume out/checkpoint-3 --lr 1", {}, STOPPED, "higgs-audio-trainer train --lr 1 --resume"),
    ("--resume=x --lr 1", {}, STOPPED, "higgs-audio-trainer train --lr 1 --resume"),
    (
        "--diagnose fail --lr 1",
        {},
        {"stopped_by": Diagnosed.diagnosis, "failed_by": FINDING},
        "higgs-audio-trainer train --lr 1 --resume --diagnose warn",
    ),
    (
        "--lr 1",
        {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"},
        STOPPED,
        "torchrun --nproc_per_node=8 -m higgs_audio_trainer --lr 1 --resume",
    ),
    (
        "--lr 1",
        {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16", "GROUP_WORLD_SIZE": "2"},
        STOPPED,
        "the same launcher with the arguments --lr 1 --resume",
    ),
    ("--hub_token hf_secret1", {}, STOPPED, "higgs-audio-trainer train --hub_token '[redacted]' --resume"),
    ("--hub_token=hf_secret1", {}, STOPPED, "higgs-audio-trainer train '--hub_token=[redacted]' --resume"),
]


@pytest.mark.parametrize(("words", "environment", "fields", "expected"), CONTINUED, ids=[row[0] for row in CONTINUED])
def test_the_command_to_go_on(tmp_path, words, environment, fields, expected):
    """An earlier --resume is gone; a launcher is named; secrets are not printed."""
    made = shown(tmp_path, shlex.split(words), environment, **fields)
    assert made[-1] == f"Continue:  {expected}"


def test_the_last_lines_fit_a_terminal(tmp_path):
    """No word is cut, and a folded command is the same command for a shell."""
    words = [
        "--base_ckpt",
        "model",
        "--train_manifest",
        "my train.jsonl",
        "--scene",
        "a quiet room",
        "--lr",
        "1",
        *"x" * 40,
    ]
    made = shown(tmp_path, words, stopped_by=Signals.SIGINT, sinks="jsonl")
    rows = fitted([line.replace(str(tmp_path), "/tmp") for line in made], 80)
    assert max(map(len, rows)) < 80
    command = "\n".join(rows).partition("Continue:")[2]
    assert shlex.split(command.replace("\\\n", "")) == ["higgs-audio-trainer", "train", *words, "--resume"]


def test_a_log_in_another_folder(tmp_path):
    """The report reads the folder that --sinks names."""
    lines = shown(tmp_path, [], sinks=f"jsonl:dir={tmp_path}/logs")
    assert f"Log:       {tmp_path}/logs/rank00000-attempt000.jsonl" in lines
    assert command_of(lines, "Report")[2] == f"{tmp_path}/logs"


def test_the_best_adapter_is_named_where_there_is_one(tmp_path):
    """The folder of --keep_best."""
    (tmp_path / "out" / "best").mkdir(parents=True)
    assert f"Best:      {tmp_path}/out/best" in shown(tmp_path, [])


def test_a_full_standard_output_ends_no_training_with_an_error(tiny, clips, tmp_path):
    """The status of a finished training is 0 whoever reads its last lines."""
    line = ["train", *arguments(tiny, clips, output_dir=tmp_path / "out", sinks="jsonl", max_steps=1)]
    process = forks.start(forks.command, *line, out=Path("/dev/full"), err=tmp_path / "err")
    assert forks.wait(process, tmp_path / "err") == 0


def test_a_flag_of_one_dash_keeps_its_value():
    """`-o` and its file are on one row."""
    line = "Speak:     higgs-audio-trainer say run 'Bonjour tout le monde.' -o run/hello-8.wav"
    assert fitted([line], 80)[1].strip() == "-o run/hello-8.wav"
