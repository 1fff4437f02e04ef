"""Cost of a logged step beside a step without logging, and zero cost of the steps between logged steps.

    python -m benchmarks.logged_step [--quick] [--json FILE]

One training on the CPU at the real vocabulary (128,256), 4 layers, B=2, S=512, LoRA, two threads. Four kinds of steps
take turns on the same batch: without sinks, not logged, logged without checks, logged with checks. The sinks are a
hidden console and a JSONL file. Each step is compared with the step without sinks of the same round. On a CPU the whole
extra time of a logged step is the time counted as logging by the trainer. The row of the counted time is free of the
noise of the rest of the step.

The steps between logged steps are counted, not timed: the operations of torch, and the calls of logging code.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, Self

from torch.utils._python_dispatch import TorchDispatchMode
from transformers.trainer_callback import PrinterCallback

from benchmarks.pipelines import hidden_pipeline, recorder_of
from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import ratio, ratio_quartiles
from benchmarks.training_step import QUICK, SIZES, THREADS, StepSize
from benchmarks.workload import add_lora, random_model, token_ids, torch_threads, training_arguments, vocabulary_of
from higgs_audio_trainer.data.batch import Collator
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import every, never
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer

NO_SINKS, NOT_LOGGED = "step with --sinks none", "step not logged"
UNCHECKED, LOGGED = "logged step, --diagnose off", "logged step"
WARM_UP_ROUNDS = 2
_LOGGING_FOLDERS = ("extraction", "pipeline")  # the recorder is asked in each step whether the step is logged
_MOST = 1.01


def with_and_without_checks(emit: Pipeline, _folder: Path) -> dict[str, Recorder]:
    """Return the recorders of the kinds of steps with and without logging and checks.

    Args:
        emit: Receives the events of logged steps.
    """
    return {
        NO_SINKS: recorder_of(NullPipeline(), never, shown=None, counts=False),
        NOT_LOGGED: recorder_of(emit, never),
        UNCHECKED: recorder_of(emit, every(1), counts=False),
        LOGGED: recorder_of(emit, every(1)),
    }


class AlternatingSteps:
    """Switch between recorders, with measurements at the beginning of each step.

    Args:
        emit: Receives the events of logged steps.
        recorders: Recorders by kind of step, in the order of the turns.
    """

    def __init__(self, emit: Pipeline, recorders: Mapping[str, Recorder]) -> None:
        self.times: list[float] = []
        self.logging: list[float] = []
        self.operations: list[int] = []
        self.calls: list[int] = []
        self.counting = _OperationCounter()
        self.names = tuple(recorders)
        self._emit = emit
        self._recorders = tuple(recorders.values())

    def next(self) -> Recorder:
        """Measure the beginning of a step and return the recorder of the step."""
        self.times.append(time.perf_counter())
        self.logging.append(self._emit.seconds + sum(recorder.seconds for recorder in self._recorders))
        self.operations.append(self.counting.operations)
        self.calls.append(self.counting.calls)
        return self._recorders[(len(self.times) - 1) % len(self._recorders)]

    def by_kind(self, values: Sequence[float]) -> dict[str, list[float]]:
        """Return the increase of a measured value in each step, by kind of step, without the warm-up rounds.

        Args:
            values: Values at the beginnings of the steps, such as `times`.
        """
        added = [after - before for before, after in pairwise(values)]
        return {name: added[index :: len(self.names)][WARM_UP_ROUNDS:] for index, name in enumerate(self.names)}


class _AlternatingTrainer(HiggsAudioTrainer):
    """Trainer with another recorder at each step."""

    def __init__(self, turns: AlternatingSteps, **kwargs: Any) -> None:
        super().__init__(recorder=recorder_of(NullPipeline(), never, shown=None, counts=False), **kwargs)
        self._turns = turns

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self._recorder = self._turns.next()
        return super().get_batch_samples(*args, **kwargs)


class _OperationCounter(TorchDispatchMode):
    """Context with counts of torch operations and of calls of logging code."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            self.calls += Path(frame.f_code.co_filename).parent.name in _LOGGING_FOLDERS


