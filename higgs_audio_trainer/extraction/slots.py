"""A batch laid out slot by slot, with text and every codebook side by side. All of it stays on the device.

Shape suffixes: B batch, S token sequence, T = S + 1 slots, K codebooks; G = 1 + K series: text, then each codebook;
N supervised rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.streams import ABSENT, Stream

PLACES = (
    "padding",  # the first four are regions of text; both kinds of clips are placeholders there
    "prompt",
    "response",
    "placeholder",
    "reference_audio",
    "stream_bos",
    "delay_prefix",
    "codes",
    "stop",
    "eos_fill",
)
NOWHERE = len(PLACES)  # a position that has no slot of this codebook
_PLACE = {name: index for index, name in enumerate(PLACES)}


@dataclass(frozen=True, slots=True)
class Slots:
    """A micro-batch, slot by slot. A slot is where a row's input is followed: the row at t - 1 has its slot at t.

    Attributes:
        tokens: token of the sequence at each position, int64 [B, T, G]; `ABSENT` where there is none.
        labels: label of the row before, int64 [B, T, G]; -100 where there is none.
        predictions: what that row predicted, int64 [B, T, G].
    """

    tokens: Tensor
    labels: Tensor
    predictions: Tensor


def lay_out(streams: Sequence[Stream]) -> Slots:
    """Lay out text and audio, in this order; or text alone."""
    size = streams[0].inputs_BSK.shape[1] + 1
    inputs_BSG = torch.cat([stream.inputs_BSK for stream in streams], dim=-1)
    return Slots(
        F.pad(inputs_BSG, (0, 0, 0, 1), value=ABSENT),
        scatter_to_slots(streams, [stream.labels_KN for stream in streams], IGNORE_INDEX, size),
        scatter_to_slots(streams, [stream.predictions_KN for stream in streams], ABSENT, size),
    )


def scatter_to_slots(streams: Sequence[Stream], values_KN: Sequence[Tensor], fill: int, size: int) -> Tensor:
    """Put what the rows of each stream have into their slots: [B, T, G]."""
    parts = []
    for stream, own_KN in zip(streams, values_KN, strict=True):
        values_BTK = own_KN.new_full((len(stream.inputs_BSK), size, len(own_KN)), fill)
        values_BTK[stream.rows.batch_index, stream.rows.row + 1] = own_KN.T
        parts.append(values_BTK)
    return torch.cat(parts, dim=-1)


def at(values_BTG: Tensor, offset: int, fill: int) -> Tensor:
    """Shift values along the slots: slot t gets what is at t + offset."""
    size = values_BTG.shape[1]
    padded = F.pad(values_BTG, (0, 0, max(-offset, 0), max(offset, 0)), value=fill)
    return padded[:, max(offset, 0) : max(offset, 0) + size]


def slot_places(tokens_BSK: Tensor, regions_BS: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Name the place of each slot: int64 [B, S, G], indices of `PLACES`, or `NOWHERE`.

    Args:
        tokens_BSK: codes at each position.
        regions_BS: what each position is for, int8 [B, S].
        vocabulary: token ids.
    """
    before_BSK = at(tokens_BSK, -1, ABSENT)
    audio_BSK = torch.full_like(tokens_BSK, _PLACE["codes"])
    for token, at_first, after_it in (
        (vocabulary.stream_bos, "stream_bos", "delay_prefix"),
        (vocabulary.stream_eos, "stop", "eos_fill"),
    ):
        is_token = tokens_BSK == token
        audio_BSK = audio_BSK.masked_fill(is_token, _PLACE[at_first])
        audio_BSK = audio_BSK.masked_fill(is_token & (before_BSK == token), _PLACE[after_it])
    audio_BSK = audio_BSK.masked_fill((regions_BS == Region.REFERENCE)[..., None], _PLACE["reference_audio"])
    audio_BSK = audio_BSK.masked_fill(tokens_BSK == ABSENT, NOWHERE)
    text_BS = regions_BS.long().clamp(max=_PLACE["placeholder"])
    return torch.cat([text_BS[..., None], audio_BSK], dim=-1)


def supervised(streams: Sequence[Stream]) -> Tensor:
    """Tell which positions the loss sees a label of: bool [B, S, G]. By the label's own position, whatever its row."""
    parts = []
    for stream in streams:
        seen_BSK = torch.zeros_like(stream.inputs_BSK, dtype=torch.bool)
        seen_BSK[stream.rows.batch_index, stream.rows.position] = (stream.labels_KN != IGNORE_INDEX).T
        parts.append(seen_BSK)
    return torch.cat(parts, dim=-1)


_SIGNS = dict(zip(PLACES, (".", "p", "?", "_", "r", "B", "d", "?", "?", "e"), strict=True))
_LEARNED = {"response": "#", "codes": "#", "stop": "E"}


def mask_map_of(places_S: Sequence[int], seen_S: Sequence[bool], is_stop_S: Sequence[bool]) -> str:
    """Write the slots of one sample as runs of a count and a sign; see `TokenCounts.strip`."""
    signs = []
    for place, seen, is_stop in zip(places_S, seen_S, is_stop_S, strict=True):
        name = PLACES[place] if place != NOWHERE else None
        if name is None:
            signs.append("-")
        elif seen:
            signs.append("E" if is_stop and name in _LEARNED else _LEARNED.get(name, "!"))
        else:
            signs.append(_SIGNS[name])
    return " ".join(f"{len(list(run))}{sign}" for sign, run in groupby(signs))
