"""Logs of any length without a training, in the format of a run with 8 codebooks.

`tests/goldens/demo.jsonl` is a real log of this format. A logged step has a `train_step`, text and audio of two
samples, and the token counts of text and of each codebook. Text is decoded, and three text slots per clip are
supervised.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.events import (
    IGNORE_INDEX,
    Event,
    PredictionSample,
    RunEnd,
    RunStart,
    TokenCounts,
    TrainStep,
    Window,
    to_mapping,
)

BATCH, CODEBOOKS, FRAMES, WINDOW = 8, 8, 120, 5
TEXT_SPAN, TEXT_TARGETS = 124, 3  # slots of a sample
AUDIO_SIZE, TEXT_SIZE = 1026, 128_256  # sizes of the vocabularies
EVENTS_A_STEP = 1 + 4 + 1 + CODEBOOKS  # train_step, samples, token counts
_MASKED = (
    {"padding": 361, "placeholder": 644, "prompt": 939},
    {"eos_fill": 56, "padding": 204, "stream_bos": 8},
    {"delay_prefix": 8, "eos_fill": 48, "padding": 204, "stream_bos": 8},
)  # masks of text, of the first codebook, of any other codebook
_DISTINCT = 2_000  # steps; a longer log repeats the same steps
_OF_A_STEP = b'{"event":"%b","v":1,"ts":"%b","run_id":"%b","attempt":0,"rank":%d,"seq":%d,"level":"info","step":%d,%b\n'
_START = datetime(2026, 1, 1, tzinfo=UTC)


def write_log(
    folder: Path, num_events: int, *, seed: int = 0, run_id: str = "synthetic", rank: int = 0, world_size: int = 1
) -> Path:
    """Write a log. The same seed gives the same events apart from times and the run id.

    Another seed gives other figures and predictions of the same data. No event occurs at the first step only.

    Args:
        folder: Folder to create. The file has the name chosen by the JSONL sink.
        num_events: Number of events, rounded up to whole steps.
        seed: Seed of figures and predictions.
        run_id: Identifier of the run.
        rank: Rank of the process that wrote the log.
        world_size: Number of ranks of the run.

    Returns:
        Path of the log.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     log = write_log(Path(folder), 20)
        ...     log.name, len(log.read_bytes().splitlines())  # two steps of 14 events, first and last line
        ('rank00000-attempt000.jsonl', 30)
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, steps = folder / f"rank{rank:05}-attempt000.jsonl", -(-num_events // EVENTS_A_STEP)
    distinct = list(islice(_of_steps(random.Random(seed)), min(steps, _DISTINCT)))
    with path.open("wb", 2**20) as file:
        file.write(_line(_run_start(steps, world_size), 0, 0, run_id, rank))
        seq = 1
        for step in range(1, steps + 1):
            for start, rest in distinct[(step - 1) % len(distinct)]:
                file.write(_OF_A_STEP % (start, _ts(step), run_id.encode(), rank, seq, step, rest))
                seq += 1
        file.write(_line(_run_end(steps, seq), steps, seq, run_id, rank))
    return path


def _of_steps(numbers: random.Random) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield the events of a step, each as the name and the part of the line after the step number."""
    data = random.Random(0)
    samples = [_sample(index, modality, data) for index in range(2) for modality in ("text", "audio")]
    while True:
        predicted = [_predicted(sample, numbers) for sample in samples]
        counts = [_counts(codebook, predicted, numbers) for codebook in (None, *range(CODEBOOKS))]
        events: list[Event] = [_train_step(counts, numbers), *predicted, *counts]
        encoded = [(event.name.encode(), orjson.dumps(to_mapping(event))) for event in events]
        yield [(name, payload.partition(b",")[2]) for name, payload in encoded]


def _ts(second: int) -> bytes:
    return (_START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


def _line(event: Event, second: int, seq: int, run_id: str, rank: int) -> bytes:
    ts = _ts(second).decode()
    envelope = {"event": event.name, "v": 1, "ts": ts, "run_id": run_id, "attempt": 0, "rank": rank, "seq": seq}
    return orjson.dumps(envelope | {"level": "info"} | to_mapping(event), option=orjson.OPT_APPEND_NEWLINE)


def _run_start(steps: int, world_size: int) -> RunStart:
    return RunStart(
        config={"lr": 1e-4, "text_loss_weight": 1.0, "batch_size": BATCH, "max_steps": steps},
        versions={"python": "3.11", "torch": "2.13"},
        world_size=world_size,
        device="cpu",
        seed=0,
        resumed_from_step=None,
        num_train_samples=BATCH,
        num_eval_samples=0,
        num_codebooks=CODEBOOKS,
        trainable_parameters=1,
        host="bench",
    )


def _run_end(steps: int, events: int) -> RunEnd:
    return RunEnd(
        reason="completed",
        step=steps,
        events_written=events,
        events_lost=0,
        values_replaced=0,
        logging_ms_total=1.0,
    )


def _train_step(counts: Sequence[TokenCounts], numbers: random.Random) -> TrainStep:
    text_accuracy, *accuracies = (each.num_correct / each.num_targets for each in counts)
    losses = tuple(numbers.random() * 7 for _ in range(CODEBOOKS))
    audio_loss, text_loss = sum(losses) / CODEBOOKS, numbers.random() * 11
    return TrainStep(
        step=1,
        epoch=1.0,
        loss=text_loss + audio_loss,
        text_loss=text_loss,
        audio_loss=audio_loss,
        audio_loss_per_codebook=losses,
        text_accuracy=text_accuracy,
        audio_accuracy_per_codebook=tuple(accuracies),
        text_targets=BATCH * TEXT_TARGETS,
        audio_targets=BATCH * CODEBOOKS * FRAMES,
        learning_rate=1e-4,
        grad_norm=numbers.random(),
        step_ms=300.0,
        logging_ms=1.0,
        sequence_length=246,
        samples={f"clip-{index}": f"{index:016x}" for index in range(BATCH)},
    )


def _sample(index: int, modality: Any, numbers: random.Random) -> PredictionSample:
    """Return a sample without predictions. The first and the last two text slots and all audio slots are supervised."""
    is_audio = modality == "audio"
    span, size = (FRAMES, AUDIO_SIZE) if is_audio else (TEXT_SPAN, TEXT_SIZE)
    ends = ((), ()) if is_audio else ((1, 2, 3, 4), (0, 1, 2))
    first, last = (
        _window(start, masked, size, numbers) for start, masked in zip((30, 30 + span - WINDOW), ends, strict=True)
    )
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
        logits_shape=(BATCH * FRAMES, CODEBOOKS, AUDIO_SIZE) if is_audio else (BATCH * TEXT_TARGETS, TEXT_SIZE),
        labels_shape=(CODEBOOKS, BATCH * FRAMES) if is_audio else (BATCH * TEXT_TARGETS,),
        num_targets=FRAMES if is_audio else TEXT_TARGETS,
        num_correct=0,
        accuracy=0.0,
        loss=7.0,
        stop_targets=1,
        first=first,
        last=last,
        stop_rank=1,
        stop_probability=0.5,
    )


def _counts(codebook: int | None, samples: Sequence[PredictionSample], numbers: random.Random) -> TokenCounts:
    is_text = codebook is None
    targets = BATCH * (TEXT_TARGETS if is_text else FRAMES)
    least = sum(sample.num_correct for sample in samples if sample.codebook == codebook)
    correct = numbers.randrange(max(2, least), targets)
    competing = tuple(numbers.randrange(targets - correct) for _ in range(5))
    return TokenCounts(
        step=1,
        modality="text" if is_text else "audio",
        codebook=codebook,
        num_codebooks=None if is_text else CODEBOOKS,
        num_targets=targets,
        num_correct=correct,
        divisor=float(targets),
        masked=_MASKED[0 if codebook is None else 1 + min(codebook, 1)],
        supervised={"response": targets} if is_text else {"codes": targets - BATCH, "stop": BATCH},
        label_matches=(1, 2, targets, 2, 1),
        offset_contested=(targets,) * 5,
        offset_matches=competing,
        offset_correct=(correct,) * 5,
        offset_surplus=tuple(_figure(numbers) for _ in range(5)),
        stop_targets=BATCH,
        stop_correct=1,
        stop_rank=1.0 + _figure(numbers),
        stop_probability=_figure(numbers),
        unigram_accuracy=0.0310345,
        unigram_loss=5.84911,
        top_prediction=numbers.randrange(1024),
        top_prediction_share=_figure(numbers),
        constant_samples=(),
        strip=None,
    )


def _figure(numbers: random.Random) -> float:
    return round(numbers.random(), 6)  # the precision of token counts


def _predicted(sample: PredictionSample, numbers: random.Random) -> PredictionSample:
    """Return a sample with random predictions and a number of correct predictions in accord with the shown slots."""
    first, last = (
        _with_predictions(window, sample.logits_shape[-1], numbers) for window in (sample.first, sample.last)
    )
    shown = [
        label == token
        for window in (first, last)
        for label, token in zip(window.labels, window.predictions, strict=True)
        if label != IGNORE_INDEX
    ]
    num_correct = sum(shown) + numbers.randrange(sample.num_targets - len(shown) + 1)
    return replace(
        sample,
        num_correct=num_correct,
        accuracy=num_correct / sample.num_targets,
        loss=numbers.random() * 7,
        first=first,
        last=last,
    )


def _window(start: int, masked: Collection[int], size: int, numbers: random.Random) -> Window:
    is_text = size == TEXT_SIZE
    return Window(
        positions=tuple(range(start, start + WINDOW)),
        inputs=_tokens(size, numbers),
        labels=tuple(IGNORE_INDEX if slot in masked else token for slot, token in enumerate(_tokens(size, numbers))),
        predictions=(None,) * WINDOW,
        predicted_text=None,
        label_text="<|audio_eos|><|eot_id|>" if is_text else None,
    )


def _with_predictions(window: Window, size: int, numbers: random.Random) -> Window:
    tokens = zip(window.labels, _tokens(size, numbers), strict=True)
    return replace(
        window,
        predictions=tuple(None if label == IGNORE_INDEX else token for label, token in tokens),
        predicted_text=None if window.label_text is None else "\ufffd an",
    )


def _tokens(size: int, numbers: random.Random) -> tuple[int, ...]:
    return tuple(numbers.randrange(size) for _ in range(WINDOW))
