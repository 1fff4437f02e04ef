"""From tensors to events: the only place where the one becomes the other.

During a due step everything stays on the device: sums over the supervised rows of each micro-batch, and the slots
of the first samples of the first micro-batch. `finish` makes the one transfer to the host.

Shape suffixes: K codebooks; N or M supervised rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, Split, Window
from higgs_audio_trainer.model import SupervisedRows, TrainingOutput
from higgs_audio_trainer.series import ABSENT, HEAD, Decode, Series, Shown, audio_series, text_series, to_host

SHIFT = 1  # the row at p - 1 predicts p


@dataclass(frozen=True, slots=True)
class Figures:
    """Losses and counts of one step or evaluation, over all its micro-batches and all ranks.

    `nll`, `correct` and `targets` are sums over supervised slots, [1 + K]: text, then each codebook.
    """

    nll: tuple[float, ...]
    correct: tuple[int, ...]
    targets: tuple[int, ...]
    grad_norm: float | None

    def payload(self, text_loss_weight: float) -> dict[str, Any]:
        """Fields that `TrainStep` and `EvalResult` have in common."""
        text_loss, *audio_losses = (nll / max(targets, 1) for nll, targets in zip(self.nll, self.targets, strict=True))
        accuracies = tuple(map(_ratio, self.correct, self.targets))
        audio_loss = sum(audio_losses) / len(audio_losses)
        return {
            "loss": text_loss_weight * text_loss + audio_loss,
            "text_loss": text_loss,
            "audio_loss": audio_loss,
            "audio_loss_per_codebook": tuple(audio_losses),
            "text_accuracy": accuracies[0],
            "audio_accuracy_per_codebook": accuracies[1:],
            "text_targets": self.targets[0],
            "audio_targets": sum(self.targets[1:]),
        }


class Extraction:
    """Gathers one due step, or one evaluation.

    Args:
        split: train or eval.
        shown: what to show; None on a rank that writes nothing and only adds its sums.
    """

    def __init__(self, split: Split, shown: Shown | None) -> None:
        self.seconds = 0.0  # host time spent here
        self.failed = False  # an error cost this extraction; its sums still take part in the collective
        self._split = split
        self._shown = shown
        self._sums: Tensor | None = None
        self._refs: tuple[SampleRef, ...] = ()
        self._series: tuple[Series, ...] = ()

    @torch.no_grad()
    def observe(self, outputs: TrainingOutput, batch: Mapping[str, Tensor], refs: Sequence[SampleRef]) -> None:
        """Take in one micro-batch. Nothing is transferred, and nothing waits for the device.

        Args:
            outputs: what the model returned.
            batch: the tensors that it was given.
            refs: names of the batch's samples.
        """
        started = time.perf_counter()
        text, audio = outputs.text, outputs.audio
        assert text is not None, "the model returns its supervised rows"
        assert audio is not None
        text_predictions_1N = text.logits.argmax(dim=-1)[None]
        audio_predictions_KM = audio.logits.argmax(dim=-1).T
        sums = torch.cat([_sums(text, text_predictions_1N), _sums(audio, audio_predictions_KM)], dim=1)
        first = self._sums is None
        self._sums = sums if self._sums is None else self._sums + sums
        if first and self._shown is not None:
            self._refs = tuple(refs[: self._shown.samples])
            count = len(self._refs)
            self._series = (
                text_series(text, text_predictions_1N, batch, count, self._shown),
                audio_series(audio, audio_predictions_KM, batch, count, self._shown),
            )
        self.seconds += time.perf_counter() - started

    def sums(self, num_codebooks: int, device: torch.device) -> Tensor:
        """Return nll, correct and targets so far, [3, 1 + K]; NaN after a failure, so that no rank waits in vain."""
        if self._sums is None or self.failed:
            return torch.full((3, 1 + num_codebooks), float("nan"), dtype=exact_dtype(device), device=device)
        return self._sums

    def finish(
        self, sums: Tensor, *, step: int, epoch: float, grad_norm: Tensor | float | None = None
    ) -> tuple[Figures, list[PredictionSample]] | None:
        """Bring everything to the host in one transfer and make the samples' events.

        Args:
            sums: what `sums` returned, added up over all ranks.
            step: optimizer step.
            epoch: epochs done.
            grad_norm: norm of this step's gradients.

        Returns:
            The figures and the samples; None where there is nothing to write.
        """
        if self._shown is None or self.failed:
            return None
        started = time.perf_counter()
        norms = [grad_norm.to(sums.device, torch.float32)] if isinstance(grad_norm, Tensor) else []
        ints, floats = to_host(
            [series.ints_QX for series in self._series], [sums, *(series.nll_Q for series in self._series), *norms]
        )
        nll, correct, targets = floats[0]
        norm = float(floats[-1]) if isinstance(grad_norm, Tensor) else grad_norm
        figures = Figures(tuple(map(float, nll)), tuple(map(_count, correct)), tuple(map(_count, targets)), norm)
        samples = list(self._events(ints, floats[1:], step, epoch))
        self.seconds += time.perf_counter() - started
        return figures, samples

    def _events(
        self, ints: Sequence[npt.NDArray[Any]], nll: Sequence[npt.NDArray[Any]], step: int, epoch: float
    ) -> Iterator[PredictionSample]:
        shown = self._shown
        assert shown is not None
        text, audio = self._series
        per_sample = len(shown.codebooks)
        num_codebooks = audio.logits_shape[1]
        for index, ref in enumerate(self._refs):
            common: dict[str, Any] = {
                "step": step,
                "epoch": epoch,
                "split": self._split,
                "shift": SHIFT,
                "sample_index": index,
            }
            common |= {"sample_id": ref.id, "fingerprint": ref.fingerprint}
            yield PredictionSample(
                **common,
                modality="text",
                codebook=None,
                num_codebooks=None,
                **_series_fields(text, ints[0][index], float(nll[0][index]), shown.window, shown.decode),
            )
            for number, codebook in enumerate(shown.codebooks, start=index * per_sample):
                yield PredictionSample(
                    **common,
                    modality="audio",
                    codebook=codebook,
                    num_codebooks=num_codebooks,
                    **_series_fields(audio, ints[1][number], float(nll[1][number]), shown.window, None),
                )


def _sums(rows: SupervisedRows, predictions_KN: Tensor) -> Tensor:
    """Sum up nll, correct and targets: [3, K] (K is 1 for text), in the widest float of the device."""
    labels_KN = rows.labels.view(predictions_KN.shape)
    supervised = labels_KN != IGNORE_INDEX
    correct = (predictions_KN == labels_KN) & supervised
    exact = exact_dtype(labels_KN.device)
    nll_KN = rows.nll.view(predictions_KN.shape)
    return torch.stack([nll_KN.sum(-1, dtype=exact), correct.sum(-1).to(exact), supervised.sum(-1).to(exact)])


def exact_dtype(device: torch.device) -> torch.dtype:
    """Choose a float that counts do not overflow; Apple's GPUs have none wider than float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def _series_fields(
    series: Series, row: npt.NDArray[np.int32], nll: float, window: int, decode: Decode | None
) -> dict[str, Any]:
    num_targets, num_correct, stop_targets, length = map(int, row[:HEAD])
    slots = row[HEAD:].reshape(4, 2 * window)
    first = min(window, length)
    last = min(window, length - first)
    return {
        "logits_shape": series.logits_shape,
        "labels_shape": series.labels_shape,
        "num_targets": num_targets,
        "num_correct": num_correct,
        "accuracy": _ratio(num_correct, num_targets),
        "loss": nll / num_targets if num_targets else None,
        "stop_targets": stop_targets,
        "first": _window(slots[:, :first], decode),
        "last": _window(slots[:, 2 * window - last :], decode),
    }


def _window(slots: npt.NDArray[np.int32], decode: Decode | None) -> Window:
    positions, inputs, labels, predictions = (tuple(map(int, row)) for row in slots)
    shown = [label != IGNORE_INDEX for label in labels]
    return Window(
        positions=positions,
        inputs=tuple(None if token == ABSENT else token for token in inputs),
        labels=labels,
        predictions=tuple(token if seen else None for token, seen in zip(predictions, shown, strict=True)),
        predicted_text=decode([token for token, seen in zip(predictions, shown, strict=True) if seen])
        if decode
        else None,
        label_text=decode([token for token, seen in zip(labels, shown, strict=True) if seen]) if decode else None,
    )


def _count(value: float) -> int:
    return 0 if np.isnan(value) else int(value)  # NaN: another rank's extraction failed


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
