"""The process that decodes codes to WAV files: jobs as lines of JSON on stdin, an answer to each on stdout.

    python -m higgs_audio_trainer.recording.audio_decoder CODEC

It ends when stdin does, and with it when the training is gone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_LOWEST_PRIORITY = 19


def main(codec_name: str) -> None:
    """Answer jobs until there are no more.

    Args:
        codec_name: folder or name of the codec.
    """
    os.nice(_LOWEST_PRIORITY)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
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
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is the answer
            error = " ".join(f"{type(failure).__name__}: {failure}".split())
        answers.write(orjson.dumps({"error": error}) + b"\n")


def _write(path: Path, codec: Any, clips: list[list[list[int]]]) -> None:
    """Decode clips and put them, one after the other, where the file belongs once it is whole."""
    import numpy as np
    import soundfile

    samples = np.concatenate([codec.decode(np.asarray(codes, dtype=np.int64)) for codes in clips])
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            soundfile.write(file, samples, codec.sampling_rate_hz, format="WAV", subtype="PCM_16")
            os.fchmod(file.fileno(), 0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    main(sys.argv[1])
