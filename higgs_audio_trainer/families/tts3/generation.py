"""Speech of Higgs TTS 3, row by row as its servers generate.

Row r of a delayed stream holds frame r - k of codebook k. All codebooks of a row are drawn independently. In the first
K rows, the ramp, codebooks above the row are set to the stream BOS, and a stream EOS of codebook 0 is ignored.
From row K on, the first stream EOS of codebook 0 ends the speech K - 2 rows later, as the other codebooks catch up.
Nothing else is forced: a codebook that has ended is drawn and fed back as before.

Shape suffixes: B prompts, S positions, R rows, K codebooks, C entries of a codebook, H hidden; T codec frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from higgs_audio_trainer.data.batch import Ints, TokenIds
from higgs_audio_trainer.data.delay import only_codes
from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt, padded_prompts

if TYPE_CHECKING:
    from higgs_audio_trainer.families.tts3.model import HiggsTts3

_GREEDY = 1e-5  # temperature up to which the servers take the most likely code
_NONE = -1  # no row


def generate(
    model: Any,
    prompts: Sequence[SpeechPrompt],
    decoding: Decoding,
    ids: TokenIds,
    is_asked_to_stop: Callable[[], bool],
) -> list[Speech]:
    """Speak prompts, see `Family.generate`."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in padded_prompts(prompts, ids).items()}
    stream: RowStream = model.generate(**inputs, decoding=decoding, ids=ids, is_asked_to_stop=is_asked_to_stop)
    rows, ends = stream.rows_BRK.cpu().numpy(), stream.end_rows_B.tolist()
    return [speech_of(rows_RK, end_row, ids) for rows_RK, end_row in zip(rows, ends, strict=True)]


def speech_of(rows_RK: Ints, end_row: int, ids: TokenIds) -> Speech:
    """Return the codes of generated rows.

    Args:
        rows_RK: Rows, int64 [R, K].
        end_row: Row with the stream EOS of codebook 0. -1 for speech that a limit ended.
        ids: Token ids of the checkpoint.

    Example:
        >>> ids = TokenIds(0, -100, -100, stream_bos=8, stream_eos=9, num_codebooks=2, bos_frames=0)
        >>> speech_of(torch.tensor([[1, 8], [2, 4], [9, 5]]).numpy(), 2, ids).codes_KT.tolist()
        [[1, 2], [4, 5]]
    """
    num_codebooks = ids.num_codebooks
    num_frames = max(0, len(rows_RK) - (num_codebooks - 1)) if end_row < 0 else end_row
    tokens_KT = torch.stack([torch.from_numpy(rows_RK[k : k + num_frames, k]) for k in range(num_codebooks)]).numpy()
    return Speech(only_codes(tokens_KT, min(ids.stream_bos, ids.stream_eos)), end_row >= 0)


@dataclass(frozen=True, slots=True)
class RowStream:
    """Generated rows of a batch.

    Attributes:
        rows_BRK: Rows, int64 [B, R, K]. Rows after the end of a speech have no meaning.
        end_rows_B: Row with the stream EOS of codebook 0, int64 [B]. -1 for speech that has not ended.
    """

    rows_BRK: Tensor
    end_rows_B: Tensor


def generate_rows(
    logits_of: Callable[[Tensor | None], Tensor],
    *,
    decoding: Decoding,
    ids: TokenIds,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> RowStream:
    """Draw rows until all speeches have ended, or a limit is reached.

    A speech that has ended is computed on, so the others do not change, and all ranks of a sharded model compute the
    same number of rows. The host waits for the device once a row.

    Args:
        logits_of: Returns the logits of the next row, [B, K, C]. Takes the row before, int64 [B, K], and None at first.
        decoding: Choice of codes.
        ids: Token ids of the checkpoint.
        is_asked_to_stop: Asked at each row. True ends all speeches, as the limit would.
    """
    num_codebooks = ids.num_codebooks
    draw = _draw(decoding)
    row_BK: Tensor | None = None
    rows: list[Tensor] = []
    end_rows_B = torch.tensor(_NONE)
    for row in range(decoding.max_frames + num_codebooks - 1):
        row_BK = draw(logits_of(row_BK))
        row_BK[:, row + 1 :] = ids.stream_bos
        is_end_B = (row_BK[:, 0] == ids.stream_eos) & (end_rows_B == _NONE) & (row >= num_codebooks)
        end_rows_B = torch.where(is_end_B, row, end_rows_B)
        rows.append(row_BK)
        has_ended_B = (end_rows_B != _NONE) & (end_rows_B + max(0, num_codebooks - 2) <= row)
        if is_asked_to_stop() or bool(has_ended_B.all()):
            break
    return RowStream(torch.stack(rows, dim=1), torch.where(has_ended_B, end_rows_B, _NONE))


def _draw(decoding: Decoding) -> Callable[[Tensor], Tensor]:
    """Return a function from logits [B, K, C] to codes, int64 [B, K]."""
    if decoding.temperature <= _GREEDY:
        return lambda logits_BKC: logits_BKC.argmax(dim=-1)
    warpers: list[Any] = [TemperatureLogitsWarper(float(decoding.temperature))]
    if decoding.top_k > 0:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(decoding.top_p))

    def drawn(logits_BKC: Tensor) -> Tensor:
        scores = logits_BKC.flatten(0, 1).float()
        for warper in warpers:
            scores = warper(None, scores)
        return torch.multinomial(scores.softmax(dim=-1), 1).view(logits_BKC.shape[:2])

    return drawn


class CachedRows:
    """Logits of the next row of each prompt, with a key-value cache.

    Args:
        model: Model of the family.
        input_ids: Tokens of the prompts, padded on the left, int64 [B, S].
        attention_mask: 1 where a token is, int64 [B, S].
        audio_input_ids: Rows of the references, int64 [B, F, K]. None without any.
        audio_input_ids_mask: True where a row is, bool [B, F]. None without any.
    """

    def __init__(
        self,
        model: HiggsTts3,
        input_ids: Tensor,
        attention_mask: Tensor,
        audio_input_ids: Tensor | None,
        audio_input_ids_mask: Tensor | None,
    ) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config.text_config)
        self._mask_BS = attention_mask
        self._is_padded = not bool(attention_mask.all())
        self._positions_BS = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        self._prompt_BSH = model.embed(input_ids, audio_input_ids, audio_input_ids_mask)

    def __call__(self, row_BK: Tensor | None) -> Tensor:
        """Return the logits of the row after a row, [B, K, C]. None for the row before the first."""
        if row_BK is None:
            embedded_BSH = self._prompt_BSH
        else:
            embedded_BSH = self._model.embed_frames(row_BK[:, None])
            self._positions_BS = self._positions_BS[:, -1:] + 1
            self._mask_BS = F.pad(self._mask_BS, (0, 1), value=1)
        mask_BS = self._mask_BS if self._is_padded else None
        hidden_BSH = self._model.step(embedded_BSH, mask_BS, self._positions_BS, self._cache)
        return self._model.audio_logits(hidden_BSH[:, -1])
