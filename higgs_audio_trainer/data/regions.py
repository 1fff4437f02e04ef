"""Purpose of each position of a sample, from the structure of the sample alone.

Regions follow the intention, and labels the training. An audit of the labels reports the differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.prompt import TokenSegment


class Region(IntEnum):
    """Purpose of a position of the token sequence."""

    PADDING = 0
    PROMPT = 1  # text of the prompt
    RESPONSE = 2  # supervised text
    REFERENCE = 3  # placeholders of a reference clip
    SPEECH = 4  # placeholders of a supervised clip


def regions_of(segments: Iterable[TokenSegment], stream_lengths: Iterable[int]) -> npt.NDArray[np.int8]:
    """Return the region of each position of a sample.

    Args:
        segments: Tokens of the sample.
        stream_lengths: Number of frames F of each clip's audio stream.

    Returns:
        Values of `Region`, int8 [S].

    Example:
        >>> regions_of([TokenSegment(np.array([5, 6]), False), TokenSegment(None, True)], [3]).tolist()
        [1, 1, 4, 4, 4]
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
