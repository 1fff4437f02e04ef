"""From tensors to events: the only place where the one becomes the other.

During a due step everything stays on the device: sums over the supervised rows of each micro-batch, and the slots
of the first samples of the first micro-batch. `finish` makes the one transfer to the host.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks; P samples shown, Q series shown (a sample's
text, or one codebook of its audio), L slots of a series, W slots of both windows; N or M supervised rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, Split, Window
from higgs_audio_trainer.model import SupervisedRows, TrainingOutput

SHIFT = 1  # the row at p - 1 predicts p
_ABSENT = -1  # in a packed tensor: there is no token here
_HEAD = 4  # num_targets, num_correct, stop_targets, span length; then the windows

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a step.

    Attributes:
        samples: how many samples of the micro-batch, from its first.
        window: slots at each end of the target span.
        codebooks: codebooks of the audio, counted from 0.
        text_stop_ids: text tokens that end a turn or the text.
        audio_stop_id: the stream EOS.
        audio_token_ids: placeholders of the audio stream in `input_ids`.
        decode: text token ids to text; None for no decoding.
    """

    samples: int
    window: int
    codebooks: tuple[int, ...]
    text_stop_ids: tuple[int, ...]
    audio_stop_id: int
    audio_token_ids: tuple[int, ...]
    decode: Decode | None


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
        text_loss, *audio_losses = (
            nll / max(targets, 1) for nll, targets in zip(self.nll, self.targets, strict=True)
        )
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


@dataclass(frozen=True, slots=True)
class _Series:
    """The slots shown of one modality, on the device.

    Attributes:
        ints_QX: int64 [Q, 4 + 4 W]: num_targets, num_correct, stop_targets and span length; then W positions, W
            inputs, W labels and W predictions.
        nll_Q: sum over the series' targets, float32 [Q].
        logits_shape: of the logits that the loss saw.
        labels_shape: of the labels that the loss saw.
    """

    ints_QX: Tensor
    nll_Q: Tensor
    logits_shape: tuple[int, ...]
    labels_shape: tuple[int, ...]


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
        self._series: tuple[_Series, ...] = ()

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
                _text_series(text, text_predictions_1N, batch, count, self._shown),
                _audio_series(audio, audio_predictions_KM, batch, count, self._shown),
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
        ints, floats = _to_host(
            [series.ints_QX for series in self._series], [sums, *(series.nll_Q for series in self._series), *norms]
        )
        nll, correct, targets = floats[0]
        figures = Figures(
            tuple(map(float, nll)),
            tuple(map(_count, correct)),
            tuple(map(_count, targets)),
            float(floats[-1]) if norms else grad_norm,
        )
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
            common = {"step": step, "epoch": epoch, "split": self._split, "shift": SHIFT, "sample_index": index}
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


def _row_map(rows: SupervisedRows, shape: torch.Size, count: int) -> Tensor:
    """Index of the supervised row that predicts (sample, position): int64 [P, S]; the number of rows where none does."""
    num_rows = rows.position.shape[0]
    row_BS = torch.full(shape, num_rows, dtype=torch.long, device=rows.position.device)
    row_BS[rows.batch_index, rows.position] = torch.arange(num_rows, device=rows.position.device)
    return row_BS[:count]


def _padded(values_KN: Tensor, padding: int) -> Tensor:
    """Append one column, which is what `_row_map` points to where there is no row."""
    return torch.nn.functional.pad(values_KN, (0, 1), value=padding)


def _text_series(
    rows: SupervisedRows, predictions_1N: Tensor, batch: Mapping[str, Tensor], count: int, shown: Shown
) -> _Series:
    input_ids, labels_PS = batch["input_ids"], batch["labels"][:count].clone()
    labels_PS[:, 0] = IGNORE_INDEX  # no row comes before position 0
    row_PS = _row_map(rows, input_ids.shape, count)
    positions_PS = torch.arange(labels_PS.shape[1], device=labels_PS.device).expand_as(labels_PS)
    inputs_PS = torch.nn.functional.pad(input_ids[:count, :-1], (1, 0), value=_ABSENT)
    predictions_PS = _padded(predictions_1N, _ABSENT)[0, row_PS]
    nll_P = _padded(rows.nll[None], 0)[0, row_PS].sum(-1)
    ints = _pack(positions_PS, inputs_PS, labels_PS, predictions_PS, shown.text_stop_ids, shown.window)
    return _Series(ints, nll_P, tuple(rows.logits.shape), tuple(rows.labels.shape))


