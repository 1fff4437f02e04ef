"""A batch laid out slot by slot, with text and every codebook side by side. All of it stays on the device.

Shape suffixes: B batch, S token sequence, T = S + 1 slots, F audio frames, K codebooks; G = 1 + K series: text, then
each codebook; N or M supervised rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.model import SupervisedRows, TrainingOutput

ABSENT = -1  # there is no token here
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


def is_placeholder(input_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Tell which positions hold a frame of audio: bool [B, S]."""
    return torch.stack([input_ids == token for token in vocabulary.placeholders]).any(dim=0)


def lay_out(
    outputs: TrainingOutput,
    batch: Mapping[str, Tensor],
    predictions_1N: Tensor,
    predictions_KM: Tensor,
    vocabulary: Vocabulary,
) -> Slots:
    """Lay out a micro-batch.

    Args:
        outputs: what the model returned.
        batch: the tensors that it was given.
        predictions_1N: predictions of the text rows, int64 [1, N].
        predictions_KM: predictions of the audio rows, int64 [K, M].
        vocabulary: token ids.
    """
    text, audio = rows_of(outputs)
    size = batch["input_ids"].shape[1] + 1
    return Slots(
        F.pad(_tokens(batch, vocabulary), (0, 0, 0, 1), value=ABSENT),
        scattered(outputs, batch, text.labels[None], audio.labels, IGNORE_INDEX, size),
        scattered(outputs, batch, predictions_1N, predictions_KM, ABSENT, size),
    )


def rows_of(outputs: TrainingOutput) -> tuple[SupervisedRows, SupervisedRows]:
    """Return the supervised rows of text and of audio."""
    assert outputs.text is not None, "the model returns its supervised rows"
    assert outputs.audio is not None
    return outputs.text, outputs.audio


def scattered(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], text_1N: Tensor, audio_KM: Tensor, fill: int, size: int
) -> Tensor:
    """Put what the rows have into their slots: [B, T, G]."""
    text, audio = rows_of(outputs)
    values = text_1N.new_full((len(batch["input_ids"]), size, 1 + len(audio_KM)), fill)
    values[text.batch_index, text.row + 1, 0] = text_1N[0]
    values[audio.batch_index, audio.row + 1, 1:] = audio_KM.T
    return values


def _tokens(batch: Mapping[str, Tensor], vocabulary: Vocabulary) -> Tensor:
    """Token at each position in text and in each codebook: int64 [B, S, G]."""
    input_ids, codes_BFK = batch["input_ids"], batch["audio_input_ids"]
    is_audio_BS = is_placeholder(input_ids, vocabulary)
    # Frames fill the placeholders in order. One more frame: there may be none at all.
    frame_BS = (is_audio_BS.cumsum(dim=1) - 1).clamp(0, codes_BFK.shape[1])
    index_BSK = frame_BS[..., None].expand(-1, -1, codes_BFK.shape[2])
    codes_BSK = F.pad(codes_BFK, (0, 0, 0, 1), value=ABSENT).gather(1, index_BSK)
    return torch.cat([input_ids[..., None], codes_BSK.masked_fill(~is_audio_BS[..., None], ABSENT)], dim=-1)


def at(values_BTG: Tensor, offset: int, fill: int) -> Tensor:
    """Shift values along the slots: slot t gets what is at t + offset."""
    size = values_BTG.shape[1]
    padded = F.pad(values_BTG, (0, 0, max(-offset, 0), max(offset, 0)), value=fill)
    return padded[:, max(offset, 0) : max(offset, 0) + size]


def places(tokens_BTG: Tensor, regions_BS: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Name the place of each slot: int64 [B, S, G], indices of `PLACES`, or `NOWHERE`.

    Args:
        tokens_BTG: of `Slots`.
        regions_BS: what each position is for, int8 [B, S].
        vocabulary: token ids.
    """
    tokens_BSK = tokens_BTG[:, :-1, 1:]
    before_BSK = at(tokens_BTG, -1, ABSENT)[:, :-1, 1:]
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


def supervised(outputs: TrainingOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Tell which positions the loss sees a label of: bool [B, S, G]. By the label's own position, whatever its row."""
    text, audio = rows_of(outputs)
    B, S = batch["input_ids"].shape
    seen = torch.zeros(B, S, 1 + len(audio.labels), dtype=torch.bool, device=batch["input_ids"].device)
    seen[text.batch_index, text.position, 0] = text.labels != IGNORE_INDEX
    seen[audio.batch_index, audio.position, 1:] = (audio.labels != IGNORE_INDEX).T
    return seen


_SIGNS = dict(zip(PLACES, (".", "p", "?", "_", "r", "B", "d", "?", "?", "e"), strict=True))
_LEARNED = {"response": "#", "codes": "#", "stop": "E"}


def strip_of(places_S: Sequence[int], seen_S: Sequence[bool], is_stop_S: Sequence[bool]) -> str:
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
