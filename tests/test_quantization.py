"""Base models in 4 and 8 bit, against models with the dequantized weights and against LoRA runs."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model, with_adapter
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families import quantization
from higgs_audio_trainer.families.quantization import Quantization, prepare_quantized
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.whole_checkpoint import export_model
from tests import forks, record_training
from tests.batches import collate, random_examples, tensors
from tests.families import every_family, training_model

pytest.importorskip("bitsandbytes")
every_width = pytest.mark.parametrize("bits", [4, 8])


def quantized_model(checkpoint, bits, *, dtype=torch.float32):
    """Return the model of a checkpoint for training, quantized on the CPU."""
    model = checkpoint.family.for_training(
        checkpoint.name, dtype=dtype, attention=None, quantization=Quantization(bits, "cpu")
    )
    prepare_quantized(model)
    return model


def with_adapters(model):
    """Return the model with adapters that are not zero."""
    torch.manual_seed(0)
    adapted = add_lora(model, r=4, alpha=8, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return adapted.train()


def dequantized(module):
    """Return the weight of a quantized module by the definition of its numbers, without the kernels of a product."""
    import bitsandbytes

    weight = module.weight
    if isinstance(module, bitsandbytes.nn.Linear8bitLt):
        return weight.data.float() * weight.SCB[:, None] / 127
    state = weight.quant_state
    scales = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    packed = weight.data.flatten()
    levels = state.code[torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()]
    return (levels * (scales + state.offset).repeat_interleave(state.blocksize)).view(module.out_features, -1)


def in_full(checkpoint, quantized):
    """Return a plain model with the dequantized weights of a quantized model."""
    plain = training_model(checkpoint)
    changed = 0
    for name, module in quantized.named_modules():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
            target = plain.get_submodule(name).weight
            assert 0 < (target - dequantized(module)).abs().mean() < 0.2 * target.abs().mean()
            target.data = dequantized(module)
            changed += 1
    linear = [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]
    assert changed == len(linear) - 2  # all but the heads
    return plain


def losses_and_gradients(model, batch):
    """Return losses and the gradients of all adapters."""
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    return torch.stack([output.loss.detach(), output.text_loss, output.audio_loss]), gradients


@every_family
@every_width
def test_quantized_training_is_that_of_the_dequantized_weights(tiny, bits):
    """Losses within 1e-3, and gradients of all adapters, before and after an evaluation in between."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 3)))
    quantized = quantized_model(checkpoint, bits)
    reference = with_adapters(in_full(checkpoint, quantized))
    quantized = with_adapters(quantized)
    expected, expected_gradients = losses_and_gradients(reference, batch)
    for _ in range(2):
        losses, gradients = losses_and_gradients(quantized, batch)
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-3)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            assert (gradient - expected_gradients[name]).norm() <= 1e-3 * expected_gradients[name].norm(), name
        with torch.no_grad():
            evaluated = quantized.eval()(**batch).loss
        torch.testing.assert_close(evaluated, expected[0], rtol=1e-3 if bits == 4 else 1e-2, atol=0)
        quantized.train()


def settings_for(tiny, clips, folder, tmp_path, **changed):
    """Return settings of a short training."""
    return TrainSettings(
        **{
            "train_manifest": str(clips),
            "output_dir": str(folder),
            "codes_dir": str(tmp_path / "codes"),
            "base_ckpt": str(tiny.model_dir),
            "audio_tokenizer": str(tiny.codec_dir),
            "grad_accum": 1,
            "lora_dropout": 0.0,
            "max_steps": 2,
            "log_steps": 1,
            "sinks": "jsonl",
            "say_steps": 0,
        }
        | changed
    )


def train(tiny, clips, folder, tmp_path, **changed):
    """Train in this process, and return the weights of the adapter and the events."""
    run_training(settings_for(tiny, clips, folder, tmp_path, **changed), say=lambda text: None)
    lines = [line for path in sorted((folder / "events").iterdir()) for line in path.read_text().splitlines()]
    return load_file(folder / "adapter_model.safetensors"), [json.loads(line) for line in lines]


