"""Where a label stands among the logits of its row. Looks at the rows that are asked for, and at no other.

Shape suffixes: X slots asked for; N rows, V entries of a row, K codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from higgs_audio_trainer.extraction.rows import SupervisedRows

_MOST_ENTRIES = 2**19  # logits that are looked at together: a mebibyte of bfloat16


def label_rank_and_probability(
    rows: SupervisedRows, row_X: Tensor, codebook_X: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find rank and probability of labels.

    Args:
        rows: the supervised rows of one modality.
        row_X: which of them, int64 [X]; a number that no row has stands for a slot without a row.
        codebook_X: codebook of each slot, int64 [X]; None for text.

    Returns:
        Rank of the label of each slot, 1 for the most likely, int64 [X], and its probability, float32 [X]; both 0 for
        a slot without a row.
    """
    num_rows, num_entries = len(rows.row), rows.logits.shape[-1]
    if num_rows == 0:
        return torch.zeros_like(row_X), torch.zeros(row_X.shape, dtype=torch.float32, device=row_X.device)
    is_row_X = row_X < num_rows
    index_X = row_X.clamp(max=num_rows - 1)
    place = (index_X,) if codebook_X is None else (codebook_X, index_X)
    labels_X, nll_X = rows.labels[place].clamp(min=0), rows.nll[place]
    step = max(1, _MOST_ENTRIES // num_entries)
    ranks = [torch.zeros_like(row_X[:0])]
    for begin in range(0, len(row_X), step):
        part = slice(begin, begin + step)
        at = (index_X[part],) if codebook_X is None else (index_X[part], codebook_X[part])
        logits = rows.logits[at]
        ranks.append(1 + (logits > logits.gather(-1, labels_X[part, None])).sum(-1))
    return torch.cat(ranks) * is_row_X, torch.exp(-nll_X) * is_row_X
