"""Starts that fail: found before anything is loaded where possible, told in one line, and gone afterwards."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import TCPStore
from transformers import Trainer, TrainerCallback

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training import collective, shared_files
from higgs_audio_trainer.training.argument_checks import notes_on
from higgs_audio_trainer.training.arguments import training_arguments
from higgs_audio_trainer.training.sampler import LengthGroupedOrder
from higgs_audio_trainer.training.save_errors import saving
from higgs_audio_trainer.training.shared_files import check_shared_files
from tests.test_run import read_log, settings


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"dataloader_persistent_workers": True}, "--dataloader_persistent_workers: expected workers"),
        (
            {"dataloader_prefetch_factor": 2},
            "dataloader_prefetch_factor",
        ),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers: expected at least 0, got -1"),
        ({"eval_on_start": True}, "--eval_on_start: expected samples to evaluate on, got no --eval_manifest"),
        ({"metric_for_best_model": "eval_wer"}, "--metric_for_best_model: expected one of loss, text_loss, audio_loss"),
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor: expected the default, since .* no effect"),
        ({"use_liger_kernel": True}, "--use_liger_kernel: expected the default"),
        ({"optim": "schedule_free_adamw"}, "--optim schedule_free_adamw: expected the package schedulefree"),
        ({"optim": "galore_adamw"}, "--optim galore_adamw: "),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "--lr_scheduler_type cosine_with_min_lr: .*min_lr"),
        ({"train_sampling_strategy": "batch_rebalance"}, "--train_sampling_strategy: expected one of random"),
        ({"fp16": True}, "--fp16: expected a GPU, got a CPU"),
        ({"push_to_hub": True}, "--push_to_hub: expected access to the Hub"),
        (
            {"optim_args": "foo=1"},
            "--optim_args: expected arguments of --optim adamw_torch.*, got 'foo=1' without effect",
        ),
        ({"adam_beta1": 2.0}, "--optim adamw_torch.*: Invalid beta"),
        ({"max_grad_norm": float("nan")}, "--max_grad_norm: expected at least 0, got nan"),
        ({"deepspeed": "ds.json"}, "--deepspeed: expected the package deepspeed"),
        (
            {"gradient_checkpointing_kwargs": {"foo": 1}},
            "--gradient_checkpointing_kwargs: expected .*use_reentrant, got foo",
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.01}},
            r"--lr_scheduler_type polynomial: lr_end \(0.01\) must be smaller than initial lr \(0.0001\)",
        ),
        ({"load_best_model_at_end": True}, "transformers.TrainingArguments: .*load_best_model_at_end"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_would_fail_late_are_refused_early(tiny, clips, tmp_path, extra, message):
    """Before the manifest is read: the message is about the argument although the manifest is missing."""
    with pytest.raises(UserError, match=message) as caught:
        training_arguments(settings(tiny, tmp_path / "missing.jsonl", tmp_path / "out", extra=extra))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["accelerator_config", "fsdp_config"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 5_000 + "]" * 5_000, "expected JSON, got: expected lists and objects nested at most 100 deep"),
        ("[1]", r"expected a JSON object, got \[1\]"),
        ("{", "expected JSON, got: Expecting property name"),
        (None, "Is a directory. Name a file of JSON"),
        ("/dev/zero", "Not a file. Name a file of JSON"),
    ],
    ids=["deep", "list", "cut", "folder", "device"],
)
def test_a_file_of_an_argument_is_read_within_bounds(tiny, clips, tmp_path, name, content, message):
    """The library reads a file of any size, and a device without an end."""
    path = tmp_path / "file.json"
    if content is None:
        path.mkdir()
    elif content.startswith("/"):
        path.symlink_to(content)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=f"^--{name}:? {path}: {message}"):
        training_arguments(settings(tiny, clips, tmp_path / "out", extra={name: str(path)}))


def test_an_argument_too_long_for_the_name_of_a_file_is_left_to_the_library(tiny, clips, tmp_path):
    """DeepSpeed takes base64 in place of a file."""
    with pytest.raises(UserError, match=r"^transformers\.TrainingArguments: .*File name too long"):
        training_arguments(settings(tiny, clips, tmp_path / "out", extra={"accelerator_config": "x" * 300}))


@pytest.mark.parametrize(
    "extra", [{"label_smoothing_factor": 0.0}, {"optim": "adafactor"}, {"lr_scheduler_type": "cosine"}]
)
def test_arguments_that_work_are_taken(tiny, clips, tmp_path, extra):
    """A default that is written out is no problem."""
    training_arguments(settings(tiny, clips, tmp_path, extra=extra))


def test_a_batch_that_is_never_full_is_refused(tiny, clips, tmp_path):
    """Nothing would be trained, and the run would end as completed."""
    with pytest.raises(UserError, match="expected a batch of 100 samples on each of 1 ranks, got 8 samples"):
        run_training(settings(tiny, clips, tmp_path / "out", batch_size=100, extra={"dataloader_drop_last": True}))
    assert not (tmp_path / "out").exists()


def test_what_transformers_refuses_at_the_start_is_one_line_and_leaves_nothing(tiny, clips, tmp_path, monkeypatch):
    """The corrected command needs no other folder and no --resume."""

    def refuse(*_args, **_kwargs):
        raise ValueError("expected\n  something else")

    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "create_optimizer", refuse)
        with pytest.raises(UserError, match=r"transformers\.Trainer: ValueError: expected something else"):
            run_training(settings(tiny, clips, tmp_path / "out", max_steps=1))
    assert not (tmp_path / "out").exists()
    run_training(settings(tiny, clips, tmp_path / "out", max_steps=1))
    assert read_log(tmp_path / "out")[-1]["reason"] == "completed"


def test_a_tracker_that_refuses_its_set_up_is_one_line(tiny, clips, tmp_path, monkeypatch):
    """The error comes from a callback of transformers, whatever its class."""

    class UsageError(Exception):
        pass

    class Tracker(TrainerCallback):
        def on_train_begin(self, *_args, **_kwargs):
            raise UsageError("no API key configured")

    monkeypatch.setattr("higgs_audio_trainer.run.TrainingBar", lambda _file, _milestones: _with_close(Tracker()))
    with pytest.raises(UserError, match=r"transformers\.Trainer: UsageError: no API key configured"):
        run_training(settings(tiny, clips, tmp_path / "out", max_steps=1))
    assert not (tmp_path / "out").exists()


def _with_close(callback):
    callback.close = lambda: None
    return callback


@pytest.fixture
def _short_of_memory(monkeypatch):
    """Let a batch of more than two samples run out of memory."""
    forward = HiggsAudioForTraining.forward

    def short(self, input_ids, *args, **kwargs):
        if len(input_ids) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(HiggsAudioForTraining, "forward", short)


@pytest.mark.usefixtures("_short_of_memory")
def test_a_start_that_runs_out_of_memory_is_an_attempt_that_blocks_nothing(tiny, clips, tmp_path):
    """One line with what to do; its log stays, and the next start needs no --resume."""
    with pytest.raises(UserError, match=r"step 1: out of memory on cpu with batch_size 8\. Train with a smaller"):
        run_training(settings(tiny, clips, tmp_path, batch_size=8, max_steps=1))
    assert read_log(tmp_path)[-1]["reason"] == "error"
    run_training(settings(tiny, clips, tmp_path, batch_size=2, max_steps=1))
    assert read_log(tmp_path, attempt=1)[-1]["reason"] == "completed"
    assert read_log(tmp_path, attempt=1)[0]["run_id"] == read_log(tmp_path)[0]["run_id"]


@pytest.mark.usefixtures("_short_of_memory")
def test_a_batch_size_that_was_found_is_said_and_recorded(tiny, clips, tmp_path):
    """The log has one run_start, with the batch size that trains; the evaluation before the first step follows it."""
    said = []
    run_training(
        settings(
            tiny,
            clips,
            tmp_path,
            batch_size=8,
            grad_accum=1,
            max_steps=2,
            log_steps=1,
            extra={"auto_find_batch_size": True},
        ),
        say=said.append,
    )
    log = read_log(tmp_path)
    sizes = {len(event["samples"]) for event in log if event["event"] == "train_step"}
    assert sizes == {log[0]["config"]["batch_size"]}
    assert sizes < {1, 2}
    assert [event["event"] for event in log].count("run_start") == 1
    assert said[-1].startswith(f"--auto_find_batch_size: training with batch_size {sizes.pop()}, since 8 needs more")


def test_what_does_less_than_it_says_is_said(tiny, clips, tmp_path):
    """In one line each: an interval without data, epochs beside a number of steps, more workers than cores."""
    extra = {"dataloader_num_workers": 10_000}
    run = settings(tiny, clips, tmp_path, val_steps=10, epochs=2, max_steps=5, extra=extra)
    notes = notes_on(training_arguments(run), run)
    assert [note.partition(":")[0] for note in notes] == ["--val_steps", "--epochs", "--dataloader_num_workers"]
    run = settings(tiny, clips, tmp_path, val_steps=10, eval_manifest=str(clips))
    assert notes_on(training_arguments(run), run) == []


def test_shares_of_all_steps_are_taken(tiny, clips, tmp_path):
    """Of 8 steps, a quarter is 2: for the log, the checkpoints and the evaluations."""
    run_training(
        settings(
            tiny,
            clips,
            tmp_path,
            grad_accum=1,
            max_steps=8,
            log_steps=0.25,
            save_steps=0.5,
            val_steps=0.5,
            eval_manifest=str(clips),
        )
    )
    steps = {
        name: [e["step"] for e in read_log(tmp_path) if e["event"] == name] for name in ("train_step", "checkpoint")
    }
    assert steps == {"train_step": [1, 2, 4, 6, 8], "checkpoint": [4, 8]}
    assert [e["step"] for e in read_log(tmp_path) if e["event"] == "eval_result"] == [4, 8]


def test_mixed_precision_is_asked_of_the_accelerator(tiny, clips, tmp_path, monkeypatch):
    """`accelerate launch --mixed_precision bf16` sets a variable, which trains in bfloat16 without a flag."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    assert read_log(tmp_path)[0]["config"]["mixed_precision"] == "bf16"


