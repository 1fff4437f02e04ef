"""Token counts of a logged step for the diagnoses: one matrix of sums per micro-batch, computed on the device.

The sums of micro-batches and ranks add up. Frequencies, constant samples and the mask map stay local to each rank.

Shape suffixes: B batch, T slots, V text vocabulary, C codebook entries, K codebooks; G = 1 + K series: text, then each
codebook; P places; R sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX, TokenCounts
from higgs_audio_trainer.extraction.competing_tokens import NUM_COMPETING, competing_token_sums
from higgs_audio_trainer.extraction.loss_sums import count_or_zero, exact_dtype
from higgs_audio_trainer.extraction.mask_map import draw_mask_map, pack_slots, unpadded_length
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.slots import NO_SLOT, PLACES, Slots, lay_out, shifted, supervised_positions
from higgs_audio_trainer.extraction.stop_tokens import is_stop_token, stop_rank_and_probability
from higgs_audio_trainer.extraction.streams import ABSENT, Stream, empty_text_stream
from higgs_audio_trainer.extraction.token_frequencies import TokenFrequencies

_MATCH_OFFSETS = (-2, -1, 0, 1, 2)  # offsets of the sequence's tokens that labels are compared with
_MAX_CONSTANT_SAMPLES = 8
_CONSTANT_SHARE = 0.9  # share of labels equal to the preceding label, from which a sample is constant
_MIN_PAIRS = 8  # of neighbouring labels, below which no sample is constant

#: Rows of the matrix of sums: name and number of rows.
_ROWS: tuple[tuple[str, int], ...] = (
    ("loss_share", 1),
    ("label_matches", len(_MATCH_OFFSETS)),
    ("offset_contested", NUM_COMPETING),
    ("offset_matches", NUM_COMPETING),
    ("offset_correct", NUM_COMPETING),
    ("offset_surplus", NUM_COMPETING),
    ("stop_targets", 1),
    ("stop_correct", 1),
    ("stop_samples", 1),
    ("stop_rank", 1),
    ("stop_probability", 1),
    ("masked", len(PLACES)),
    ("supervised", len(PLACES)),
)
_BOUNDS = np.cumsum([size for _, size in _ROWS])[:-1]
NUM_SUMS = sum(size for _, size in _ROWS)


class TokenCounter:
    """Counter of one logged step.

    Args:
        with_mask_map: Draw the mask map of the first sample.
    """

    def __init__(self, *, with_mask_map: bool = False) -> None:
        self._with_mask_map = with_mask_map
        self._has_text = True
        self._first_sample: Tensor | None = None  # packed slots, int64 [S, G]
        self._is_constant: list[Tensor] = []  # bool [B, G] of each micro-batch
        self._ids: list[str] = []
        self._labels, self._predictions = TokenFrequencies(), TokenFrequencies()

    def observe(self, batch: MicroBatch) -> Tensor:
        """Return the sums of one micro-batch, [R, G], in the widest float of the device, without synchronisation."""
        streams = batch.streams
        self._has_text = streams[0].is_text
        if not self._has_text:
            streams = (empty_text_stream(streams[0]), *streams)
        slots = lay_out(streams)
        is_stop_BTG = is_stop_token(slots.labels, streams)
        self._is_constant.append(_is_constant(slots)[: len(batch.samples)])  # further samples only fill up the batch
        self._ids += [sample.id for sample in batch.samples]
        self._labels.add(streams, [stream.labels_KN for stream in streams])
        self._predictions.add(streams, [stream.predictions_KN for stream in streams])
        shares_G, masked_PG, supervised_PG = self._count_places(batch, streams, slots)
        rank_BG, probability_BG = stop_rank_and_probability(streams, is_stop_BTG)
        sums = [
            shares_G[None],
            _label_matches(streams, slots),
            *competing_token_sums(streams, slots),
            is_stop_BTG.sum((0, 1))[None],
            (is_stop_BTG & (slots.labels == slots.predictions)).sum((0, 1))[None],
            (rank_BG > 0).sum(0)[None],
            rank_BG.sum(0)[None],
            probability_BG.to(exact_dtype(probability_BG.device)).sum(0)[None],
            masked_PG,
            supervised_PG,
        ]
        return torch.cat([part.to(exact_dtype(part.device)) for part in sums])

    def _count_places(
        self, batch: MicroBatch, streams: Sequence[Stream], slots: Slots
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss shares [G], and masked and supervised slots by place, [P, G] each. Keep the first sample."""
        if batch.annotations is None:
            nothing = torch.zeros(len(PLACES), slots.labels.shape[-1], device=slots.labels.device)
            return nothing[0], nothing, nothing
        annotations = batch.annotations()
        places_BSG, is_supervised_BSG = annotations.places_BSG, supervised_positions(streams)
        if self._with_mask_map and self._first_sample is None:
            is_stop_SG = is_stop_token(slots.tokens[:1, :-1], streams)[0]
            self._first_sample = pack_slots(places_BSG[0], is_supervised_BSG[0], is_stop_SG)
        masked_PG = _count_by_place(places_BSG, ~is_supervised_BSG)
        masked_PG[PLACES.index("padding"), 1:] += annotations.num_padding_frames
        return annotations.loss_shares_G, masked_PG, _count_by_place(places_BSG, is_supervised_BSG)

    def local_tensors(self) -> list[Tensor]:
        """Return the tensors that stay local to this rank, to be copied to the host.

        Returns:
            Integers: constant samples [B, G] of all micro-batches, most frequent predictions [G] and, with a mask map,
            packed slots [S, G]. Last, floats [3, G]: shares of the most frequent prediction and of the most frequent
            label, and entropy of the labels.
        """
        top_G, top_share_G = self._predictions.top()
        shares_3G = torch.stack([top_share_G, self._labels.top()[1], self._labels.entropy()])
        packed = [] if self._first_sample is None else [self._first_sample]
        return [torch.cat(self._is_constant).long(), top_G, *packed, shares_3G]

    def events(
        self, step: int, base: npt.NDArray[Any], sums: npt.NDArray[Any], local: Sequence[npt.NDArray[Any]]
    ) -> Iterator[TokenCounts]:
        """Yield the event of each series of a step.

        Args:
            step: Optimizer step.
            base: Cross-entropies, correct predictions and targets over all ranks, [3, G].
            sums: Results of `observe`, summed over micro-batches and ranks, [R, G].
            local: Results of `local_tensors`, on the host.
        """
        constant_BG, top_G, *packed, shares_3G = local
        num_series = base.shape[1]
        length = unpadded_length(packed[0][:, 0].tolist()) if packed else 0
        for series in range(0 if self._has_text else 1, num_series):
            nll, correct, targets = base[:, series]
            rows = dict(zip((name for name, _ in _ROWS), np.split(sums[:, series], _BOUNDS), strict=True))
            top_share, label_share, entropy = shares_3G[:, series]
            has_targets = bool(targets)
            constant = [name for name, is_so in zip(self._ids, constant_BG[:, series], strict=False) if is_so]
            yield TokenCounts(
                step=step,
                modality="audio" if series else "text",
                codebook=series - 1 if series else None,
                num_codebooks=num_series - 1 if series else None,
                num_targets=count_or_zero(targets),
                num_correct=count_or_zero(correct),
                divisor=_divisor(nll, rows["loss_share"][0]),
                masked=_named(rows["masked"]),
                supervised=_named(rows["supervised"]),
                label_matches=tuple(map(count_or_zero, rows["label_matches"])),
                offset_contested=tuple(map(count_or_zero, rows["offset_contested"])),
                offset_matches=tuple(map(count_or_zero, rows["offset_matches"])),
                offset_correct=tuple(map(count_or_zero, rows["offset_correct"])),
                offset_surplus=tuple(map(_rounded, rows["offset_surplus"])),
                stop_targets=count_or_zero(rows["stop_targets"][0]),
                stop_correct=count_or_zero(rows["stop_correct"][0]),
                stop_rank=_mean(rows["stop_rank"][0], rows["stop_samples"][0]),
                stop_probability=_mean(rows["stop_probability"][0], rows["stop_samples"][0]),
                unigram_accuracy=_rounded(label_share) if has_targets else None,
                unigram_loss=_rounded(entropy) if has_targets else None,
                top_prediction=int(top_G[series]) if has_targets else None,
                top_prediction_share=_rounded(top_share) if has_targets else None,
                constant_samples=tuple(constant[:_MAX_CONSTANT_SAMPLES]),
                strip=draw_mask_map(packed[0][:length, series].tolist()) if packed else None,
            )


