"""What the checks need to know of a due step, counted on the device: one matrix of sums a micro-batch.

Sums of micro-batches and of ranks add up. What doesn't (the most frequent label) is counted on each rank for itself.

Shape suffixes: B batch, T slots, V text vocabulary, C codebook entries, K codebooks; G = 1 + K series: text, then each
codebook; R sums; N supervised rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX, TokenCounts
from higgs_audio_trainer.extraction.label_rank import label_rank_and_probability
from higgs_audio_trainer.extraction.loss_sums import count_or_zero, exact_dtype
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.slots import (
    NOWHERE,
    PLACES,
    Slots,
    at,
    lay_out,
    mask_map_of,
    scatter_to_slots,
    supervised,
)
from higgs_audio_trainer.extraction.streams import ABSENT, Stream, empty_text_stream
from higgs_audio_trainer.extraction.token_frequencies import TokenFrequencies

MATCHED = (-2, -1, 0, 1, 2)  # offsets at which labels are looked for in the sequence
RIVALS = (-2, -1, 1, 2)  # offsets of the labels that a prediction may be of instead; the fifth rival is the input
_NUM_RIVALS = len(RIVALS) + 1
_MOST_CONSTANT = 8  # names of constant samples
_CONSTANT = 0.9  # share of labels that are the one before
_FEWEST_REPEATS = 8

#: Rows of the matrix of sums: name and how many.
_ROWS: tuple[tuple[str, int], ...] = (
    ("loss_share", 1),
    ("label_matches", len(MATCHED)),
    ("offset_contested", _NUM_RIVALS),
    ("offset_matches", _NUM_RIVALS),
    ("offset_correct", _NUM_RIVALS),
    ("offset_surplus", _NUM_RIVALS),
    ("stop_targets", 1),
    ("stop_correct", 1),
    ("stop_samples", 1),
    ("stop_rank", 1),
    ("stop_probability", 1),
    ("masked", len(PLACES)),
    ("supervised", len(PLACES)),
)
NUM_SUMS = sum(size for _, size in _ROWS)


class TokenCounter:
    """Counts one due step.

    Args:
        with_strip: keep the places of the first sample, to draw them.
    """

    def __init__(self, *, with_mask_map: bool = False) -> None:
        self._with_strip = with_mask_map
        self._has_text = True
        self._strip: Tensor | None = None  # [S, G]
        self._repeats: list[Tensor] = []  # bool [B, G] of each micro-batch: whether the sample is constant
        self._ids: list[str] = []
        self._labels, self._predictions = TokenFrequencies(), TokenFrequencies()

    def observe(self, batch: MicroBatch) -> Tensor:
        """Count one micro-batch: [R, G], in the widest float of the device. Nothing waits for the device."""
        streams = batch.streams
        self._has_text = streams[0].is_text
        if not self._has_text:
            streams = (empty_text_stream(streams[0]), *streams)
        slots = lay_out(streams)
        is_stop_BTG = _is_stop(slots.labels, streams)
        self._repeats.append(_is_constant(slots)[: len(batch.samples)])  # what follows only fills up a batch
        self._ids += [sample.id for sample in batch.samples]
        self._labels.add(streams, [stream.labels_KN for stream in streams])
        self._predictions.add(streams, [stream.predictions_KN for stream in streams])
        shares, masked, seen = self._marked(batch, streams, slots)
        sums = [
            shares[None],
            _label_matches(slots),
            *_offsets(streams, slots),
            is_stop_BTG.sum((0, 1))[None],
            (is_stop_BTG & (slots.labels == slots.predictions)).sum((0, 1))[None],
            *_stops(streams, is_stop_BTG),
            masked,
            seen,
        ]
        return torch.cat([part.to(exact_dtype(part.device)) for part in sums])

    def _marked(self, batch: MicroBatch, streams: Sequence[Stream], slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
        """Count what is masked and supervised by place, and keep the strip: shares [G], and [P, G] twice."""
        if batch.annotations is None:
            nothing = torch.zeros(len(PLACES), slots.labels.shape[-1], device=slots.labels.device)
            return nothing[0], nothing, nothing
        annotations = batch.annotations()
        seen_BSG = supervised(streams)
        if self._with_strip and self._strip is None:
            is_stop_SG = _is_stop(slots.tokens[:1, :-1], streams)[0]
            self._strip = annotations.places_BSG[0] + 16 * seen_BSG[0] + 32 * is_stop_SG
        masked = _by_place(annotations.places_BSG, ~seen_BSG)
        masked[PLACES.index("padding"), 1:] += annotations.num_padding_frames
        return annotations.loss_shares_G, masked, _by_place(annotations.places_BSG, seen_BSG)

    def gathered(self) -> list[Tensor]:
        """Return what is counted on this rank for itself, to be brought to the host: integers and floats by turns.

        int64 [B, G] of all micro-batches, [G] most frequent predictions, [S, G] places; float [3, G].
        """
        top_G, top_share_G = self._predictions.top()
        shares_3G = torch.stack([top_share_G, self._labels.top()[1], self._labels.entropy()])
        strip = [] if self._strip is None else [self._strip]
        return [torch.cat(self._repeats).long(), top_G, *strip, shares_3G]

    def events(
        self, step: int, base: npt.NDArray[Any], sums: npt.NDArray[Any], own: Sequence[npt.NDArray[Any]]
    ) -> Iterator[TokenCounts]:
        """Make the events of a step.

        Args:
            step: optimizer step.
            base: nll, correct and targets over all ranks, [3, G].
            sums: what `observe` returned, added up over micro-batches and ranks, [R, G].
            own: what `gathered` returned.
        """
        constant_BG, top_G, *strip, shares = own
        num_series = base.shape[1]
        length = int((strip[0][:, 0] % 16 != PLACES.index("padding")).sum()) if strip else 0
        for series in range(0 if self._has_text else 1, num_series):
            nll, correct, targets = base[:, series]
            rows = dict(zip((name for name, _ in _ROWS), np.split(sums[:, series], _BOUNDS), strict=True))
            predicted, label, entropy = shares[:, series]
            has_targets = bool(targets)
            names = [name for name, constant in zip(self._ids, constant_BG[:, series], strict=False) if constant]
            yield TokenCounts(
                step=step,
                modality="audio" if series else "text",
                codebook=series - 1 if series else None,
                num_codebooks=num_series - 1 if series else None,
                num_targets=count_or_zero(targets),
                num_correct=count_or_zero(correct),
                divisor=_quotient(nll, rows["loss_share"][0]),
                masked=_named(rows["masked"]),
                supervised=_named(rows["supervised"]),
                label_matches=tuple(map(count_or_zero, rows["label_matches"])),
                offset_contested=tuple(map(count_or_zero, rows["offset_contested"])),
                offset_matches=tuple(map(count_or_zero, rows["offset_matches"])),
                offset_correct=tuple(map(count_or_zero, rows["offset_correct"])),
                offset_surplus=tuple(map(_short, rows["offset_surplus"])),
                stop_targets=count_or_zero(rows["stop_targets"][0]),
                stop_correct=count_or_zero(rows["stop_correct"][0]),
                stop_rank=_mean(rows["stop_rank"][0], rows["stop_samples"][0]),
                stop_probability=_mean(rows["stop_probability"][0], rows["stop_samples"][0]),
                unigram_accuracy=_short(label) if has_targets else None,
                unigram_loss=_short(entropy) if has_targets else None,
                top_prediction=int(top_G[series]) if has_targets else None,
                top_prediction_share=_short(predicted) if has_targets else None,
                constant_samples=tuple(names[:_MOST_CONSTANT]),
                strip=_strip(strip[0][:length, series]) if strip else None,
            )


_BOUNDS = np.cumsum([size for _, size in _ROWS])[:-1]


def _is_stop(tokens_BTG: Tensor, streams: Sequence[Stream]) -> Tensor:
    parts_BTK = tokens_BTG.split([len(stream.predictions_KN) for stream in streams], dim=-1)
    found = []
    for stream, part_BTK in zip(streams, parts_BTK, strict=True):
        is_stop_BTK = torch.zeros_like(part_BTK, dtype=torch.bool)
        for token in stream.stops:
            is_stop_BTK |= part_BTK == token
        found.append(is_stop_BTK)
    return torch.cat(found, dim=-1)


def _label_matches(slots: Slots) -> Tensor:
    is_target = slots.labels != IGNORE_INDEX
    found = [is_target & (slots.labels == at(slots.tokens, offset, ABSENT)) for offset in MATCHED]
    return torch.stack([match.sum((0, 1)) for match in found])


def _offsets(streams: Sequence[Stream], slots: Slots) -> Iterator[Tensor]:
    """Hold predictions against their rivals: contested, matches, correct and surplus, [5, G] each."""
    rivals = [at(slots.labels, offset, IGNORE_INDEX) for offset in RIVALS] + [at(slots.tokens, -1, ABSENT)]
    is_target, is_right = slots.labels != IGNORE_INDEX, slots.predictions == slots.labels
    sizes_G = _sizes(streams)
    held = [is_target & (rival >= 0) & (rival < sizes_G) for rival in rivals]  # what is fed in may be no output
    contested = [is_held & (rival != slots.labels) for is_held, rival in zip(held, rivals, strict=True)]
    matches = [which & (slots.predictions == rival) for which, rival in zip(contested, rivals, strict=True)]
    correct = [which & is_right for which in contested]
    for parts in (contested, matches, correct):
        yield torch.stack([part.sum((0, 1)) for part in parts])
    surplus = []
    for rival, is_held, p_BTG in zip(rivals, held, _probabilities(streams, rivals), strict=True):
        expected_BTG = p_BTG.to(exact_dtype(p_BTG.device)).masked_fill(~is_held, 0.0)
        surplus.append((expected_BTG - (is_held & (rival == slots.labels)).to(expected_BTG.dtype)).sum((0, 1)))
    yield torch.stack(surplus)


def _probabilities(streams: Sequence[Stream], tokens: Sequence[Tensor]) -> Iterator[Tensor]:
    """Find the probability of tokens in each slot, [B, T, G] each: float [B, T, G], 1 in slots without a row.

    log p(token) = logit(token) - logit(label) + log p(label), of which the last is known: no row is normalised anew.
    """
    size = tokens[0].shape[1]
    parts = [part.split([len(stream.predictions_KN) for stream in streams], dim=-1) for part in tokens]
    log_p = [_log_p(stream, [part[index] for part in parts]) for index, stream in enumerate(streams)]
    for number in range(len(tokens)):
        yield torch.exp(scatter_to_slots(streams, [of_stream[number] for of_stream in log_p], 0, size))


def _sizes(streams: Sequence[Stream]) -> Tensor:
    """Count the tokens that each series may predict: int64 [G]."""
    sizes = [stream.rows.logits.shape[-1] for stream in streams for _ in stream.predictions_KN]
    device = streams[0].inputs_BSK.device
    return torch.tensor(sizes).to(device, non_blocking=True)


def _log_p(stream: Stream, tokens_BTK: Sequence[Tensor]) -> list[Tensor]:
    """Find the log probabilities of tokens in the rows' slots: float32 [K, N] each."""
    rows = stream.rows
    asked_KNR = torch.stack([part[rows.batch_index, rows.row + 1].T for part in tokens_BTK], dim=-1)
    index_KNR = torch.cat([asked_KNR, stream.labels_KN[..., None]], dim=-1).clamp(0, rows.logits.shape[-1] - 1)
    if stream.is_text:
        logits_KNR = rows.logits.gather(-1, index_KNR[0])[None].float()
    else:
        logits_KNR = rows.logits.gather(-1, index_KNR.transpose(0, 1)).transpose(0, 1).float()
    log_p_KNR = logits_KNR[..., :-1] - logits_KNR[..., -1:] - stream.nll_KN[..., None]
    return list(log_p_KNR.unbind(-1))


