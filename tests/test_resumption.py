"""A run that resumes with other settings: refused where the model would be another, else said and recorded."""

import json
import shutil
from contextlib import suppress

import pytest
import torch

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.diagnosed_log import diagnose
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.attempt import claim, plan_attempt
from higgs_audio_trainer.output_dir.checkpoints import damage_of
from higgs_audio_trainer.run import run_training
from tests.test_run import read_log, settings

STATE = "trainer_state.json"


@pytest.fixture(scope="module")
def run(tiny, clips, tmp_path_factory):
    """Train four steps with a checkpoint after each two, and return the folder."""
    folder = tmp_path_factory.mktemp("resumed") / "out"
    run_training(settings(tiny, clips, folder, save_steps=2, extra={"lr_scheduler_type": "linear"}))
    return folder


@pytest.fixture
def out(run, tmp_path):
    """Return a copy of the run whose last checkpoint is that of step 2."""
    shutil.copytree(run, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    return tmp_path / "out"


def resumed(tiny, clips, out, extra=None, **changes):
    """Resume a run, and return the lines that were said and the log of the attempt."""
    said = []
    changes = {"save_steps": 2, "resume": "latest", **changes}
    run_training(
        settings(tiny, clips, out, extra={"lr_scheduler_type": "linear"} | (extra or {}), **changes), say=said.append
    )
    return said, read_log(out, attempt=1)


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({"lora_alpha": 4}, {}, "--lora_alpha: expected 64, the value of checkpoint-2, to resume from it, got 4"),
        ({"lora_r": 4}, {}, "--lora_r: expected 32, the value of checkpoint-2"),
        ({"lora_targets": "q_proj"}, {}, "--lora_targets: expected down_proj,gate_proj,k_proj,o_proj,q_proj"),
        ({}, {"optim": "adafactor"}, "--optim: expected adamw_torch"),
    ],
)
def test_what_makes_another_model_is_refused(tiny, clips, out, changes, extra, message):
    """The values of the checkpoint are named, before data are prepared, and the folder stays as it was."""
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(UserError, match=message):
        resumed(tiny, clips, out, extra, **changes)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before


def change_state(out, **values):
    """Change values of the trainer's state of the last checkpoint."""
    path = out / "checkpoint-2" / STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_count_of_operations_beyond_64_bits_is_resumed(tiny, clips, out):
    """A long training of a large model counts more operations, as an integer in older versions of transformers."""
    change_state(out, total_flos=10**20)
    said, _ = resumed(tiny, clips, out)
    assert said == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"max_steps": "4"},
            r"checkpoint-2/trainer_state\.json: max_steps: expected an integer, got '4'\. Name another",
        ),
        ({"epoch": []}, r"epoch: expected a number, got \[\]"),
        ({"log_history": 3}, "log_history: expected a list, got 3"),
        ({"stateful_callbacks": [1]}, r"stateful_callbacks: expected an object, got \[1\]"),
        ({"stateful_callbacks": {"A": {}}}, r"stateful_callbacks\.TrainerControl: expected an object, got None"),
        ({"stateful_callbacks": None}, r"stateful_callbacks\.TrainerControl: expected an object, got None"),
        ({"global_step": 1e300}, "trainer_state.json is incomplete"),
        ({"global_step": True}, "trainer_state.json is incomplete"),
        ({"global_step": -1}, "trainer_state.json is incomplete"),
        ({"global_step": 10**30}, "trainer_state.json is incomplete"),
        ({"note": "x"}, "expected the fields of transformers"),
    ],
)
def test_a_state_of_another_form_is_refused(tiny, clips, out, values, message):
    """The library takes the values without a check."""
    change_state(out, **values)
    with pytest.raises(UserError, match=message):
        resumed(tiny, clips, out)


