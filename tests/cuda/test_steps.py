"""A training on the device: its record, the transfer of a due step, and no synchronisation in an undue step."""

import warnings

import pytest
import torch

from higgs_audio_trainer.extraction import host_transfer
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings
from sinks import MemorySink
from tests.batches import lora_model, make_trainer, random_examples

STEPS = 8
FROM_THE_DATA = ("num_targets", "masked", "supervised", "label_matches", "offset_contested", "stop_targets", "strip")


def is_due(step):
    """Return True for steps 1, 4 and 8. Step 8, the last, is also the end of the training."""
    return step in (1, 4, 8)


def train(checkpoint, tiny, folder, device, rule=is_due):
    """Train with checks, and return the records."""
    memory = MemorySink()
    emit = Pipeline([("memory", memory)], run_id="r")
    settings = RecorderSettings(rule, 8, WindowSettings(2, 5, (0,), None), counts=True, strict=True)
    trainer = make_trainer(
        checkpoint,
        lora_model(tiny.model_dir),
        random_examples(checkpoint, 4, seed=1),
        folder,
        Recorder(emit, settings, checks=LiveChecks(emit, fails=False)),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        accelerator_config={"non_blocking": device == "cuda"},
        max_grad_norm=1.0,
        logging_nan_inf_filter=False,
        per_device_train_batch_size=4,
        max_steps=STEPS,
    )
    trainer.train()
    return memory


def test_the_record_is_that_of_the_cpu(checkpoint, tiny, tmp_path, device):
    """Losses agree, and what is counted in the data is equal."""
    expected = train(checkpoint, tiny, tmp_path / "cpu", "cpu")
    got = train(checkpoint, tiny, tmp_path / device, device)
    for one, other in zip(got.named("train_step"), expected.named("train_step"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=5e-2)
        assert (one["text_targets"], one["audio_targets"]) == (other["text_targets"], other["audio_targets"])
    for one, other in zip(got.named("token_counts"), expected.named("token_counts"), strict=True):
        assert {name: one[name] for name in FROM_THE_DATA} == {name: other[name] for name in FROM_THE_DATA}


def test_a_due_step_has_one_transfer(checkpoint, tiny, tmp_path, device, monkeypatch):
    """A due step copies to the host once, an undue step never."""
    current, transfers = [0], []

    def rule(step):
        current[0] = step
        return is_due(step)

    copy = host_transfer.on_host
    monkeypatch.setattr(host_transfer, "on_host", lambda packed: (transfers.append(current[0]), copy(packed))[1])
    train(checkpoint, tiny, tmp_path, device, rule)
    assert transfers == [1, 4, 8]


@pytest.mark.cuda
def test_a_due_step_synchronises_once(checkpoint, tiny, tmp_path):
    """After the first steps, a due step makes the host wait once, for its transfer."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    waits = {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")

        def rule(step):
            waits[step] = sum("synchroniz" in str(one.message) for one in seen)
            return is_due(step)

        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(checkpoint, tiny, tmp_path, "cuda", rule)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert waits[5] - waits[4] == 1


def test_an_undue_step_does_not_wait(checkpoint, tiny, tmp_path, device):
    """After the first steps, a synchronisation in an undue step raises, from the targets' count to the next batch."""
    steps = []

    def rule(step):
        steps.append(step)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error" if step in (5, 6) else "default")
        return is_due(step)

    try:
        train(checkpoint, tiny, tmp_path, device, rule)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert steps == list(range(1, STEPS + 1))