def _stops(streams: Sequence[Stream], is_stop_BTG: Tensor) -> Iterator[Tensor]:
    """Find how the stop token stands at each sample's last label that is one: samples, ranks, probabilities, [1, G]."""
    ranks_BG, probabilities_BG = stop_rank_and_probability(streams, is_stop_BTG)
    yield (ranks_BG > 0).sum(0)[None]
    yield ranks_BG.sum(0)[None]
    yield probabilities_BG.to(exact_dtype(probabilities_BG.device)).sum(0)[None]


def stop_rank_and_probability(streams: Sequence[Stream], is_stop_BTG: Tensor) -> tuple[Tensor, Tensor]:
    """Find rank and probability of the last label of each sample that is a stop token.

    Args:
        streams: of the batch.
        is_stop_BTG: which labels are stop tokens, bool [B, T, G].

    Returns:
        Ranks, int64 [B, G], and probabilities, float32 [B, G]; 0 where there is no such label.
    """
    B, T, _ = is_stop_BTG.shape
    device = is_stop_BTG.device
    slot_T1 = torch.arange(T, device=device)[:, None]
    last_BG = torch.where(is_stop_BTG, slot_T1, 0).amax(1)  # no row has its slot at 0
    numbers = [torch.arange(len(stream.rows.row), device=device) for stream in streams]
    beyond = max(map(len, numbers))
    own_KN = [number.expand(len(stream.predictions_KN), -1) for stream, number in zip(streams, numbers, strict=True)]
    row_BTG = scatter_to_slots(streams, own_KN, beyond, T)
    row_BG = row_BTG.gather(1, last_BG[:, None])[:, 0]
    ranks, probabilities = [], []
    for stream, row_BK in zip(streams, row_BG.split([len(part) for part in own_KN], dim=-1), strict=True):
        K = row_BK.shape[1]
        codebook_X = None if stream.is_text else torch.arange(K, device=device).expand(B, -1).flatten()
        rank_X, probability_X = label_rank_and_probability(stream.rows, row_BK.flatten(), codebook_X)
        ranks.append(rank_X.view(B, K))
        probabilities.append(probability_X.view(B, K))
    return torch.cat(ranks, dim=1), torch.cat(probabilities, dim=1)


