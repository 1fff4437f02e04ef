"""Fingerprints for samples without a name: a hash of the tokens, computed on the device.

Shape suffixes: B batch, S sequence, K codebooks.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_SEED = 20_240_229  # of the factors; another seed would change every fingerprint


def fingerprints(tokens: Tensor, mask: object = None) -> list[str]:
    """Return a hash of the tokens of each sample. The hash ignores padding, on either side and of any value.

    The function waits for the device.

    Args:
        tokens: Integers, [B, S] or [B, S, K].
        mask: Tensor [B, S], 0 on padding. Values of another type or shape are ignored.

    Returns:
        16 hexadecimal digits for each sample.

    Example:
        >>> tokens, padded = torch.tensor([[5, 6]]), torch.tensor([[0, 5, 6]])
        >>> fingerprints(tokens) == fingerprints(padded, torch.tensor([[0, 1, 1]]))
        True
    """
    tokens_BSK = tokens.reshape(*tokens.shape[:2], -1)
    if isinstance(mask, Tensor) and mask.shape == tokens.shape[:2]:
        seen_BS = mask.to(tokens.device) != 0
    else:
        seen_BS = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    place_BS = (seen_BS.cumsum(dim=1) - 1).clamp(min=0)
    factors_SK = _factors(tokens_BSK.shape[1], tokens_BSK.shape[2]).to(tokens.device)
    products_BSK = (tokens_BSK.to(torch.int64) + 2) * factors_SK[place_BS]  # wraps around on purpose
    hashes_B = products_BSK.masked_fill(~seen_BS[..., None], 0).sum(dim=(1, 2))
    return [f"{number % 2**64:016x}" for number in hashes_B.tolist()]


@cache
def _factors(positions: int, codebooks: int) -> Tensor:
    # One draw per position, so that a longer batch begins with the same factors.
    random = torch.Generator().manual_seed(_SEED + codebooks)
    return torch.randint(-(2**62), 2**62, (positions, codebooks), generator=random) * 2 + 1
