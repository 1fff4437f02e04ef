"""The slots that a due step shows, cut out of the batch on the device: nothing here waits for it.

A series is what one `prediction_sample` is about: a sample's text, or one codebook of its audio. `to_host` brings
all that was gathered to the host in one transfer.

Shape suffixes: B batch, S token sequence, K codebooks; P samples shown, Q series shown, L slots of a series, W slots of
both windows; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.label_rank import label_rank_and_probability
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.streams import ABSENT, Stream

HEAD = 6  # num_targets, num_correct, stop_targets, span length, shift, stop_rank; then the windows
LISTS = 5  # of a window: positions, inputs, labels, predictions, ranks of the labels

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """What is shown of a step.

    Attributes:
        samples: how many samples of the micro-batch, from its first.
        window: slots at each end of the target span.
        codebooks: codebooks of the audio, counted from 0; those that a model has not are passed over.
        decode: text token ids to text; None for no decoding.
        ranks: rank and probability of each label that is shown.
    """

    samples: int
    window: int
    codebooks: tuple[int, ...]
    decode: Decode | None
    ranks: bool = False


@dataclass(frozen=True, slots=True)
class WindowTensors:
    """The slots shown of one modality, on the device.

    Attributes:
        ints_QX: int64 [Q, HEAD + LISTS * W]: num_targets, num_correct, stop_targets, span length, shift and stop_rank;
            then W positions, W inputs, W labels, W predictions and W ranks.
        floats_QY: float32 [Q, 2 + W]: sum of the cross-entropies of the series' targets, probability of the stop token,
            then W probabilities of labels.
        logits_shape: of the logits that the loss saw, where there are targets.
        labels_shape: of the labels that the loss saw, there.
        codebooks: of each sample's series, in order; (None,) for text.
    """

    ints_QX: Tensor
    floats_QY: Tensor
    logits_shape: tuple[int, ...]
    labels_shape: tuple[int, ...]
    codebooks: tuple[int | None, ...]


def _row_map(rows: SupervisedRows, shape: torch.Size, count: int) -> Tensor:
    """Index the supervised row that predicts (sample, position): int64 [P, S]; the number of rows where none does."""
    num_rows = rows.position.shape[0]
    row_BS = torch.full(shape, num_rows, dtype=torch.long, device=rows.position.device)
    row_BS[rows.batch_index, rows.position] = torch.arange(num_rows, device=rows.position.device)
    return row_BS[:count]


def _padded(values_KN: Tensor, padding: int) -> Tensor:
    """Append one column, which is what `_row_map` points to where there is no row."""
    return F.pad(values_KN, (0, 1), value=padding)


@dataclass(frozen=True, slots=True)
class _Slots:
    """All slots of the series of one modality.

    Attributes:
        positions, inputs, labels, predictions: int64 [Q, L].
        sources: positions of the rows that the predictions are of, int64 [Q, L].
        rows: numbers of those rows among the supervised ones, int64 [Q, L].
        nll_Q: sum over each series' targets, float32 [Q].
        codebook_Q: codebook of each series, int64 [Q]; None for text.
    """

    positions: Tensor
    inputs: Tensor
    labels: Tensor
    predictions: Tensor
    sources: Tensor
    rows: Tensor
    nll_Q: Tensor
    codebook_Q: Tensor | None


def _sources(rows: SupervisedRows, row_PL: Tensor, positions_PL: Tensor, shift: int) -> Tensor:
    """Find the position of the row of each slot; of a masked slot, that of the row that would predict it."""
    return torch.where(row_PL < len(rows.row), _padded(rows.row, 0)[row_PL], positions_PL - shift)


def cut_windows(stream: Stream, count: int, shown: WindowSettings) -> WindowTensors:
    """Cut out the first samples of a modality, by sample, then codebook. Its slots are the positions that it is fed at.

    Args:
        stream: the modality.
        count: P, samples to show.
        shown: what to show of each.
    """
    rows, labels_BSK, inputs_BSK = stream.rows, stream.labels_BSK, stream.inputs_BSK
    row_PS = _row_map(rows, labels_BSK.shape[:2], count)
    is_slot_PS = (inputs_BSK[:count] != ABSENT).any(dim=-1)
    # Slots first, in their order: what is between the clips of a sample is no slot of theirs.
    positions_PS = torch.argsort((~is_slot_PS).to(torch.uint8), dim=-1, stable=True)
    row_PS = row_PS.gather(1, positions_PS)
    sources_PS = _sources(rows, row_PS, positions_PS, stream.shift)
    predictions, nll = _padded(stream.predictions_KN, ABSENT), _padded(stream.nll_KN, 0)
    codebooks = None if stream.is_text else [k for k in shown.codebooks if k < len(stream.predictions_KN)]
    chosen = []
    for k in (0,) if codebooks is None else codebooks:
        labels_PS = labels_BSK[:count, :, k].gather(1, positions_PS)
        labels_PS = labels_PS.masked_fill(positions_PS < stream.shift, IGNORE_INDEX)  # no row comes before them
        inputs_PS = inputs_BSK[:count, :, k].gather(1, sources_PS.clamp(min=0)).masked_fill(sources_PS < 0, ABSENT)
        chosen.append((inputs_PS, labels_PS, predictions[k, row_PS], nll[k, row_PS].sum(-1)))
    return _pack_codebooks(rows, (positions_PS, sources_PS, row_PS), chosen, codebooks, stream.stops, shown)


def _pack_codebooks(
    rows: SupervisedRows,
    everywhere: tuple[Tensor, Tensor, Tensor],
    chosen: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    codebooks: Sequence[int] | None,
    stops: Sequence[int],
    shown: WindowSettings,
) -> WindowTensors:
    """Put the codebooks of each sample one after the other.

    Args:
        rows: supervised rows.
        everywhere: positions, sources and rows of the slots, the same in all codebooks, int64 [P, L] each.
        chosen: inputs, labels and predictions of each codebook, int64 [P, L] each, and its sums of nll, float32 [P].
        codebooks: their numbers; None for text.
        stops: labels that are stop tokens.
        shown: what to show.
    """
    inputs, labels, predicted, nll_PC = (torch.stack(list(parts), dim=1) for parts in zip(*chosen, strict=True))
    positions, sources, row = (part[:, None].expand_as(labels).flatten(0, 1) for part in everywhere)
    inputs, labels, predicted = (part.flatten(0, 1) for part in (inputs, labels, predicted))
    codebook_Q = None
    if codebooks is not None:
        codebook_Q = torch.tensor(codebooks).to(labels.device, non_blocking=True).repeat(len(nll_PC))
    slots = _Slots(positions, inputs, labels, predicted, sources, row, nll_PC.flatten(), codebook_Q)
    ints, floats = _pack(rows, slots, stops, shown)
    numbers = (None,) if codebooks is None else tuple(codebooks)
    return WindowTensors(ints, floats, tuple(rows.logits.shape), tuple(rows.labels.shape), numbers)


def _pack(rows: SupervisedRows, slots: _Slots, stop_ids: Sequence[int], shown: WindowSettings) -> tuple[Tensor, Tensor]:
    """Cut both windows out of every series; see `WindowTensors`."""
    supervised = slots.labels != IGNORE_INDEX
    correct = supervised & (slots.predictions == slots.labels)
    is_stop = torch.zeros_like(supervised)
    for stop_id in stop_ids:
        is_stop |= slots.labels == stop_id
    window, length_Q = _window_slots(supervised, shown.window)
    counts = [supervised.sum(-1), correct.sum(-1), is_stop.sum(-1), length_Q]
    if slots.labels.shape[1] == 0:
        head = torch.stack([*counts, torch.ones_like(length_Q), torch.zeros_like(length_Q)], dim=-1)
        nothing = slots.nll_Q.new_zeros(len(slots.nll_Q), 1 + window.shape[1])
        ints = F.pad(head, (0, LISTS * window.shape[1]))
        return ints, torch.cat([slots.nll_Q[:, None], nothing], dim=-1)
    first_Q1 = window[:, :1]  # the first slot of the span; of an empty one, any masked slot: its shift is 1
    shift_Q = (slots.positions - slots.sources).gather(1, first_Q1)[:, 0]
    stop_rank_Q, stop_probability_Q = label_rank_and_probability(
        rows, _row_of_last_stop(slots, is_stop, rows), slots.codebook_Q
    )
    head = torch.stack([*counts, shift_Q, stop_rank_Q], dim=-1)
    ranks, probabilities = _standing_of_labels(rows, slots, window, shown)
    lists = [part.gather(1, window) for part in (slots.positions, slots.inputs, slots.labels, slots.predictions)]
    floats = [slots.nll_Q[:, None], stop_probability_Q[:, None], probabilities]
    return torch.cat([head, *lists, ranks], dim=-1), torch.cat(floats, dim=-1)


def _row_of_last_stop(slots: _Slots, is_stop_QL: Tensor, rows: SupervisedRows) -> Tensor:
    index_L = torch.arange(is_stop_QL.shape[1], device=is_stop_QL.device)
    last_Q1 = torch.where(is_stop_QL, index_L, 0).amax(-1, keepdim=True)
    return torch.where(is_stop_QL.any(-1), slots.rows.gather(1, last_Q1)[:, 0], len(rows.row))


def _standing_of_labels(
    rows: SupervisedRows, slots: _Slots, window: Tensor, shown: WindowSettings
) -> tuple[Tensor, Tensor]:
    """Find rank and probability of the labels of both windows: [Q, W] each; zeros without `shown.ranks`."""
    if not shown.ranks:
        return torch.zeros_like(window), torch.zeros(window.shape, device=window.device)
    codebooks = None if slots.codebook_Q is None else slots.codebook_Q[:, None].expand_as(window).flatten()
    ranks, probabilities = label_rank_and_probability(rows, slots.rows.gather(1, window).flatten(), codebooks)
    return ranks.view_as(window), probabilities.view_as(window)


def _window_slots(supervised_QL: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Choose the slots of both windows: indices [Q, 2 * window], and the length of each target span [Q].

    The first window is filled from its left, the last one from its right; what is beyond the span is clamped and
    left out where the events are made.
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
    packed = on_host(torch.cat([part.reshape(-1).view(torch.int32) for part in parts])).numpy()
    sizes = [part.numel() * part.element_size() // 4 for part in parts]
    pieces = np.split(packed, np.cumsum(sizes)[:-1])
    host_ints = [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, ints, strict=False)]
    host_floats = [
        piece.view(np.float64 if tensor.dtype == torch.float64 else np.float32).reshape(tensor.shape)
        for piece, tensor in zip(pieces[len(ints) :], floats, strict=True)
    ]
    return host_ints, host_floats


def on_host(packed: Tensor) -> Tensor:
    """Copy a tensor to the host: the one place where a due step waits for the device."""
    return packed.cpu()
