"""What a due step costs beside one that logs nothing, and that a step which is not due costs nothing.

    python -m benchmarks.due_step [--quick] [--json FILE]

One training on the CPU at the real vocabulary (128,256), 4 layers, B=2, S=512, LoRA, two threads. Its steps take turns,
each with the same batch: without sinks, not due, due without the checks, due with them; to a console that nobody sees
and a JSONL file. Steps are compared with that of their own round. On a CPU all that a due step costs more is what the
trainer itself counts as spent on logging, which is free of the noise of the rest: it has a row of its own.

That a step which is not due does nothing for the log is counted, not timed: the operations of torch in it, and the
calls into code that logs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, NamedTuple

from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

import sinks
from benchmarks.examples import torch_threads
from benchmarks.full_size_step import FRAMES_PER_SECOND, PROMPT_TOKENS, random_example, random_model, vocabulary_of
from benchmarks.rows import Row, run_alone
from benchmarks.timing import quartiles, ratio
from benchmarks.training_step import QUICK, SIZES, THREADS, Size
from higgs_audio_trainer.data.batch import Collator, TokenIds
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Telemetry, never_due
from higgs_audio_trainer.training.model import add_lora
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from sinks.terminal.screen import Screen

NO_SINKS, NOT_DUE, UNCHECKED, DUE = ("--sinks none", "not due", "due, --diagnose off", "due")
WARM_UP_ROUNDS = 2
_LOGS = ("extraction", "pipeline", "recording")  # folders
_MARKERS = 3  # of `random_example`, beside the prompt and the frames
_MOST = 1.01


class Kind(NamedTuple):
    """A kind of step: what it is logged with, and whether it is due."""

    telemetry: Telemetry
    is_due: bool


def with_and_without_checks(checked: Telemetry, _folder: Path) -> dict[str, Kind]:
    """Make the kinds of step that the logging's own cost is seen by."""
    silent = replace(checked, emit=NullPipeline(), shown=None, counts=False, watch=None)
    unchecked = replace(checked, counts=False, watch=None)
    return {
        NO_SINKS: Kind(silent, is_due=False),
        NOT_DUE: Kind(checked, is_due=False),
        UNCHECKED: Kind(unchecked, is_due=True),
        DUE: Kind(checked, is_due=True),
    }


class TakingTurns:
    """Gives a trainer another telemetry at each step, and takes the times between the beginnings of steps.

    Args:
        checked: of a due step, as it is by default.
        kinds: of steps.
    """

    def __init__(self, checked: Telemetry, kinds: Mapping[str, Kind]) -> None:
        self.times: list[float] = []
        self.logging: list[float] = []
        self.operations: list[int] = []
        self.calls: list[int] = []
        self.trainer: Any = None
        self.counting = _Operations()
        self._emit = checked.emit
        self.names = tuple(kinds)
        self._turns = [(replace(kind.telemetry, is_due=self._is_due), kind.is_due) for kind in kinds.values()]

    def first(self) -> Telemetry:
        """Return what the first step asks."""
        return self._turns[0][0]

    def _is_due(self, _step: int) -> bool:
        self.times.append(time.perf_counter())
        self.logging.append(self.trainer.extraction_seconds + self._emit.seconds)
        self.operations.append(self.counting.operations)
        self.calls.append(self.counting.calls)
        # The step that asks is logged by the telemetry that the trainer has afterwards.
        telemetry, is_due = self._turns[(len(self.times) - 1) % len(self._turns)]
        self.trainer._telemetry = telemetry  # noqa: SLF001 - no trainer needs to change its telemetry
        return is_due

    def by_kind(self, values: Sequence[float]) -> dict[str, list[float]]:
        """Return what was added in the steps of each kind, without those that warm up."""
        added = [after - before for before, after in pairwise(values)]
        return {name: added[index :: len(self.names)][WARM_UP_ROUNDS:] for index, name in enumerate(self.names)}