def _label_matches(streams: Sequence[Stream], slots: Slots) -> Tensor:
    """Return the number of labels equal to the sequence's token at each offset, [len(_MATCH_OFFSETS), G].

    Data that shift their labels never feed in the token of the last label. This label counts as equal at offset 0.
    """
    is_target = slots.labels != IGNORE_INDEX
    matches = [is_target & (slots.labels == shifted(slots.tokens, offset, ABSENT)) for offset in _MATCH_OFFSETS]
    if any(stream.shift == 0 for stream in streams):
        is_shifted = [is_target.new_full((len(stream.predictions_KN),), stream.shift == 0) for stream in streams]
        targets_from_here = is_target.flip(1).cumsum(1).flip(1)
        matches[_MATCH_OFFSETS.index(0)] |= is_target & (targets_from_here == 1) & torch.cat(is_shifted)
    return torch.stack([match.sum((0, 1)) for match in matches])


def _count_by_place(places_BSG: Tensor, which_BSG: Tensor) -> Tensor:
    """Return the number of selected slots by place, [P, G]."""
    counts = torch.zeros(NO_SLOT + 1, places_BSG.shape[-1], dtype=torch.long, device=places_BSG.device)
    return counts.scatter_add_(0, places_BSG.flatten(0, 1), which_BSG.flatten(0, 1).long())[:NO_SLOT]


def _is_constant(slots: Slots) -> Tensor:
    """Return True for samples whose labels are nearly all equal to the preceding label, bool [B, G]."""
    before = shifted(slots.labels, -1, IGNORE_INDEX)
    pairs = (slots.labels != IGNORE_INDEX) & (before != IGNORE_INDEX)
    repeats_BG, pairs_BG = (pairs & (slots.labels == before)).sum(1), pairs.sum(1)
    return (pairs_BG >= _MIN_PAIRS) & (repeats_BG >= _CONSTANT_SHARE * pairs_BG)


def _named(counts: npt.NDArray[Any]) -> dict[str, int]:
    return {name: number for name, count in zip(PLACES, counts, strict=True) if (number := count_or_zero(count))}


def _divisor(nll: float, share: float) -> float | None:
    return _rounded(nll / share) if share and np.isfinite(nll) and np.isfinite(share) else None


def _mean(total: float, count: float) -> float | None:
    return _rounded(total / count) if count > 0 else None


def _rounded(value: float) -> float:
    """Return a value without the digits that float32 lacks, because these digits would double the length of a line."""
    return float(f"{value:.6g}")
