"""Child process: measure the memory of training steps by the system's count, beside the estimate.

    python -m tests.measured_step FAMILY

prints a JSON line for each case: what the step is, the estimate and the measured growth of the process in bytes.
"""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.planning.estimate import Load, _batch, estimate
from higgs_audio_trainer.training.lora_settings import lora_config
from higgs_audio_trainer.training.model import add_adapters, choose_parameters

SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512}
IDS = {"audio_token_id": 500, "audio_delay_token_id": 501, "audio_bos_token_id": 502, "pad_token_id": 0}
IDS |= {"bos_token_id": 1, "eos_token_id": 2}
CASES = [
    {"lora_r": 16},
    {"lora_r": 16, "lora_dropout": 0.0, "gradient_checkpointing": True},
    {"use_dora": True, "lora_dropout": 0.0},
    {"full_finetune": True},
    {"full_finetune": True, "gradient_checkpointing": True},
]
BATCH = 4
LOAD = Load(clip_seconds=6.0)


def small_config(family):
    """Return a configuration of a family whose activations take more memory than its weights."""
    raw = dict(family.published_config)
    if "text_config" in raw:
        raw["text_config"] = {**raw["text_config"], **SMALL}
    else:
        raw |= {**SMALL, **IDS}
    return family.read_config("small", raw)


def status(field):
    """Return a size of this process in bytes, from the system."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def settings_of(case):
    """Return the settings of a case, float32 on the CPU."""
    extra = {"use_cpu": True, "optim": "sgd"}
    return TrainSettings(train_manifest="x", output_dir="x", batch_size=BATCH, grad_accum=1, extra=extra, **case)


def measure(family, case):
    """Return the estimate and the measured growth of the process during a step, in bytes."""
    config = small_config(family)
    settings = settings_of(case).with_text_loss(family.text_loss_weight)
    made = estimate(settings, family, config, LOAD)
    base = family.without_weights(config).to_empty(device="cpu")
    for tensor in [*base.parameters(), *base.buffers()]:
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor, std=0.02)
        else:
            tensor.zero_()  # offsets of codes
    base.text_loss_weight = settings.text_weight
    if settings.full_finetune:
        choose_parameters(base, train=None, freeze=None)
        model = base
    else:
        model = add_adapters(base, lora_config(settings))
    model.train()
    if settings.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})

    def step(batch):
        base(**batch).loss.backward()
        model.zero_grad(set_to_none=True)

    def batch_of(size):
        batch = _batch(replace(settings, batch_size=size), config, LOAD)
        length = batch["input_ids"].shape[1]
        batch["route"]["places"] = torch.arange(size * length)
        return batch

    step(batch_of(1))  # libraries take their memory at the first step
    batch = batch_of(BATCH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    step(batch)
    return {"case": case, "estimate": made.peak - made.weights, "measured": status("VmHWM") - before}


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for one in CASES:
        sys.stdout.write(json.dumps(measure(FAMILIES[sys.argv[1]], one)) + "\n")
