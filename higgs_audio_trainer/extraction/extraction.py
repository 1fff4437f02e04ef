"""Extraction of a logged step: the only place where tensors become events.

During a logged step all results stay on the device: the sums over the supervised rows of each micro-batch, and the
slots of the first samples of the first micro-batch. `Extraction.finish` makes the only transfer to the host.

Shape suffixes: K codebooks; N supervised rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX, Modality, PredictionSample, Split, TokenCounts
from higgs_audio_trainer.extraction.batch_sizes import NUM_SIZES, BatchSizes, sizes_of
from higgs_audio_trainer.extraction.host_transfer import to_host
from higgs_audio_trainer.extraction.loss_sums import LossSums, count_or_zero, exact_dtype
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.prediction_samples import prediction_samples
from higgs_audio_trainer.extraction.rank_times import num_time_rows
from higgs_audio_trainer.extraction.streams import Stream
from higgs_audio_trainer.extraction.token_counts import NUM_SUMS, TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings, WindowTensors, cut_windows

_MAX_SAMPLE_NAMES = 64
_NUM_LOSS_SUMS = 3  # rows of sums of every logged step: nll, correct, targets


@dataclass(frozen=True, slots=True)
class AudioRows:
    """Supervised audio rows of a micro-batch, on the host.

    Attributes:
        batch_index: Sample of each row in the batch, [N].
        position: Position that the row predicts, [N].
        labels: Labels, [K, N], -100 where masked.
        predictions: Most likely tokens, [K, N].
    """

    batch_index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extracted:
    """Result of a logged step or of an evaluation.

    Attributes:
        loss_sums: Losses and counts.
        samples: Events of the shown samples.
        counts: Token counts of text and of each codebook; empty without a counter.
        names: Fingerprint by id of the samples of this rank, up to 64.
        sequence_length: Sequence length of the longest micro-batch of this rank.
        sizes: Sizes of all micro-batches of all ranks; None if unknown.
        audio: All audio rows of the first micro-batch; None unless requested.
        rank_seconds: Time of each rank; empty for one rank.
    """

    loss_sums: LossSums
    samples: tuple[PredictionSample, ...]
    counts: tuple[TokenCounts, ...]
    names: dict[str, str]
    sequence_length: int
    sizes: BatchSizes | None
    audio: AudioRows | None = None
    rank_seconds: tuple[float, ...] = ()


class Extraction:
    """Collector of one logged step, or of one evaluation.

    Args:
        split: Train or eval.
        settings: Selection of samples and slots; None on a rank that writes nothing and only adds the sums.
        counter: Counter of tokens for the diagnoses; None for no counts. Every rank needs the same choice.
        with_audio: Keep all audio rows of the first micro-batch for the audio previews.

    Attributes:
        failed: True after an error of the extraction. The sums of a failed extraction still take part in the
            collective operation.
    """

    def __init__(
        self,
        split: Split,
        settings: WindowSettings | None,
        counter: TokenCounter | None = None,
        *,
        with_audio: bool = False,
    ) -> None:
        self.failed = False
        self._split = split
        self._settings = settings
        self._sums: Tensor | None = None
        self._refs: tuple[SampleRef, ...] = ()
        self._windows: dict[Modality, WindowTensors] = {}
        self._counter = counter
        self._with_audio = with_audio
        self._audio: list[Tensor] = []  # at most one, int64 [2 + 2K, N]: samples, positions, labels, predictions
        self._names: dict[str, str] = {}
        self._sequence_length = 0
        self._sizes = BatchSizes()

    @torch.no_grad()
    def observe(self, batch: MicroBatch) -> None:
        """Add one micro-batch, without a transfer and without waiting for the device."""
        streams = batch.streams
        parts = [_sums(stream) for stream in streams]
        if not streams[0].is_text:
            parts.insert(0, torch.zeros_like(parts[0][:, :1]))  # the first column belongs to text
        sums = torch.cat(parts, dim=1)
        if self._counter is not None:
            sums = torch.cat([sums, self._counter.observe(batch)])
        self._names.update((ref.id, ref.fingerprint) for ref in batch.samples[: _MAX_SAMPLE_NAMES - len(self._names)])
        self._sequence_length = max(self._sequence_length, *(stream.labels_BSK.shape[1] for stream in streams))
        B, S = streams[0].labels_BSK.shape[:2]
        self._sizes += sizes_of(batch.samples, B * S)
        is_first = self._sums is None
        self._sums = sums if self._sums is None else self._sums + sums
        if is_first and self._settings is not None:
            self._refs = tuple(batch.samples[: self._settings.samples])
            self._windows = {
                stream.modality: cut_windows(stream, len(self._refs), self._settings) for stream in streams
            }
            self._audio = [_audio_rows(stream) for stream in streams if self._with_audio and not stream.is_text]

    def sums(self, num_codebooks: int, device: torch.device) -> Tensor:
        """Return the sums so far, [R, 1 + K]: losses, correct predictions, targets, the counter's sums, batch sizes.

        After a failure all sums are NaN, so that no rank waits for the collective operation.

        Args:
            num_codebooks: K, for the shape after a failure.
            device: Device of the sums after a failure.
        """
        if self._sums is None or self.failed:
            num_sums = _NUM_LOSS_SUMS + (0 if self._counter is None else NUM_SUMS) + NUM_SIZES
            return torch.full((num_sums, 1 + num_codebooks), float("nan"), dtype=exact_dtype(device), device=device)
        return torch.cat([self._sums, self._sizes.rows(self._sums)])

    def finish(
        self,
        sums: Tensor,
        *,
        step: int,
        epoch: float,
        grad_norm: Tensor | float | None = None,
        num_ranks: int = 1,
    ) -> Extracted | None:
        """Copy all results to the host in one transfer and return the events.

        Args:
            sums: Results of `sums`, added up over all ranks; of several ranks with their times (`with_rank_time`).
            step: Optimizer step.
            epoch: Epochs done.
            grad_norm: Norm of the gradients of the step.
            num_ranks: Number of ranks whose times are in `sums`.

        Returns:
            The result; None on a rank that writes nothing, or after a failure.
        """
        if self._settings is None or self.failed:
            return None
        norms = [grad_norm.to(sums.device, torch.float32)] if isinstance(grad_norm, Tensor) else []
        local = [] if self._counter is None else self._counter.local_tensors()
        ints, floats = to_host(
            [*(tensors.ints_QX for tensors in self._windows.values()), *local[:-1], *self._audio],
            [sums, *(tensors.floats_QY for tensors in self._windows.values()), *local[-1:], *norms],
        )
        norm = float(floats[-1]) if isinstance(grad_norm, Tensor) else grad_norm
        end = len(floats[0]) - num_time_rows(num_ranks, floats[0].shape[1])
        rank_seconds = tuple(floats[0][end:].reshape(-1)[:num_ranks].tolist())
        base, counter_sums, sizes = np.split(floats[0][:end], [_NUM_LOSS_SUMS, -NUM_SIZES])
        nll, correct, targets = base
        loss_sums = LossSums(
            nll=tuple(map(float, nll)),
            correct=tuple(map(count_or_zero, correct)),
            targets=tuple(map(count_or_zero, targets)),
            grad_norm=norm,
        )
        audio = _unpack_audio(ints.pop()) if self._audio else None
        shown = len(self._windows)
        counts: tuple[TokenCounts, ...] = ()
        if self._counter is not None:
            counts = tuple(self._counter.events(step, base, counter_sums, [*ints[shown:], floats[1 + shown]]))
        samples = prediction_samples(
            self._windows,
            ints[:shown],
            floats[1 : 1 + shown],
            self._refs,
            self._settings,
            step=step,
            epoch=epoch,
            split=self._split,
        )
        known = None if np.isnan(sizes).any() else BatchSizes(*sizes[:, 0].tolist())
        names, length = dict(self._names), self._sequence_length
        return Extracted(loss_sums, tuple(samples), counts, names, length, known, audio, rank_seconds)


def _sums(stream: Stream) -> Tensor:
    """Return the sums of cross-entropies, correct predictions and targets, [3, K], in the widest float."""
    labels_KN = stream.labels_KN
    is_target = labels_KN != IGNORE_INDEX
    correct = (stream.predictions_KN == labels_KN) & is_target
    exact = exact_dtype(labels_KN.device)
    return torch.stack([stream.nll_KN.sum(-1, dtype=exact), correct.sum(-1).to(exact), is_target.sum(-1).to(exact)])


def _audio_rows(stream: Stream) -> Tensor:
    rows = stream.rows
    return torch.cat([rows.batch_index[None], rows.position[None], rows.labels, stream.predictions_KN])


def _unpack_audio(packed: npt.NDArray[np.int32]) -> AudioRows:
    batch_index, position, *tokens = packed.astype(np.int64)
    K = len(tokens) // 2
    return AudioRows(batch_index, position, np.stack(tokens[:K]), np.stack(tokens[K:]))
