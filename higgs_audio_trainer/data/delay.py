"""The delay pattern of a clip's codes, and its labels.

A clip of T frames in K codebooks gets a stream BOS and a stream EOS column; codebook k is then delayed by k
frames. Frame f of the model's audio stream holds, for codebook k:

    f <= k              stream BOS (the delay prefix, and the BOS column itself at f == k)
    k < f <= k + T      code f - k - 1
    f >  k + T          stream EOS (the EOS column at f == k + T + 1, then the fill)

which makes F = T + K + 1 frames. This is what `HiggsAudioV2Processor.build_delay_pattern` builds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.events import IGNORE_INDEX

Codes = npt.NDArray[np.int64]


def num_stream_frames(num_frames: int, num_codebooks: int) -> int:
    """Frames F that a clip of `num_frames` takes in the model's audio stream."""
    return num_frames + num_codebooks + 1


def delay_codes(codes_KT: npt.NDArray[np.integer], *, bos: int, eos: int) -> Codes:
    """Build the audio stream of a clip.

    Args:
        codes_KT: codes of the clip, integers [K, T].
        bos: id of the stream BOS.
        eos: id of the stream EOS.

    Returns:
        int64 [F, K], F = T + K + 1.
    """
    num_codebooks, num_frames = codes_KT.shape
    stream_FK = np.full((num_stream_frames(num_frames, num_codebooks), num_codebooks), eos, dtype=np.int64)
    for k in range(num_codebooks):
        stream_FK[: k + 1, k] = bos
        stream_FK[k + 1 : k + 1 + num_frames, k] = codes_KT[k]
    return stream_FK


def delayed_labels(stream_FK: Codes, num_frames: int) -> Codes:
    """Label the audio stream of a supervised clip: its codes and exactly one stream EOS in each codebook.

    The BOS column, the delay prefix and the EOS fill are masked.

    Args:
        stream_FK: what `delay_codes` built, int64 [F, K].
        num_frames: T, frames of the clip.

    Returns:
        int64 [F, K], -100 where masked.
    """
    labels_FK = np.full_like(stream_FK, IGNORE_INDEX)
    for k in range(stream_FK.shape[1]):
        supervised = slice(k + 1, k + num_frames + 2)  # T codes and the EOS column
        labels_FK[supervised, k] = stream_FK[supervised, k]
    return labels_FK


def undo_delay(stream_FK: Codes) -> Codes:
    """Take the codes of a clip out of its audio stream: the inverse of `delay_codes`.

    Args:
        stream_FK: int64 [F, K].

    Returns:
        int64 [K, T], T = F - K - 1.
    """
    num_stream, num_codebooks = stream_FK.shape
    num_frames = num_stream - num_codebooks - 1
    return np.stack([stream_FK[k + 1 : k + 1 + num_frames, k] for k in range(num_codebooks)])
