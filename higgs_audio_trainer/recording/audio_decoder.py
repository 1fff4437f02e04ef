"""The decoder process of audio previews. It reads jobs as JSON lines from stdin and answers each on stdout.

    python -m higgs_audio_trainer.recording.audio_decoder CODEC

The process ends when stdin is closed, and so also when the training dies.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from higgs_audio_trainer.atomic_file import atomic_file

_LOWEST_PRIORITY = 19


def main(codec_name: str) -> None:
    """Decode jobs until stdin is closed.

    Args:
        codec_name: Folder or name of the codec.
    """
    os.nice(_LOWEST_PRIORITY)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries may print to stdout, which carries the answers
    import orjson
    import torch

    from higgs_audio_trainer.data.codec import Codec

    torch.set_num_threads(1)
    codec: Codec | None = None
    for line in sys.stdin.buffer:
        job = orjson.loads(line)
        error = ""
        try:
            codec = codec or Codec(codec_name)
            _write(Path(job["path"]), codec, job["clips"])
        except Exception as failure:  # noqa: BLE001 - the training gets any error as the answer
            error = " ".join(f"{type(failure).__name__}: {failure}".split())
        answers.write(orjson.dumps({"error": error}) + b"\n")


def _write(path: Path, codec: Any, clips: list[list[list[int]]]) -> None:
    """Decode clips and write them, one after the other, to a file that appears when it is complete."""
    import numpy as np
    import soundfile

    samples = np.concatenate([codec.decode(np.asarray(codes, dtype=np.int64)) for codes in clips])
    with atomic_file(path, mode=0o644) as file:
        soundfile.write(file, samples, codec.sampling_rate_hz, format="WAV", subtype="PCM_16")


if __name__ == "__main__":
    main(sys.argv[1])
