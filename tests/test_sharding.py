"""Training on several ranks that share the weights (FSDP1, FSDP2) equals training on a single rank."""

import shutil
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser, prepare_multi_gpu_env
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close

from higgs_audio_trainer.output_dir.checkpoints import backend_of
from tests import forks
from tests.families import every_family, training_model
from tests.test_probes import events_of

STEPS = 4
FSDP = ("--fsdp", "full_shard", "--fsdp_config")


def arguments(folder, tiny, clips, out, *more, ranks=1):
    """Return a command that trains on batches of four samples, whatever the number of ranks."""
    return (
        *("train", "--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", clips),
        *("--eval_manifest", clips, "--codes_dir", folder / "codes", "--output_dir", out, "--batch_size", 4 // ranks),
        *("--grad_accum", 1, "--max_steps", STEPS, "--save_steps", 2, "--val_steps", 2, "--log_steps", 1),
        *("--lora_dropout", 0, "--seed", 0, "--use_cpu", "true", "--sinks", "jsonl", "--say_steps", 100),
        *more,
    )


def train(folder, tiny, clips, out, *more, ranks=1):
    """Train to the end."""
    ended = forks.ranks(folder, forks.command, *arguments(folder, tiny, clips, out, *more, ranks=ranks), count=ranks)
    assert [rank.status for rank in ended] == [0] * ranks, [rank.err for rank in ended]


def losses(out, name):
    """Return losses and counts of the events of a name, by step."""
    fields = ("loss", "text_loss", "audio_loss", "text_targets", "audio_targets")
    return {event["step"]: [event[field] for field in fields] for event in events_of(out, name)}


@pytest.fixture(scope="module")
def ones(tmp_path_factory):
    """Keep the runs on a single rank, by base checkpoint."""
    return {}, tmp_path_factory


@pytest.fixture
def one(tiny, clips, ones):
    """Train on a single rank, once for each base checkpoint."""
    runs, folders = ones
    if tiny not in runs:
        folder = folders.mktemp("one")
        train(folder, tiny, clips, folder / "out")
        runs[tiny] = folder / "out"
    return runs[tiny]


def check_equal(out, one, backend="fsdp"):
    """Check losses, counts and adapters of two runs."""
    assert backend_of(out / "checkpoint-2") == backend, "accelerate ignores FSDP on CPUs"
    for folder in (".", "best"):
        ours, theirs = (load_file(run / folder / "adapter_model.safetensors") for run in (out, one))
        assert_close(ours, theirs, atol=1e-5, rtol=0)
    for name in ("train_step", "eval_result"):
        assert_close(losses(out, name), losses(one, name), atol=1e-5, rtol=0)


@every_family
def test_four_ranks_train_as_one_and_two_resume(tiny, clips, tmp_path, one):
    """Losses, counts and adapters of FSDP2 are one rank's, also when two ranks go on from four ranks' checkpoint."""
    out = tmp_path / "out"
    train(tmp_path, tiny, clips, out, *FSDP, '{"version": 2}', ranks=4)
    check_equal(out, one)
    steps = events_of(out, "train_step")
    assert all(step["step_ms_max"] >= step["step_ms_median"] > 0 for step in steps)
    assert all(step["slowest_rank"] in range(4) for step in steps)

    shutil.rmtree(out / f"checkpoint-{STEPS}")
    (out / "adapter_model.safetensors").unlink()
    train(tmp_path, tiny, clips, out, *FSDP, '{"version": 2}', "--resume", ranks=2)
    check_equal(out, one)


@every_family
def test_fsdp1_trains_and_resumes_as_one_rank(tiny, clips, tmp_path, one):
    """Losses, counts and adapters of FSDP1 are one rank's, also when four ranks go on from two ranks' checkpoint."""
    out = tmp_path / "out"
    train(tmp_path, tiny, clips, out, *FSDP, '{"version": 1}', ranks=2)
    check_equal(out, one)
    shutil.rmtree(out / f"checkpoint-{STEPS}")
    (out / "adapter_model.safetensors").unlink()
    for more, ranks, expected in (
        (2, 2, "expected FSDP1, which saved"),
        (1, 1, "expected a checkpoint of backend torch"),
    ):
        line = arguments(tmp_path, tiny, clips, out, *FSDP, f'{{"version": {more}}}', "--resume", ranks=ranks)
        ended = forks.ranks(tmp_path, forks.command, *line, count=ranks)
        assert [rank.status for rank in ended] == [2] * ranks
        assert sum(rank.err.count(expected) for rank in ended) == 1
    train(tmp_path, tiny, clips, out, *FSDP, '{"version": 1}', "--resume", ranks=4)
    check_equal(out, one)


@pytest.mark.parametrize(("name", "backend"), [("ddp", "torch"), ("fsdp1", "fsdp"), ("fsdp2", "fsdp")])
def test_a_configuration_of_accelerate_trains_as_one_rank(tiny, clips, tmp_path, one, monkeypatch, name, backend):
    """Ranks with the variables that `accelerate launch` sets for a configuration in examples/, in full precision."""
    config = Path(__file__).parent.parent / "examples" / "accelerate" / f"{name}.yaml"
    line = ["--config_file", str(config), "--num_processes", "2", "--mixed_precision", "no", "train"]
    launch, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    for variable, value in prepare_multi_gpu_env(launch).items():
        if variable.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(variable, value)
    train(tmp_path, tiny, clips, tmp_path / "out", ranks=2)
    check_equal(tmp_path / "out", one, backend)


def test_an_optimizer_that_takes_no_shards_is_refused_at_once(tiny, clips, tmp_path):
    """A trial step fails as the first step would, before the data are prepared."""
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "out"
    more = ("--optim", "adamw_bnb_8bit", *FSDP, '{"version": 2}')
    ended = forks.ranks(tmp_path, forks.command, *arguments(tmp_path, tiny, clips, out, *more, ranks=2))
    assert [rank.status for rank in ended] == [2, 2]
    assert sum(rank.err.count("expected an optimizer for cpu with FSDP2") for rank in ended) == 1
    assert not out.exists()


@every_family
def test_an_adapter_of_shards_loads_into_plain_peft(tiny, clips, tmp_path):
    """Plain peft gives each adapter of the model its weights."""
    from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint

    train(tmp_path, tiny, clips, tmp_path / "out", *FSDP, '{"version": 2}', ranks=2)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(training_model(open_checkpoint(str(tiny.model_dir))), tmp_path / "out")
    weights = {name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name}
    assert saved
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], value) for name, value in weights.items())
