"""The slots that a due step shows, cut out of the batch on the device: nothing here waits for it.

A series is what one `prediction_sample` is about: a sample's text, or one codebook of its audio. `to_host` brings
all that was gathered to the host in one transfer.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks; P samples shown, Q series shown, L slots of a
series, W slots of both windows; N or M supervised rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.model import SupervisedRows

ABSENT = -1  # in a packed tensor: there is no token here
HEAD = 4  # num_targets, num_correct, stop_targets, span length; then the windows

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
class Series:
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


def _row_map(rows: SupervisedRows, shape: torch.Size, count: int) -> Tensor:
    """Index the supervised row that predicts (sample, position): int64 [P, S]; the number of rows where none does."""
    num_rows = rows.position.shape[0]
    row_BS = torch.full(shape, num_rows, dtype=torch.long, device=rows.position.device)
    row_BS[rows.batch_index, rows.position] = torch.arange(num_rows, device=rows.position.device)
    return row_BS[:count]


def _padded(values_KN: Tensor, padding: int) -> Tensor:
    """Append one column, which is what `_row_map` points to where there is no row."""
    return F.pad(values_KN, (0, 1), value=padding)


def text_series(
    rows: SupervisedRows, predictions_1N: Tensor, batch: Mapping[str, Tensor], count: int, shown: Shown
) -> Series:
    """Cut out the text of the first samples.

    Args:
        rows: supervised text rows.
        predictions_1N: their predictions, int64 [1, N].
        batch: the tensors that the model was given.
        count: P, samples to show.
        shown: what to show of each.
    """
    input_ids, labels_PS = batch["input_ids"], batch["labels"][:count].clone()
    labels_PS[:, 0] = IGNORE_INDEX  # no row comes before position 0
    row_PS = _row_map(rows, input_ids.shape, count)
    positions_PS = torch.arange(labels_PS.shape[1], device=labels_PS.device).expand_as(labels_PS)
    inputs_PS = F.pad(input_ids[:count, :-1], (1, 0), value=ABSENT)
    predictions_PS = _padded(predictions_1N, ABSENT)[0, row_PS]
    nll_P = _padded(rows.nll[None], 0)[0, row_PS].sum(-1)
    ints = _pack(
        positions_PS,
        inputs_PS,
        labels_PS,
        predictions_PS,
        stop_ids=shown.text_stop_ids,
        window=shown.window,
    )
    return Series(ints, nll_P, tuple(rows.logits.shape), tuple(rows.labels.shape))


def audio_series(
    rows: SupervisedRows, predictions_KM: Tensor, batch: Mapping[str, Tensor], count: int, shown: Shown
) -> Series:
    """Cut out the chosen codebooks of the first samples; series are ordered by sample, then codebook.

    Args:
        rows: supervised audio rows.
        predictions_KM: their predictions, int64 [K, M].
        batch: the tensors that the model was given.
        count: P, samples to show.
        shown: what to show of each.
    """
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
    follows_PF = F.pad(positions_PF[:, 1:] - positions_PF[:, :-1] == 1, (1, 0), value=False)
    before_PFK = F.pad(codes_PFK[:, :-1], (0, 0, 1, 0), value=ABSENT)
    row_PF = row_PS.gather(1, positions_PF)
    predictions, nll = _padded(predictions_KM, ABSENT), _padded(rows.nll, 0)
    chosen = []
    for k in shown.codebooks:
        inputs_PF = before_PFK[..., k].masked_fill(~follows_PF, ABSENT)
        chosen.append((inputs_PF, labels_PFK[..., k], predictions[k, row_PF], nll[k, row_PS].sum(-1)))
    inputs, labels, predicted, nll_PC = (torch.stack(list(parts), dim=1) for parts in zip(*chosen, strict=True))
    positions = positions_PF[:, None].expand_as(labels)
    slots = [part.flatten(0, 1) for part in (positions, inputs, labels, predicted)]
    ints = _pack(*slots, stop_ids=(shown.audio_stop_id,), window=shown.window)
    return Series(ints, nll_PC.flatten(), tuple(rows.logits.shape), tuple(rows.labels.shape))


def _pack(
    positions_QL: Tensor,
    inputs_QL: Tensor,
    labels_QL: Tensor,
    predictions_QL: Tensor,
    *,
    stop_ids: Sequence[int],
    window: int,
) -> Tensor:
    """Cut both windows out of every series; see `Series.ints_QX`."""
    supervised = labels_QL != IGNORE_INDEX
    correct = supervised & (predictions_QL == labels_QL)
    is_stop = torch.zeros_like(supervised)
    for stop_id in stop_ids:
        is_stop |= labels_QL == stop_id
    slots, length_Q = _window_slots(supervised, window)
    head = torch.stack([supervised.sum(-1), correct.sum(-1), is_stop.sum(-1), length_Q], dim=-1)
    if labels_QL.shape[1] == 0:
        return F.pad(head, (0, 4 * slots.shape[1]))
    windows = [values.gather(1, slots) for values in (positions_QL, inputs_QL, labels_QL, predictions_QL)]
    return torch.cat([head, *windows], dim=-1)


def _window_slots(supervised_QL: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Choose the slots of both windows: indices [Q, 2 * window], and the length of each target span [Q].

    The first window is filled from its left, the last one from its right; what is beyond the span is clamped and
    left out by `_windows`.
    """
    device, size = supervised_QL.device, supervised_QL.shape[1]
    index_L = torch.arange(size, device=device)
    # One more slot, never supervised: the extremes exist in an empty series too.
    begin_Q = F.pad(torch.where(supervised_QL, index_L, size), (0, 1), value=size).amin(-1, keepdim=True)
    end_Q = F.pad(torch.where(supervised_QL, index_L + 1, 0), (0, 1), value=0).amax(-1, keepdim=True)
    ahead = torch.arange(window, device=device)
    slots = torch.cat([begin_Q + ahead, end_Q - window + ahead], dim=-1).clamp(0, max(size - 1, 0))
    return slots, (end_Q - begin_Q).clamp(min=0).squeeze(-1)


def to_host(ints: Sequence[Tensor], floats: Sequence[Tensor]) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
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
