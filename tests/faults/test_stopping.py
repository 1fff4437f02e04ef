"""Real trainings that are stopped, killed, restarted and started twice."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from signal import Signals

import pytest

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.output_dir.attempt import claim, plan_attempt
from higgs_audio_trainer.output_dir.checkpoints import damage_of, latest_checkpoint
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.signals import STOP_SIGNALS
from tests.faults.runs import lines, running, training
from tests.logs import read
from tests.test_run import settings

FOREVER = 100_000
ADAPTER = "adapter_model.safetensors"
#: What a run says at once to each signal.
ANSWER = {
    Signals.SIGINT: "Stopping after this step; a checkpoint will be saved. Ctrl-C again ends now without one.\n",
    **{
        number: f"{number.name}: stopping after this step; a checkpoint will be saved.\n"
        for number in STOP_SIGNALS
        if number is not Signals.SIGINT
    },
}


def stable(event):
    """Return an event without the fields that differ between equal runs or only describe a resumed run."""
    return {name: value for name, value in event.items() if name not in {*VOLATILE_FIELDS, "resumed_from_step"}}


def read_stable(output_dir):
    """Return a log's stable events without checkpoints and settings, as stopping and resuming add such events."""
    return [stable(event) for event in read(output_dir) if event["event"] not in ("checkpoint", "run_start")]


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_a_training_at_the_step_boundary(tiny, clips, tmp_path, number):
    """The current step is finished, a whole checkpoint is saved, run_end has the reason, and the status is 128 + n."""
    out = tmp_path / "out"
    with running(tmp_path, *training(tiny, clips, out, max_steps=FOREVER)) as run:
        run.wait_for("train_step 3")
        run.send(number)
        assert run.wait() == 128 + number
        assert run.err.read_text() == ANSWER[number]
    events = lines(out)
    last = events[-1]
    assert (last["event"], last["reason"], last["events_lost"]) == ("run_end", number.name, 0)
    assert [event["seq"] for event in events] == list(range(len(events)))
    saved, damaged = latest_checkpoint(out)
    assert (saved, damaged) == (out / f"checkpoint-{last['step']}", ())
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [last["step"]]
    assert not (out / ADAPTER).exists(), "what is not trained to its end is not taken for it"


def test_stopped_in_an_evaluation_and_resumed_equals_a_run_that_was_not(tiny, clips, tmp_path):
    """A signal ends an evaluation at once, and the resumed run repeats the evaluation with equal adapters and logs."""
    options = {"max_steps": 4, "val_steps": 2, "eval_manifest": str(clips), "log_steps": 1, "lora_dropout": 0.3}
    run_training(settings(tiny, clips, tmp_path / "whole", **options))
    out = tmp_path / "out"
    stop_in_evaluation = [("stop", _StopAt("train_step", 2))]
    stopped = run_training(settings(tiny, clips, out, **options), more_sinks=stop_in_evaluation)
    assert (stopped.stopped_by, stopped.step) == (Signals.SIGTERM, 2)
    assert [event["event"] for event in lines(out)][-2:] == ["checkpoint", "run_end"]
    resumed = run_training(settings(tiny, clips, out, resume="latest", **options))
    assert (resumed.stopped_by, resumed.step) == (None, 4)
    assert (out / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert read_stable(out) == read_stable(tmp_path / "whole")
    assert sum(event["event"] == "eval_result" for event in read(out)) == 2


def test_a_signal_in_the_last_evaluation(tiny, clips, tmp_path):
    """A signal ends the last step's evaluation, the checkpoint is saved, and the next attempt evaluates again."""
    options = {"max_steps": 2, "val_steps": 2, "eval_manifest": str(clips), "log_steps": 1}
    out = tmp_path / "out"
    stopped = run_training(settings(tiny, clips, out, **options), more_sinks=[("stop", _StopAt("train_step", 2))])
    assert stopped.stopped_by is Signals.SIGTERM
    assert not (out / ADAPTER).exists()
    run_training(settings(tiny, clips, out, resume="latest", **options))
    run_training(settings(tiny, clips, tmp_path / "whole", **options))
    assert (out / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert read_stable(out) == read_stable(tmp_path / "whole")


class _StopAt:
    """Sink that sends SIGTERM to this process at an event of a step."""

    def __init__(self, event, step):
        self.wanted = (event, step)

    def __call__(self, record):
        if (record["event"], record.get("step")) == self.wanted:
            os.kill(os.getpid(), Signals.SIGTERM)


def test_a_second_interrupt_ends_at_once(tiny, clips, tmp_path):
    """A second Ctrl-C waits for no checkpoint, the log still ends with a reason, and the status is 130."""
    out, heard = tmp_path / "out", tmp_path / "heard"
    os.mkfifo(heard)
    arguments = training(tiny, clips, out, sinks="jsonl,BEACON,tests.faults.runs:stalls:step=3")
    with running(tmp_path, *arguments, before=partial(tell_of_interrupts, heard)) as run, heard.open("rb") as ear:
        run.wait_for("train_step 3")
        run.send(Signals.SIGINT)
        assert ear.read(1) == b"1"
        run.send(Signals.SIGINT)
        assert run.wait() == 130
        said = run.out.read_text().splitlines()
        assert run.err.read_text() == ANSWER[Signals.SIGINT]
    assert "Ended at step 3, without a checkpoint of this step." in said[1]
    assert said[-1].startswith("Continue:  higgs-audio-trainer train ")
    assert "--resume" not in said[-1], "there is no checkpoint to resume from"
    last = lines(out)[-1]
    assert (last["event"], last["reason"]) == ("run_end", "interrupted")
    assert list(out.glob("checkpoint-*")) == []


def tell_of_interrupts(path):
    """Install a handler that writes a byte. The training's handler calls this handler."""
    fd = os.open(path, os.O_WRONLY)
    signal.signal(Signals.SIGINT, lambda _number, _frame: os.write(fd, b"1"))


def lead_a_group(method):
    """Make this process a group leader, and set the start method of the workers."""
    os.setpgrp()
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_survive_a_signal_to_the_whole_group(tiny, clips, tmp_path, method):
    """The data loader's workers receive Ctrl-C too, and the current step still gets the batch."""
    out = tmp_path / "out"
    arguments = training(tiny, clips, out, max_steps=FOREVER, dataloader_num_workers=2)
    with running(tmp_path, *arguments, before=partial(lead_a_group, method)) as run:
        run.wait_for("train_step 3")
        for number in (Signals.SIGHUP, Signals.SIGTERM, Signals.SIGUSR1, Signals.SIGINT):
            os.killpg(run.process.pid, number)
        assert run.wait() in {128 + number for number in STOP_SIGNALS}
        said = run.err.read_text()
    assert said == ANSWER[Signals[lines(out)[-1]["reason"]]]
    assert latest_checkpoint(out)[0] is not None


def test_killed_and_resumed_from_an_older_checkpoint_equals_a_run_that_was_not(tiny, clips, tmp_path):
    """After two kills past a checkpoint, the log as read and the adapter equal the results of an uninterrupted run."""
    options = {"max_steps": 8, "save_steps": 2, "lora_dropout": 0.3}
    run_training(settings(tiny, clips, tmp_path / "whole", log_steps=1, **options))
    out = tmp_path / "out"
    for attempt, step in enumerate((3, 7)):
        resume = {"resume": "latest"} if attempt else {}
        with running(tmp_path, *training(tiny, clips, out, **(options | resume))) as run:
            run.wait_for(f"train_step {step}")
            run.send(Signals.SIGKILL)
            assert run.wait() == 128 + 9
    assert lines(out, attempt=1)[0]["resumed_from_step"] == 2
    shutil.rmtree(out / "checkpoint-6")  # the run resumes from an older checkpoint
    run_training(settings(tiny, clips, out, log_steps=1, resume="latest", **options))
    assert [lines(out, attempt=number)[0]["attempt"] for number in range(3)] == [0, 1, 2]
    assert lines(out, attempt=2)[0]["resumed_from_step"] == 4
    assert (out / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert read_stable(out) == read_stable(tmp_path / "whole")


def test_a_second_run_in_the_directory_is_refused(tiny, clips, tmp_path):
    """A second run is refused during the first run, also with --resume, and is accepted after the first run's death."""
    out = tmp_path / "out"
    with running(tmp_path, *training(tiny, clips, out, max_steps=FOREVER, save_steps=2)) as run:
        run.wait_for("checkpoint 2")
        for resume in (None, "latest"):
            with pytest.raises(UserError, match=rf"no other run writes to, .*process {run.process.pid} on .*Wait"):
                run_training(settings(tiny, clips, out, resume=resume))
        before = lines(out)
        run.send(Signals.SIGKILL)
        run.wait()
    assert lines(out)[: len(before)] == before
    step = latest_checkpoint(out)[0].name.removeprefix("checkpoint-")
    result = run_training(settings(tiny, clips, out, resume="latest", max_steps=int(step) + 1))
    assert result.attempt == 1


def test_a_run_that_began_meanwhile_keeps_the_directory(tmp_path):
    """Of two runs with the same planned attempt, the later run is refused, during and after the earlier run."""
    one, other = (plan_attempt(str(tmp_path), None) for _ in range(2))
    with claim(str(tmp_path), one):
        pass
    with pytest.raises(UserError, match="expected no other run to begin"), claim(str(tmp_path), other):
        raise AssertionError
    asks = "from pathlib import Path; from higgs_audio_trainer.output_dir.lock import DirectoryLock as L; "
    subprocess.run([sys.executable, "-c", f"{asks}L(Path({str(tmp_path)!r})).check()"], check=True)  # and not locked
    assert json.loads((tmp_path / "run.json").read_bytes())["run_id"] == one.run_id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("optimizer.pt", "optimizer.pt: truncated"),
        ("scheduler.pt", "scheduler.pt: truncated"),
        ("rng_state.pth", "rng_state.pth: truncated"),
        (ADAPTER, f"{ADAPTER}: truncated"),
        ("trainer_state.json", "trainer_state.json is incomplete"),
    ],
)
def test_a_checkpoint_that_lost_its_end_is_passed_over(resumable, tmp_path, name, said):
    """A run does not resume from a checkpoint with a truncated file, and reports the file and the reason."""
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(resumable / "checkpoint-4", copy)
    assert damage_of(copy) is None
    whole = (copy / name).read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 2):
        (copy / name).write_bytes(whole[:length])
        assert damage_of(copy) == said
    (copy / name).write_bytes(whole)
    assert damage_of(copy) is None


