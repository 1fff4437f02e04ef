"""First and last slots of the shown samples, cut out of the batch on the device without a host synchronisation.

A series is the text, or one codebook of the audio, of one sample; one series becomes one `prediction_sample` event. A
slot is a position with label, prediction and input. The target span of a series runs from the first to the last
supervised slot, and the two windows are the ends of the span.

Shape suffixes: B batch, S token sequence, K codebooks; P samples shown, Q series shown, L slots of a series, W slots of
both windows; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.label_rank import label_rank_and_probability
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.streams import ABSENT, Stream

NUM_HEAD_VALUES = 6  # num_targets, num_correct, stop_targets, span length, shift, stop_rank; the windows follow
NUM_SLOT_LISTS = 5  # of the windows: positions, inputs, labels, predictions, label ranks

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Selection of the samples, slots and codebooks that a logged step shows.

    Attributes:
        samples: Number of samples, from the first sample of the micro-batch.
        window: Slots at each end of the target span.
        codebooks: Codebooks of the audio, counted from 0. Codebooks that the model lacks are skipped.
        decode: Function from text token ids to text; None for events without texts.
        ranks: Add rank and probability of each label.
        empty_texts: Show texts without a target. A training that masks all texts leaves them out.

    Example:
        >>> WindowSettings(samples=2, window=5, codebooks=(0,), decode=None).ranks
        False
    """

    samples: int
    window: int
    codebooks: tuple[int, ...]
    decode: Decode | None
    ranks: bool = False
    empty_texts: bool = True


@dataclass(frozen=True, slots=True)
class WindowTensors:
    """Windows of all shown series of one modality, on the device.

    Attributes:
        ints_QX: int64 [Q, NUM_HEAD_VALUES + NUM_SLOT_LISTS * W]: num_targets, num_correct, stop_targets, span length,
            shift and stop_rank; then W positions, W inputs, W labels, W predictions and W ranks.
        floats_QY: float32 [Q, 2 + W]: sum of the cross-entropies of the series' targets, probability of the stop token,
            then W label probabilities.
        logits_shape: Shape of the logits that the loss saw, at the supervised rows.
        labels_shape: Shape of the labels that the loss saw, at the supervised rows.
        codebooks: Codebook of each series of a sample, in order; (None,) for text.
    """

    ints_QX: Tensor
    floats_QY: Tensor
    logits_shape: tuple[int, ...]
    labels_shape: tuple[int, ...]
    codebooks: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class _SeriesSlots:
    """All slots of all shown series of one modality.

    Attributes:
        positions: Position of each slot, int64 [Q, L].
        inputs: Input token of the row of each slot, int64 [Q, L].
        labels: Label of each slot, int64 [Q, L].
        predictions: Prediction for each slot, int64 [Q, L].
        row_positions: Position of the row that predicts each slot, int64 [Q, L].
        row_numbers: Number of that row among the supervised rows, int64 [Q, L].
        nll_Q: Sum of the cross-entropies of each series, float32 [Q].
        codebook_Q: Codebook of each series, int64 [Q]; None for text.
    """

    positions: Tensor
    inputs: Tensor
    labels: Tensor
    predictions: Tensor
    row_positions: Tensor
    row_numbers: Tensor
    nll_Q: Tensor
    codebook_Q: Tensor | None


