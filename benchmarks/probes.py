"""Cost of the probes of a training: speech, followed samples, and the decoder process beside the training.

    python -m benchmarks.probes [--quick] [--json FILE]

Speech is generated greedily for two prompts by a random model with LoRA, and by the native class with the same weights
merged. Both give the same codes. A followed sample is compared with the training step of a batch. A step with the
decoder process busy takes turns with a step during which the process is stopped.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import HiggsAudioV2ForConditionalGeneration

from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio
from benchmarks.training_step import QUICK, THREADS, StepSize
from benchmarks.workload import add_lora, random_model, token_ids, torch_threads
from higgs_audio_trainer.data.batch import Collator, Example, PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.speech import Decoding, SpeechPrompt
from higgs_audio_trainer.families.v2.family import HiggsAudioV2
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.recording.decoder_process import DecoderProcess, Job
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.voice.generation import speak, undisturbed

SIZE = StepSize(hidden_size=512, num_layers=4, length=256)
_MOST_SPEECH, _MOST_BUSY = 1.1, 1.1
_PROMPT_TOKENS = 60


def _prompts(ids: TokenIds, number: int) -> list[SpeechPrompt]:
    numbers = np.random.default_rng(0)
    prompts = []
    for name in map(str, range(number)):
        tokens = TokenSegment(numbers.integers(0, 128_000, _PROMPT_TOKENS), supervised=False)
        prompts.append(SpeechPrompt(name, "", build_example(PreparedSample(name, (tokens,)), (), ids)))
    return prompts


def _speech(model: Any, native: Any, checkpoint: BaseCheckpoint, frames: int, rounds: int) -> Iterator[ResultRow]:
    prompts, decoding = _prompts(checkpoint.ids, 2), Decoding(max_frames=frames)
    spoken = [speak(one, prompts, decoding, checkpoint) for one in (model, native)]
    same = all(np.array_equal(a.codes_KT, b.codes_KT) for a, b in zip(*spoken, strict=True))
    made = max(speech.codes_KT.shape[1] for speech in spoken[0])
    calls: dict[str, Callable[[], object]] = {
        "ours": partial(speak, model, prompts, decoding, checkpoint),
        "native": partial(speak, native, prompts, decoding, checkpoint),
        "one by one": lambda: [speak(model, [prompt], decoding, checkpoint) for prompt in prompts],
    }
    taken = interleaved(calls, rounds=rounds)
    per_frame = 1000 * median(taken["ours"]) / made
    times = ratio(taken["ours"], taken["native"])
    target, holds = f"at most {_MOST_SPEECH}", times <= _MOST_SPEECH
    yield ResultRow(
        "two probes spoken, model with LoRA", per_frame, "ms per frame", "native model", times, target, holds
    )
    yield ResultRow("codes equal those of the native model", float(same), "", target="1", holds=same)
    batched = ratio(taken["ours"], taken["one by one"])
    yield ResultRow("two probes spoken as a batch", per_frame, "ms per frame", "one by one", batched)


def _followed(model: Any, ids: TokenIds, examples: list[Example], rounds: int) -> Iterator[ResultRow]:
    batch = _inputs(Collator(ids)(examples))
    single = _inputs(Collator(ids)(examples[:1]))

    def follow() -> None:
        with undisturbed(model, 0), torch.no_grad():
            model(**single)

    taken = interleaved({"follow": follow, "step": partial(_step, model, batch)}, rounds=rounds)
    share = ratio(taken["follow"], taken["step"])
    name = f"one followed sample of --log_probes, beside a batch of {len(examples)}"
    yield ResultRow(name, 1000 * median(taken["follow"]), "ms", "step", share)


def _step(model: Any, batch: dict[str, Any]) -> None:
    model.zero_grad()
    model(**batch).loss.backward()


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("samples", "regions")}


@contextmanager
def _busy_decoder(folder: Path) -> Iterator[Callable[[bool], None]]:
    """Start a decoder process that decodes without end. Yield a function that lets it run or stops it."""
    _, codec = write_tiny(folder / "base")
    decoder = DecoderProcess((str(codec),), folder, seconds=60.0, fail=print)
    codes = np.random.default_rng(0).integers(0, 1024, (8, 250))
    names = count()

    def again(_answer: object) -> None:
        decoder.put(Job(f"{next(names) % 2}.wav", (codes,), answered=again))

    again(None)
    again(None)
    while not list(folder.glob("*.wav")):
        time.sleep(0.1)
    process = decoder._process  # noqa: SLF001 - no caller but this one stops the process for a while
    assert process is not None

    def run(is_running: bool) -> None:
        os.kill(process.pid, signal.SIGCONT if is_running else signal.SIGSTOP)

    try:
        yield run
    finally:
        run(True)
        decoder.close(wait=False)


def _beside_decoder(model: Any, ids: TokenIds, examples: list[Example], rounds: int) -> Iterator[ResultRow]:
    batch = _inputs(Collator(ids)(examples))
    with tempfile.TemporaryDirectory() as folder, _busy_decoder(Path(folder)) as let_run:

        def step(is_running: bool) -> None:
            let_run(is_running)
            _step(model, batch)

        taken = interleaved({"busy": partial(step, True), "idle": partial(step, False)}, rounds=rounds)
    times = ratio(taken["busy"], taken["idle"])
    name = f"step beside a busy decoder, {torch.get_num_threads()} threads on {os.cpu_count()} cores"
    target, holds = f"at most {_MOST_BUSY}", times <= _MOST_BUSY
    yield ResultRow(name, 1000 * median(taken["busy"]), "ms", "step beside a stopped one", times, target, holds)


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure speech, followed samples and the decoder."""
    quiet_third_parties()
    size, rounds, frames = (QUICK, 1, 8) if quick else (SIZE, 8, 50)
    config = size.config()
    ids = token_ids(config)
    tokenizer: Any = None  # the prompts are tokens
    checkpoint = BaseCheckpoint("random", HiggsAudioV2(), config, tokenizer, ids, (), config.max_position_embeddings)
    with torch_threads(THREADS):
        base: Any = random_model(HiggsAudioForTraining, config, "cpu")
        base.float()
        native: Any = HiggsAudioV2ForConditionalGeneration(config)
        native.load_state_dict(base.state_dict(), strict=False)
        native.generation_config = base.generation_config
        model = add_lora(base, r=16, alpha=32, dropout=0.0)
        examples = size.examples(ids)
        return [
            *_speech(model, native, checkpoint, frames, rounds),
            *_followed(model, ids, examples, rounds),
            *_beside_decoder(model, ids, examples, rounds),
        ]


if __name__ == "__main__":
    run_alone(rows, __doc__)
