"""The record is checked while it is written: what is found is logged, may end the run, and is known after a resume."""

import json
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from higgs_audio_trainer.diagnoses import diagnoser
from higgs_audio_trainer.diagnoses.finding import Finding
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.output_dir.checkpoints import latest_checkpoint
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.signals import Diagnosed
from sinks import MemorySink
from tests import forks
from tests.builders import run_start, train_step
from tests.faults.runs import lines, running
from tests.test_run import read_log, settings


def only(monkeypatch, *checks):
    """Have no other checks than these."""
    monkeypatch.setattr(diagnoser, "CHECKS", checks)


def bad_from(step, severity="error"):
    """Make a check that finds something at each logged step from a step on."""

    def check(logged, history):
        if logged.train is not None and logged.step >= step:
            yield Finding(code="bad", severity=severity, message=f"{len(history.steps)} steps before.")

    return check


def diagnoses(events):
    """Pick what was found."""
    return [(event["step"], event["code"], event["level"]) for event in events if event["event"] == "diagnosis"]


def test_what_is_found_is_logged_behind_its_step(tiny, clips, tmp_path, monkeypatch):
    """A finding stands behind the events that it is about, once, with its level; run_end counts how often."""
    only(monkeypatch, bad_from(2, "warning"))
    result = run_training(settings(tiny, clips, tmp_path, log_steps=1))
    events = read_log(tmp_path)
    assert diagnoses(events) == [(2, "bad", "warning")]
    before = events[[event["event"] for event in events].index("diagnosis") - 1]
    assert (before["event"], before["step"], before["codebook"]) == ("token_counts", 2, 7)
    assert events[-1]["diagnoses"] == {"bad": 3}
    assert (result.stopped_by, result.failed_by) == (None, None)


def test_off_counts_and_checks_nothing(tiny, clips, tmp_path, monkeypatch):
    """--diagnose off: no token counts, no diagnosis."""
    only(monkeypatch, bad_from(1))
    run_training(settings(tiny, clips, tmp_path, diagnose="off"))
    assert {event["event"] for event in read_log(tmp_path)} == {
        "run_start",
        "train_step",
        "prediction_sample",
        "checkpoint",
        "dataset_audit",
        "run_end",
    }


def test_an_error_ends_the_run_at_its_step(tiny, clips, tmp_path, monkeypatch):
    """--diagnose fail: the checkpoint of that very step is saved, run_end says why; resumed, the run goes on."""
    only(monkeypatch, bad_from(2))
    result = run_training(settings(tiny, clips, tmp_path, log_steps=1, diagnose="fail"))
    assert (result.step, result.stopped_by, result.failed_by.code) == (2, Diagnosed.diagnosis, "bad")
    assert latest_checkpoint(tmp_path)[0] == tmp_path / "checkpoint-2"
    assert read_log(tmp_path)[-1]["reason"] == "diagnosis"
    resumed = run_training(settings(tiny, clips, tmp_path, log_steps=1, resume="latest"))
    assert (resumed.step, resumed.stopped_by) == (4, None)


def test_a_warning_ends_nothing(tiny, clips, tmp_path, monkeypatch):
    """--diagnose fail is about errors."""
    only(monkeypatch, bad_from(1, "warning"))
    result = run_training(settings(tiny, clips, tmp_path, diagnose="fail"))
    assert (result.step, result.stopped_by) == (4, None)


def test_an_error_at_the_last_step_fails_a_run_that_is_whole(tiny, clips, tmp_path, monkeypatch):
    """The adapter is saved as ever, and the result says that it failed."""
    only(monkeypatch, bad_from(4))
    result = run_training(settings(tiny, clips, tmp_path, diagnose="fail"))
    assert (result.step, result.stopped_by) == (4, Diagnosed.diagnosis)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_fail_needs_something_to_check(tiny, clips, tmp_path):
    """Without a sink nothing is logged, so nothing can fail: that is refused before anything is loaded."""
    with pytest.raises(UserError, match="--diagnose fail: expected a sink"):
        run_training(settings(tiny, clips, tmp_path, diagnose="fail", sinks="none"))


