"""Competing tokens: tokens that a misaligned model would predict in place of the label.

The five competing tokens of a slot are the labels of the neighbouring slots at the offsets -2, -1, +1 and +2, and the
input of the slot's row. A model that predicts a competing token more often than the data repeats tokens is trained on
labels at the wrong offset, or copies the input.

Shape suffixes: M competing tokens; B batch, T slots, K codebooks; G = 1 + K series: text, then each codebook; N
supervised rows; R requested tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.loss_sums import exact_dtype
from higgs_audio_trainer.extraction.slots import Slots, scatter_to_slots, shifted
from higgs_audio_trainer.extraction.streams import ABSENT, Stream

COMPETING_OFFSETS = (-2, -1, 1, 2)  # of the neighbouring labels; the fifth competing token is the row's input
NUM_COMPETING = len(COMPETING_OFFSETS) + 1


def competing_token_sums(streams: Sequence[Stream], slots: Slots) -> Iterator[Tensor]:
    """Yield four sums over the slots of a micro-batch, [NUM_COMPETING, G] each.

    1. Slots whose label differs from the competing token.
    2. Predictions of these slots that equal the competing token.
    3. Predictions of these slots that equal the label.
    4. Excess probability: probability of the competing token, summed over all slots that have the competing token, less
       the number of slots whose label is the competing token.

    Args:
        streams: Streams of the micro-batch.
        slots: Slots of the micro-batch.
    """
    competing = [shifted(slots.labels, offset, IGNORE_INDEX) for offset in COMPETING_OFFSETS]
    competing.append(shifted(slots.tokens, -1, ABSENT))
    competing_MBTG = torch.stack(competing)
    is_target, is_correct = slots.labels != IGNORE_INDEX, slots.predictions == slots.labels
    sizes = [(len(stream.predictions_KN), stream.rows.logits.shape[-1]) for stream in streams]
    sizes_G = torch.cat([slots.labels.new_full((K,), size) for K, size in sizes])
    # An input token may be outside of the model's output vocabulary.
    exists = is_target & (competing_MBTG >= 0) & (competing_MBTG < sizes_G)
    differs = exists & (competing_MBTG != slots.labels)
    yield differs.sum((1, 2))
    yield (differs & (slots.predictions == competing_MBTG)).sum((1, 2))
    yield (differs & is_correct).sum((1, 2))
    p_MBTG = torch.stack(list(_probabilities(streams, competing)))
    expected_MBTG = p_MBTG.to(exact_dtype(p_MBTG.device)).masked_fill(~exists, 0.0)
    is_label = exists & (competing_MBTG == slots.labels)
    yield (expected_MBTG - is_label.to(expected_MBTG.dtype)).sum((1, 2))


def _probabilities(streams: Sequence[Stream], tokens: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the probability of each of some tokens [B, T, G] in the slots, float [B, T, G]; 1 in slots without a row.

    log p(token) = logit(token) - logit(label) + log p(label). The last term is known, so no row is normalised again.
    """
    size = tokens[0].shape[1]
    parts = [part.split([len(stream.predictions_KN) for stream in streams], dim=-1) for part in tokens]
    log_p = [_log_probabilities(stream, [part[index] for part in parts]) for index, stream in enumerate(streams)]
    for number in range(len(tokens)):
        yield torch.exp(scatter_to_slots(streams, [of_stream[number] for of_stream in log_p], 0, size))


def _log_probabilities(stream: Stream, tokens_BTK: Sequence[Tensor]) -> list[Tensor]:
    """Return the log probabilities of tokens in the slots of the rows, float32 [K, N] each."""
    rows = stream.rows
    requested_KNR = torch.stack([part[rows.batch_index, rows.row + 1].T for part in tokens_BTK], dim=-1)
    index_KNR = torch.cat([requested_KNR, stream.labels_KN[..., None]], dim=-1).clamp(0, rows.logits.shape[-1] - 1)
    if stream.is_text:
        logits_KNR = rows.logits.gather(-1, index_KNR[0])[None].float()
    else:
        logits_KNR = rows.logits.gather(-1, index_KNR.transpose(0, 1)).transpose(0, 1).float()
    log_p_KNR = logits_KNR[..., :-1] - logits_KNR[..., -1:] - stream.nll_KN[..., None]
    return list(log_p_KNR.unbind(-1))