def cut_windows(stream: Stream, count: int, settings: WindowSettings) -> WindowTensors:
    """Return the windows of the first samples of a modality, ordered by sample, then codebook.

    The slots of a series are the positions with an input token of the modality.

    Args:
        stream: Modality of the micro-batch.
        count: Number of samples, P.
        settings: Selection of slots and codebooks.
    """
    rows, labels_BSK, inputs_BSK = stream.rows, stream.labels_BSK, stream.inputs_BSK
    row_PS = _row_numbers(rows, labels_BSK.shape[:2])[:count]
    is_slot_PS = (inputs_BSK[:count] != ABSENT).any(dim=-1)
    # Slots first, in order: positions between the clips of a sample are no slots of the audio.
    positions_PS = torch.argsort((~is_slot_PS).to(torch.uint8), dim=-1, stable=True)
    row_PS = row_PS.gather(1, positions_PS)
    # A masked slot has no row: the position that would predict the slot stands in.
    row_position_PS = torch.where(row_PS < len(rows.row), _padded(rows.row, 0)[row_PS], positions_PS - stream.shift)
    predictions, nll = _padded(stream.predictions_KN, ABSENT), _padded(stream.nll_KN, 0)
    codebooks = None if stream.is_text else [k for k in settings.codebooks if k < len(stream.predictions_KN)]
    chosen = []
    for k in (0,) if codebooks is None else codebooks:
        labels_PS = labels_BSK[:count, :, k].gather(1, positions_PS)
        labels_PS = labels_PS.masked_fill(positions_PS < stream.shift, IGNORE_INDEX)  # no row precedes these slots
        inputs_PS = inputs_BSK[:count, :, k].gather(1, row_position_PS.clamp(min=0))
        inputs_PS = inputs_PS.masked_fill(row_position_PS < 0, ABSENT)
        chosen.append((inputs_PS, labels_PS, predictions[k, row_PS], nll[k, row_PS].sum(-1)))
    slots = _stack_codebooks((positions_PS, row_position_PS, row_PS), chosen, codebooks)
    ints, floats = _pack(rows, slots, stream.stops, settings)
    numbers = (None,) if codebooks is None else tuple(codebooks)
    return WindowTensors(ints, floats, tuple(rows.logits.shape), tuple(rows.labels.shape), numbers)


def _row_numbers(rows: SupervisedRows, shape: torch.Size) -> Tensor:
    """Return the number of the supervised row that predicts each position, int64 [B, S]; N without such a row."""
    num_rows = rows.position.shape[0]
    row_BS = torch.full(shape, num_rows, dtype=torch.long, device=rows.position.device)
    row_BS[rows.batch_index, rows.position] = torch.arange(num_rows, device=rows.position.device)
    return row_BS


def _padded(values_KN: Tensor, padding: int) -> Tensor:
    """Return values with one more column, the value of positions without a supervised row."""
    return F.pad(values_KN, (0, 1), value=padding)


def _stack_codebooks(
    shared: tuple[Tensor, Tensor, Tensor],
    chosen: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    codebooks: Sequence[int] | None,
) -> _SeriesSlots:
    """Return the slots of all series: the codebooks of the first sample, then of the second sample, and so on.

    Args:
        shared: Positions, row positions and row numbers of the slots, equal in all codebooks, int64 [P, L] each.
        chosen: Inputs, labels and predictions of each codebook, int64 [P, L] each, and sums of the cross-entropies,
            float32 [P].
        codebooks: Numbers of the codebooks; None for text.
    """
    inputs, labels, predicted, nll_PC = (torch.stack(list(parts), dim=1) for parts in zip(*chosen, strict=True))
    positions, row_positions, row_numbers = (part[:, None].expand_as(labels).flatten(0, 1) for part in shared)
    inputs, labels, predicted = (part.flatten(0, 1) for part in (inputs, labels, predicted))
    codebook_Q = None
    if codebooks is not None:
        numbers = [labels.new_full((len(nll_PC),), codebook) for codebook in codebooks]
        codebook_Q = torch.stack(numbers, dim=1).flatten()
    return _SeriesSlots(positions, inputs, labels, predicted, row_positions, row_numbers, nll_PC.flatten(), codebook_Q)


