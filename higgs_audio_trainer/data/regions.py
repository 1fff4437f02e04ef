"""What each position of a sample is for, by the structure of the sample alone.

The labels say what is trained, the regions what is meant to be: where the two part, an audit of the labels finds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.prompt import TokenSegment


class Region(IntEnum):
    """What a position of the token sequence is for."""

    PADDING = 0
    PROMPT = 1  # text that is read
    RESPONSE = 2  # text that is learned
    REFERENCE = 3  # placeholders of a clip that is heard
    SPEECH = 4  # placeholders of a clip that is learned


def regions_of(segments: Iterable[TokenSegment], stream_lengths: Iterable[int]) -> npt.NDArray[np.int8]:
    """Name the region of each position of a sample.

    Args:
        segments: the sample's tokens.
        stream_lengths: frames F of each clip's audio stream.

    Returns:
        int8 [S], values of `Region`.
    """
    lengths = iter(stream_lengths)
    parts = []
    for segment in segments:
        if segment.ids is None:
            parts.append((next(lengths), Region.SPEECH if segment.supervised else Region.REFERENCE))
        else:
            parts.append((len(segment.ids), Region.RESPONSE if segment.supervised else Region.PROMPT))
    sizes, regions = zip(*parts, strict=True)
    return np.repeat(np.array(regions, dtype=np.int8), sizes)
