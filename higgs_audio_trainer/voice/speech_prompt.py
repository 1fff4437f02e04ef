"""Prompts of speech: the part of a training sample before the speech to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from higgs_audio_trainer.data.batch import Ints, PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.speech import SpeechPrompt

_SPEECH = Clip(Path("speech"), encoded=True)  # stands for what the model is about to say


def prompt_of(sample: PreparedSample, ids: TokenIds) -> SpeechPrompt | None:
    """Return the prompt of the first speech that a sample teaches. None for a sample without speech.

    Args:
        sample: A prepared sample.
        ids: Token ids of the checkpoint.
    """
    segments = sample.segments
    end = next((place for place, part in enumerate(segments) if part.ids is None and part.supervised), None)
    if end is None:
        return None
    num_clips = sum(part.ids is None for part in segments[:end])
    before = replace(sample, segments=segments[:end], codes_KT=sample.codes_KT[:num_clips])
    inputs = build_example(before, before.codes_KT, ids)
    return SpeechPrompt(sample.id, sample.text, inputs, sample.codes_KT[num_clips], sample.codes_KT[0])


def new_prompt(
    name: str,
    text: str,
    checkpoint: BaseCheckpoint,
    *,
    scene: str | None = None,
    reference: tuple[str | None, Ints] | None = None,
) -> SpeechPrompt:
    """Return a prompt to speak a text, as a training sample with these fields has it.

    Args:
        name: Name of the prompt.
        text: Text to speak.
        checkpoint: Base checkpoint.
        scene: Description of the scene.
        reference: Text and codes, int64 [K, T], of a recording of the voice. The text may be None.

    Raises:
        UserError: The family has no place for a field.
    """
    turns = [DEFAULT_SYSTEM]
    if scene is not None:
        turns.append(Turn("scene", (scene,)))
    codes: Sequence[Ints] = ()
    if reference is not None:
        spoken, codes_KT = reference
        turns += [Turn("user", (spoken,))] if spoken is not None else []
        turns.append(Turn("assistant", (_SPEECH,)))
        codes = [codes_KT]
    turns += [Turn("user", (text,)), Turn("assistant", (_SPEECH,), supervised=True)]
    segments = checkpoint.tokenize(Sample(name, tuple(turns), name))
    end = next(place for place, part in enumerate(segments) if part.ids is None and part.supervised)
    inputs = build_example(PreparedSample(name, tuple(segments[:end]), tuple(codes), name), codes, checkpoint.ids)
    return SpeechPrompt(name, text, inputs, voice_KT=codes[0] if codes else None)
