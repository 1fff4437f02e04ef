"""One micro-batch as a training hands it to the recorder: streams, sample names and, for our own data, annotations.

Shape suffixes: B batch, S token sequence; G = 1 + K series: text, then each codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.extraction.streams import Stream


@dataclass(frozen=True, slots=True)
class BatchAnnotations:
    """Facts about a micro-batch that its streams do not show. Known for batches that our own collator made.

    Attributes:
        loss_shares_G: Share of each series in the loss, as the model computed it.
        places_BSG: Place of each slot, int64 indices of `PLACES`, or `NO_SLOT`.
        num_padding_frames: Audio frames beyond the end of a sample's audio, int64 scalar.
    """

    loss_shares_G: Tensor
    places_BSG: Tensor
    num_padding_frames: Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The streams of one forward pass and the names of its samples.

    Attributes:
        streams: Text, audio, or both in this order.
        samples: Name and fingerprint of each sample, in the order of the batch. Shorter than the batch where its last
            rows only fill it up.
        annotations: Computes the annotations of the batch, in logged steps whose tokens are counted. None if unknown.
    """

    streams: Sequence[Stream]
    samples: Sequence[SampleRef]
    annotations: Callable[[], BatchAnnotations] | None = None
