"""Text and audio of our own model's batches, as the streams and marks that extraction reads.

Shape suffixes: B batch, S token sequence, K codebooks; G = 1 + K series: text, then each codebook; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.slots import slot_places
from higgs_audio_trainer.extraction.streams import ABSENT, Stream
from higgs_audio_trainer.extraction.token_counts import BatchAnnotations
from higgs_audio_trainer.training.model import TrainingOutput


def training_streams(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], *, vocabulary: Vocabulary
) -> tuple[Stream, Stream]:
    """Read text and audio of the model that we train.

    Args:
        outputs: what it returned.
        batch: the tensors that it was given.
        vocabulary: token ids.
    """
    text, audio = outputs.text, outputs.audio
    assert text is not None, "the model returns its supervised rows"
    assert audio is not None
    text_1N, audio_KN = _most_likely(text.logits)[None], _most_likely(audio.logits).T
    is_audio_BS = is_placeholder(batch["input_ids"], vocabulary)
    codes_BSK = placed(batch["audio_input_ids"], is_audio_BS, ABSENT)
    labels_BSK = placed(batch["audio_labels"], is_audio_BS, IGNORE_INDEX)
    labels_BS1, inputs_BS1 = batch["labels"][..., None], batch["input_ids"][..., None]
    return (
        Stream("text", text, text_1N, labels_BS1, inputs_BS1, stops=vocabulary.text_stops),
        Stream("audio", audio, audio_KN, labels_BSK, codes_BSK, stops=(vocabulary.stream_eos,)),
    )


def _most_likely(logits: Tensor) -> Tensor:
    """Return what `argmax(dim=-1)` returns: on the CPU torch takes it four times as long over bfloat16 and float16."""
    return logits.max(dim=-1).indices


def is_placeholder(input_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Tell which positions hold a frame of audio: bool [B, S]."""
    return torch.stack([input_ids == token for token in vocabulary.placeholders]).any(dim=0)


def placed(frames_BFK: Tensor, is_audio_BS: Tensor, fill: int) -> Tensor:
    """Put frames at their placeholders, in order: [B, S, K]. Nothing waits for the device."""
    # One more frame: there may be none at all.
    frame_BS = (is_audio_BS.cumsum(dim=1) - 1).clamp(0, frames_BFK.shape[1])
    index_BSK = frame_BS[..., None].expand(-1, -1, frames_BFK.shape[2])
    values_BSK = F.pad(frames_BFK, (0, 0, 0, 1), value=fill).gather(1, index_BSK)
    return values_BSK.masked_fill(~is_audio_BS[..., None], fill)


def annotate_training_batch(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], streams: Sequence[Stream], *, vocabulary: Vocabulary
) -> BatchAnnotations:
    """Mark a batch of the training.

    Args:
        outputs: what the model returned.
        batch: the tensors that it was given, and `regions`, int8 [B, S].
        streams: of the batch.
        vocabulary: token ids.
    """
    shares = torch.cat([_of(outputs.text_loss).reshape(1), _of(outputs.audio_loss_K)])
    audio = streams[1].inputs_BSK
    return BatchAnnotations(
        shares, slot_places(audio, batch["regions"], vocabulary), (~batch["audio_input_ids_mask"]).sum()
    )


def _of(loss: Tensor | None) -> Tensor:
    assert loss is not None, "the model returns its losses"
    return loss