def _audio_series(
    rows: SupervisedRows, predictions_KM: Tensor, batch: Mapping[str, Tensor], count: int, shown: Shown
) -> _Series:
    input_ids, codes_PFK = batch["input_ids"], batch["audio_input_ids"][:count]
    labels_PFK = batch["audio_labels"][:count]
    num_frames = codes_PFK.shape[1]
    row_PS = _row_map(rows, input_ids.shape, count)
    is_audio_PS = torch.zeros_like(row_PS, dtype=torch.bool)
    for token in shown.audio_token_ids:
        is_audio_PS |= input_ids[:count] == token
    # Placeholders first, in their order: the f-th of them holds frame f.
    positions_PF = torch.argsort((~is_audio_PS).to(torch.uint8), dim=-1, stable=True)[:, :num_frames]
    # A frame follows another only inside one clip; elsewhere the row before it holds a text token.
    follows_PF = torch.nn.functional.pad(positions_PF[:, 1:] - positions_PF[:, :-1] == 1, (1, 0), value=False)
    before_PFK = torch.nn.functional.pad(codes_PFK[:, :-1], (0, 0, 1, 0), value=_ABSENT)
    row_PF = row_PS.gather(1, positions_PF)
    predictions, nll = _padded(predictions_KM, _ABSENT), _padded(rows.nll, 0)
    chosen = []
    for k in shown.codebooks:
        inputs_PF = before_PFK[..., k].masked_fill(~follows_PF, _ABSENT)
        chosen.append((inputs_PF, labels_PFK[..., k], predictions[k, row_PF], nll[k, row_PS].sum(-1)))
    # Series are ordered by sample, then codebook: [P, C, L] -> [Q, L].
    inputs, labels, predicted, nll_PC = (torch.stack(list(parts), dim=1) for parts in zip(*chosen, strict=True))
    series = num_frames
    positions = positions_PF[:, None].expand_as(labels).reshape(-1, series)
    ints = _pack(
        positions,
        inputs.reshape(-1, series),
        labels.reshape(-1, series),
        predicted.reshape(-1, series),
        (shown.audio_stop_id,),
        shown.window,
    )
    return _Series(ints, nll_PC.reshape(-1), tuple(rows.logits.shape), tuple(rows.labels.shape))


def _pack(
    positions_QL: Tensor, inputs_QL: Tensor, labels_QL: Tensor, predictions_QL: Tensor, stop_ids: Sequence[int], window: int
) -> Tensor:
    """Cut both windows out of every series; see `_Series.ints_QX`."""
    supervised = labels_QL != IGNORE_INDEX
    correct = supervised & (predictions_QL == labels_QL)
    is_stop = torch.zeros_like(supervised)
    for stop_id in stop_ids:
        is_stop |= labels_QL == stop_id
    slots, length_Q = _window_slots(supervised, window)
    head = torch.stack([supervised.sum(-1), correct.sum(-1), is_stop.sum(-1), length_Q], dim=-1)
    if labels_QL.shape[1] == 0:
        return torch.nn.functional.pad(head, (0, 4 * slots.shape[1]))
    windows = [values.gather(1, slots) for values in (positions_QL, inputs_QL, labels_QL, predictions_QL)]
    return torch.cat([head, *windows], dim=-1)


def _window_slots(supervised_QL: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Choose the slots of both windows: indices [Q, 2 * window], and the length of each target span [Q].

    The first window is filled from its left, the last one from its right; what is beyond the span is clamped and
    left out by `_windows`.
    """
    device, size = supervised_QL.device, supervised_QL.shape[1]
    index_L = torch.arange(size, device=device)
    begin_Q = torch.where(supervised_QL, index_L, size).amin(-1, keepdim=True) if size else supervised_QL.new_zeros(
        (len(supervised_QL), 1), dtype=torch.long
    )
    end_Q = torch.where(supervised_QL, index_L + 1, 0).amax(-1, keepdim=True) if size else begin_Q
    ahead = torch.arange(window, device=device)
    slots = torch.cat([begin_Q + ahead, end_Q - window + ahead], dim=-1).clamp(0, max(size - 1, 0))
    return slots, (end_Q - begin_Q).clamp(min=0).squeeze(-1)


def _to_host(
    ints: Sequence[Tensor], floats: Sequence[Tensor]
) -> tuple[list[npt.NDArray[np.int32]], list[npt.NDArray[np.floating[Any]]]]:
    """Bring tensors to the host in one transfer: integers as int32, floats by their bits."""
    parts = [*(tensor.to(torch.int32) for tensor in ints), *(tensor.contiguous().view(-1) for tensor in floats)]
    packed = torch.cat([part.reshape(-1).view(torch.int32) for part in parts]).cpu().numpy()
    sizes = [part.numel() * part.element_size() // 4 for part in parts]
    pieces = np.split(packed, np.cumsum(sizes)[:-1])
    host_ints = [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, ints, strict=False)]
    host_floats = [
        piece.view(np.float64 if tensor.dtype == torch.float64 else np.float32).reshape(tensor.shape)
        for piece, tensor in zip(pieces[len(ints) :], floats, strict=True)
    ]
    return host_ints, host_floats


def _series_fields(
    series: _Series, row: npt.NDArray[np.int32], nll: float, window: int, decode: Decode | None
) -> dict[str, Any]:
    num_targets, num_correct, stop_targets, length = map(int, row[:_HEAD])
    slots = row[_HEAD:].reshape(4, 2 * window)
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
        inputs=tuple(None if token == _ABSENT else token for token in inputs),
        labels=labels,
        predictions=tuple(token if seen else None for token, seen in zip(predictions, shown, strict=True)),
        predicted_text=decode([token for token, seen in zip(predictions, shown, strict=True) if seen]) if decode else None,
        label_text=decode([token for token, seen in zip(labels, shown, strict=True) if seen]) if decode else None,
    )


def _count(value: float) -> int:
    return 0 if np.isnan(value) else int(value)  # NaN: another rank's extraction failed


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