@every_family
def test_an_adapter_is_that_of_a_lora_run_and_resumes(tiny, clips, tmp_path):
    """Names and shapes of an adapter are a LoRA run's, and a resumed run equals an uninterrupted one bit by bit."""
    plain, _ = train(tiny, clips, tmp_path / "plain", tmp_path)
    options = {"load_in_4bit": True, "gradient_checkpointing": True, "eval_manifest": str(clips), "val_steps": 2}
    schedule = {"extra": {"lr_scheduler_type": "constant"}, "warmup": 0.0}
    whole, events = train(tiny, clips, tmp_path / "whole", tmp_path, max_steps=4, **options, **schedule)
    parts = {"save_steps": 2, **options, **schedule}
    train(tiny, clips, tmp_path / "parts", tmp_path, **parts)
    resumed, _ = train(tiny, clips, tmp_path / "parts", tmp_path, **parts, max_steps=4, resume="latest")
    assert {name: weight.shape for name, weight in plain.items()} == {n: w.shape for n, w in whole.items()}
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert events[0]["config"]["load_in_4bit"] is True
    named = json.loads((tmp_path / "whole" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tiny.model_dir)
    assert "| 4 bit base model |" in (tmp_path / "whole" / "README.md").read_text()


def record_quantized(model_dir, plan):
    """Record a training in 4 bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            record_training,
            "lora_model",
            lambda folder: with_adapters(quantized_model(open_checkpoint(str(folder)), 4)),
        )
        return record_training.record(model_dir, samples=4, steps=2, grad_accum=1, **plan)


def save_quantized(model_dir, out):
    """Record a training in 4 bit as a rank of two; rank 0 writes the record."""
    recorded = record_quantized(model_dir, {"batch_size": 2})
    if recorded["rank"] == 0:
        torch.save(recorded, out)


@every_family
def test_two_ranks_train_as_one(tiny, tmp_path):
    """DDP gives the gradients and losses of one rank with the same global batch."""
    alone = record_quantized(tiny.model_dir, {"batch_size": 4})
    for ended in forks.ranks(tmp_path, save_quantized, tiny.model_dir, tmp_path / "two.pt"):
        assert ended.status == 0, ended.err[-3000:]
    two = torch.load(tmp_path / "two.pt", weights_only=False)
    assert [step["loss"] for step in two["steps"]] == pytest.approx([step["loss"] for step in alone["steps"]], rel=1e-4)
    assert two["gradients"].keys() == alone["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        assert (two["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@every_family
@every_width
def test_merging_dequantizes(tiny, bits, tmp_path, clips, capsys):
    """`export-model --load_in_4bit` gives the model that was trained. Without the flag, a note says what is merged."""
    _, _ = train(tiny, clips, tmp_path / "out", tmp_path, save_steps=1, **{f"load_in_{bits}bit": True})
    checkpoint = open_checkpoint(str(tiny.model_dir))
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2)))
    trained = with_adapter(quantized_model(checkpoint, bits), tmp_path / "out", "base").train()
    expected = trained(**batch).loss.detach()
    apart = []
    for name, flags in (("rounded", [f"--load_in_{bits}bit"]), ("full", [])):
        assert main(["export-model", str(tmp_path / "out"), str(tmp_path / name), *flags]) == 0
        note = f"trained on the base checkpoint in {bits} bit, merged into the base checkpoint in full"
        assert (note in capsys.readouterr().err) == (not flags)
        apart.append((training_model(open_checkpoint(str(tmp_path / name)))(**batch).loss - expected).abs().item())
    assert apart[0] < 1e-3 * expected
    assert apart[1] > 2 * apart[0]


@every_width
def test_dora_on_a_quantized_model(tiny, bits, tmp_path, clips):
    """DoRA dequantizes in every product, and the model trains, resumes, speaks and merges as before."""
    options = {f"load_in_{bits}bit": True, "use_dora": True, "lora_r": 4}
    train(tiny, clips, tmp_path / "out", tmp_path, save_steps=1, **options)
    train(tiny, clips, tmp_path / "out", tmp_path, max_steps=3, resume="latest", **options)
    speaking = open_speaking_model(str(tmp_path / "out"), base_ckpt=None, audio_tokenizer=None, device="cpu", bits=bits)
    export_model(str(tmp_path / "out"), tmp_path / "whole", bits=bits)
    whole = open_speaking_model(str(tmp_path / "whole"), base_ckpt=None, audio_tokenizer=None, device="cpu")
    with torch.no_grad():
        tokens = torch.tensor([[5, 6, 7]])
        logits = [model(tokens).logits for model in (speaking.model, speaking.model, whole.model)]
    assert torch.equal(logits[0], logits[1])
    apart = (logits[0] - logits[2]).norm() / logits[2].norm()
    assert apart < (1e-4 if bits == 4 else 5e-2)  # products in 8 bit round their inputs


@every_width
def test_a_quantized_model_speaks(tiny, bits, tmp_path):
    """`say --load_in_4bit` on any CPU; packed weights would end the process on some."""
    with torch.no_grad():
        model = open_speaking_model(
            None, base_ckpt=str(tiny.model_dir), audio_tokenizer=str(tiny.codec_dir), device="cpu", bits=bits
        ).model
        logits = model(torch.tensor([[5, 6, 7]])).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"load_in_4bit": True, "load_in_8bit": True},
            "--load_in_4bit: expected no --load_in_8bit beside it, got both",
        ),
        (
            {"load_in_8bit": True, "full_finetune": True},
            "--full_finetune: expected no --load_in_8bit, whose weights cannot be trained",
        ),
        (
            {"load_in_8bit": True, "lora_targets": "q_proj", "modules_to_save": "norm,layers.1.mlp"},
            "--modules_to_save: expected modules that stay unquantized (heads, embeddings, norms), got model.layers.1.",
        ),
        ({"load_in_4bit": True, "extra": {"fsdp": "full_shard"}}, "--load_in_4bit: expected a single process or DDP"),
        ({"extra": {"optim": "galore_adamw"}}, "--optim galore_adamw: expected the package galore_torch, got none"),
        ({"extra": {"optim": "schedule_free_sgd"}}, "Install it: pip install schedulefree"),
    ],
)
def test_contradictions_are_refused_before_the_data(tiny, clips, tmp_path, flags, message):
    """Nothing is prepared, loaded or left behind."""
    with pytest.raises(UserError, match=re.escape(message)):
        run_training(settings_for(tiny, clips, tmp_path / "out", tmp_path, **flags), say=lambda text: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (None, "expected the package bitsandbytes, got none installed. Install it: pip install 'higgs-audio-trainer[q"),
        ("0.45.0", "expected bitsandbytes 0.48 or newer, got 0.45.0. Install it: pip install 'higgs-audio-trainer[ql"),
    ],
)
@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        ({"load_in_4bit": True}, "--load_in_4bit"),
        ({"load_in_8bit": True}, "--load_in_8bit"),
        ({"extra": {"optim": "paged_adamw_8bit"}}, "--optim paged_adamw_8bit"),
    ],
)
def test_bitsandbytes_must_be_there(tiny, clips, tmp_path, monkeypatch, installed, message, flags, flag):
    """A missing or old package is named before the data, with the line that installs it."""

    def version(name):
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(quantization, "version", version)
    with pytest.raises(UserError, match=re.escape(f"{flag}: {message}")):
        run_training(settings_for(tiny, clips, tmp_path / "out", tmp_path, **flags), say=lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_cannot_is_named(monkeypatch):
    """Whatever bitsandbytes raises where its kernels are missing."""
    import bitsandbytes

    def fail(*_args, **_settings):
        raise AttributeError("no cquantize_blockwise_fp32")

    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", fail)
    with pytest.raises(UserError, match="expected bitsandbytes to work on cpu, got AttributeError: no cquantize"):
        Quantization(4, "cpu").check()


@pytest.mark.parametrize(
    "optim", ["adafactor", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "ademamix_8bit"]
)
def test_small_optimizers_train_on_a_cpu(tiny, clips, tmp_path, optim):
    """Adafactor and those of bitsandbytes change all adapters."""
    weights, events = train(tiny, clips, tmp_path / "out", tmp_path, extra={"optim": optim})
    assert all(weight.abs().sum() > 0 for weight in weights.values())
    assert [event["step"] for event in events if event["event"] == "train_step"] == [1, 2]


def test_a_plain_run_prints_nothing_of_bitsandbytes(tmp_path):
    """A warning of its import, on some CPUs, is silent wherever transformers is imported."""
    code = "import higgs_audio_trainer as h; h.run_training; import sys; assert 'bitsandbytes' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