def test_samples_are_grouped_by_length(tiny, clips, tmp_path):
    """The strategy of transformers works, and every sample comes once in an epoch."""
    extra = {"train_sampling_strategy": "group_by_length"}
    run_training(settings(tiny, clips, tmp_path, grad_accum=1, epochs=1, max_steps=-1, log_steps=1, extra=extra))
    names = [name for event in read_log(tmp_path) if event["event"] == "train_step" for name in event["samples"]]
    assert len(names) == len(set(names)) == 8
    lengths = torch.randint(1, 500, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    order = LengthGroupedOrder(4, lengths, seed=1)
    first = list(order)
    assert first == list(order)
    order.set_epoch(1)
    assert list(order) != first
    spread = [max(group) - min(group) for group in zip(*[iter([lengths[index] for index in first])] * 4, strict=True)]
    assert sum(spread) < 0.5 * len(spread) * (max(lengths) - min(lengths))


class TestSaving:
    """Errors of writing, by the real writers."""

    def test_a_full_disk(self, tmp_path):
        """One line: the folder, the reason, the checkpoint that is left, and what to do."""
        target = tmp_path / "checkpoint-4"
        target.mkdir()
        with pytest.raises(UserError) as caught, saving(target, tmp_path):
            torch.save({"a": torch.zeros(10**6)}, "/dev/full")
        assert str(caught.value).startswith(f"{target}: ")
        assert "No checkpoint is complete yet. Make room, or remove the cause, then continue" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_the_adapters_writer(self, tmp_path):
        """An error of safetensors has no error number."""
        with pytest.raises(UserError, match="No such file or directory"), saving(tmp_path, tmp_path):
            save_file({"a": torch.zeros(1)}, tmp_path / "gone" / "adapter_model.safetensors")

    def test_a_new_folder_is_removed(self, tmp_path):
        """An incomplete checkpoint takes the room that the next try needs."""
        target = tmp_path / "checkpoint-4"

        def write():
            target.mkdir()
            (target / "optimizer.pt").write_bytes(bytes(10))
            Path("/dev/full").write_bytes(bytes(10**5))

        with pytest.raises(UserError, match=f"{target}: No space left on device"), saving(target, tmp_path):
            write()
        assert not target.exists()

    def test_other_errors_pass(self, tmp_path):
        """A bug keeps its traceback."""
        with pytest.raises(RuntimeError, match="shape mismatch"), saving(tmp_path, tmp_path):
            raise RuntimeError("shape mismatch")


class TestRanks:
    """An error of any rank is printed once, with rank and machine."""

    def test_an_error_of_another_rank_names_it(self, tiny, clips, tmp_path, monkeypatch):
        """Every rank raises the error that rank 1 met, and rank 0 prints the error with the place."""
        arguments = training_arguments(settings(tiny, clips, tmp_path))
        met = UserError("no such folder here")
        met.place = "rank 1 on node-2"
        monkeypatch.setattr(type(arguments), "world_size", 2)
        monkeypatch.setattr(collective, "gather_object", lambda errors: [*errors, met])
        with pytest.raises(UserError) as caught:
            collective.on_every_rank(arguments, lambda: 1)
        assert (caught.value.place, caught.value.is_shared) == ("rank 1 on node-2", True)

    def test_files_that_machines_do_not_share(self, tiny, clips, tmp_path, monkeypatch):
        """The message names what must lie on a shared disk: the data, and the checkpoint to resume from."""
        arguments = training_arguments(settings(tiny, clips, tmp_path))
        datasets = [SimpleNamespace(fingerprint="f0"), SimpleNamespace(fingerprint="f1")]
        gathered = [("rank 0", ["f0", "f1"]), ("rank 1 on node-2", ["f0", "f1"])]
        monkeypatch.setattr(shared_files, "gather_object", lambda own: [gathered[0], *own[1:], gathered[1]])
        check = partial(check_shared_files, prepared=datasets, arguments=arguments)
        check(Attempt("r", 1, tmp_path / "checkpoint-2"))  # one process has its files
        monkeypatch.setattr(type(arguments), "world_size", 2)
        check(Attempt("r", 0, None))
        with pytest.raises(UserError, match=r"checkpoint-2 on every machine, got none here\. Put --output"):
            check(Attempt("r", 1, tmp_path / "checkpoint-2"))
        gathered[1] = ("rank 1 on node-2", ["f0", "f2"])
        with pytest.raises(UserError, match=r"same samples on every rank, got other samples .* on rank 1 on node-2\. "):
            check(Attempt("r", 0, None))

    def test_before_there_is_a_group_one_rank_prints_a_message(self, monkeypatch):
        """The ranks of `prepare` have no group, but torchrun's store. Without a store, twice is better than never."""
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", store.port), ("LOCAL_RANK", 1)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        assert [collective.is_first_to_report(message) for message in "aab"] == [True, False, True]
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
        assert collective.is_first_to_report("a")

    def test_a_rank_that_fails_alone_says_so(self, tmp_path):
        """Real processes: rank 1 meets an error during the training, rank 0 waits in a collective."""
        script = tmp_path / "fails.py"
        script.write_text(
            "import os, sys, torch\n"
            "import torch.distributed as dist\n"
            "from unittest import mock\n"
            "from higgs_audio_trainer import cli\n"
            "from higgs_audio_trainer.errors import UserError\n"
            "def work(arguments):\n"
            "    dist.init_process_group('gloo')\n"
            "    if dist.get_rank() == 1:\n"
            "        raise UserError('codes/a.npy: the file broke')\n"
            "    dist.barrier()\n"
            "with mock.patch.object(cli, '_dispatch', work):\n"
            "    sys.exit(cli.main(['train']))\n"
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent)])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        ours = [line for line in done.stderr.splitlines() if line.startswith("higgs-audio-trainer: ")]
        assert done.returncode == 1
        [line] = ours
        assert line.startswith("higgs-audio-trainer: rank 1 on ")
        assert line.endswith(": codes/a.npy: the file broke")


def test_workers_stay_where_there_are_any(tiny, clips, tmp_path):
    """Workers are persistent by default, and a user's own choices win."""
    assert not training_arguments(settings(tiny, clips, tmp_path)).dataloader_persistent_workers
    workers = {"dataloader_num_workers": 2}
    assert training_arguments(settings(tiny, clips, tmp_path, extra=workers)).dataloader_persistent_workers
    given = {**workers, "dataloader_persistent_workers": False, "accelerator_config": {"non_blocking": True}}
    arguments = training_arguments(settings(tiny, clips, tmp_path, extra=given))
    assert not arguments.dataloader_persistent_workers
    assert arguments.accelerator_config.non_blocking


def test_a_batch_size_beside_a_budget_is_noted(tiny, clips, tmp_path):
    """The budget decides the batches of the training."""
    given = settings(tiny, clips, tmp_path, batch_size=4, max_batch_seconds=30.0)
    (note,) = notes_on(training_arguments(given), given)
    assert note.startswith("--batch_size: counts for the evaluation alone")
