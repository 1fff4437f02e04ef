"""The decoder process of a training. It reads jobs as JSON lines from stdin and answers each on stdout.

    python -m higgs_audio_trainer.recording.audio_decoder CODEC [ASR SPEAKER]

The process ends when stdin is closed, and so also when the training dies.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from higgs_audio_trainer.atomic_file import atomic_file


def main(codec_name: str, asr: str = "", speaker: str = "") -> None:
    """Decode jobs until stdin is closed.

    A job has the `path` of a WAV file and the codes of its `clips`. With `text`, the answer also has measures of the
    waveform, and scores of speech against the text and against the voice of the codes `voice`.

    Args:
        codec_name: Folder or name of the codec.
        asr: Folder or name of a model of speech recognition; empty for none.
        speaker: Folder or name of a model of speaker embeddings; empty for none.
    """
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries may print to stdout, which carries the answers
    import orjson
    import torch

    from higgs_audio_trainer.data.codec import Codec

    torch.set_num_threads(1)
    codec: Any = None
    scorer: Any = None
    for line in sys.stdin.buffer:
        job = orjson.loads(line)
        answer: dict[str, Any] = {"error": ""}
        try:
            codec = codec or Codec(codec_name)
            waveform_T = _decoded(codec, job["clips"])
            _write(Path(job["path"]), waveform_T, codec.sampling_rate_hz)
            if "text" in job:
                answer |= _measures(waveform_T, codec.sampling_rate_hz)
        except Exception as error:  # noqa: BLE001 - the training gets any error as the answer
            answer["error"] = _in_words(error)
        if (asr or speaker) and "text" in job and not answer["error"]:
            try:
                scorer = scorer or _scorer(asr, speaker)
                voice_T = _decoded(codec, [job["voice"]]) if job["voice"] else None
                answer |= scorer.score(waveform_T, codec.sampling_rate_hz, job["text"], voice_T)
            except Exception as error:  # noqa: BLE001 - the file is written, and its measures are known
                answer["problem"] = _in_words(error)
        answers.write(orjson.dumps(answer) + b"\n")


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _decoded(codec: Any, clips: list[list[list[int]]]) -> Any:
    """Return the waveforms of clips, one after the other, float32 [T]."""
    import numpy as np

    parts = [np.asarray(codes, dtype=np.int64) for codes in clips]
    return np.concatenate([np.zeros(0, dtype=np.float32), *(codec.decode(part) for part in parts if part.size)])


def _measures(waveform_T: Any, rate: int) -> dict[str, float]:
    import numpy as np

    from higgs_audio_trainer.voice.measures import silence_of

    return {
        "silence_share": silence_of(waveform_T, rate),
        "peak": float(np.abs(waveform_T).max(initial=0.0)),
    }


def _scorer(asr: str, speaker: str) -> Any:
    from higgs_audio_trainer.voice.scores import Scorer

    return Scorer(asr or None, speaker or None)


def _write(path: Path, waveform_T: Any, rate: int) -> None:
    """Write a WAV file in one move."""
    import soundfile

    with atomic_file(path, mode=0o644) as file:
        soundfile.write(file, waveform_T, rate, format="WAV", subtype="PCM_16")


if __name__ == "__main__":
    main(*sys.argv[1:])
