"""Operations of a training step whose result the host must wait for: none."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from transformers import HiggsAudioV2ForConditionalGeneration

from benchmarks.host_waits import HostWaits
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, every
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks import MemorySink
from tests.batches import collate, lora_model, make_trainer, random_examples, tensors
from tests.families import every_family


@pytest.fixture(scope="module")
def checkpoint(tiny):
    return open_checkpoint(str(tiny.model_dir))


@every_family
@pytest.mark.parametrize(("log_steps", "chunk_rows"), [(1, None), (1, 20), (100, None)])
def test_a_training_waits_for_its_loss_at_the_end_alone(checkpoint, tiny, tmp_path, monkeypatch, log_steps, chunk_rows):
    """Not in forward, loss, backward, clipping, optimizer, accounting, nor in a logged step, but for its transfer."""
    shown = WindowSettings(samples=2, window=5, codebooks=(0, 7), decode=None, ranks=True)
    memory = MemorySink()
    settings = RecorderSettings(every(log_steps), 8, shown, evaluations=False, counts=True)
    model = lora_model(tiny.model_dir, dropout=0.1)
    model.base_model.model.loss_chunk_rows = chunk_rows
    trainer = make_trainer(
        checkpoint,
        model,
        random_examples(checkpoint, 12),
        tmp_path,
        Recorder(Pipeline([("memory", memory)], run_id="r"), settings),
        max_steps=2,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        max_grad_norm=0.5,
        logging_nan_inf_filter=False,
    )
    next_batch = HiggsAudioTrainer._next_batch

    def collated(self, *args):
        with _disable_current_modes():  # the collator computes on the host
            return next_batch(self, *args)

    monkeypatch.setattr(HiggsAudioTrainer, "_next_batch", collated)
    with HostWaits() as waits:
        trainer.train()
    assert waits.counts == {"_local_scalar_dense": 1}  # the loss that transformers prints at the end
    logged = [event["step"] for event in memory.named("train_step")]
    assert logged == ([1, 2] if log_steps == 1 else [1])


def test_the_native_layers_wait_and_are_seen_to(checkpoint, tiny):
    """The same count finds the masks of the native forward pass."""
    model = HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir, use_text_head=True)
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2)))
    batch.pop("route")
    with HostWaits() as waits:
        model(**batch).loss.backward()
    assert sum(waits.counts.values()) > 18 * len(model.model.layers)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "index by a boolean mask"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
        (lambda x: torch.equal(x, x + 0), "equal"),
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: torch.where(x > 1), "nonzero"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x.repeat_interleave(x), "repeat_interleave without output_size"),
        (lambda x: copy.copy(x).__setitem__(x > 1, x[:1]), "index_put_ by a boolean mask"),
    ],
)
def test_each_kind_of_wait_is_counted(operation, name):
    """Results whose size or value is known only when they are computed."""
    x = torch.arange(4)
    with HostWaits() as waits:
        operation(x)
    assert name in waits.counts