def test_another_base_checkpoint_is_refused_and_a_moved_one_is_not(tiny, clips, out, tmp_path):
    """Weights are compared by what they are, not by where they lie."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny.model_dir, moved)
    said, log = resumed(tiny, clips, out, base_ckpt=str(moved))
    assert (said, log[0]["resume_changes"], log[-1]["reason"]) == ([], {}, "completed")
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    weights.write_bytes(content)
    with pytest.raises(
        UserError, match="--base_ckpt: expected the weights that checkpoint-4 was trained on, got other"
    ):
        resumed(tiny, clips, out, base_ckpt=str(moved))


def test_what_may_change_is_in_force_said_and_recorded(tiny, clips, out, tmp_path):
    """Learning rate and weight decay of the new command count; other data and another seed are said."""
    manifest = tmp_path / "fewer.jsonl"
    rows = [json.loads(line) for line in clips.read_text("utf-8").splitlines()]
    for row in rows:
        row["audio"] = str(clips.parent / row["audio"])
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]), "utf-8")
    said, log = resumed(tiny, clips, out, train_manifest=str(manifest), lr=2e-5, wd=0.5, seed=3, max_steps=8)
    assert len(said) == 1 + ("encoded" in said[0])
    assert said[-1].startswith("--resume: changed since checkpoint-2: ")
    for part in (
        "--lr: 0.0001, now 2e-05",
        "--wd: 0.01, now 0.5",
        "--seed: 0, now 3",
        f"--train_manifest: other samples ({len(rows)}, now {len(rows) - 1})",
        "--max_steps: 4 steps, now 8, and the schedule with them",
        "Samples of the epoch in progress may come twice or not at all",
    ):
        assert part in said[-1]
    assert log[0]["resume_changes"]["lr"] == [1e-4, 2e-5]
    assert log[0]["config"]["lr"] == 2e-5
    (live,) = [event for event in log if event["event"] == "diagnosis" and event["code"] == "resume_changed"]
    (later,) = [event for event, _ in diagnose(out).findings if event.code == "resume_changed"]
    assert (live["severity"], live["step"], later.message) == ("warning", 4, live["message"])
    assert "--lr: 0.0001, now 2e-05" in live["message"]
    rates = {event["step"]: event["learning_rate"] for event in log if event["event"] == "train_step"}
    warmed_up = 1  # 3 % of 8 steps, rounded up
    assert rates == pytest.approx({step: 2e-5 * (8 - (step - 1)) / (8 - warmed_up) for step in (4, 6, 8)})
    state = torch.load(out / "checkpoint-8" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"]} <= {0.5, 0.0}


def test_equal_settings_are_no_change(tiny, clips, out):
    """A run that is resumed as it was says nothing, and records an empty change."""
    said, log = resumed(tiny, clips, out)
    assert (said, log[0]["resume_changes"], log[0]["resumed_from_step"]) == ([], {}, 2)
    assert read_log(out)[0]["resume_changes"] is None


def test_a_finished_run_says_that_nothing_is_left(tiny, clips, run, tmp_path):
    """The run ends at its last step, and the line names the flags that would go on."""
    shutil.copytree(run, tmp_path / "out")
    said, log = resumed(tiny, clips, tmp_path / "out")
    [line] = said
    assert line.startswith("--resume: checkpoint-4 has all 4 steps, and nothing is left to train. ")
    assert log[-1]["reason"] == "completed"


def test_the_best_checkpoint_of_a_moved_run_is_found(tiny, clips, tmp_path):
    """`load_best_model_at_end` loads the best checkpoint from where the run lies now."""
    best = {"load_best_model_at_end": True, "greater_is_better": True}  # the loss falls, so that step 1 is best
    evaluated = {"eval_manifest": str(clips), "val_steps": 1, "save_steps": 1, "lr": 1e-3, "grad_accum": 1}
    run_training(settings(tiny, clips, tmp_path / "a", extra=best, max_steps=1, **evaluated))
    (tmp_path / "a").rename(tmp_path / "b")
    run_training(settings(tiny, clips, tmp_path / "b", extra=best, max_steps=2, resume="latest", **evaluated))
    logs = [event for attempt in (0, 1) for event in read_log(tmp_path / "b", attempt=attempt)]
    losses = {event["step"]: event["loss"] for event in logs if event["event"] == "eval_result"}
    assert losses[1] > losses[2]
    adapters = [tmp_path / "b" / folder / "adapter_model.safetensors" for folder in ("", "checkpoint-1")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _change_state(folder, {"of_tomorrow": 1}), "got of_tomorrow too. Resume with the newer"),
        (lambda folder: (folder / "global_step2").mkdir(), "which deepspeed saved"),
        (lambda folder: (folder / "pytorch_model_fsdp.bin").touch(), "pytorch_model_fsdp.bin: truncated"),
        (lambda folder: (folder / "optimizer_0").mkdir(), "which fsdp saved"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "the state of the learning rate schedule"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "the state of the random generators"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "the optimizer state"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "the adapter (adapter_model.safetensors"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(tiny, clips, out, damage, message):
    """In one line, before data are prepared. A run whose only checkpoint lost a file does not start anew over it."""
    damage(out / "checkpoint-2")
    with pytest.raises(UserError) as caught:
        resumed(tiny, clips, out)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def _change_state(folder, fields):
    path = folder / STATE
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


class TestWhereToResume:
    """`--resume` alone, with the folder of a checkpoint, with the folder of a run, and where nothing is."""

    def test_the_folder_of_a_run(self, out, tmp_path):
        """The folder of a run stands for its newest complete checkpoint."""
        assert plan_attempt(str(tmp_path / "new"), str(out)).checkpoint == out / "checkpoint-2"
        (out / "checkpoint-3").mkdir()
        assert plan_attempt(str(out), str(out)).checkpoint == out / "checkpoint-2"
        (out / "checkpoint-2" / STATE).unlink()
        with pytest.raises(
            UserError, match=f"of a run, got .*: checkpoint-3: .*; checkpoint-2: .*{STATE}. Name another"
        ):
            plan_attempt(str(out), str(out))

    def test_nothing_there(self, tmp_path):
        """The run begins anew and says so: a misspelt folder is seen, and the first start of a job script works."""
        line = f"--resume: no checkpoint in {tmp_path}; training starts from the beginning"
        assert plan_attempt(str(tmp_path), "latest").notes == (line,)
        assert plan_attempt(str(tmp_path), None).notes == ()

    def test_a_finished_adapter_is_not_overwritten(self, out):
        """A run whose checkpoints were deleted to save room keeps its adapter."""
        shutil.rmtree(out / "checkpoint-2")
        with pytest.raises(UserError, match="got a finished adapter without one"):
            plan_attempt(str(out), "latest")

    @pytest.mark.parametrize("name", ["adapter_config.json", "training_settings.json"])
    def test_a_damaged_configuration(self, run, name):
        """The newest checkpoint is passed over like one whose weights are damaged."""
        content = (run / "checkpoint-4" / name).read_bytes()
        try:
            (run / "checkpoint-4" / name).write_bytes(content[:40])
            attempt = plan_attempt(str(run), "latest")
        finally:
            (run / "checkpoint-4" / name).write_bytes(content)
        assert (attempt.checkpoint, attempt.notes) == (
            run / "checkpoint-2",
            (f"--resume: passed over checkpoint-4: {name}: truncated",),
        )

    def test_a_save_that_was_interrupted(self, out):
        """Nothing can be resumed from it, so the run begins anew, as a job script that restarts needs."""
        (out / "checkpoint-2" / STATE).unlink()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (out / name).unlink()  # a run that is not finished has none
        attempt = plan_attempt(str(out), "latest")
        assert (attempt.number, attempt.checkpoint) == (1, None)
        assert attempt.notes[0].startswith("--resume: passed over checkpoint-2: ")
        assert attempt.notes[1].endswith("training starts from the beginning")


class TestClaim:
    """What a start leaves in its folder."""

    def test_a_start_that_failed_before_its_log_leaves_nothing(self, tmp_path):
        """Neither the state of a run nor a folder that was not there."""
        out = tmp_path / "out"
        with suppress(ZeroDivisionError), claim(str(out), plan_attempt(str(out), None)):
            assert (out / "run.json").exists()
            raise ZeroDivisionError
        assert not out.exists()

    def test_a_start_that_failed_with_a_log_is_an_attempt_that_blocks_nothing(self, tmp_path):
        """The next start needs no flag, and is the next attempt at the same run, so that no log is overwritten."""
        first = plan_attempt(str(tmp_path), None)
        with suppress(ZeroDivisionError), claim(str(tmp_path), first) as claimed:
            claimed.is_logged = True
            raise ZeroDivisionError
        second = plan_attempt(str(tmp_path), None)
        assert (second.run_id, second.number) == (first.run_id, 1)
        with claim(str(tmp_path), second) as claimed:
            claimed.train()
        with pytest.raises(UserError, match="which holds one"):
            plan_attempt(str(tmp_path), None)

    def test_a_folder_below_a_file(self, tmp_path):
        """The operating system's own sentence, with the flag."""
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"--output_dir: .*/file: Not a directory\. Choose a writable folder"):
            plan_attempt(str(tmp_path / "file" / "out"), None)

    def test_a_failed_resume_leaves_the_run_as_it_was(self, tmp_path):
        """A run that trained stays one that trained, with the number of its attempt."""
        with claim(str(tmp_path), plan_attempt(str(tmp_path), None)) as claimed:
            claimed.train()
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(ZeroDivisionError), claim(str(tmp_path), plan_attempt(str(tmp_path), "latest")):
            raise ZeroDivisionError
        assert (tmp_path / "run.json").read_bytes() == before


