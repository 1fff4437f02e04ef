"""What a due step costs beside one that is not due, with the checks of the record and without them.

    python -m benchmarks.due_step [--rounds 20] [--batch_size 2] [--seconds 16]

One training on the CPU at the real vocabulary (128,256), 4 layers, LoRA, two threads; its steps take turns: not due,
due without checks, due with them, each the same batch, to a console that nobody sees and a JSONL file. Prints a row of
each: median, quartiles and the median of its ratios to the step before it that was not due; and what was spent on
logging, which on a CPU is all that a due step costs more, free of the noise of the rest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import HiggsAudioV2Config, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import sinks
from benchmarks.full_size_step import random_example, random_model, vocabulary_of
from higgs_audio_trainer.data.batch import Collator, TokenIds
from higgs_audio_trainer.emit import Pipeline
from higgs_audio_trainer.model import add_lora
from higgs_audio_trainer.preparation import quiet_third_parties
from higgs_audio_trainer.series import Shown
from higgs_audio_trainer.telemetry import Telemetry, never_due
from higgs_audio_trainer.trainer import HiggsAudioTrainer
from higgs_audio_trainer.watch import Watch

KINDS = ("not due", "due, --diagnose off", "due, --diagnose warn")
WARM_UP_ROUNDS = 2


class TakingTurns:
    """Gives a trainer another telemetry at each step, and takes the times between the beginnings of steps."""

    def __init__(self, checked: Telemetry) -> None:
        self.times: list[float] = []
        self.logging: list[float] = []
        self.trainer: Any = None
        unchecked = replace(checked, vocabulary=None, watch=None)
        self._turns = [replace(each, is_due=self._is_due) for each in (checked, unchecked, checked)]

    def first(self) -> Telemetry:
        """Return what the first step asks."""
        return self._turns[0]

    def _is_due(self, _step: int) -> bool:
        self.times.append(time.perf_counter())
        self.logging.append(self.trainer.extraction_seconds + self._turns[0].emit.seconds)
        kind = (len(self.times) - 1) % len(KINDS)
        # The step that asks is logged by the telemetry that the trainer has afterwards.
        self.trainer._telemetry = self._turns[kind]  # noqa: SLF001 - no trainer needs to change its telemetry
        return kind > 0

    def spans(self, times: Sequence[float], rounds: int) -> list[list[float]]:
        """Return what passed in each kind of step, in order, without the steps that warm up."""
        spans = [end - begin for begin, end in pairwise(times)]
        return [spans[kind :: len(KINDS)][WARM_UP_ROUNDS : WARM_UP_ROUNDS + rounds] for kind in range(len(KINDS))]


def measure(config: HiggsAudioV2Config, *, batch_size: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Train `rounds` steps of each kind and return a row of each."""
    model = add_lora(random_model(config, "cpu").float(), r=16, alpha=32, dropout=0.0)
    ids = TokenIds(128_001, config.audio_token_id, config.audio_delay_token_id, 1024, 1025, config.num_codebooks)
    vocabulary = vocabulary_of(ids)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = sinks.Screen(nowhere, nowhere)
        context = sinks.SinkContext(folder, "r", 0, 0, screen, screen.note)
        emit = Pipeline(sinks.build("console,jsonl", context), run_id="r")
        shown = Shown(2, 5, (0,), vocabulary, None)
        watch = Watch(emit, fails=False)
        turns = TakingTurns(
            Telemetry(emit, never_due, evaluations=False, shown=shown, vocabulary=vocabulary, watch=watch)
        )
        trainer = HiggsAudioTrainer(
            telemetry=turns.first(),
            text_loss_weight=1.0,
            model=model,
            args=TrainingArguments(
                folder,
                use_cpu=True,
                per_device_train_batch_size=batch_size,
                max_steps=(WARM_UP_ROUNDS + rounds) * len(KINDS) + 1,
                remove_unused_columns=False,
                label_names=["labels"],
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            data_collator=Collator(ids),
            train_dataset=[random_example(ids, seconds, seed) for seed in range(batch_size)],
        )
        trainer.remove_callback(PrinterCallback)
        turns.trainer = trainer
        trainer.train()
        screen.close()
    steps, logging = (turns.spans(times, rounds) for times in (turns.times, turns.logging))
    return [_row(name, *kinds, steps[0]) for name, *kinds in zip(KINDS, steps, logging, strict=True)]


def _row(name: str, seconds: Sequence[float], logging: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    lower, median, upper = (1000 * value for value in statistics.quantiles(seconds, n=4))
    return {
        "name": name,
        "ms": median,
        "lower_ms": lower,
        "upper_ms": upper,
        "ratio": statistics.median(one / other for one, other in zip(seconds, floor, strict=True)),
        "logging_ms": 1000 * statistics.median(logging),
        "logging_share": statistics.median(part / whole for part, whole in zip(logging, floor, strict=True)),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay the rows out as Markdown."""
    lines = [
        "| step | ms, median | quartiles | against not due | logging, ms | of a step not due |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        quartiles = f"{row['lower_ms']:.1f} to {row['upper_ms']:.1f}"
        logging = f"{row['logging_ms']:.2f} | {row['logging_share']:.2%}"
        lines.append(f"| {row['name']} | {row['ms']:.1f} | {quartiles} | {row['ratio']:.4f} | {logging} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind [%(default)s]")
    parser.add_argument("--batch_size", type=int, default=2, help="samples [%(default)s]")
    parser.add_argument("--seconds", type=float, default=16.0, help="length of each clip [%(default)s]")
    given = parser.parse_args()
    torch.set_num_threads(2)
    quiet_third_parties()
    config = HiggsAudioV2Config(
        codebook_size=1026,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=128,
    )
    print(table(measure(config, batch_size=given.batch_size, seconds=given.seconds, rounds=given.rounds)))


if __name__ == "__main__":
    main()
