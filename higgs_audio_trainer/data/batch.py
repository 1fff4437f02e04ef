"""Samples as tensors: the data set and the collator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from higgs_audio_trainer.data.delay import delay_codes, delayed_labels, num_stream_frames
from higgs_audio_trainer.data.prompt import TokenSegment, expand, sequence_length
from higgs_audio_trainer.data.regions import Region, regions_of
from higgs_audio_trainer.data.route import route_of
from higgs_audio_trainer.events import IGNORE_INDEX

Ints = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]
FOR_THE_LOG = frozenset({"samples", "regions"})  # entries of a batch for the log alone, not for the model


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Token ids of a checkpoint, and the layout and the labels of its samples.

    Attributes:
        pad: Padding of the token sequence.
        audio: Placeholder of a frame in the token sequence.
        audio_delay: Placeholder of the last K - 1 frames of a clip.
        stream_bos: Id before the codes of a codebook.
        stream_eos: Id after the codes of a codebook.
        num_codebooks: Number of codebooks K.
        bos_frames: Frames of stream BOS alone at the beginning of a clip.
        reference_eos: Whether the last codebook of a reference has its EOS, which takes a frame.
        learns_text: Whether supervised texts are training targets.
    """

    pad: int
    audio: int
    audio_delay: int
    stream_bos: int
    stream_eos: int
    num_codebooks: int
    bos_frames: int = 1
    reference_eos: bool = True
    learns_text: bool = True

    def num_frames(self, num_frames: int, *, supervised: bool) -> int:
        """Return the number of frames F of a clip's audio stream.

        Args:
            num_frames: Number of codec frames T of the clip.
            supervised: False for a reference.
        """
        frames = num_stream_frames(num_frames, self.num_codebooks, self.bos_frames)
        return frames if supervised or self.reference_eos else frames - 1


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids for an audit of the labels.

    Attributes:
        text_stops: Text tokens that end a turn or the text.
        stream_bos: First token of an audio stream.
        stream_eos: Last token of an audio stream.
        placeholders: Tokens in `input_ids` that stand for the audio stream.
        has_bos_frame: Whether a clip begins with a frame of stream BOS alone.
    """

    text_stops: tuple[int, ...]
    stream_bos: int
    stream_eos: int
    placeholders: tuple[int, ...]
    has_bos_frame: bool = True


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """A sample that is ready for training.

    Attributes:
        id: Id in the manifest.
        segments: Tokens of the sample.
        codes_KT: Codes of the clips, int64 [K, T] each, in the order of the clips.
        where: Place in the manifest, `file:line`.
        audio_seconds: Length of all clips together; seconds.
        text: Text that the supervised clips speak, for the log. Empty if unknown.
    """

    id: str
    segments: tuple[TokenSegment, ...]
    codes_KT: tuple[Ints, ...] = ()
    where: str = ""
    audio_seconds: float = 0.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class SampleRef:
    """Name and size of a sample in the log.

    Attributes:
        id: Id in the manifest.
        fingerprint: Hash of the sample's inputs.
        num_tokens: Positions of the sample; None if unknown.
        audio_seconds: Length of the sample's clips; seconds; None if unknown.
        text: Text that the sample speaks; None if unknown.
    """

    id: str
    fingerprint: str
    num_tokens: int | None = None
    audio_seconds: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A sample as arrays.

    Attributes:
        ref: Name of the sample in the log; None for a sample that only fills a batch.
        input_ids: Token ids, int64 [S].
        labels: Text labels, int64 [S], -100 where masked.
        audio_ids_FK: Audio stream of all clips, int64 [F, K].
        audio_labels_FK: Audio labels, int64 [F, K], -100 where masked.
        regions: Purpose of each position, values of `Region`, int8 [S].
    """

    ref: SampleRef | None
    input_ids: Ints
    labels: Ints
    audio_ids_FK: Ints
    audio_labels_FK: Ints
    regions: npt.NDArray[np.int8]