def _pack(
    rows: SupervisedRows, slots: _SeriesSlots, stop_ids: Sequence[int], settings: WindowSettings
) -> tuple[Tensor, Tensor]:
    """Return both windows of every series as `WindowTensors.ints_QX` and `WindowTensors.floats_QY`."""
    supervised = slots.labels != IGNORE_INDEX
    correct = supervised & (slots.predictions == slots.labels)
    is_stop = torch.zeros_like(supervised)
    for stop_id in stop_ids:
        is_stop |= slots.labels == stop_id
    window, length_Q = _window_slots(supervised, settings.window)
    counts = [supervised.sum(-1), correct.sum(-1), is_stop.sum(-1), length_Q]
    if slots.labels.shape[1] == 0:
        head = torch.stack([*counts, torch.ones_like(length_Q), torch.zeros_like(length_Q)], dim=-1)
        nothing = slots.nll_Q.new_zeros(len(slots.nll_Q), 1 + window.shape[1])
        ints = F.pad(head, (0, NUM_SLOT_LISTS * window.shape[1]))
        return ints, torch.cat([slots.nll_Q[:, None], nothing], dim=-1)
    first_Q1 = window[:, :1]  # first slot of the span; for an empty span any masked slot, whose shift is 1
    shift_Q = (slots.positions - slots.row_positions).gather(1, first_Q1)[:, 0]
    stop_rank_Q, stop_probability_Q = label_rank_and_probability(
        rows, _row_of_last_stop(slots, is_stop, len(rows.row)), slots.codebook_Q
    )
    head = torch.stack([*counts, shift_Q, stop_rank_Q], dim=-1)
    if settings.ranks:
        ranks, probabilities = _label_ranks(rows, slots, window)
    else:
        ranks, probabilities = torch.zeros_like(window), torch.zeros(window.shape, device=window.device)
    lists = [part.gather(1, window) for part in (slots.positions, slots.inputs, slots.labels, slots.predictions)]
    floats = [slots.nll_Q[:, None], stop_probability_Q[:, None], probabilities]
    return torch.cat([head, *lists, ranks], dim=-1), torch.cat(floats, dim=-1)


def _row_of_last_stop(slots: _SeriesSlots, is_stop_QL: Tensor, num_rows: int) -> Tensor:
    """Return the row number of the last stop label of each series, int64 [Q]; `num_rows` without a stop label."""
    index_L = torch.arange(is_stop_QL.shape[1], device=is_stop_QL.device)
    last_Q1 = torch.where(is_stop_QL, index_L, 0).amax(-1, keepdim=True)
    return torch.where(is_stop_QL.any(-1), slots.row_numbers.gather(1, last_Q1)[:, 0], num_rows)


def _label_ranks(rows: SupervisedRows, slots: _SeriesSlots, window: Tensor) -> tuple[Tensor, Tensor]:
    """Return rank and probability of the labels of both windows, int64 and float32 [Q, W]."""
    codebooks = None if slots.codebook_Q is None else slots.codebook_Q[:, None].expand_as(window).flatten()
    ranks, probabilities = label_rank_and_probability(rows, slots.row_numbers.gather(1, window).flatten(), codebooks)
    return ranks.view_as(window), probabilities.view_as(window)


def _window_slots(supervised_QL: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the slot indices of both windows, int64 [Q, 2 * window], and the length of each target span, int64 [Q].

    The first window is filled from the left, the last window from the right. Indices beyond the span are clamped, and
    `prediction_samples` drops these entries.
    """
    device, size = supervised_QL.device, supervised_QL.shape[1]
    index_L = torch.arange(size, device=device)
    # One more slot, never supervised: an empty series has extremes too.
    begin_Q = F.pad(torch.where(supervised_QL, index_L, size), (0, 1), value=size).amin(-1, keepdim=True)
    end_Q = F.pad(torch.where(supervised_QL, index_L + 1, 0), (0, 1), value=0).amax(-1, keepdim=True)
    ahead = torch.arange(window, device=device)
    slots = torch.cat([begin_Q + ahead, end_Q - window + ahead], dim=-1).clamp(0, max(size - 1, 0))
    return slots, (end_Q - begin_Q).clamp(min=0).squeeze(-1)
