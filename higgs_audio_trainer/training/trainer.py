"""The training loop: `transformers.Trainer` with losses normalised over the optimizer step.

The trainer hands forward passes to an injected `Recorder`. It names no event and no sink, and asks for no rank.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    HiggsAudioV2ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from higgs_audio_trainer.data.batch import FOR_THE_LOG, Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.loss_sums import exact_dtype
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.training.model import TrainingOutput, count_targets
from higgs_audio_trainer.training.model_streams import micro_batch_of
from higgs_audio_trainer.training.signals import leave_stop_signals_to_the_parent, stop_signals_blocked
from higgs_audio_trainer.training.stopping import EvaluationStoppedError, Stopping


class HiggsAudioTrainer(Trainer):
    """Trains a model that takes `num_targets` and returns a `TrainingOutput`.

    Args:
        recorder: Records the training.
        vocabulary: Token ids.
        text_loss_weight: Weight of the text loss in the evaluation loss.
        stopping: Ends the training when a signal asks for it.
        **kwargs: Arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        recorder: Recorder,
        vocabulary: Vocabulary,
        text_loss_weight: float,
        stopping: Stopping | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._recorder = recorder
        self._vocabulary = vocabulary
        self._stopping = stopping or Stopping()
        self._text_loss_weight = text_loss_weight
        self._epoch_iterator: Iterator[dict[str, Any]] | None = None
        self._num_codebooks = int(kwargs["model"].config.num_codebooks)
        self.add_callback(self._stopping)
        self.add_callback(_RecordCheckpoints(recorder))
        if recorder.checks is not None:
            self.add_callback(recorder.checks)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train. A stop signal during the evaluation that a resumed run begins with leaves the run as it was."""
        try:
            return super().train(*args, **kwargs)
        except EvaluationStoppedError:
            return None
        finally:
            self._epoch_iterator = None  # ends the data loader's workers, which may look crashed at exit

    # Normalisation

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Fetch the micro-batches of one optimizer step and count their targets over all ranks.

        Returns:
            The micro-batches, and the numbers of text targets and of targets of each codebook, int64 [1 + K].
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None  # transformers would take another step of a finished run that is resumed
        started = time.perf_counter()
        batches = []
        for _ in range(num_batches):
            batch = self._next_batch(epoch_iterator)
            if batch is None:
                break
            if not self.args.dataloader_drop_last:
                self._mask_repeated_samples(batch)
            batches.append(batch)
        if batches:
            self._recorder.begin_step(self.state.global_step + 1, started)
        return batches, self._count_targets(batches, device)

    def _next_batch(self, epoch_iterator: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        if epoch_iterator is self._epoch_iterator:
            return next(epoch_iterator, None)
        self._epoch_iterator = epoch_iterator
        with stop_signals_blocked():  # the first batch of an epoch starts the workers
            return next(epoch_iterator, None)

    def _count_targets(self, batches: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        if not batches:
            return None
        counts = [count_targets(batch["labels"], batch["audio_labels"]) for batch in batches]
        ballot = self._stopping.ballot()
        total = self._sum_over_ranks(torch.cat([torch.stack(counts).sum(dim=0), ballot]).to(device))
        self._stopping.count(total[-len(ballot) :])
        return total[: -len(ballot)]

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _mask_repeated_samples(self, batch: dict[str, Any]) -> None:
        """Mask the samples that accelerate repeats to fill up the last batch of an epoch, and leave out their names.

        Without the mask, N ranks would count some samples twice that one rank counts once.
        """
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader:
            return
        size = len(batch["labels"])
        in_last_batch = len(state.active_dataloader.dataset) % (size * self.args.world_size)
        if in_last_batch == 0:
            return
        keep = min(max(in_last_batch - self.args.process_index * size, 0), size)
        batch["labels"][keep:] = IGNORE_INDEX
        batch["audio_labels"][keep:] = IGNORE_INDEX
        batch["regions"][keep:] = Region.PADDING
        batch["samples"] = batch["samples"][:keep]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the share of one micro-batch in the loss of the optimizer step."""
        outputs: TrainingOutput = model(**_for_model(inputs), num_targets=num_items_in_batch)
        self._recorder.observe("train", lambda: self._read(outputs, inputs))
        # DDP and FSDP average gradients over ranks; each rank's loss is a share of a sum.
        loss = outputs.loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _read(self, outputs: TrainingOutput, inputs: dict[str, Any]) -> MicroBatch:
        return micro_batch_of(outputs, inputs, inputs["samples"], vocabulary=self._vocabulary)

    # Logged steps

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        # transformers calls this method at the end of each optimizer step with the norm of the gradients, and again at
        # the end of an epoch, without a step in progress. A callback would get the norm after a wait for the device.
        if self._recorder.is_open("train"):
            learning_rate = kwargs.get("learning_rate")
            logged = self._recorder.end_step(
                self._sum_over_ranks(self._recorder.sums("train", self.args.device)),
                step=self.state.global_step,
                epoch=float(self.state.epoch or 0.0),
                learning_rate=float(self._get_learning_rate() if learning_rate is None else learning_rate),
                grad_norm=grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm,
            )
            self._recorder.record(logged)
            self._stopping.on_step_end(self.args, self.state, self.control)  # a finding of this step may end the run
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        except EvaluationStoppedError:
            assert self._stopping.stopped_by is not None
            self._stopping.stop(self._stopping.stopped_by, self.control)
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    # Data

    def get_train_dataloader(self) -> Any:
        """Return the loader of the training data, whose workers ignore signals to the process group."""
        return _ignoring_stop_signals(super().get_train_dataloader())

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of all evaluation data, even if the training drops its last batch."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return _ignoring_stop_signals(super().get_eval_dataloader(eval_dataset))
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate. The losses are means over all targets of the data, not means of batch means."""
        self._recorder.begin_evaluation()
        self._eval_sums = torch.zeros(
            2, 1 + self._num_codebooks, device=self.args.device, dtype=exact_dtype(self.args.device)
        )
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):  # so that a late or abandoned evaluation does not change the training
                output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        except BaseException:
            self._recorder.abandon("eval")
            raise
        losses = self._eval_losses(self._sum_over_ranks(self._eval_sums))
        prefix = kwargs.get("metric_key_prefix", "eval")
        assert output.metrics is not None, "an evaluation loop has metrics"
        output.metrics.update({f"{prefix}_{name}": value for name, value in losses.items()})
        if self._recorder.is_open("eval"):
            logged = self._recorder.end_evaluation(
                self._sum_over_ranks(self._recorder.sums("eval", self.args.device)),
                step=self.state.global_step,
                epoch=float(self.state.epoch or 0.0),
                num_samples=output.num_samples,
            )
            self._recorder.record(logged)
        return output

    def _eval_losses(self, sums: Tensor) -> dict[str, float]:
        nll, targets = sums.tolist()
        text_loss, *audio_losses = (part / max(count, 1) for part, count in zip(nll, targets, strict=True))
        audio_loss = sum(audio_losses) / len(audio_losses)
        loss = self._text_loss_weight * text_loss + audio_loss
        return {"loss": loss, "text_loss": text_loss, "audio_loss": audio_loss}

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss of one evaluation batch. Logits are not gathered.

        Raises:
            EvaluationStoppedError: A rank received a stop signal.
        """
        self._stopping.check_evaluation(self.args, self._sum_over_ranks)
        inputs = self._prepare_inputs(inputs)
        self._mask_repeated_samples(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs: TrainingOutput = model(**_for_model(inputs))
        self._eval_sums += outputs.sums()
        self._recorder.observe("eval", lambda: self._read(outputs, inputs))
        assert outputs.loss is not None
        return outputs.loss.detach(), None, None

    # Saving

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # transformers pickles the arguments into each checkpoint, and people share checkpoints.
        arguments, self.args = self.args, _without_secrets(self.args)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = arguments
        config = Path(str(output_dir or self.args.output_dir)) / ADAPTER_CONFIG
        if self.args.should_save and config.is_file():
            # peft writes the name of the trained class of this package. The native class loads the adapter too.
            native = {"base_model_class": HiggsAudioV2ForConditionalGeneration.__name__}
            native["parent_library"] = HiggsAudioV2ForConditionalGeneration.__module__
            content = json.loads(config.read_bytes()) | {"auto_mapping": native}
            config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


class _RecordCheckpoints(TrainerCallback):
    """Records the checkpoints of transformers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the checkpoint."""
        self._recorder.checkpoint_saved(state.global_step)


def _without_secrets(arguments: TrainingArguments) -> TrainingArguments:
    public = copy(arguments)
    for item in fields(public):
        value = getattr(public, item.name)
        if type(value) is str:  # excludes transformers' enumerations of strings
            setattr(public, item.name, redacted(value, item.name))
    return public


def _ignoring_stop_signals(loader: Any) -> Any:
    """Let the workers of a data loader ignore stop signals."""
    starts = getattr(loader, "base_dataloader", loader)  # the loader within accelerate's starts the workers
    starts.worker_init_fn = partial(_start_worker, starts.worker_init_fn)
    return loader


def _start_worker(then: Callable[[int], None] | None, worker: int) -> None:
    leave_stop_signals_to_the_parent()
    if then is not None:
        then(worker)


def _for_model(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Return the inputs of the model, without the entries that are for the log alone."""
    return {name: value for name, value in inputs.items() if name not in FOR_THE_LOG}
