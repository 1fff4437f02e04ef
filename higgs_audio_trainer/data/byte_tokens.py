"""Tokens that are parts of characters: where a tokenizer splits text into bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNDECODABLE = "\ufffd"


def partial_tokens(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.bool_]:
    """Return which tokens hold no whole characters, bool [V].

    A byte-level tokenizer has such tokens for the bytes of rare characters, a tokenizer with byte fallback has a token
    for each byte. Alone, both decode to the replacement character. `partial[ids].sum()` counts the tokens of a text
    that are parts of characters. The call decodes the whole vocabulary and takes about a second, so call it once.

    Args:
        tokenizer: Tokenizer of the checkpoint.
    """
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return np.array([_UNDECODABLE in text for text in texts])
