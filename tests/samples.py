"""Manifests, clips and conversations for the tests of the data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from hypothesis import strategies as st

from higgs_audio_trainer.data.sample import Clip, Sample, Turn


def write_manifest(path: Path, *entries: Mapping[str, Any]) -> Path:
    """Write entries as JSON Lines."""
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def tone(seconds: float, rate: int, *, hz: float = 440.0, channels: int = 1) -> np.ndarray:
    """Make a sine, float32 [T] or [T, channels]."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate).astype(np.float32)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def write_tone(path: Path, seconds: float = 0.2, rate: int = 24_000, **options: Any) -> Path:
    """Write a sine to an audio file."""
    soundfile.write(path, tone(seconds, rate, **options), rate)
    return path


def prepare_settings(codec_dir: Path, codes_dir: Path, said: list[str]) -> dict[str, Any]:
    """Make settings of `prepare_manifests` for a test."""
    return {
        "codec_name": str(codec_dir),
        "codes_dir": str(codes_dir),
        "max_seconds": 60.0,
        "skip_bad_samples": False,
        "devices": ["cpu"],
        "say": said.append,
    }


def entry(name: str, audio: str, **more: Any) -> dict[str, Any]:
    """Make an entry of the simple form."""
    return {"id": name, "audio": audio, "text": f"The text of {name}."} | more


_LETTERS = st.sampled_from("ab é🎙\n  .,!?0" + "صباح" + "\u2028\u0085 ")
TEXTS = st.text(_LETTERS, max_size=12).map(str.strip).filter(bool)
CLIPS = st.integers(0, 99).map(lambda n: Clip(Path(f"{n}.wav"), encoded=False))


@st.composite
def conversations(draw: st.DrawFn) -> Sample:
    """Draw any conversation that a manifest may contain."""
    turns = [Turn("system", (draw(TEXTS),))]
    if draw(st.booleans()):
        turns.append(Turn("scene", (draw(TEXTS),)))
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            turns.append(Turn("user", tuple(draw(st.lists(TEXTS, min_size=1, max_size=2)))))
        else:
            parts = tuple(draw(st.lists(TEXTS | CLIPS, min_size=1, max_size=3)))
            recipient = draw(st.none() | st.just("narrator"))
            turns.append(Turn("assistant", parts, supervised=draw(st.booleans()), recipient=recipient))
    return Sample("drawn", tuple(turns), "m.jsonl:1")
