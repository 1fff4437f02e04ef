"""Logits, labels and cross-entropies of the rows that have a target.

Shape suffixes: K codebooks, V text vocabulary, C codebook entries; N supervised text rows, M supervised audio rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class SupervisedRows:
    """Logits of one modality at the supervised rows, with the place of each row in the batch.

    The class is neither a mapping nor a tuple on purpose: accelerate casts the tensors of mappings and tuples to
    float32, which would copy every logit under mixed precision.

    Attributes:
        logits: Text [N, V], audio [M, K, C].
        labels: Text [N], audio [K, M]; int64; in audio -100 where a codebook has no target in a row.
        nll: Cross-entropy of each label, float32, same shape as `labels`, detached; 0 for a masked label.
        batch_index: Sample of each row in the batch, int64 [N] or [M].
        position: Position p of the label, int64 [N] or [M].
        row: Position of the input that made the logits, p - 1 in an aligned model, int64 [N] or [M]. The log reads the
            position from here without an assumption, so that the log shows a row compared with the wrong label.
    """

    logits: Tensor
    labels: Tensor
    nll: Tensor
    batch_index: Tensor
    position: Tensor
    row: Tensor
