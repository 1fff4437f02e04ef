"""Samples of random text and codes, of the sizes that a benchmark asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from higgs_audio_trainer.data.batch import Example, PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.prompt import TokenSegment

_MARKERS = 3  # that begin and end the audio and end the turn; all are supervised


def example(ids: TokenIds, *, length: int, frames: int, markers: tuple[int, int, int], seed: int) -> Example:
    """Make a sample of a prompt, then a supervised clip.

    Args:
        ids: ids of the checkpoint.
        length: of the sequence, S; what the clip and its markers leave is prompt, of ids below the markers'.
        frames: of the clip, T.
        markers: what begins and ends the audio and ends the turn.
        seed: of text and codes.
    """
    numbers = np.random.default_rng(seed)
    prompt = length - num_stream_frames(frames, ids.num_codebooks) - _MARKERS
    begin, *end = markers
    segments = (
        TokenSegment(numbers.integers(0, min(markers), prompt), supervised=False),
        TokenSegment(np.array([begin]), supervised=True),
        TokenSegment(None, supervised=True),
        TokenSegment(np.array(end), supervised=True),
    )
    codes = numbers.integers(0, ids.stream_bos, (ids.num_codebooks, frames))
    return build_example(PreparedSample(f"random-{seed}", segments, ()), [codes], ids)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch compute with so many threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
