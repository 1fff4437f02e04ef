"""An honest log, made without a training: a run that was stopped twice and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from higgs_audio_trainer.events import Event, PredictionSample, TokenCounts, TrainStep, Window
from tests.builders import (
    audio_sample,
    checkpoint,
    record_of,
    run_end,
    run_start,
    text_sample,
    token_counts,
    train_step,
)

CODEBOOKS = 4
SAMPLES = ("en-1", "en-2")
SLOTS, _SHOWN, _STOP = 12, 5, 1025
CONFIG = {
    "train_manifest": "train.jsonl",
    "log_steps": 1,
    "processors": "none",
    "text_loss_weight": 1.0,
    "sinks": "jsonl",
}

Record = dict[str, Any]
Log = dict[tuple[int, int, int], list[Record]]  # records by rank, attempt and segment


def correct_in(codebook: int | None) -> int:
    """Return the number of correct slots of a sample, which differs between neighbouring codebooks."""
    return SLOTS - 1 - (3 if codebook is None else codebook) % 4


def sample_of(step: int, index: int, codebook: int | None) -> PredictionSample:
    """Make a `prediction_sample` as our trainer does: a delay for each codebook, the stop token at the end."""
    begin = 20 + 100 * index if codebook is None else 22 + 100 * index + codebook
    labels = [(101 * index + 37 * (codebook or 0) + 11 * slot) % 1000 for slot in range(SLOTS - 1)] + [_STOP]
    inputs = [1024, *labels[:-1]]
    wrong = SLOTS - correct_in(codebook)
    predictions = [7 + label if slot < wrong else label for slot, label in enumerate(labels)]

    def shown(part: slice) -> Window:
        return Window(
            positions=tuple(range(begin, begin + SLOTS))[part],
            inputs=tuple(inputs[part]),
            labels=tuple(labels[part]),
            predictions=tuple(predictions[part]),
            predicted_text=None,
            label_text=None,
        )

    makes = text_sample() if codebook is None else audio_sample()
    shapes = [(24, 1026), (24,)] if codebook is None else [(24, CODEBOOKS, 1026), (CODEBOOKS, 24)]
    return replace(
        makes,
        step=step,
        epoch=float(step),
        sample_index=index,
        sample_id=SAMPLES[index],
        fingerprint=f"{index:016x}",
        codebook=codebook,
        num_codebooks=None if codebook is None else CODEBOOKS,
        logits_shape=shapes[0],
        labels_shape=shapes[1],
        num_targets=SLOTS,
        num_correct=SLOTS - wrong,
        accuracy=(SLOTS - wrong) / SLOTS,
        first=shown(slice(0, _SHOWN)),
        last=shown(slice(SLOTS - _SHOWN, None)),
    )


def counts_of(step: int, codebook: int | None) -> TokenCounts:
    """Make the `token_counts` of all samples."""
    targets, correct = len(SAMPLES) * SLOTS, len(SAMPLES) * correct_in(codebook)
    places = {"response": targets} if codebook is None else {"codes": targets - 2, "stop": 2}
    delay = len(SAMPLES) * (codebook or 0)
    masked = {"prompt": 57} if codebook is None else {"stream_bos": 2} | ({"delay_prefix": delay} if delay else {})
    few = {"offset_contested": (12,) * 5, "offset_matches": (0,) * 5, "offset_correct": (10,) * 5}
    return token_counts(
        step=step,
        codebook=codebook,
        num_codebooks=None if codebook is None else CODEBOOKS,
        num_targets=targets,
        num_correct=correct,
        divisor=float(targets),
        supervised=places,
        masked=masked,
        label_matches=(1, 2, targets, 2, 1),
        stop_targets=len(SAMPLES),
        stop_correct=len(SAMPLES),
        **few,
    )


def step_of(step: int) -> TrainStep:
    """Make the `train_step` of all samples."""
    shares = tuple(correct_in(codebook) / SLOTS for codebook in range(CODEBOOKS))
    return train_step(
        step=step,
        epoch=float(step),
        loss=4.0,
        text_loss=1.0,
        audio_loss=3.0,
        audio_loss_per_codebook=(3.0,) * CODEBOOKS,
        text_accuracy=correct_in(None) / SLOTS,
        audio_accuracy_per_codebook=shares,
        text_targets=len(SAMPLES) * SLOTS,
        audio_targets=CODEBOOKS * len(SAMPLES) * SLOTS,
        learning_rate=1e-4,
        samples={name: f"{index:016x}" for index, name in enumerate(SAMPLES)},
    )


def events_of(step: int) -> list[Event]:
    """Make the events of a logged step in the order of the producer."""
    series = (None, *range(CODEBOOKS))
    samples = [sample_of(step, index, codebook) for index in range(len(SAMPLES)) for codebook in series]
    return [step_of(step), *samples, *(counts_of(step, codebook) for codebook in series)]


def attempt_of(number: int, steps: range, resumed: int | None, *, rank: int = 0, **start: Any) -> list[Record]:
    """Make the records of an attempt that ended by a checkpoint at its last step."""
    begin = run_start(
        num_codebooks=CODEBOOKS,
        resumed_from_step=resumed,
        resume_changes=None if resumed is None else {"max_steps": [4, 6]},
        family="higgs-audio-v2",
        **({"config": CONFIG} | start),
    )
    events = [begin, *(event for step in steps for event in events_of(step)), checkpoint(step=steps[-1])]
    events.append(run_end(step=steps[-1], events_written=len(events)))
    made = [{**record_of(event), "rank": rank, "attempt": number} for event in events]
    made = [record | {"ts": record["ts"].replace("03:04:05", f"03:{4 + number:02}:05")} for record in made]
    return [json.loads(json.dumps({**record, "seq": seq})) for seq, record in enumerate(made)]


def honest() -> Log:
    """Make a run of 6 steps that was stopped at steps 2 and 4 and resumed."""
    parts = enumerate(((range(1, 3), None), (range(3, 5), 2), (range(5, 7), 4)))
    return {(0, number, 0): attempt_of(number, steps, resumed) for number, (steps, resumed) in parts}


def write(log: Log, folder: Path) -> Path:
    """Write a log and return its output directory."""
    (folder / "events").mkdir(parents=True)
    for (rank, attempt, segment), records in log.items():
        file_of(folder, attempt, rank=rank, segment=segment).write_bytes(
            b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
        )
    return folder


def file_of(folder: Path, attempt: int, *, rank: int = 0, segment: int = 0) -> Path:
    """Return the path of a file of a log."""
    part = f".segment{segment:03d}" if segment else ""
    return folder / "events" / f"rank{rank:05d}-attempt{attempt:03d}{part}.jsonl"
