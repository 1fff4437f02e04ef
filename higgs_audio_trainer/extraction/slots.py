"""A batch laid out slot by slot on the device, with text and every codebook side by side.

Shape suffixes: B batch, S token sequence, T = S + 1 slots, K codebooks; G = 1 + K series: text, then each codebook;
N supervised rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.streams import ABSENT, Stream

PLACES = (
    "padding",  # the first four are regions of text, where clips of both kinds are placeholders
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
NO_SLOT = len(PLACES)  # place of a position without a slot of this codebook
_PLACE = {name: index for index, name in enumerate(PLACES)}


@dataclass(frozen=True, slots=True)
class Slots:
    """A micro-batch, slot by slot. The slot at t follows the input of the row at t - 1.

    Attributes:
        tokens: Token of the sequence at each position, int64 [B, T, G]; `ABSENT` without a token.
        labels: Label of the row at t - 1, int64 [B, T, G]; -100 without a label.
        predictions: Prediction of the row at t - 1, int64 [B, T, G].
    """

    tokens: Tensor
    labels: Tensor
    predictions: Tensor


def lay_out(streams: Sequence[Stream]) -> Slots:
    """Return the slots of text and audio, in this order, or of text alone."""
    size = streams[0].inputs_BSK.shape[1] + 1
    inputs_BSG = torch.cat([stream.inputs_BSK for stream in streams], dim=-1)
    return Slots(
        F.pad(inputs_BSG, (0, 0, 0, 1), value=ABSENT),
        scatter_to_slots(streams, [stream.labels_KN for stream in streams], IGNORE_INDEX, size),
        scatter_to_slots(streams, [stream.predictions_KN for stream in streams], ABSENT, size),
    )


def scatter_to_slots(streams: Sequence[Stream], values_KN: Sequence[Tensor], fill: int, size: int) -> Tensor:
    """Return the values of supervised rows at the slots of the rows, [B, T, G].

    Args:
        streams: Streams of the batch.
        values_KN: Values of the rows of each stream.
        fill: Value of slots without a row.
        size: Number of slots, T.
    """
    parts = []
    for stream, own_KN in zip(streams, values_KN, strict=True):
        values_BTK = own_KN.new_full((len(stream.inputs_BSK), size, len(own_KN)), fill)
        values_BTK[stream.rows.batch_index, stream.rows.row + 1] = own_KN.T
        parts.append(values_BTK)
    return torch.cat(parts, dim=-1)


def shifted(values_BTG: Tensor, offset: int, fill: int) -> Tensor:
    """Return values moved along the slots, so that slot t holds the value of slot t + offset.

    Example:
        >>> shifted(torch.tensor([[[1], [2], [3]]]), 1, fill=-1).flatten().tolist()
        [2, 3, -1]
    """
    size = values_BTG.shape[1]
    padded = F.pad(values_BTG, (0, 0, max(-offset, 0), max(offset, 0)), value=fill)
    return padded[:, max(offset, 0) : max(offset, 0) + size]


def slot_places(tokens_BSK: Tensor, regions_BS: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return the place of each slot, int64 [B, S, G]: an index of `PLACES`, or `NO_SLOT`.

    Args:
        tokens_BSK: Codes at each position.
        regions_BS: Purpose of each position, a `Region` as int8 [B, S].
        vocabulary: Token ids.
    """
    before_BSK = shifted(tokens_BSK, -1, ABSENT)
    audio_BSK = torch.full_like(tokens_BSK, _PLACE["codes"])
    for token, first, repeated in (
        (vocabulary.stream_bos, "stream_bos" if vocabulary.has_bos_frame else "delay_prefix", "delay_prefix"),
        (vocabulary.stream_eos, "stop", "eos_fill"),
    ):
        is_token = tokens_BSK == token
        audio_BSK = audio_BSK.masked_fill(is_token, _PLACE[first])
        audio_BSK = audio_BSK.masked_fill(is_token & (before_BSK == token), _PLACE[repeated])
    audio_BSK = audio_BSK.masked_fill((regions_BS == Region.REFERENCE)[..., None], _PLACE["reference_audio"])
    audio_BSK = audio_BSK.masked_fill(tokens_BSK == ABSENT, NO_SLOT)
    text_BS = regions_BS.long().clamp(max=_PLACE["placeholder"])
    return torch.cat([text_BS[..., None], audio_BSK], dim=-1)


def supervised_positions(streams: Sequence[Stream]) -> Tensor:
    """Return True for each position whose label the loss sees, bool [B, S, G].

    The position is the position of the label, whichever row predicts the label.
    """
    parts = []
    for stream in streams:
        supervised_BSK = torch.zeros_like(stream.inputs_BSK, dtype=torch.bool)
        supervised_BSK[stream.rows.batch_index, stream.rows.position] = (stream.labels_KN != IGNORE_INDEX).T
        parts.append(supervised_BSK)
    return torch.cat(parts, dim=-1)
