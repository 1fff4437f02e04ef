"""The training loop: `transformers.Trainer` with losses normalised over the optimizer step.

The trainer hands forward passes to an injected `Recorder`. It names no event and no sink, and asks for no rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, HubStrategy

from higgs_audio_trainer.data.batch import FOR_THE_LOG, Collator, Example, SpeechDataset, Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import IGNORE_INDEX, EvalResult, GenerationSample
from higgs_audio_trainer.extraction.loss_sums import exact_dtype
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.rank_times import with_rank_time
from higgs_audio_trainer.families.training_forward import TrainingOutput, count_targets
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG
from higgs_audio_trainer.phases import EVALUATING, FINISHING, SAVING, SPEAKING, phase, tell
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.speed import HostFacts
from higgs_audio_trainer.redaction import redacted
from higgs_audio_trainer.training.best_adapter import BestAdapter
from higgs_audio_trainer.training.collective import on_rank_0, rank_0_alone
from higgs_audio_trainer.training.gathered import gathered
from higgs_audio_trainer.training.heartbeat import Heartbeat
from higgs_audio_trainer.training.loader import (
    budgeted_loader,
    draw_as_new_workers,
    end_workers,
    ignoring_stop_signals,
    order_seed,
    pass_on_epochs,
)
from higgs_audio_trainer.training.model_streams import micro_batch_of
from higgs_audio_trainer.training.probes import Probes
from higgs_audio_trainer.training.publishing import publish, publish_checkpoint
from higgs_audio_trainer.training.resumption import write_settings
from higgs_audio_trainer.training.sampler import LengthGroupedOrder
from higgs_audio_trainer.training.save_errors import saving
from higgs_audio_trainer.training.sharding import fsdp_version, prepare_sharding, shard_on_cpu
from higgs_audio_trainer.training.signals import stop_signals_blocked
from higgs_audio_trainer.training.stopping import EvaluationStoppedError, Stopping
from higgs_audio_trainer.voice.generation import undisturbed

#: Parts of the messages of collectives whose peer is gone; torch has no class for the errors of gloo.
_LOST_PEER = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
#: Entries of the optimizer's groups that follow the arguments of the run, also after a resume.
_GIVEN = ("initial_lr", "weight_decay", "betas", "eps")


class HiggsAudioTrainer(Trainer):
    """Trains a model that takes `num_targets` and returns a `TrainingOutput`.

    Args:
        recorder: Records the training.
        vocabulary: Token ids.
        text_loss_weight: Weight of the text loss in the evaluation loss.
        stopping: Ends the training when a signal asks for it.
        begin: Called when optimizer, schedule and batch size are in force, before the first event. May be called again.
        checkpoint_settings: Settings that each checkpoint holds, for the runs that resume from it.
        max_batch_seconds: Most padded audio of a micro-batch of the training; seconds. None for batches of one size.
        probes: Prompts to speak and samples to follow. None on a rank that does neither.
        best: Keeps the adapter of the best evaluation.
        save_beside: Saves more files to the folder of the finished adapter or model, on rank 0.
        complete: Changes or adds files in a folder to which the weights were just saved, on rank 0.
        **kwargs: Arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        recorder: Recorder,
        vocabulary: Vocabulary,
        text_loss_weight: float,
        stopping: Stopping | None = None,
        begin: Callable[[], None] = lambda: None,
        checkpoint_settings: Mapping[str, Any] | None = None,
        max_batch_seconds: float | None = None,
        probes: Probes | None = None,
        best: BestAdapter | None = None,
        save_beside: Callable[[Path], None] = lambda _folder: None,
        complete: Callable[[Path], None] = lambda _folder: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._complete = complete
        self._recorder = recorder
        self._vocabulary = vocabulary
        self._stopping = stopping or Stopping()
        self._begin = begin
        self._checkpoint_settings = checkpoint_settings
        self._max_batch_seconds = max_batch_seconds
        self._save_beside = save_beside
        self._probes = probes
        self._best = best
        self._spoken_at: int | None = None  # step after which the probes were spoken last
        self._train_loader: Any = None
        self._data_wait_s = 0.0  # of the step in progress
        self._own_s = 0.0  # of the step in progress, up to the last moment that this rank waited for the others
        self._going_since = 0.0  # this moment
        self._forward_ended = 0.0
        self._text_loss_weight = text_loss_weight
        self.lost_best_step: int | None = None  # step of the best checkpoint, which a resumed run does not find
        self.is_stepping = False  # True from the first batch or evaluation on
        self._epoch_iterator: Iterator[dict[str, Any]] | None = None
        self._num_codebooks = int(kwargs["model"].config.num_codebooks)
        self.add_callback(self._stopping)
        self.add_callback(_RecordCheckpoints(recorder))
        if recorder.checks is not None:
            self.add_callback(recorder.checks)

    @property
    def batch_size(self) -> int:
        """Samples per micro-batch and device; with `--auto_find_batch_size`, the number that fits into memory."""
        return int(self._train_batch_size)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train. A stop signal during the evaluation that a resumed run begins with leaves the run as it was.

        Raises:
            UserError: transformers refuses the arguments, a tracker refuses its set-up, or the memory is full.
        """
        try:
            with Heartbeat(self.args) as heartbeat:
                try:
                    return super().train(*args, **kwargs)
                except Exception as error:
                    if self.args.world_size > 1 and any(mark in str(error) for mark in _LOST_PEER):
                        raise heartbeat.lost_rank() from error
                    raise
        except EvaluationStoppedError:
            return None
        except UserError:
            raise
        except Exception as error:
            if should_reduce_batch_size(error) or "No executable batch size" in str(error):
                raise self._out_of_memory() from error
            if self.is_stepping:
                raise
            package = type(error).__module__.partition(".")[0]
            text = " ".join(str(error).split())
            if package in (self.args.report_to or ()):
                advice = "Set the tracker up, or train with --report_to none"
                raise UserError(f"--report_to {package}: {text}. {advice}") from error
            raise UserError(f"transformers.Trainer: {type(error).__name__}: {text}") from error
        finally:
            self._epoch_iterator = None  # ends the data loaders' workers, which may look crashed at exit
            for loader in filter(None, (self._train_loader, *getattr(self, "_eval_dataloaders", {}).values())):
                end_workers(loader)

    def create_accelerator_and_postprocess(self) -> None:
        """Build the accelerator, which shards on CPUs too."""
        prepare_sharding(self.args)
        super().create_accelerator_and_postprocess()
        if shard_on_cpu(self.accelerator, self.args):
            self.is_fsdp_enabled = True

    def _out_of_memory(self) -> UserError:
        return UserError(
            f"step {self.state.global_step + 1}: out of memory on {self.args.device} with batch_size "
            f"{self.batch_size}. Train with a smaller --batch_size and a larger --grad_accum, with a smaller "
            "--max_seconds, or with --gradient_checkpointing true"
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Make the forward and backward pass of a micro-batch.

        Raises:
            UserError: The memory is full after the first step. transformers would begin again with a smaller batch and
                with the adapters as they are by now.
        """
        try:
            return super().training_step(*args, **kwargs)
        except RuntimeError as error:
            if self.state.global_step and should_reduce_batch_size(error):
                raise self._out_of_memory() from error
            raise

    # Resuming

    def _prepare_for_training(self, max_steps: int, loader: Any, checkpoint: str | None) -> Any:
        if checkpoint is not None and self._loads_before_sharding():
            model: Any = self.model
            model.load_adapter(checkpoint, model.active_adapter, is_trainable=True)
        return super()._prepare_for_training(max_steps, loader, checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._loads_before_sharding():
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _loads_before_sharding(self) -> bool:
        """Return True for adapters under FSDP1, into whose shards peft does not load."""
        return fsdp_version(self.args) == 1 and isinstance(self.accelerator.unwrap_model(self.model), PeftModel)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        progress: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        state = self.state
        # The intervals of a resumed run are those of its own arguments, not those of the checkpoint.
        state.compute_steps(self.args, state.max_steps)
        if state.best_global_step and state.best_model_checkpoint is None:  # the folder of the run was moved
            best = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if best.is_dir():
                state.best_model_checkpoint = str(best)
            else:
                self.lost_best_step = state.best_global_step
                state.best_metric = state.best_global_step = None  # the best of the steps to come
        return progress

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer = self.optimizer
        assert optimizer is not None, "transformers builds the optimizer before it loads the state"
        given = [{name: group[name] for name in _GIVEN if name in group} for group in optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_deepspeed_enabled:
            return
        # The states of the checkpoint hold its learning rate, its weight decay and the place on its schedule. Rate,
        # decay and schedule of this run count from here on.
        schedule = self.lr_scheduler
        for number, (group, ours) in enumerate(zip(optimizer.param_groups, given, strict=True)):
            group.update({name: value for name, value in ours.items() if name != "initial_lr"})
            if isinstance(schedule, LambdaLR) and "initial_lr" in ours:
                group["initial_lr"] = schedule.base_lrs[number] = ours["initial_lr"]
                group["lr"] = ours["initial_lr"] * schedule.lr_lambdas[number](schedule.last_epoch)
        if isinstance(schedule, LambdaLR):
            schedule._last_lr = [group["lr"] for group in optimizer.param_groups]  # noqa: SLF001 - has no setter

    # Normalisation

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Fetch the micro-batches of one optimizer step and count their targets over all ranks.

        Returns:
            The micro-batches, and the numbers of text targets and of targets of each codebook, int64 [1 + K].
        """
        self.is_stepping = True
        if self.state.global_step >= self.state.max_steps:
            return [], None  # transformers would take another step of a finished run that is resumed
        started = time.perf_counter()
        self._data_wait_s = 0.0
        batches = []
        for _ in range(num_batches):
            asked = time.perf_counter()
            batch = self._next_batch(epoch_iterator)
            self._data_wait_s += time.perf_counter() - asked
            if batch is None:
                break
            if not self.args.dataloader_drop_last and self._max_batch_seconds is None:
                self._mask_repeated_samples(batch)
            batches.append(batch)
        if batches:
            self._recorder.begin_step(self.state.global_step + 1, started)
        self._own_s = time.perf_counter() - started
        targets = self._count_targets(batches, device)
        self._going_since = time.perf_counter()
        return batches, targets

    def _next_batch(self, epoch_iterator: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        if epoch_iterator is self._epoch_iterator:
            return next(epoch_iterator, None)
        self._epoch_iterator = epoch_iterator
        draw_as_new_workers(self._train_loader)
        with stop_signals_blocked():  # the first batch of an epoch starts the workers
            return next(epoch_iterator, None)

    def _count_targets(self, batches: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        if not batches:
            return None
        counts = [count_targets(batch["labels"], batch["audio_labels"]).to(device) for batch in batches]
        targets = torch.stack(counts).sum(dim=0)
        if self.args.world_size == 1:
            return targets
        ballot = self._stopping.ballot().to(device, non_blocking=True)
        total = self._sum_over_ranks(torch.cat([targets, ballot]))
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
        self._forward_ended = time.perf_counter()
        return (loss, outputs) if return_outputs else loss

    def _read(self, outputs: TrainingOutput, inputs: dict[str, Any]) -> MicroBatch:
        return micro_batch_of(outputs, inputs, inputs["samples"], vocabulary=self._vocabulary)

    # Logged steps

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        # transformers calls this method at the end of each optimizer step with the norm of the gradients, and again at
        # the end of an epoch, without a step in progress. A callback would get the norm after a wait for the device.
        self._begin()
        if self._recorder.is_open("train"):
            learning_rate = kwargs.get("learning_rate")
            logged = self._recorder.end_step(
                self._sum_over_ranks(self._train_sums()),
                step=self.state.global_step,
                epoch=float(self.state.epoch or 0.0),
                learning_rate=float(self._get_learning_rate() if learning_rate is None else learning_rate),
                grad_norm=grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm,
                host=HostFacts(
                    data_wait_ms=self._data_wait_s * 1000,
                    peak_memory_bytes=_peak_memory_bytes(self.args.device),
                    total_steps=self.state.max_steps,
                    num_ranks=self.args.world_size,
                ),
            )
            self._recorder.record(logged)
            self._record_probes()
            self._stopping.on_step_end(self.args, self.state, self.control)  # a finding of this step may end the run
        if self._probes is not None and self._probes.is_due is not None and self._probes.is_due(self.state.global_step):
            self._speak()
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        except EvaluationStoppedError:
            assert self._stopping.stopped_by is not None
            self._stopping.stop(self._stopping.stopped_by, self.control)
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _train_sums(self) -> Tensor:
        """Return the sums of the logged step with the time of this rank.

        The time ends with the last forward pass: the backward pass of DDP waits for the slowest rank.
        """
        sums, args = self._recorder.sums("train", self.args.device), self.args
        seconds = self._own_s + self._forward_ended - self._going_since
        return with_rank_time(sums, seconds, rank=args.process_index, num_ranks=args.world_size)

    # Probes

    def _speak(self) -> None:
        """Let the model speak the probes: on rank 0 while the others wait, or on all ranks if they share weights."""
        step, probes = self.state.global_step, self._probes
        if probes is None or not probes.prompts or self._spoken_at == step:
            return
        self._spoken_at = step
        together = self._shares_weights  # then every rank needs the same number of frames, also at a stop
        is_asked = (lambda: False) if together else self._stopping.is_asked
        with rank_0_alone(self.args, f"speech/{step}") as is_first:
            if is_first or together:
                with phase(SPEAKING), self.accelerator.autocast(), gathered(self.model):
                    self._recorder.observe_speech(lambda: probes.speak(self.model, step, is_asked_to_stop=is_asked))
            events: Sequence[GenerationSample] = ()
            if is_first and self._best is not None and self._best.kind is GenerationSample:
                events = self._recorder.wait_for_speech(self._stopping.is_asked)
        self._keep_best(GenerationSample, events)

    @property
    def _shares_weights(self) -> bool:
        """True if each forward pass gathers weights from all ranks."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _record_probes(self) -> None:
        examples = () if self._probes is None else self._probes.examples
        if not examples or not (self.is_world_process_zero() or self._shares_weights):
            return
        reads = [partial(self._read_probe, example) for example in examples]
        self._recorder.record_probes(reads, step=self.state.global_step, epoch=float(self.state.epoch or 0.0))

    def _read_probe(self, example: Example) -> MicroBatch:
        assert self.model is not None
        inputs = self._prepare_inputs(cast("Collator", self.data_collator)([example]))
        with undisturbed(self.model, self.args.seed), torch.no_grad(), self.compute_loss_context_manager():
            return self._read(self.model(**_for_model(inputs)), inputs)

    # Data

    def get_train_dataloader(self) -> Any:
        """Return the loader of the training data, whose workers ignore signals to the process group.

        Raises:
            UserError: No batch is complete.
        """
        dataset = cast("SpeechDataset", self.train_dataset)
        if self._max_batch_seconds is None:
            loader = super().get_train_dataloader()
        else:
            batches = budgeted_loader(dataset, self.data_collator, self._max_batch_seconds, self.args)
            loader = self.accelerator.prepare(batches)
        if len(loader) == 0:
            size = "--batch_size" if self._max_batch_seconds is None else "--max_batch_seconds"
            raise UserError(
                f"--train_manifest: expected a batch of {self._batch_in_words()} on each of {self.args.world_size} "
                f"ranks, got {len(dataset)} samples, and --dataloader_drop_last true drops them. Train with a smaller "
                f"{size}, or without --dataloader_drop_last"
            )
        pass_on_epochs(loader)
        self._train_loader = loader
        return ignoring_stop_signals(loader)

    def _batch_in_words(self) -> str:
        if self._max_batch_seconds is None:
            return f"{self.batch_size} samples"
        return f"at most {self._max_batch_seconds:g} s of audio"

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        samples = self.batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedOrder(samples, cast("SpeechDataset", self.train_dataset).lengths(), order_seed(self.args))

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of all evaluation data, even if the training drops its last batch."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return ignoring_stop_signals(super().get_eval_dataloader(eval_dataset))
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate. The losses are means over all targets of the data, not means of batch means."""
        self.is_stepping = True
        self._begin()
        self._recorder.begin_evaluation()
        evaluation: EvalResult | None = None
        self._eval_sums = torch.zeros(
            2, 1 + self._num_codebooks, device=self.args.device, dtype=exact_dtype(self.args.device)
        )
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        try:
            self._eval_batches = (0, len(dataloader))
            # The random generators are forked, so that a late or abandoned evaluation does not change the training.
            with phase(EVALUATING), torch.random.fork_rng(devices):
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
            evaluation = None if logged is None else logged.evaluation
        self._keep_best(EvalResult, [evaluation or SimpleNamespace(**losses)])
        if self._probes is not None and self._probes.is_due is None:
            self._speak()
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
        done, total = self._eval_batches
        self._eval_batches = (done + 1, total)
        tell(f"batch {done + 1} of {total}")
        inputs = self._prepare_inputs(inputs)
        self._mask_repeated_samples(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs: TrainingOutput = model(**_for_model(inputs))
        self._eval_sums += outputs.sums()
        self._recorder.observe("eval", lambda: self._read(outputs, inputs))
        assert outputs.loss is not None
        return outputs.loss.detach(), None, None

    # Saving

    def _keep_best(self, kind: type[Any], events: Sequence[Any]) -> None:
        """Keep the adapter if the events, which rank 0 has, are the best so far. Every rank takes part."""
        best, step = self._best, self.state.global_step
        if best is None or best.kind is not kind:
            return
        value = on_rank_0(self.args, lambda: best.better_value(events))
        if value is not None:
            with saving(best.folder, Path(str(self.args.output_dir))):
                best.keep(value, step, self._save_adapter, is_first=self.args.should_save)

    def _save_adapter(self, folder: Path) -> None:
        super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            self._save_beside(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output_dir = Path(self._get_output_dir(trial))
        folder = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with phase(SAVING), saving(folder, output_dir):
            if self._checkpoint_settings is not None and self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                write_settings(folder, {**self._checkpoint_settings, "batch_size": self.batch_size})
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter.

        Raises:
            UserError: The folder cannot be written, for example because the disk is full.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        outer = nullcontext() if _internal_call else saving(folder, Path(str(self.args.output_dir)))
        with phase(FINISHING), outer:
            super().save_model(output_dir, _internal_call=True)  # sends nothing to the Hub yet
            if not _internal_call and self.args.should_save:
                self._save_beside(folder)
        if not _internal_call and self.args.push_to_hub:
            self.push_to_hub(revision=self.args.hub_revision)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Send the finished adapter to the Hub, with model card, tokenizer and processor.

        Raises:
            UserError: The Hub cannot be reached or refuses the files.
        """
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        with phase(f"sending {self.hub_model_id} to the Hub"):
            return publish(
                Path(str(self.args.output_dir)),
                str(self.hub_model_id),
                message=str(commit_message),
                token=token or self.args.hub_token,
                revision=revision,
                blocking=blocking,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        is_adapter = (Path(checkpoint_folder) / ADAPTER_CONFIG).is_file()
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END or not is_adapter:
            return  # a checkpoint of a whole model has the types of the training, and gigabytes
        before: Any = self.push_in_progress
        if before is not None and not before.is_done() and not self.args.hub_always_push:
            return
        checkpoint = Path(checkpoint_folder)
        self._save_beside(checkpoint)
        repository, step = str(self.hub_model_id), self.state.global_step
        progress: Any = publish_checkpoint(checkpoint, repository, self.args, step, before)
        self.push_in_progress = progress

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # transformers pickles the arguments into each checkpoint, and people share checkpoints.
        arguments, self.args = self.args, _without_secrets(self.args)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = arguments
        if self.args.should_save:
            self._complete(Path(str(output_dir or self.args.output_dir)))


class _RecordCheckpoints(TrainerCallback):
    """Records the checkpoints of transformers."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the checkpoint."""
        self._recorder.checkpoint_saved(state.global_step)


def _peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most memory in use since the last call, without a wait for the device. None without CUDA."""
    if device.type != "cuda":
        return None
    peak = int(torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _without_secrets(arguments: TrainingArguments) -> TrainingArguments:
    public = copy(arguments)
    for item in fields(public):
        value = getattr(public, item.name)
        if type(value) is str:  # excludes transformers' enumerations of strings
            setattr(public, item.name, redacted(value, item.name))
    return public


def _for_model(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Return the inputs of the model, without the entries that are for the log alone."""
    return {name: value for name, value in inputs.items() if name not in FOR_THE_LOG}
