"""Rows of the audit from a manifest and its audio files, without codec and model."""

import soundfile

from higgs_audio_trainer.data.audio_facts import audio_facts
from higgs_audio_trainer.data.audit.rows import AuditedClip, AuditedSample, spoken_clips
from higgs_audio_trainer.data.manifest import read_manifest


def audited(manifest):
    """Return the rows of a manifest of audio files, and the problems of its other lines."""
    samples, problems = read_manifest(manifest)
    return [_row(sample) for sample in samples], problems


def _row(sample):
    return AuditedSample(sample.id, sample.where, tuple(map(_clip, spoken_clips(sample))))


def _clip(spoken):
    frames, rate = soundfile.read(spoken.clip.path, dtype="float32", always_2d=True)
    facts = audio_facts(frames, rate)
    return AuditedClip(spoken.text, facts.seconds, facts.content_hash, facts=facts, is_reference=spoken.is_reference)