class _Operations(TorchDispatchMode):
    """Counts operations of torch, and calls into code that logs while it is installed as the profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        """Take note of a call."""
        if event == "call":
            self.calls += Path(frame.f_code.co_filename).parent.name in _LOGS


def train(
    size: Size,
    *,
    rounds: int,
    counting: bool = False,
    kinds_of: Callable[[Telemetry, Path], Mapping[str, Kind]] = with_and_without_checks,
) -> TakingTurns:
    """Train some rounds of a step of each kind.

    Args:
        size: of model and batch.
        rounds: beside those that warm up.
        counting: count what is done, which takes its time.
        kinds_of: makes the kinds of step, given a due step's telemetry and a folder.
    """
    config = size.config()
    model = add_lora(random_model(config, "cpu").float(), r=16, alpha=32, dropout=0.0)
    ids = TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, config.num_codebooks)
    seconds = (size.length - PROMPT_TOKENS - _MARKERS - config.num_codebooks - 1) / FRAMES_PER_SECOND
    vocabulary = vocabulary_of(ids)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = Screen(nowhere, nowhere)
        emit = Pipeline(
            sinks.build("console,jsonl", sinks.SinkContext(folder, "r", 0, 0, screen, screen.note)), run_id="r"
        )
        checked = Telemetry(
            emit,
            never_due,
            evaluations=False,
            shown=WindowSettings(2, 5, (0,), None),
            vocabulary=vocabulary,
            counts=True,
            watch=LiveChecks(emit, fails=False),
        )
        turns = TakingTurns(checked, kinds_of(checked, Path(folder)))
        turns.trainer = trainer = HiggsAudioTrainer(
            telemetry=turns.first(),
            text_loss_weight=1.0,
            model=model,
            args=TrainingArguments(
                folder,
                use_cpu=True,
                per_device_train_batch_size=size.batch_size,
                max_steps=(WARM_UP_ROUNDS + rounds) * len(turns.names) + 1,
                remove_unused_columns=False,
                label_names=["labels"],
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            data_collator=Collator(ids),
            train_dataset=[random_example(ids, seconds, seed) for seed in range(size.batch_size)],
        )
        trainer.remove_callback(PrinterCallback)
        if counting:
            sys.setprofile(turns.counting.profile)
            try:
                with turns.counting:
                    trainer.train()
            finally:
                sys.setprofile(None)
        else:
            trainer.train()
        screen.close()
    return turns


def rows(quick: bool = False) -> list[Row]:
    """Measure; times first, then counts."""
    quiet_third_parties()
    with torch_threads(THREADS):
        size = QUICK if quick else SIZES[-1]
        timed = train(size, rounds=2 if quick else 16)
        counted = train(QUICK, rounds=2, counting=True)
    seconds, logging = timed.by_kind(timed.times), timed.by_kind(timed.logging)
    where = f"{size.num_layers} layers, B={size.batch_size} S={size.length}, CPU"
    floor = 1000 * median(seconds[NO_SINKS])
    made = [Row(f"step with {NO_SINKS}, {where}", floor, "ms")]
    for kind in (NOT_DUE, UNCHECKED, DUE):
        lower, upper = quartiles([one / other for one, other in zip(seconds[kind], seconds[NO_SINKS], strict=True)])
        times = ratio(seconds[kind], seconds[NO_SINKS])
        holds = {NOT_DUE: abs(times - 1) <= upper - lower, DUE: times <= _MOST}.get(kind)
        target = {NOT_DUE: "1, but for the spread", DUE: f"<= {_MOST}"}.get(kind, "")
        name = f"step, {kind}, console and jsonl (quartiles of the ratio {lower:.3f} to {upper:.3f})"
        made.append(Row(name, 1000 * median(seconds[kind]), "ms", NO_SINKS, times, target, holds))
    for kind in (UNCHECKED, DUE):
        spent = 1 + median(part / whole for part, whole in zip(logging[kind], seconds[NO_SINKS], strict=True))
        holds = spent <= _MOST if kind == DUE else None
        target = f"<= {_MOST}" if kind == DUE else ""
        name = f"step, {kind}: time spent on logging; ratio: 1 + its share"
        made.append(Row(name, 1000 * median(logging[kind]), "ms", NO_SINKS, spent, target, holds))
    operations, calls = map(counted.by_kind, (counted.operations, counted.calls))
    more = median(operations[NOT_DUE]) / median(operations[NO_SINKS])
    done = median(calls[NOT_DUE])
    made.append(
        Row("operations of torch in a step not due", median(operations[NOT_DUE]), "", NO_SINKS, more, "1", more == 1)
    )
    made.append(Row("calls into code that logs in a step not due", done, "", "", None, "0", done == 0))
    return made


if __name__ == "__main__":
    run_alone(rows, __doc__ or "")
