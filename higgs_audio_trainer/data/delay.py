"""Delay pattern of a clip's codes, and labels of the delayed codes.

The codes of codebook k are delayed by k frames, with stream BOS before and stream EOS after. Some families begin a
stream with frames of stream BOS alone, b of them. Frame f of the model's audio stream holds, for codebook k:

    f < k + b               stream BOS (the frames of BOS alone, then the delay prefix)
    k + b <= f < k + b + T  code f - k - b
    f >= k + b + T          stream EOS (one that ends the codebook, then the fill)

The stream has F = T + K + b frames, so that each codebook has its EOS. Higgs Audio v2 has b = 1, and
`HiggsAudioV2Processor.build_delay_pattern` builds the same pattern. Higgs TTS 3 has b = 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.events import IGNORE_INDEX

Codes = npt.NDArray[np.int64]


def num_stream_frames(num_frames: int, num_codebooks: int, bos_frames: int = 1) -> int:
    """Return the number of frames F of a clip in the model's audio stream.

    Args:
        num_frames: Number of codec frames T of the clip.
        num_codebooks: Number of codebooks K.
        bos_frames: Frames of stream BOS alone at the beginning.

    Example:
        >>> num_stream_frames(100, 8)
        109
    """
    return num_frames + num_codebooks + bos_frames


def delay_codes(codes_KT: npt.NDArray[np.integer], *, bos: int, eos: int, bos_frames: int = 1) -> Codes:
    """Return the audio stream of a clip.

    Args:
        codes_KT: Codes of the clip, integers [K, T].
        bos: Id of the stream BOS.
        eos: Id of the stream EOS.
        bos_frames: Frames of stream BOS alone at the beginning.

    Returns:
        Audio stream, int64 [F, K].

    Example:
        >>> delay_codes(np.array([[1, 2], [3, 4]]), bos=8, eos=9).T.tolist()
        [[8, 1, 2, 9, 9], [8, 8, 3, 4, 9]]
        >>> delay_codes(np.array([[1, 2], [3, 4]]), bos=8, eos=9, bos_frames=0).T.tolist()
        [[1, 2, 9, 9], [8, 3, 4, 9]]
    """
    num_codebooks, num_frames = codes_KT.shape
    num_stream = num_stream_frames(num_frames, num_codebooks, bos_frames)
    stream_FK = np.full((num_stream, num_codebooks), eos, dtype=np.int64)
    for k in range(num_codebooks):
        begin = k + bos_frames
        stream_FK[:begin, k] = bos
        stream_FK[begin : begin + num_frames, k] = codes_KT[k]
    return stream_FK


def delayed_labels(stream_FK: Codes, num_frames: int, *, bos_frames: int = 1) -> Codes:
    """Return the labels of a supervised clip: the codes and exactly one stream EOS in each codebook.

    Stream BOS and the EOS fill are masked.

    Args:
        stream_FK: Audio stream from `delay_codes`, int64 [F, K].
        num_frames: Number of codec frames T of the clip.
        bos_frames: Frames of stream BOS alone at the beginning.

    Returns:
        Labels, int64 [F, K], -100 where masked.

    Example:
        >>> delayed_labels(delay_codes(np.array([[1, 2], [3, 4]]), bos=8, eos=9), 2).T.tolist()
        [[-100, 1, 2, 9, -100], [-100, -100, 3, 4, 9]]
    """
    labels_FK = np.full_like(stream_FK, IGNORE_INDEX)
    for k in range(stream_FK.shape[1]):
        supervised = slice(k + bos_frames, k + bos_frames + num_frames + 1)  # T codes and the EOS
        labels_FK[supervised, k] = stream_FK[supervised, k]
    return labels_FK


def undo_delay(stream_FK: Codes, *, bos_frames: int = 1) -> Codes:
    """Return the codes of a clip from the clip's audio stream, as the inverse of `delay_codes`.

    Args:
        stream_FK: Audio stream, int64 [F, K].
        bos_frames: Frames of stream BOS alone at the beginning.

    Returns:
        Codes, int64 [K, T].

    Example:
        >>> undo_delay(delay_codes(np.array([[1, 2], [3, 4]]), bos=8, eos=9)).tolist()
        [[1, 2], [3, 4]]
    """
    num_stream, num_codebooks = stream_FK.shape
    num_frames = num_stream - num_codebooks - bos_frames
    begins = range(bos_frames, bos_frames + num_codebooks)
    return np.stack([stream_FK[begin : begin + num_frames, k] for k, begin in enumerate(begins)])


def only_codes(tokens_KT: Codes, num_codes: int) -> Codes:
    """Return codes, with each token that is none replaced by the code before, or by 0 at the beginning.

    Args:
        tokens_KT: Tokens of audio, int64 [K, T].
        num_codes: Codes of a codebook. The ids of stream BOS and EOS are higher.

    Example:
        >>> only_codes(np.array([[1024, 7, 1025, 8]]), 1024).tolist()
        [[0, 7, 7, 8]]
    """
    is_code_KT = (tokens_KT >= 0) & (tokens_KT < num_codes)
    last_KT = np.maximum.accumulate(np.where(is_code_KT, np.arange(tokens_KT.shape[1]), -1), axis=1)
    codes: Codes = np.where(last_KT < 0, 0, np.take_along_axis(tokens_KT, last_KT.clip(min=0), axis=1))
    return codes