def train(
    size: StepSize,
    *,
    rounds: int,
    counting: bool = False,
    recorders_of: Callable[[Pipeline, Path], Mapping[str, Recorder]] = with_and_without_checks,
) -> AlternatingSteps:
    """Train rounds of one step of each kind.

    Args:
        size: Size of the model and the batch.
        rounds: Number of counted rounds after the warm-up.
        counting: Count operations and calls. Counting slows the steps.
        recorders_of: Returns recorders by kind of step, for a pipeline and an output directory.
    """
    config = size.config()
    ids = token_ids(config)
    with tempfile.TemporaryDirectory() as folder, hidden_pipeline(folder) as emit:
        turns = AlternatingSteps(emit, recorders_of(emit, Path(folder)))
        model: Any = random_model(HiggsAudioForTraining, config, "cpu")
        trainer = _AlternatingTrainer(
            turns,
            vocabulary=vocabulary_of(ids),
            text_loss_weight=1.0,
            model=add_lora(model.float(), r=16, alpha=32, dropout=0.0),
            args=training_arguments(
                folder,
                use_cpu=True,
                per_device_train_batch_size=size.batch_size,
                max_steps=(WARM_UP_ROUNDS + rounds) * len(turns.names) + 1,
                dataloader_pin_memory=False,
            ),
            data_collator=Collator(ids),
            train_dataset=size.examples(ids),
        )
        trainer.remove_callback(PrinterCallback)
        with turns.counting if counting else nullcontext():
            trainer.train()
    return turns


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure times, then counts."""
    quiet_third_parties()
    with torch_threads(THREADS):
        size = QUICK if quick else SIZES[-1]
        timed = train(size, rounds=2 if quick else 16)
        counted = train(QUICK, rounds=2, counting=True)
    seconds, logging = timed.by_kind(timed.times), timed.by_kind(timed.logging)
    where = f"{size.num_layers} layers, B={size.batch_size} S={size.length}, CPU"
    floor = 1000 * median(seconds[NO_SINKS])
    made = [ResultRow(f"{NO_SINKS}, {where}", floor, "ms")]
    for kind in (NOT_LOGGED, UNCHECKED, LOGGED):
        lower, upper = ratio_quartiles(seconds[kind], seconds[NO_SINKS])
        times = ratio(seconds[kind], seconds[NO_SINKS])
        holds = {NOT_LOGGED: abs(times - 1) <= upper - lower, LOGGED: times <= _MOST}.get(kind)
        target = {NOT_LOGGED: "1 ± distance of the quartiles", LOGGED: f"<= {_MOST}"}.get(kind, "")
        name = f"{kind}, console and jsonl (quartiles of the ratio {lower:.3f} to {upper:.3f})"
        made.append(ResultRow(name, 1000 * median(seconds[kind]), "ms", NO_SINKS, times, target, holds))
    for kind in (UNCHECKED, LOGGED):
        spent = 1 + median(part / whole for part, whole in zip(logging[kind], seconds[NO_SINKS], strict=True))
        holds = spent <= _MOST if kind == LOGGED else None
        target = f"<= {_MOST}" if kind == LOGGED else ""
        name = f"{kind}, time spent on logging (ratio 1 + share of the step)"
        made.append(ResultRow(name, 1000 * median(logging[kind]), "ms", NO_SINKS, spent, target, holds))
    operations, calls = map(counted.by_kind, (counted.operations, counted.calls))
    done, called = median(operations[NOT_LOGGED]), median(calls[NOT_LOGGED])
    more = done / median(operations[NO_SINKS])
    made.append(ResultRow(f"{NOT_LOGGED}, torch operations", done, "operations", NO_SINKS, more, "1", more == 1))
    made.append(ResultRow(f"{NOT_LOGGED}, calls of logging code", called, "calls", target="0", holds=called == 0))
    return made


if __name__ == "__main__":
    run_alone(rows, __doc__)
