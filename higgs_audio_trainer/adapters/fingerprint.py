"""Names for samples that have none: a hash of the tokens, made where they are.

Shape suffixes: B batch, S sequence, K codebooks.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_SEED = 20_240_229  # of the factors; another one would give every sample another name


def fingerprints(tokens: Tensor, mask: object = None) -> list[str]:
    """Hash each sample's tokens: the same for the same tokens, whatever they are padded with, and wherever.

    Args:
        tokens: integers [B, S] or [B, S, K].
        mask: [B, S], 0 on padding; anything else is passed over.

    Returns:
        16 hexadecimal digits a sample. Waits for the device.
    """
    tokens_BSK = tokens.reshape(*tokens.shape[:2], -1)
    if isinstance(mask, Tensor) and mask.shape == tokens.shape[:2]:
        seen_BS = mask.to(tokens.device) != 0
    else:
        seen_BS = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    place_BS = (seen_BS.cumsum(dim=1) - 1).clamp(min=0)
    factors_SK = _factors(tokens_BSK.shape[1], tokens_BSK.shape[2]).to(tokens.device)
    products_BSK = (tokens_BSK.to(torch.int64) + 2) * factors_SK[place_BS]  # wraps around, as is meant
    hashes_B = products_BSK.masked_fill(~seen_BS[..., None], 0).sum(dim=(1, 2))
    return [f"{number % 2**64:016x}" for number in hashes_B.tolist()]


@cache
def _factors(positions: int, codebooks: int) -> Tensor:
    # Made position by position, so that a longer batch begins with the same ones.
    random = torch.Generator().manual_seed(_SEED + codebooks)
    return torch.randint(-(2**62), 2**62, (positions, codebooks), generator=random) * 2 + 1
