"""From tensors to events: the only place where the one becomes the other.

During a due step everything stays on the device: sums over the supervised rows of each micro-batch, and the slots
of the first samples of the first micro-batch. `finish` makes the one transfer to the host.

Shape suffixes: K codebooks; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX, Modality, PredictionSample, Split, TokenCounts, Window
from higgs_audio_trainer.extraction.loss_sums import LossSums, count_or_zero, exact_dtype, ratio
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.streams import ABSENT, Stream
from higgs_audio_trainer.extraction.token_counts import NUM_SUMS, TokenCounter
from higgs_audio_trainer.extraction.windows import HEAD, LISTS, WindowSettings, WindowTensors, cut_windows, to_host

_MOST_SAMPLES = 64  # names of a step's samples
_NUM_FIGURES = 3  # rows of sums that every step has: nll, correct, targets


@dataclass(frozen=True, slots=True)
class AudioRows:
    """Supervised audio rows of a micro-batch, on the host.

    Attributes:
        batch_index: sample of each row, [N].
        position: that it predicts, [N].
        labels: [K, N], -100 where masked.
        predictions: most likely tokens, [K, N].
    """

    batch_index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a due step or an evaluation becomes.

    Attributes:
        loss_sums: losses and counts.
        samples: the samples shown.
        counts: of text and of each codebook; empty where nothing is counted.
        names: id and fingerprint of the samples of this rank, up to 64.
        sequence_length: of the longest micro-batch of this rank.
        audio: all audio rows of the first micro-batch; None where they were not asked for.
    """

    loss_sums: LossSums
    samples: tuple[PredictionSample, ...]
    counts: tuple[TokenCounts, ...]
    names: dict[str, str]
    sequence_length: int
    audio: AudioRows | None = None


class Extraction:
    """Gathers one due step, or one evaluation.

    Args:
        split: train or eval.
        shown: what to show; None on a rank that writes nothing and only adds its sums.
        counter: counts tokens for the checks; None to count none. The same on every rank.
        with_audio: keep all audio rows of the first micro-batch, to decode them.
    """

    def __init__(
        self,
        split: Split,
        shown: WindowSettings | None,
        counter: TokenCounter | None = None,
        *,
        with_audio: bool = False,
    ) -> None:
        self.failed = False  # an error cost this extraction; its sums still take part in the collective
        self._split = split
        self._shown = shown
        self._sums: Tensor | None = None
        self._refs: tuple[SampleRef, ...] = ()
        self._series: dict[Modality, WindowTensors] = {}
        self._counter = counter
        self._with_audio = with_audio
        self._audio: list[Tensor] = []  # int64 [2 + 2K, N]: samples, positions, labels, predictions
        self._names: dict[str, str] = {}
        self._sequence_length = 0

    @torch.no_grad()
    def observe(self, batch: MicroBatch) -> None:
        """Take in one micro-batch. Nothing is transferred, and nothing waits for the device."""
        streams = batch.streams
        parts = [_sums(stream) for stream in streams]
        if not streams[0].is_text:
            parts.insert(0, torch.zeros_like(parts[0][:, :1]))  # the first column is that of text
        sums = torch.cat(parts, dim=1)
        if self._counter is not None:
            sums = torch.cat([sums, self._counter.observe(batch)])
        self._names.update((ref.id, ref.fingerprint) for ref in batch.samples[: _MOST_SAMPLES - len(self._names)])
        self._sequence_length = max(self._sequence_length, *(stream.labels_BSK.shape[1] for stream in streams))
        first = self._sums is None
        self._sums = sums if self._sums is None else self._sums + sums
        if first and self._shown is not None:
            self._refs = tuple(batch.samples[: self._shown.samples])
            self._series = {stream.modality: cut_windows(stream, len(self._refs), self._shown) for stream in streams}
            self._audio = [_all_rows(stream) for stream in streams if self._with_audio and not stream.is_text]

    def sums(self, num_codebooks: int, device: torch.device) -> Tensor:
        """Return nll, correct, targets and what is counted besides, so far: [R, 1 + K].

        NaN after a failure, so that no rank waits in vain.
        """
        if self._sums is None or self.failed:
            num_sums = _NUM_FIGURES + (0 if self._counter is None else NUM_SUMS)
            return torch.full((num_sums, 1 + num_codebooks), float("nan"), dtype=exact_dtype(device), device=device)
        return self._sums

    def finish(
        self, sums: Tensor, *, step: int, epoch: float, grad_norm: Tensor | float | None = None
    ) -> Extracted | None:
        """Bring everything to the host in one transfer and make the samples' events.

        Args:
            sums: what `sums` returned, added up over all ranks.
            step: optimizer step.
            epoch: epochs done.
            grad_norm: norm of this step's gradients.

        Returns:
            None where there is nothing to write.
        """
        if self._shown is None or self.failed:
            return None
        norms = [grad_norm.to(sums.device, torch.float32)] if isinstance(grad_norm, Tensor) else []
        counted = [] if self._counter is None else self._counter.gathered()
        ints, floats = to_host(
            [*(series.ints_QX for series in self._series.values()), *counted[:-1], *self._audio],
            [sums, *(series.floats_QY for series in self._series.values()), *counted[-1:], *norms],
        )
        base = floats[0][:_NUM_FIGURES]
        norm = float(floats[-1]) if isinstance(grad_norm, Tensor) else grad_norm
        nll, correct, targets = base
        loss_sums = LossSums(
            tuple(map(float, nll)), tuple(map(count_or_zero, correct)), tuple(map(count_or_zero, targets)), norm
        )
        shown = len(self._series)
        audio = _on_host(ints.pop()) if self._audio else None
        own = [*ints[shown:], floats[1 + shown]] if self._counter else []
        counts = self._counter.events(step, base, floats[0][_NUM_FIGURES:], own) if self._counter else ()
        samples = tuple(self._events(ints[:shown], floats[1 : 1 + shown], step, epoch))
        return Extracted(loss_sums, samples, tuple(counts), dict(self._names), self._sequence_length, audio)

    def _events(
        self, ints: Sequence[npt.NDArray[Any]], floats: Sequence[npt.NDArray[Any]], step: int, epoch: float
    ) -> Iterator[PredictionSample]:
        shown = self._shown
        assert shown is not None
        no_text = replace(shown, decode=None)
        for index, ref in enumerate(self._refs):
            common: dict[str, Any] = {
                "step": step,
                "epoch": epoch,
                "split": self._split,
                "sample_index": index,
            }
            common |= {"sample_id": ref.id, "fingerprint": ref.fingerprint}
            for (modality, series), own_ints, own_floats in zip(self._series.items(), ints, floats, strict=True):
                is_text = modality == "text"
                for number, codebook in enumerate(series.codebooks, start=index * len(series.codebooks)):
                    yield PredictionSample(
                        **common,
                        modality=modality,
                        codebook=codebook,
                        num_codebooks=None if is_text else series.logits_shape[1],
                        **_series_fields(series, own_ints[number], own_floats[number], shown if is_text else no_text),
                    )


