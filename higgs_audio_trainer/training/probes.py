"""Probes of a training: prompts that the model speaks while it trains, and samples whose predictions are followed.

Probes are fixed for the whole run, also after a resume.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.batch import Example, TokenIds, build_example
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.speech import Decoding, SpeechPrompt
from higgs_audio_trainer.recording.generations import Spoken
from higgs_audio_trainer.recording.settings import IsLoggedStep
from higgs_audio_trainer.voice.generation import speak
from higgs_audio_trainer.voice.sentence_prompts import prompts_of
from higgs_audio_trainer.voice.sentences import read_sentences
from higgs_audio_trainer.voice.speech_prompt import prompt_of

_PROMPTS = "--say_prompts"
_SPOKEN = 2  # samples where none are logged
_MOST_SAMPLES = 10_000  # of a data set that are looked at for samples with speech
_FRAMES_WITHOUT_LABEL = 750  # 30 s of the Higgs codec
_TIMES_LABEL, _MORE_FRAMES = 1.5, 25  # a speech may be longer than the longest recording by half, and by a second


@dataclass(frozen=True, slots=True)
class Probes:
    """Probes of a training.

    Attributes:
        prompts: Prompts to speak. Empty for a run that does not speak.
        decoding: Choice of codes.
        checkpoint: Base checkpoint.
        is_due: Returns True for the steps after which the prompts are spoken. None to speak at each evaluation.
        examples: Samples whose predictions are logged at each logged step.
    """

    prompts: tuple[SpeechPrompt, ...]
    decoding: Decoding
    checkpoint: BaseCheckpoint
    is_due: IsLoggedStep | None
    examples: tuple[Example, ...] = ()

    def speak(self, model: Any, step: int, *, is_asked_to_stop: Callable[[], bool]) -> Spoken | None:
        """Speak the prompts as one batch with the current weights. Return None if the training is asked to stop.

        Args:
            model: Model.
            step: Optimizer steps done.
            is_asked_to_stop: Asked at each frame.
        """
        begun = time.perf_counter()
        spoken = speak(model, self.prompts, self.decoding, self.checkpoint, is_asked_to_stop=is_asked_to_stop)
        if is_asked_to_stop():
            return None
        return Spoken(step, self.prompts, spoken, self.decoding, time.perf_counter() - begun)


def probe_examples(dataset: PreparedDataset, ids: TokenIds, number: int) -> tuple[Example, ...]:
    """Return the first samples of a data set as arrays."""
    return tuple(build_example(sample, sample.codes_KT, ids) for sample in islice(dataset, number))


def probe_prompts(
    settings: TrainSettings, checkpoint: BaseCheckpoint, dataset: PreparedDataset, open_codec: Callable[[], Codec]
) -> tuple[SpeechPrompt, ...]:
    """Return the prompts that a training speaks: those of `--say_prompts`, or the first samples of a data set.

    Args:
        settings: Settings of the run.
        checkpoint: Base checkpoint.
        dataset: Evaluation data, or else the training data.
        open_codec: Loads the codec. Called only for prompts with reference recordings.

    Raises:
        UserError: The file of prompts or a recording of it cannot be read.
    """
    if settings.say_steps == 0 or (settings.say_steps is None and settings.eval_manifest is None):
        return ()
    if settings.say_prompts is not None:
        sentences = read_sentences(Path(settings.say_prompts), _PROMPTS)
        return tuple(prompts_of(sentences, checkpoint, open_codec, max_frames=_FRAMES_WITHOUT_LABEL))
    return _prompts_of_samples(dataset, checkpoint.ids, settings.say_samples or settings.log_samples or _SPOKEN)


def check_prompts(settings: TrainSettings) -> None:
    """Check the file of `--say_prompts`, before anything is loaded.

    Raises:
        UserError: The file or a recording of it cannot be read.
    """
    if settings.say_prompts is None:
        return
    path = Path(settings.say_prompts)
    if settings.say_steps == 0 or (settings.say_steps is None and settings.eval_manifest is None):
        raise UserError(f"{_PROMPTS}: expected steps at which to speak: --say_steps N, or --eval_manifest")
    if path == Path("-"):
        raise UserError(f"{_PROMPTS}: expected a file, got the standard input, which ranks cannot share")
    for sentence in read_sentences(path, _PROMPTS):
        if sentence.ref_audio is not None and not sentence.ref_audio.is_file():
            raise UserError(f"{_PROMPTS}: {path}: expected the recordings that it names, got no {sentence.ref_audio}")


def is_multiple(interval: float, total_steps: Callable[[], int], step: int) -> bool:
    """Return True for every multiple of an interval of steps.

    Args:
        interval: Steps, or a share of all steps. 0 for never.
        total_steps: Returns the number of all steps.
        step: Optimizer steps done.

    Example:
        >>> [step for step in range(1, 41) if is_multiple(0.25, lambda: 40, step)]
        [10, 20, 30, 40]
    """
    if interval == 0:
        return False
    return step % (int(interval) if interval >= 1 else math.ceil(interval * total_steps())) == 0


def _prompts_of_samples(dataset: PreparedDataset, ids: TokenIds, number: int) -> tuple[SpeechPrompt, ...]:
    """Return the prompts of the first samples of a data set that have speech to learn."""
    prompts = (prompt_of(sample, ids) for sample in islice(dataset, _MOST_SAMPLES))
    return tuple(islice((prompt for prompt in prompts if prompt is not None), number))


def decoding_of(prompts: Sequence[SpeechPrompt], temperature: float, seed: int) -> Decoding:
    """Return how probes are spoken: at most half as long again as the longest recording, or 30 s without recordings.

    Args:
        prompts: Prompts to speak.
        temperature: Divisor of the logits; 0 takes the most likely code.
        seed: Seed of the random generators.
    """
    lengths = [None if prompt.label_KT is None else prompt.label_KT.shape[1] for prompt in prompts]
    longest = max((length for length in lengths if length is not None), default=0)
    limit = math.ceil(_TIMES_LABEL * longest) + _MORE_FRAMES
    if None in lengths or not lengths:
        limit = max(limit, _FRAMES_WITHOUT_LABEL)
    sampled: Mapping[str, Any] = {"top_p": 0.95, "top_k": 50} if temperature > 0 else {}
    return Decoding(temperature, seed=seed, max_frames=limit, **sampled)
