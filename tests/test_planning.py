"""The estimated memory of a training, held against the system's count and against measurements on a GPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.methods import MEASURED, estimate_as_measured
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.planning.advice import changes
from higgs_audio_trainer.planning.estimate import RESERVE, estimate
from higgs_audio_trainer.planning.live_memory import LiveMemory
from tests.families import every_family_by_name
from tests.measured_step import CASES, LOAD, settings_of, small_config

GIB = 2**30
#: Memory comes from the system page by page and goes back at once, so that the peak of the process is that of tensors.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.fixture
def small(family):
    """Return a family and a small configuration."""
    return FAMILIES[family], small_config(FAMILIES[family])


def of(small, load=LOAD, **settings):
    """Return the estimate of a training of a small model."""
    family, config = small
    settings = {"train_manifest": "x", "output_dir": "x", **settings}
    return estimate(TrainSettings(**settings), family, config, load)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak")
@every_family_by_name
def test_the_estimate_is_the_growth_of_the_process(family):
    """Steps of LoRA, DoRA and full fine-tuning, with and without checkpointing, take what the estimate says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.measured_step", family],
        env=os.environ | ALLOCATION,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["case"] for row in rows] == CASES
    for row in rows:
        assert row["estimate"] == pytest.approx(row["measured"], rel=0.1), row


@pytest.mark.parametrize("measured", MEASURED, ids=lambda row: f"{row.family}-{row.checkpointing}")
def test_the_estimate_is_the_peak_on_a_gpu(measured):
    """The estimate at full size is within 5 % of the peak that an H100 had."""
    assert estimate_as_measured(measured) / GIB == pytest.approx(measured.peak_gib, rel=0.05)


@every_family_by_name
def test_layers_that_are_alike_add_the_same(small, monkeypatch):
    """Two and three layers tell the activations of all, as the step of all layers does."""
    for settings in (settings_of(case) for case in CASES[:2]):
        few = estimate(settings, *small, LOAD)
        with monkeypatch.context() as patch:
            patch.setattr("higgs_audio_trainer.planning.estimate._MEASURED_LAYERS", (2, 100))
            assert estimate(settings, *small, LOAD) == few


@every_family_by_name
def test_fewer_trained_layers_keep_fewer_activations(small):
    """Layers that are not alike are all computed: below the first adapter nothing is kept."""
    last, every = of(small, lora_layers="3"), of(small)
    assert last.trained * 4 == every.trained
    assert last.activations < 0.6 * every.activations


@every_family_by_name
def test_parameters_are_those_of_the_model(small):
    """Trained and total numbers are those of the model, and the weights take their data types."""
    family, config = small
    parameters = list(family.without_weights(config).parameters())
    whole = of(small, full_finetune=True)
    assert whole.total == whole.trained == sum(parameter.numel() for parameter in parameters)
    assert whole.weights == 4 * whole.total == whole.gradients == whole.optimizer // 2
    adapters = of(small)
    assert adapters.total == whole.total + adapters.trained
    assert adapters.weights == 2 * whole.total + 4 * adapters.trained
    part = of(small, full_finetune=True, train="layers.*.mlp.*")
    assert 0 < part.trained < whole.trained


@every_family_by_name
def test_quantized_weights_take_less(small):
    """4 and 8 bit shrink the linear modules of the decoder alone; products need one module in full."""
    full, eight, four = of(small), of(small, load_in_8bit=True), of(small, load_in_4bit=True)
    assert four.weights < eight.weights < full.weights
    family, config = small
    linear = [m for m in family.without_weights(config).model.modules() if isinstance(m, torch.nn.Linear)]
    assert full.weights - eight.weights == sum(module.weight.numel() for module in linear)
    assert four.activations == full.activations + 2 * max(module.weight.numel() for module in linear)


@pytest.mark.parametrize("family", list(FAMILIES)[:1])
def test_optimizers(small):
    """States of 8 bit take a quarter, Adafactor's almost nothing, SGD's and paged ones none on the device."""
    adam = of(small, full_finetune=True).optimizer
    by_name = {
        name: of(small, full_finetune=True, extra={"optim": name}).optimizer / adam
        for name in ("adamw_bnb_8bit", "adafactor", "sgd", "paged_adamw_8bit", "lion_32bit")
    }
    assert by_name.pop("adamw_bnb_8bit") == pytest.approx(0.25, rel=0.05)
    assert by_name.pop("lion_32bit") == 0.5
    assert by_name.pop("adafactor") < 0.02
    assert set(by_name.values()) == {0}


@every_family_by_name
def test_a_training_on_several_ranks(small):
    """DDP adds buckets as large as the gradients, FSDP shares weights, gradients and states."""
    one, ddp = of(small, full_finetune=True), of(small, replace(LOAD, ranks=4), full_finetune=True)
    assert ddp == replace(one, exchange=one.gradients)
    fsdp = of(small, replace(LOAD, ranks=4), full_finetune=True, extra={"fsdp": "full_shard auto_wrap"})
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == tuple(
        size // 4 for size in (one.weights, one.gradients, one.optimizer)
    )
    assert 0 < fsdp.exchange < one.weights


@every_family_by_name
def test_gradients_of_several_micro_batches_are_kept(small):
    """With one micro-batch per step, gradients grow as activations shrink."""
    several, one = of(small, full_finetune=True), of(small, full_finetune=True, grad_accum=1)
    assert several.peak - one.peak == min(one.gradients, one.activations)


@every_family_by_name
def test_advice_ends_with_the_first_fit(small):
    """Changes come in the order of their cost, and end when the training fits."""
    family, config = small
    settings = replace(settings_of({}), extra={})
    estimate_of = lambda given: estimate(given, family, config, LOAD)  # noqa: E731
    first = changes(settings, LOAD, estimate_of, RESERVE + estimate_of(settings).peak - 1)
    assert [change.flags for change in first] == ["--gradient_checkpointing true"]
    every = changes(settings, LOAD, estimate_of, 0)
    assert [change.flags for change in every] == [
        "--gradient_checkpointing true",
        "--batch_size 1 --grad_accum 4",
        "--optim adamw_bnb_8bit",
        "--load_in_4bit true",
    ]
    peaks = [change.estimate.peak for change in every]
    assert peaks[0] > peaks[1] > peaks[2]
    full = replace(settings, full_finetune=True, max_batch_seconds=60.0)
    flags = [change.flags for change in changes(full, LOAD, estimate_of, 0)]
    assert flags[1] == "--max_batch_seconds 6 --grad_accum 10"
    assert flags[-2:] == ["adapters in place of --full_finetune", "--load_in_4bit true"]


def test_a_freed_tensor_makes_room():
    """The peak is that of tensors alive at a time, and views and weights from before do not count."""
    weights = torch.ones(1024)
    with LiveMemory([weights]) as live:
        for _ in range(3):
            made = weights[:512] * 2
            del made
        kept = weights.view(2, 512) + 1
    assert (live.now, live.peak) == (4096, 4096)
    del kept
    assert live.now == 0