def _by_place(places_BSG: Tensor, which: Tensor) -> Tensor:
    """Count slots by place: [P, G]."""
    return torch.stack([((places_BSG == place) & which).sum((0, 1)) for place in range(NOWHERE)])


def _is_constant(slots: Slots) -> Tensor:
    """Tell which samples' labels are nearly all equal to the one before: bool [B, G]."""
    before = at(slots.labels, -1, IGNORE_INDEX)
    pairs = (slots.labels != IGNORE_INDEX) & (before != IGNORE_INDEX)
    repeats_BG, pairs_BG = (pairs & (slots.labels == before)).sum(1), pairs.sum(1)
    return (pairs_BG >= _FEWEST_REPEATS) & (repeats_BG >= _CONSTANT * pairs_BG)


def _named(counts: npt.NDArray[Any]) -> dict[str, int]:
    return {name: count_or_zero(count) for name, count in zip(PLACES, counts, strict=True) if count_or_zero(count)}


def _quotient(whole: float, share: float) -> float | None:
    return _short(whole / share) if share and np.isfinite(whole) and np.isfinite(share) else None


def _mean(total: float, count: float) -> float | None:
    return _short(total / count) if count > 0 else None


def _short(value: float) -> float:
    """Cut off the digits that float32 does not have, for they make half of a line."""
    return float(f"{value:.6g}")


def _strip(packed_S: npt.NDArray[Any]) -> str:
    return mask_map_of(
        [int(p) % 16 for p in packed_S], [bool(p & 16) for p in packed_S], [bool(p & 32) for p in packed_S]
    )
