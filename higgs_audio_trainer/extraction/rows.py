"""Logits, labels and cross-entropies of the rows that have a target.

Shape suffixes: K codebooks, V text vocabulary, C codebook entries; N supervised text rows, M supervised audio rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class SupervisedRows:
    """Logits of one modality at the rows that have a target, and where each row came from.

    Not a mapping or a tuple on purpose: accelerate casts the tensors of those to float32, which would copy every
    logit under mixed precision.

    Attributes:
        logits: text [N, V], audio [M, K, C].
        labels: text [N], audio [K, M]; int64; in audio -100 where a codebook has no target in a row.
        nll: cross-entropy of each label, float32, shaped as `labels`, detached; 0 where masked.
        batch_index: row of the batch that each logits row belongs to, int64 [N] or [M].
        position: position p of the label; int64 [N] or [M].
        row: position of the row that the logits are of, p - 1; int64 [N] or [M]. The log takes it from here and assumes
            nothing: a row that is compared with the wrong label is what it is to show.
    """

    logits: Tensor
    labels: Tensor
    nll: Tensor
    batch_index: Tensor
    position: Tensor
    row: Tensor
