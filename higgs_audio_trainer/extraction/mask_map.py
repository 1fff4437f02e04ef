"""The mask map: the slots of one sample as runs of a count and a sign, `TokenCounts.strip`.

Shape suffixes: S token sequence; G = 1 + K series: text, then each codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from higgs_audio_trainer.extraction.slots import NO_SLOT, PLACES

_SUPERVISED = 16  # bit of a supervised slot, above the place
_STOP = 32  # bit of a stop token
_MASKED_SIGNS = dict(zip(PLACES, (".", "p", "?", "_", "r", "B", "d", "?", "?", "e"), strict=True))
_SUPERVISED_SIGNS = {"response": "#", "codes": "#", "stop": "E"}


def pack_slots(places_SG: Tensor, is_supervised_SG: Tensor, is_stop_SG: Tensor) -> Tensor:
    """Return place, supervision and stop token of each slot as one integer, int64 [S, G]."""
    return places_SG + _SUPERVISED * is_supervised_SG + _STOP * is_stop_SG


def draw_mask_map(packed_S: Sequence[int]) -> str:
    """Return the mask map of one series.

    Args:
        packed_S: Values of `pack_slots` for the series, without the padding.

    Example:
        >>> prompt, response = PLACES.index("prompt"), PLACES.index("response")
        >>> draw_mask_map([prompt, prompt, response + 16, response + 16 + 32, response])
        '2p 1# 1E 1?'
    """
    return " ".join(f"{len(list(run))}{sign}" for sign, run in groupby(map(_sign, packed_S)))


def unpadded_length(packed_S: Sequence[int]) -> int:
    """Return the number of positions that are not padding, from the packed slots of the text."""
    return sum(packed % _SUPERVISED != PLACES.index("padding") for packed in packed_S)


def _sign(packed: int) -> str:
    place = packed % _SUPERVISED
    if place == NO_SLOT:
        return "-"
    name = PLACES[place]
    if not packed & _SUPERVISED:
        return _MASKED_SIGNS[name]
    is_stop = bool(packed & _STOP) and name in _SUPERVISED_SIGNS
    return "E" if is_stop else _SUPERVISED_SIGNS.get(name, "!")
