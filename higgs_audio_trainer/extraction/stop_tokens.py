"""Stop tokens among the labels of a batch, with rank and probability, on the device.

Shape suffixes: B batch, T slots, K codebooks; G = 1 + K series: text, then each codebook; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from higgs_audio_trainer.extraction.label_rank import label_rank_and_probability
from higgs_audio_trainer.extraction.slots import scatter_to_slots
from higgs_audio_trainer.extraction.streams import Stream


def is_stop_token(tokens_BTG: Tensor, streams: Sequence[Stream]) -> Tensor:
    """Return True for each token that is a stop token of the series, bool [B, T, G]."""
    parts_BTK = tokens_BTG.split([len(stream.predictions_KN) for stream in streams], dim=-1)
    is_stop = []
    for stream, part_BTK in zip(streams, parts_BTK, strict=True):
        is_stop_BTK = torch.zeros_like(part_BTK, dtype=torch.bool)
        for token in stream.stops:
            is_stop_BTK |= part_BTK == token
        is_stop.append(is_stop_BTK)
    return torch.cat(is_stop, dim=-1)


def stop_rank_and_probability(streams: Sequence[Stream], is_stop_BTG: Tensor) -> tuple[Tensor, Tensor]:
    """Return rank and probability of the last stop label of each sample.

    Args:
        streams: Streams of the batch.
        is_stop_BTG: True for labels that are stop tokens, bool [B, T, G].

    Returns:
        Ranks, int64 [B, G], and probabilities, float32 [B, G]; 0 for a sample without a stop label.
    """
    B, T, _ = is_stop_BTG.shape
    device = is_stop_BTG.device
    slot_T1 = torch.arange(T, device=device)[:, None]
    last_BG = torch.where(is_stop_BTG, slot_T1, 0).amax(1)  # slot 0 has no row
    numbers = [torch.arange(len(stream.rows.row), device=device) for stream in streams]
    beyond = max(map(len, numbers))
    own_KN = [number.expand(len(stream.predictions_KN), -1) for stream, number in zip(streams, numbers, strict=True)]
    row_BTG = scatter_to_slots(streams, own_KN, beyond, T)
    row_BG = row_BTG.gather(1, last_BG[:, None])[:, 0]
    ranks, probabilities = [], []
    for stream, row_BK in zip(streams, row_BG.split([len(part) for part in own_KN], dim=-1), strict=True):
        K = row_BK.shape[1]
        codebook_X = None if stream.is_text else torch.arange(K, device=device).expand(B, -1).flatten()
        rank_X, probability_X = label_rank_and_probability(stream.rows, row_BK.flatten(), codebook_X)
        ranks.append(rank_X.view(B, K))
        probabilities.append(probability_X.view(B, K))
    return torch.cat(ranks, dim=1), torch.cat(probabilities, dim=1)