def test_a_resumed_run_knows_what_was_said(tiny, clips, tmp_path, monkeypatch):
    """A run that is stopped between two logged steps and resumed finds, reports and counts what a whole run does."""
    only(monkeypatch, bad_from(2, "warning"), bad_from(6, "error"))
    whole = settings(tiny, clips, tmp_path / "whole", log_steps=2, max_steps=6, save_steps=3)
    run_training(whole)
    out = tmp_path / "out"
    run_training(settings(tiny, clips, out, log_steps=2, max_steps=6, save_steps=3))
    resume = str(out / "checkpoint-3")
    run_training(settings(tiny, clips, out, log_steps=2, max_steps=6, save_steps=3, resume=resume))
    expected = [event for event in read_log(tmp_path / "whole") if event["event"] == "diagnosis" and event["step"] > 3]
    got = [event for event in read_log(out, attempt=1) if event["event"] == "diagnosis"]
    assert [(event["message"], event["repeats"]) for event in got] == [
        (event["message"], event["repeats"]) for event in expected
    ]
    assert expected
    assert read_log(out, attempt=1)[-1]["diagnoses"] == read_log(tmp_path / "whole")[-1]["diagnoses"]


def test_a_damaged_state_is_begun_anew_from(tmp_path, capsys):
    """It is said and counted, and the run goes on."""
    (tmp_path / "diagnoses.msgpack").write_bytes(b"\xc1torn")
    pipeline = Pipeline([("memory", MemorySink())], run_id="r")
    LiveChecks(pipeline, fails=False).start(run_start(), tmp_path)
    assert pipeline.failures == {"diagnoses": 1}
    assert "diagnoses" in capsys.readouterr().err


def test_a_state_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    """A checkpoint is whole without it: that is counted."""
    only(monkeypatch, bad_from(1))
    pipeline = Pipeline([("memory", MemorySink())], run_id="r", say=lambda text: None)
    live_checks = LiveChecks(pipeline, fails=False)
    live_checks.check(LoggedStep(20, train_step()))
    arguments = SimpleNamespace(output_dir=str(tmp_path / "gone"))
    live_checks.on_save(arguments, SimpleNamespace(global_step=20), None)
    assert pipeline.failures == {"diagnoses": 1}


def test_an_error_of_a_check_does_not_stop_the_training(tiny, clips, tmp_path, monkeypatch, capsys):
    """A fault of ours in a check is counted like any of the log."""

    def broken(logged, history):
        raise ZeroDivisionError("in a check")
        yield

    only(monkeypatch, broken)
    result = run_training(settings(tiny, clips, tmp_path))
    assert result.step == 4
    assert [event["step"] for event in read_log(tmp_path) if event["event"] == "train_step"] == [1, 2, 4]
    assert "in a check" in capsys.readouterr().err


def with_nan(model_dir, folder):
    """Copy a checkpoint with one weight that is no number."""
    folder.mkdir()
    for path in model_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def command(tiny, clips, tmp_path, *more):
    """Make the arguments of a short training of a model with a NaN in it."""
    base = with_nan(tiny.model_dir, tmp_path / "base")
    flags = (
        f"--base_ckpt {base} --audio_tokenizer {tiny.codec_dir} --train_manifest {clips} --max_steps 3 --log_steps 1"
    )
    return [*flags.split(), "--batch_size", "2", "--output_dir", str(tmp_path / "out"), *more]


def test_the_command_exits_with_3(tiny, clips, tmp_path):
    """A checkpoint with a NaN in it: `non_finite` is found at step 1, saved, said, and the status is 3."""
    arguments = command(tiny, clips, tmp_path, "--diagnose", "fail")
    with running(tmp_path, *arguments) as run:
        assert run.wait() == 3
        said = run.err.read_text()
    assert "non_finite" in said
    assert "Traceback" not in said
    assert lines(tmp_path / "out")[-1]["reason"] == "diagnosis"
    assert (tmp_path / "out" / "checkpoint-1").is_dir()


def test_every_rank_ends(tiny, clips, tmp_path):
    """Rank 0 finds it, both end, at one step, with the status of a diagnosis."""
    arguments = command(tiny, clips, tmp_path, "--diagnose", "fail")
    ended = forks.ranks(tmp_path, forks.command, *arguments)
    assert [rank.status for rank in ended] == [3, 3], ended[0].err[-2000:]
    end = lines(tmp_path / "out")[-1]
    assert (end["event"], end["reason"]) == ("run_end", "diagnosis")
    saved, _ = latest_checkpoint(tmp_path / "out")
    state = json.loads((saved / "trainer_state.json").read_text())
    assert state["global_step"] == end["step"]
