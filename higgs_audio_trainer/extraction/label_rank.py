"""Rank (1 = argmax) and softmax probability of labels, for the requested rows only.

Shape suffixes: X requested slots; N rows, V entries of a row, K codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from higgs_audio_trainer.extraction.rows import SupervisedRows

_MAX_ENTRIES = 2**19  # logits of one chunk: a mebibyte of bfloat16


def label_rank_and_probability(
    rows: SupervisedRows, row_X: Tensor, codebook_X: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return rank and softmax probability of labels.

    The probability is exp(-nll) of the label, so that no row is normalised a second time.

    Args:
        rows: Supervised rows of one modality.
        row_X: Number of the requested row, int64 [X]. The number N, beyond the last row, stands for a slot without a
            row.
        codebook_X: Codebook of each slot, int64 [X]; None for text.

    Returns:
        Rank of the label, 1 for the most likely, int64 [X], and probability of the label, float32 [X]. Both are 0 for a
        slot without a row.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1])
        >>> nll, zero = torch.nn.functional.cross_entropy(logits, labels, reduction="none"), torch.tensor([0])
        >>> rows = SupervisedRows(logits, labels, nll, batch_index=zero, position=zero + 1, row=zero)
        >>> rank, probability = label_rank_and_probability(rows, zero)
        >>> rank.item(), round(probability.item(), 3)
        (2, 0.245)
    """
    num_rows, num_entries = len(rows.row), rows.logits.shape[-1]
    if num_rows == 0:
        return torch.zeros_like(row_X), torch.zeros(row_X.shape, dtype=torch.float32, device=row_X.device)
    is_row_X = row_X < num_rows
    index_X = row_X.clamp(max=num_rows - 1)
    place = (index_X,) if codebook_X is None else (codebook_X, index_X)
    labels_X, nll_X = rows.labels[place].clamp(min=0), rows.nll[place]
    step = max(1, _MAX_ENTRIES // num_entries)
    ranks = [torch.zeros_like(row_X[:0])]
    for begin in range(0, len(row_X), step):
        part = slice(begin, begin + step)
        at = (index_X[part],) if codebook_X is None else (index_X[part], codebook_X[part])
        logits = rows.logits[at]
        ranks.append(1 + (logits > logits.gather(-1, labels_X[part, None])).sum(-1))
    return torch.cat(ranks) * is_row_X, torch.exp(-nll_X) * is_row_X
