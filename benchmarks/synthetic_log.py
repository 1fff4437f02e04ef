"""Logs of any length, as a run of one rank with 8 codebooks writes them: for benchmarks, with no training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.events import (
    Event,
    PredictionSample,
    RunEnd,
    RunStart,
    TokenCounts,
    TrainStep,
    Window,
    to_mapping,
)

CODEBOOKS, FRAMES, WINDOW = 8, 120, 5
TEXT_TARGETS = 40
EVENTS_A_STEP = 1 + 4 + 1 + CODEBOOKS  # figures, samples, counts
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_log(folder: Path, num_events: int, *, seed: int = 0, run_id: str = "synthetic") -> Path:
    """Write a log of about as many events. The same seed gives the same events but for times and the run's id.

    Args:
        folder: is made; the file in it is named as the sink names it.
        num_events: rounded up to whole steps.
        seed: of the tokens and losses.
        run_id: of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rank00000-attempt000.jsonl"
    with path.open("wb", 2**20) as file:
        for seq, event in enumerate(_events(-(-num_events // EVENTS_A_STEP), random.Random(seed))):
            file.write(
                orjson.dumps(_envelope(event, seq, run_id) | to_mapping(event), option=orjson.OPT_APPEND_NEWLINE)
            )
    return path


def _envelope(event: Event, seq: int, run_id: str) -> dict[str, Any]:
    ts = (_START + timedelta(milliseconds=seq)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    envelope = {"event": event.name, "v": 1, "ts": ts, "run_id": run_id, "attempt": 0, "rank": 0, "seq": seq}
    return envelope | {"level": "info"}


def _events(steps: int, numbers: random.Random) -> Iterator[Event]:
    yield RunStart(
        config={"lr": 1e-4, "text_loss_weight": 1.0, "batch_size": 8, "max_steps": steps},
        versions={"python": "3.11", "torch": "2.13"},
        world_size=1,
        device="cpu",
        seed=0,
        resumed_from_step=None,
        num_train_samples=8,
        num_eval_samples=0,
        num_codebooks=CODEBOOKS,
        trainable_parameters=1,
        host="bench",
    )
    samples = [_sample(index, modality, numbers) for index in range(2) for modality in ("text", "audio")]
    for step in range(1, steps + 1):
        yield _train_step(step, numbers)
        yield from (_predicted(sample, step, numbers) for sample in samples)
        yield from (_counts(step, codebook, numbers) for codebook in (None, *range(CODEBOOKS)))
    yield RunEnd(
        reason="completed",
        step=steps,
        events_written=EVENTS_A_STEP * steps + 1,
        events_lost=0,
        values_replaced=0,
        logging_ms_total=1.0,
    )


def _train_step(step: int, numbers: random.Random) -> TrainStep:
    losses = tuple(numbers.random() * 7 for _ in range(CODEBOOKS))
    audio_loss, text_loss = sum(losses) / CODEBOOKS, numbers.random() * 11
    return TrainStep(
        step=step,
        epoch=float(step),
        loss=text_loss + audio_loss,
        text_loss=text_loss,
        audio_loss=audio_loss,
        audio_loss_per_codebook=losses,
        text_accuracy=numbers.random(),
        audio_accuracy_per_codebook=tuple(numbers.random() for _ in range(CODEBOOKS)),
        text_targets=TEXT_TARGETS,
        audio_targets=CODEBOOKS * FRAMES,
        learning_rate=1e-4,
        grad_norm=numbers.random(),
        step_ms=300.0,
        logging_ms=1.0,
    )


def _sample(index: int, modality: Any, numbers: random.Random) -> PredictionSample:
    is_audio = modality == "audio"
    targets = FRAMES if is_audio else 20
    first, last = (_window(start, numbers) for start in (30, 30 + FRAMES - WINDOW))
    return PredictionSample(
        step=1,
        epoch=1.0,
        split="train",
        modality=modality,
        sample_index=index,
        sample_id=f"clip-{index}",
        fingerprint=f"{index:016x}",
        codebook=0 if is_audio else None,
        num_codebooks=CODEBOOKS if is_audio else None,
        shift=1,
        logits_shape=(8 * FRAMES, CODEBOOKS, 1026) if is_audio else (160, 128_256),
        labels_shape=(CODEBOOKS, 8 * FRAMES) if is_audio else (160,),
        num_targets=targets,
        num_correct=0,
        accuracy=0.0,
        loss=7.0,
        stop_targets=1,
        first=first,
        last=last,
        stop_rank=1,
        stop_probability=0.5,
    )


def _counts(step: int, codebook: int | None, numbers: random.Random) -> TokenCounts:
    is_text = codebook is None
    targets = TEXT_TARGETS if is_text else FRAMES
    correct = numbers.randrange(2, targets)
    rivals = tuple(numbers.randrange(targets - correct) for _ in range(5))
    return TokenCounts(
        step=step,
        modality="text" if is_text else "audio",
        codebook=codebook,
        num_codebooks=None if is_text else CODEBOOKS,
        num_targets=targets,
        num_correct=correct,
        divisor=float(targets),
        masked={"prompt": 57, "placeholder": FRAMES} if is_text else {"stream_bos": 2, "eos_fill": 7},
        supervised={"response": targets} if is_text else {"codes": targets - 2, "stop": 2},
        label_matches=(1, 2, targets, 2, 1),
        offset_contested=(targets,) * 5,
        offset_matches=rivals,
        offset_correct=(correct,) * 5,
        offset_surplus=tuple(numbers.random() for _ in range(5)),
        stop_targets=2,
        stop_correct=1,
        stop_rank=1.0 + numbers.random(),
        stop_probability=numbers.random(),
        unigram_accuracy=0.1,
        unigram_loss=6.0,
        top_prediction=numbers.randrange(1024),
        top_prediction_share=numbers.random(),
        constant_samples=(),
        strip="57p 1# 72_ 2#" if step == 1 else None,
    )


def _predicted(sample: PredictionSample, step: int, numbers: random.Random) -> PredictionSample:
    """Give a sample the predictions of a step, and a count of right ones that the shown slots allow."""
    first, last = (replace(window, predictions=_tokens(numbers)) for window in (sample.first, sample.last))
    right = sum(
        label == token
        for window in (first, last)
        for label, token in zip(window.labels, window.predictions, strict=True)
    )
    right += numbers.randrange(sample.num_targets - 2 * WINDOW + 1)
    return replace(
        sample,
        step=step,
        epoch=float(step),
        num_correct=right,
        accuracy=right / sample.num_targets,
        loss=numbers.random() * 7,
        first=first,
        last=last,
    )


def _window(start: int, numbers: random.Random) -> Window:
    return Window(
        positions=tuple(range(start, start + WINDOW)),
        inputs=_tokens(numbers),
        labels=_tokens(numbers),
        predictions=_tokens(numbers),
        predicted_text=None,
        label_text=None,
    )


def _tokens(numbers: random.Random) -> tuple[int, ...]:
    return tuple(numbers.randrange(1024) for _ in range(WINDOW))