def build_example(sample: PreparedSample, codes_KT: Sequence[Ints], ids: TokenIds) -> Example:
    """Return the inputs and labels of a sample as arrays.

    Args:
        sample: Tokens of the sample.
        codes_KT: Codes of the sample's clips, int64 [K, T] each.
        ids: Token ids of the checkpoint.

    Example:
        >>> ids = TokenIds(pad=0, audio=90, audio_delay=91, stream_bos=1024, stream_eos=1025, num_codebooks=2)
        >>> prompt, speech = TokenSegment(np.array([7, 8]), supervised=False), TokenSegment(None, supervised=True)
        >>> example = build_example(PreparedSample("a", (prompt, speech), ()), [np.array([[1], [2]])], ids)
        >>> example.input_ids.tolist()
        [7, 8, 90, 90, 90, 91]
        >>> example.audio_labels_FK.T.tolist()
        [[-100, 1, 1025, -100], [-100, -100, 2, 1025]]
    """
    segments = [
        part if part.ids is None or ids.learns_text else TokenSegment(part.ids, False) for part in sample.segments
    ]
    supervised = [segment.supervised for segment in segments if segment.ids is None]
    streams, labels = [], []
    for codes, learn in zip(codes_KT, supervised, strict=True):
        stream = delay_codes(codes, bos=ids.stream_bos, eos=ids.stream_eos, bos_frames=ids.bos_frames)
        stream = stream[: ids.num_frames(codes.shape[1], supervised=learn)]
        label = delayed_labels(stream, codes.shape[1], bos_frames=ids.bos_frames)
        streams.append(stream)
        labels.append(label if learn else np.full_like(stream, IGNORE_INDEX))
    input_ids, text_labels = expand(
        segments,
        [len(stream) for stream in streams],
        placeholder=ids.audio,
        delay=ids.audio_delay,
        num_codebooks=ids.num_codebooks,
    )
    empty = np.empty((0, ids.num_codebooks), dtype=np.int64)
    audio_ids_FK = np.concatenate([empty, *streams])
    digest = hashlib.blake2b(input_ids.astype("<i8").tobytes() + audio_ids_FK.astype("<i8").tobytes(), digest_size=8)
    return Example(
        SampleRef(sample.id, digest.hexdigest(), len(input_ids), sample.audio_seconds, sample.text or None),
        input_ids,
        text_labels,
        audio_ids_FK,
        np.concatenate([empty, *labels]),
        regions_of(segments, map(len, streams)),
    )


class FillingIndex(int):
    """Index of a sample that only fills a batch, so that every rank has a batch. The sample is masked."""


class SpeechDataset(Dataset[Example]):
    """Samples as arrays. Prepared samples are read from the disk at each access.

    Args:
        samples: A prepared data set, or samples in memory.
        ids: Token ids of the checkpoint.
    """

    def __init__(self, samples: Sequence[PreparedSample], ids: TokenIds) -> None:
        self._samples = samples
        self._ids = ids

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        sample = self._samples[index]
        example = build_example(sample, sample.codes_KT, self._ids)
        return _masked(example) if isinstance(index, FillingIndex) else example

    def lengths(self) -> Ints:
        """Return the length of each sample in positions, int64 [N]."""
        if isinstance(self._samples, MeasuredSamples):
            return self._samples.lengths()
        lengths = (
            sequence_length(sample.segments, [codes.shape[1] for codes in sample.codes_KT], self._ids)
            for sample in self._samples
        )
        return np.fromiter(lengths, dtype=np.int64)

    def audio_seconds(self) -> Seconds:
        """Return the length of each sample's clips together, float64 [N]; seconds."""
        if isinstance(self._samples, MeasuredSamples):
            return self._samples.audio_seconds()
        return np.fromiter((sample.audio_seconds for sample in self._samples), dtype=np.float64)


@runtime_checkable
class MeasuredSamples(Protocol):
    """Samples whose lengths are known without reading the samples."""

    def lengths(self) -> Ints:
        """Return the length of each sample in positions, int64 [N]."""
        ...

    def audio_seconds(self) -> Seconds:
        """Return the length of each sample's clips together, float64 [N]; seconds."""
        ...


def _masked(example: Example) -> Example:
    return replace(
        example,
        ref=None,
        labels=np.full_like(example.labels, IGNORE_INDEX),
        audio_labels_FK=np.full_like(example.audio_labels_FK, IGNORE_INDEX),
        regions=np.full_like(example.regions, Region.PADDING),
    )


class Collator:
    """Pads examples on the right and stacks the examples to a batch.

    A batch holds the inputs of the native model, `input_ids`, `attention_mask` and `labels` [B, S], `audio_input_ids`
    and `audio_labels` [B, F, K] and `audio_input_ids_mask` bool [B, F], and `route`, the `Route` of the batch. For the
    log alone, a batch also holds `regions` int8 [B, S] and `samples`, a list of `SampleRef` that stays on the host.
    """

    def __init__(self, ids: TokenIds) -> None:
        self._ids = ids

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the batch of the examples."""
        inputs = {
            "input_ids": _stack([example.input_ids for example in examples], self._ids.pad),
            "attention_mask": _stack([np.ones_like(example.input_ids) for example in examples], 0),
            "labels": _stack([example.labels for example in examples], IGNORE_INDEX),
            "audio_input_ids": _stack([example.audio_ids_FK for example in examples], self._ids.stream_eos),
            "audio_input_ids_mask": _stack(
                [np.ones(len(example.audio_ids_FK), dtype=np.bool_) for example in examples], 0
            ),
            "audio_labels": _stack([example.audio_labels_FK for example in examples], IGNORE_INDEX),
        }
        return {
            **inputs,
            "route": route_of(inputs, (self._ids.audio, self._ids.audio_delay)),
            "regions": _stack([example.regions for example in examples], Region.PADDING),
            "samples": [example.ref for example in examples if example.ref is not None],
        }


def _stack(arrays: Sequence[npt.NDArray[Any]], padding: int) -> torch.Tensor:
    length = max(map(len, arrays))
    stacked = np.full((len(arrays), length, *arrays[0].shape[1:]), padding, dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(stacked)
