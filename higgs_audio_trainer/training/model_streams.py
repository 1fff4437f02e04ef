"""The streams of our own model: text and audio of a forward pass, in the form that the recorder takes.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks; G = 1 + K series: text, then each codebook;
N supervised rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef, Vocabulary
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.micro_batch import BatchAnnotations, MicroBatch
from higgs_audio_trainer.extraction.slots import slot_places
from higgs_audio_trainer.extraction.streams import ABSENT, Stream
from higgs_audio_trainer.families.training_forward import TrainingOutput


def micro_batch_of(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], samples: Sequence[SampleRef], *, vocabulary: Vocabulary
) -> MicroBatch:
    """Return the streams of a forward pass of our own model. Nothing waits for the device.

    Args:
        outputs: Output of the model.
        batch: Tensors of the collator: the model's inputs, and `regions`, int8 [B, S], for the annotations.
        samples: Names of the samples.
        vocabulary: Token ids.
    """
    text, audio = outputs.text, outputs.audio
    assert text is not None, "the model returns its supervised rows"
    assert audio is not None
    text_1N, audio_KN = text.most_likely()[None], audio.most_likely().T
    is_audio_BS = torch.stack([batch["input_ids"] == token for token in vocabulary.placeholders]).any(dim=0)
    codes_BSK = _at_placeholders(batch["audio_input_ids"], is_audio_BS, ABSENT)
    labels_BSK = _at_placeholders(batch["audio_labels"], is_audio_BS, IGNORE_INDEX)
    labels_BS1, inputs_BS1 = batch["labels"][..., None], batch["input_ids"][..., None]
    streams = (
        Stream("text", text, text_1N, labels_BS1, inputs_BS1, stops=vocabulary.text_stops),
        Stream("audio", audio, audio_KN, labels_BSK, codes_BSK, stops=(vocabulary.stream_eos,)),
    )
    return MicroBatch(streams, samples, partial(_annotations_of, outputs, batch, codes_BSK, vocabulary))


def _annotations_of(
    outputs: TrainingOutput, batch: Mapping[str, Tensor], codes_BSK: Tensor, vocabulary: Vocabulary
) -> BatchAnnotations:
    assert outputs.text_loss is not None, "the model returns its losses"
    assert outputs.audio_loss_K is not None
    return BatchAnnotations(
        torch.cat([outputs.text_loss.reshape(1), outputs.audio_loss_K]),
        slot_places(codes_BSK, batch["regions"], vocabulary),
        (~batch["audio_input_ids_mask"]).sum(),
    )


def _at_placeholders(frames_BFK: Tensor, is_audio_BS: Tensor, fill: int) -> Tensor:
    """Return the frames at the positions of their placeholders, in order: [B, S, K]."""
    # Padding adds a frame, since a batch may hold none at all.
    frame_BS = (is_audio_BS.cumsum(dim=1) - 1).clamp(0, frames_BFK.shape[1])
    index_BSK = frame_BS[..., None].expand(-1, -1, frames_BFK.shape[2])
    values_BSK = F.pad(frames_BFK, (0, 0, 0, 1), value=fill).gather(1, index_BSK)
    return values_BSK.masked_fill(~is_audio_BS[..., None], fill)
