"""Prompts of sentences: references encoded, texts tokenized, lengths checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from higgs_audio_trainer.data.audio import AudioError, load_audio, resample
from higgs_audio_trainer.data.batch import Ints
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.speech import SpeechPrompt
from higgs_audio_trainer.voice.sentences import Sentence
from higgs_audio_trainer.voice.speech_prompt import new_prompt


def prompts_of(
    sentences: Sequence[Sentence], checkpoint: BaseCheckpoint, open_codec: Callable[[], Codec], *, max_frames: int
) -> list[SpeechPrompt]:
    """Return the prompts of sentences.

    Args:
        sentences: Sentences.
        checkpoint: Base checkpoint.
        open_codec: Returns the codec. Called only for sentences with references.
        max_frames: Codec frames of the longest speech.

    Raises:
        UserError: A recording cannot be used, or the model has too few positions for a sentence and its speech.
    """
    paths = dict.fromkeys(sentence.ref_audio for sentence in sentences if sentence.ref_audio is not None)
    codec = open_codec() if paths else None
    voices = {path: reference_codes(path, codec) for path in paths if codec is not None}
    prompts = []
    for sentence in sentences:
        reference = None if sentence.ref_audio is None else (sentence.ref_text, voices[sentence.ref_audio])
        prompt = new_prompt(
            sentence.id,
            sentence.text,
            checkpoint,
            scene=sentence.scene,
            reference=reference,
        )
        _check_length(prompt, checkpoint, max_frames)
        prompts.append(prompt)
    return prompts


def reference_codes(path: Path, codec: Codec) -> Ints:
    """Return the codes of a recording of a voice, int64 [K, T].

    Raises:
        UserError: The recording cannot be read, or is shorter than a codec frame.
    """
    try:
        mixed, rate = load_audio(path)
    except AudioError as error:
        raise UserError(f"ref_audio: {path}: {error}. Name another recording.") from error
    waveform = resample(mixed.waveform, rate, codec.sampling_rate_hz)
    if len(waveform) < codec.hop_length:
        least_ms, got_ms = (1000 * size / codec.sampling_rate_hz for size in (codec.hop_length, len(waveform)))
        raise UserError(
            f"ref_audio: {path}: expected at least one codec frame of audio, {least_ms:g} ms, got {got_ms:.1f} ms. "
            "Name another recording."
        )
    return codec.encode(waveform)


def _check_length(prompt: SpeechPrompt, checkpoint: BaseCheckpoint, max_frames: int) -> None:
    positions = checkpoint.max_length
    audio = len(prompt.inputs.audio_ids_FK)
    total = len(prompt.inputs.input_ids) + max_frames + checkpoint.ids.num_codebooks + 1
    if total > positions:
        raise UserError(
            f"sentence {prompt.id!r}: expected at most {positions} positions, as the model has, got {total}: "
            f"{len(prompt.inputs.input_ids) - audio} of text, {audio} of the reference and the rest for the longest "
            "speech. Divide the text, take a shorter reference, or pass a lower --max_seconds."
        )
