"""Base checkpoints of Higgs TTS 3: special tokens and layout, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.tts3.prompt import REQUIRED_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.families.tts3.config import HiggsTts3Config

_TOKENS_BESIDE_CODES = 2  # stream BOS and EOS, the last two ids of a codebook
_PAD = "<|endoftext|>"


def token_ids(name: str, config: HiggsTts3Config, tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """Return the token ids and the layout of a checkpoint.

    Raises:
        UserError: Special tokens are missing, or a token has no row in the model's embedding.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in REQUIRED_TOKENS if token not in vocabulary]:
        raise UserError(
            f"--base_ckpt {name}: expected a tokenizer with the tokens of Higgs TTS 3, got one without "
            f"{', '.join(missing)}"
        )
    highest = max(vocabulary.values())
    if highest >= config.vocab_size:
        raise UserError(
            f"--base_ckpt {name}: expected token ids below {config.vocab_size}, the vocab_size of "
            f"config.json, got {highest}. Tokenizer and model belong to different checkpoints."
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else vocabulary.get(_PAD, 0)
    first_special = config.codebook_size - _TOKENS_BESIDE_CODES
    return TokenIds(
        pad=int(pad),
        audio=config.audio_token_id,
        audio_delay=config.audio_token_id,
        stream_bos=first_special,
        stream_eos=first_special + 1,
        num_codebooks=config.num_codebooks,
        bos_frames=0,
        reference_eos=False,
        learns_text=False,
    )