@pytest.fixture(scope="module")
def resumable(tiny, clips, tmp_path_factory):
    """Train to two checkpoints, and return the folder."""
    folder = tmp_path_factory.mktemp("resumable")
    run_training(settings(tiny, clips, folder, save_steps=2))
    return folder


def test_what_is_passed_over_is_said(resumable, tiny, clips, tmp_path):
    """Resuming reports newer damaged checkpoints, and a request for a damaged checkpoint is an error."""
    out = tmp_path / "out"
    shutil.copytree(resumable, out)
    (out / "checkpoint-4/optimizer.pt").unlink()
    said = []
    run_training(settings(tiny, clips, out, resume="latest", save_steps=2), say=said.append)
    [line] = said
    assert line.count("\n") == 0
    assert line.startswith("--resume: passed over checkpoint-4: the optimizer state (optimizer.pt")
    assert lines(out, attempt=1)[0]["resumed_from_step"] == 2
    (out / "checkpoint-2" / ADAPTER).write_bytes(b"")
    with pytest.raises(UserError, match=f"complete checkpoint or of a run, got .*: {ADAPTER}: truncated. Name another"):
        plan_attempt(str(out), str(out / "checkpoint-2"))


def test_a_cache_that_is_deleted_under_a_run_stays_readable(tiny, clips, tmp_path):
    """The prepared data is mapped, so the run and its workers go on to the end."""
    out, codes = tmp_path / "out", tmp_path / "codes"
    arguments = training(tiny, clips, out, max_steps=12, dataloader_num_workers=1, codes_dir=codes)
    with running(tmp_path, *arguments) as run:
        run.wait_for("train_step 1")
        shutil.rmtree(codes)
        assert run.wait() == 0
    assert lines(out)[-1]["reason"] == "completed"
