"""A training whose gradients and losses are recorded, in this process or as a rank of several."""

import tempfile
from pathlib import Path

import torch
from transformers import TrainerCallback

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, every
from sinks import MemorySink
from tests.batches import lora_model, make_trainer, random_examples


class RecordGradients(TrainerCallback):
    """Keeps the gradients of the first step, as the optimizer receives the gradients."""

    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            self.gradients = {
                n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
            }


def record(model_dir, *, batch_size, grad_accum, samples, steps):
    """Train some steps and return the first step's gradients and every step's figures."""
    checkpoint = open_checkpoint(str(model_dir))
    memory, gradients = MemorySink(), RecordGradients()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            checkpoint,
            lora_model(Path(model_dir)),
            random_examples(checkpoint, samples, seed=5),
            Path(folder),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=grad_accum,
            max_steps=steps,
        )
        emit = Pipeline([("memory", memory)], run_id="r") if trainer.args.process_index == 0 else NullPipeline()
        shown = WindowSettings(1, 5, (0,), None) if trainer.args.process_index == 0 else None
        trainer._recorder = Recorder(emit, RecorderSettings(every(1), checkpoint.ids.num_codebooks, shown, counts=True))
        trainer.add_callback(gradients)
        trainer.train()
        metrics = trainer.evaluate()
    return {
        "gradients": gradients.gradients,
        "steps": memory.named("train_step"),
        "counts": memory.named("token_counts"),
        "samples": memory.named("prediction_sample"),
        "eval": memory.named("eval_result"),
        "metrics": metrics,
        "rank": trainer.args.process_index,
    }


def save_record(model_dir, out, plan):
    """Record a training; rank 0 writes the record to a file."""
    recorded = record(model_dir, **plan)
    if recorded["rank"] == 0:
        torch.save(recorded, out)
