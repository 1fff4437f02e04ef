"""Size and tokenizer of tiny checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLING_RATE_HZ = 24_000
CODES_PER_CODEBOOK = 1024
HEAD_DIM = 32
INITIALIZER_RANGE = 0.1  # at this width the usual 0.02 shows no progress within a minute
_BYTES, _MOST_SPECIAL = 256, 15
_LEAST_TOKENS = _BYTES + _MOST_SPECIAL


@dataclass(frozen=True, slots=True)
class TinySize:
    """Size of the tiny checkpoint.

    Attributes:
        hidden_size: Width, a multiple of 64.
        layers: Number of decoder layers.
        codebooks: Number of codebooks K of the codec.
        vocab_size: Size of the text vocabulary. The tokenizer itself needs fewer tokens.
        initializer_range: Standard deviation of the random weights. None for that of the family's demo.

    Raises:
        UserError: A size is out of range.

    Example:
        >>> TinySize(layers=2).hidden_size
        128
    """

    hidden_size: int = 128
    layers: int = 4
    codebooks: int = 8
    vocab_size: int = 512
    initializer_range: float | None = None

    def __post_init__(self) -> None:
        for name, value, low in (
            ("layers", self.layers, 1),
            ("codebooks", self.codebooks, 1),
            ("vocab_size", self.vocab_size, _LEAST_TOKENS),
            ("hidden_size", self.hidden_size, 2 * HEAD_DIM),
        ):
            if value < low:
                raise UserError(f"--{name}: expected at least {low}, got {value}")
        if self.hidden_size % (2 * HEAD_DIM):
            raise UserError(f"--hidden_size: expected a multiple of {2 * HEAD_DIM}, got {self.hidden_size}")


def byte_tokenizer(special_tokens: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with a token for each byte of a text, and special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer
