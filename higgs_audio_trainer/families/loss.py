"""Cross-entropies of supervised rows, in chunks of a bounded number of logits.

Shape suffixes: N rows, K codebooks (1 for text), C entries of a codebook (V of the text), H hidden; X requested rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.rows import ComputedLogits

_MAX_BYTES = 256 * 2**20  # of the float32 logits of one chunk


def rows_of_a_chunk(num_logits: int) -> int:
    """Return the number of rows whose float32 logits take at most 256 MiB.

    Args:
        num_logits: Logits of a row.

    Example:
        >>> rows_of_a_chunk(128_256), rows_of_a_chunk(8 * 1026)
        (523, 8176)
    """
    return max(1, _MAX_BYTES // (4 * num_logits))


def score(
    head: nn.Module, hidden_NH: Tensor, labels_NK: Tensor, *, num_logits: int, chunk_rows: int | None, squeeze: bool
) -> tuple[Tensor | ComputedLogits, Tensor]:
    """Return logits and cross-entropies of rows.

    More rows than one chunk are computed chunk by chunk. The backward pass computes the logits of each chunk again, so
    that the logits of only one chunk are in memory, with the copies that the cross-entropy makes. Values and gradients
    are the same. torch.compile makes another graph for another number of chunks.

    Args:
        head: Linear layer from hidden states to the logits of all codebooks.
        hidden_NH: Hidden states of the rows.
        labels_NK: Labels, int64, -100 where masked.
        num_logits: Logits of a row, K * C.
        chunk_rows: Largest number of rows of a chunk. None for the number whose float32 logits take 256 MiB.
        squeeze: Leave out the codebook axis of the logits, for text.

    Returns:
        Logits, [N, K, C], or [N, C] with `squeeze`. Cross-entropies, float32 [N, K], 0 for a masked label.
    """
    num_rows, num_codebooks = labels_NK.shape
    chunk_rows = chunk_rows or rows_of_a_chunk(num_logits)

    def logits_of(hidden: Tensor) -> Tensor:
        return head(hidden).view(-1, num_codebooks, num_logits // num_codebooks)

    def cross_entropy_of(hidden: Tensor, labels: Tensor) -> Tensor:
        return _cross_entropy(logits_of(hidden), labels)

    if num_rows <= chunk_rows:
        logits_NKC = logits_of(hidden_NH)
        return logits_NKC[:, 0] if squeeze else logits_NKC, _cross_entropy(logits_NKC, labels_NK)
    chunks = zip(hidden_NH.split(chunk_rows), labels_NK.split(chunk_rows), strict=True)
    nll = [checkpoint(cross_entropy_of, hidden, labels, use_reentrant=False) for hidden, labels in chunks]
    constant_NH, device = hidden_NH.detach(), hidden_NH.device.type
    precision = torch.autocast(
        device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
    )

    def logits_again(rows: Tensor) -> Tensor:
        with torch.no_grad(), precision, _without_dropout(head):  # called after the forward pass and its autocast
            return logits_of(constant_NH[rows])

    sizes = (num_rows, num_codebooks, num_logits // num_codebooks)
    return ComputedLogits(logits_again, sizes, squeeze=squeeze), torch.cat(nll)


def _cross_entropy(logits_NKC: Tensor, labels_NK: Tensor) -> Tensor:
    # One call for all codebooks. With a call for each, every codebook would have a gradient as large as all logits.
    nll = F.cross_entropy(
        logits_NKC.flatten(0, 1).float(), labels_NK.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return nll.view(labels_NK.shape)


@contextmanager
def _without_dropout(head: nn.Module) -> Iterator[None]:
    """Switch a head with adapters to evaluation, since dropout would draw random numbers of the training."""
    was_training = head.training
    head.eval()
    try:
        yield
    finally:
        head.train(was_training)