def _all_rows(stream: Stream) -> Tensor:
    rows = stream.rows
    return torch.cat([rows.batch_index[None], rows.position[None], rows.labels, stream.predictions_KN])


def _on_host(packed: npt.NDArray[np.int32]) -> AudioRows:
    batch_index, position, *tokens = packed.astype(np.int64)
    K = len(tokens) // 2
    return AudioRows(batch_index, position, np.stack(tokens[:K]), np.stack(tokens[K:]))


def _sums(stream: Stream) -> Tensor:
    """Sum up nll, correct and targets: [3, K], in the widest float of the device."""
    labels_KN = stream.labels_KN
    supervised = labels_KN != IGNORE_INDEX
    correct = (stream.predictions_KN == labels_KN) & supervised
    exact = exact_dtype(labels_KN.device)
    return torch.stack([stream.nll_KN.sum(-1, dtype=exact), correct.sum(-1).to(exact), supervised.sum(-1).to(exact)])


def _series_fields(
    series: WindowTensors, ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], shown: WindowSettings
) -> dict[str, Any]:
    num_targets, num_correct, stop_targets, length, shift, stop_rank = map(int, ints[:HEAD])
    nll, stop_probability, *probabilities = map(float, floats)
    slots = ints[HEAD:].reshape(LISTS, 2 * shown.window)
    first = min(shown.window, length)
    last = min(shown.window, length - first)
    begin = 2 * shown.window - last
    return {
        "shift": shift,
        "logits_shape": series.logits_shape,
        "labels_shape": series.labels_shape,
        "num_targets": num_targets,
        "num_correct": num_correct,
        "accuracy": ratio(num_correct, num_targets),
        "loss": nll / num_targets if num_targets else None,
        "stop_targets": stop_targets,
        "first": _window(slots[:, :first], probabilities[:first], shown),
        "last": _window(slots[:, begin:], probabilities[begin:], shown),
        "stop_rank": stop_rank or None,
        "stop_probability": stop_probability if stop_rank else None,
    }


def _window(slots: npt.NDArray[np.int32], probabilities: Sequence[float], shown: WindowSettings) -> Window:
    positions, inputs, labels, predictions, ranks = (tuple(map(int, row)) for row in slots)
    seen = [label != IGNORE_INDEX for label in labels]

    def at_targets(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value if is_target else None for value, is_target in zip(values, seen, strict=True))

    def text(tokens: Sequence[int]) -> str | None:
        return shown.decode([token for token in at_targets(tokens) if token is not None]) if shown.decode else None

    return Window(
        positions=positions,
        inputs=tuple(None if token == ABSENT else token for token in inputs),
        labels=labels,
        predictions=at_targets(predictions),
        predicted_text=text(predictions),
        label_text=text(labels),
        label_ranks=at_targets(ranks) if shown.ranks else None,
        label_probabilities=at_targets(probabilities) if shown.ranks else None,
    )