def test_a_checkpoint_is_whole_with_the_states_of_other_backends(tmp_path):
    """DeepSpeed keeps the schedule with the optimizer, FSDP keeps shards."""
    (tmp_path / STATE).write_text('{"global_step": 2}')
    (tmp_path / "rng_state_0.pth").mkdir()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "global_step2").mkdir()
    assert damage_of(tmp_path) is None


def test_old_checkpoints_are_compared_by_their_adapter(tiny, clips, out):
    """A checkpoint from before this file fixes what its adapter's configuration holds."""
    (out / "checkpoint-2" / "training_settings.json").unlink()
    said, log = resumed(tiny, clips, out, lr=2e-5)
    assert (said, log[0]["resume_changes"]) == ([], {})
    with pytest.raises(UserError, match="--lora_alpha: expected 64"):
        resumed(tiny, clips, out, lora_alpha=3)


@pytest.mark.parametrize("name", ["train_manifest", "eval_manifest", "codes_dir", "base_ckpt", "output_dir", "resume"])
def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch, tmp_path, name):
    """Expanded once, where the settings are made, whoever makes them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = TrainSettings(**{"train_manifest": "m", "output_dir": "o", name: "~/a b"}, extra={"deepspeed": "~/ds.json"})
    assert (getattr(made, name), made.extra["deepspeed"]) == (f"{tmp_path}/a b", f"{tmp_path}/ds.json")
    with pytest.raises(
        UserError, match=f"--{name}: expected a path, got '~nobody-here/a', whose home folder is unknown"
    ):
        TrainSettings(**{"train_manifest": "m", "output_dir": "o", name: "~nobody-here/a"})
