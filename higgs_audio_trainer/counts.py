"""What the checks need to know of a due step, counted on the device: one matrix of sums a micro-batch.

Sums of micro-batches and of ranks add up. What doesn't (the most frequent label) is counted on each rank for itself.

Shape suffixes: B batch, T slots, V text vocabulary, C codebook entries, K codebooks; G = 1 + K series: text, then each
codebook; R sums; N or M supervised rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from higgs_audio_trainer.data.batch import SampleRef, Vocabulary
from higgs_audio_trainer.events import IGNORE_INDEX, TokenCounts
from higgs_audio_trainer.frequencies import Frequencies
from higgs_audio_trainer.model import TrainingOutput
from higgs_audio_trainer.ranks import standing
from higgs_audio_trainer.slots import (
    ABSENT,
    NOWHERE,
    PLACES,
    Slots,
    at,
    lay_out,
    places,
    rows_of,
    scattered,
    strip_of,
    supervised,
)

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
        vocabulary: token ids.
        with_strip: keep the places of the first sample, to draw them.
    """

    def __init__(self, vocabulary: Vocabulary, *, with_strip: bool) -> None:
        self._vocabulary = vocabulary
        self._with_strip = with_strip
        self._strip: Tensor | None = None  # [S, G]
        self._repeats: list[Tensor] = []  # bool [B, G] of each micro-batch: whether the sample is constant
        self._ids: list[str] = []
        self._labels, self._predictions = Frequencies(), Frequencies()

    def observe(
        self,
        outputs: TrainingOutput,
        batch: Mapping[str, Tensor],
        predictions_1N: Tensor,
        predictions_KM: Tensor,
        refs: Sequence[SampleRef],
    ) -> Tensor:
        """Count one micro-batch: [R, G], in the widest float of the device. Nothing waits for the device.

        Args:
            outputs: what the model returned.
            batch: the tensors that it was given, and `regions`, int8 [B, S].
            predictions_1N: predictions of the text rows, int64 [1, N].
            predictions_KM: predictions of the audio rows, int64 [K, M].
            refs: names of the samples.
        """
        slots = lay_out(outputs, batch, predictions_1N, predictions_KM, self._vocabulary)
        is_stop_BTG = _is_stop(slots.labels, self._vocabulary)
        seen_BSG = supervised(outputs, batch)
        places_BSG = places(slots.tokens, batch["regions"], self._vocabulary)
        if self._with_strip and self._strip is None:
            is_stop_SG = _is_stop(slots.tokens[:1, :-1], self._vocabulary)[0]
            self._strip = places_BSG[0] + 16 * seen_BSG[0] + 32 * is_stop_SG
        self._repeats.append(_is_constant(slots)[: len(refs)])  # what follows only fills up a batch
        self._ids += [ref.id for ref in refs]
        text, audio = rows_of(outputs)
        self._labels.add(outputs, text.labels[None], audio.labels)
        self._predictions.add(outputs, predictions_1N, predictions_KM)
        shares = torch.cat([_of(outputs.text_loss).reshape(1), _of(outputs.audio_loss_K)])
        pad = (~batch["audio_input_ids_mask"]).sum()
        masked = _by_place(places_BSG, ~seen_BSG)
        masked[PLACES.index("padding"), 1:] += pad
        sums = [
            shares[None],
            _label_matches(slots),
            *_offsets(outputs, batch, slots),
            is_stop_BTG.sum((0, 1))[None],
            (is_stop_BTG & (slots.labels == slots.predictions)).sum((0, 1))[None],
            *_stops(outputs, batch, is_stop_BTG),
            masked,
            _by_place(places_BSG, seen_BSG),
        ]
        return torch.cat([part.to(_exact(part)) for part in sums])

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
        for series in range(num_series):
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
                num_targets=_whole(targets),
                num_correct=_whole(correct),
                divisor=_quotient(nll, rows["loss_share"][0]),
                masked=_named(rows["masked"]),
                supervised=_named(rows["supervised"]),
                label_matches=tuple(map(_whole, rows["label_matches"])),
                offset_contested=tuple(map(_whole, rows["offset_contested"])),
                offset_matches=tuple(map(_whole, rows["offset_matches"])),
                offset_correct=tuple(map(_whole, rows["offset_correct"])),
                offset_surplus=tuple(map(_short, rows["offset_surplus"])),
                stop_targets=_whole(rows["stop_targets"][0]),
                stop_correct=_whole(rows["stop_correct"][0]),
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


def _exact(part: Tensor) -> torch.dtype:
    return torch.float32 if part.device.type == "mps" else torch.float64


def _of(loss: Tensor | None) -> Tensor:
    assert loss is not None, "the model returns its losses"
    return loss


def _is_stop(tokens_BTG: Tensor, vocabulary: Vocabulary) -> Tensor:
    is_stop = tokens_BTG == vocabulary.stream_eos
    is_stop[..., 0] = False
    for token in vocabulary.text_stops:
        is_stop[..., 0] |= tokens_BTG[..., 0] == token
    return is_stop


def _label_matches(slots: Slots) -> Tensor:
    is_target = slots.labels != IGNORE_INDEX
    found = [is_target & (slots.labels == at(slots.tokens, offset, ABSENT)) for offset in MATCHED]
    return torch.stack([match.sum((0, 1)) for match in found])


def _offsets(outputs: TrainingOutput, batch: Mapping[str, Tensor], slots: Slots) -> Iterator[Tensor]:
    """Hold predictions against their rivals: contested, matches, correct and surplus, [5, G] each."""
    rivals = [at(slots.labels, offset, IGNORE_INDEX) for offset in RIVALS] + [at(slots.tokens, -1, ABSENT)]
    is_target, is_right = slots.labels != IGNORE_INDEX, slots.predictions == slots.labels
    held = [is_target & (rival >= 0) for rival in rivals]
    contested = [is_held & (rival != slots.labels) for is_held, rival in zip(held, rivals, strict=True)]
    matches = [which & (slots.predictions == rival) for which, rival in zip(contested, rivals, strict=True)]
    correct = [which & is_right for which in contested]
    for parts in (contested, matches, correct):
        yield torch.stack([part.sum((0, 1)) for part in parts])
    surplus = []
    for rival, is_held in zip(rivals, held, strict=True):
        expected_BTG = _probability(outputs, batch, rival, is_held)
        surplus.append((expected_BTG - (is_held & (rival == slots.labels)).to(expected_BTG.dtype)).sum((0, 1)))
    yield torch.stack(surplus)


def _probability(outputs: TrainingOutput, batch: Mapping[str, Tensor], tokens_BTG: Tensor, where: Tensor) -> Tensor:
    """Find the probability of a token in each slot: float [B, T, G], 0 elsewhere.

    log p(token) = logit(token) - logit(label) + log p(label), of which the last is known: no row is normalised anew.
    """
    text, audio = rows_of(outputs)
    tokens = tokens_BTG.clamp(min=0)
    text_N1 = tokens[text.batch_index, text.row + 1, 0][:, None]
    audio_MK1 = tokens[audio.batch_index, audio.row + 1, 1:][..., None]
    text_labels_N1 = text.labels.clamp(min=0)[:, None]
    audio_labels_MK1 = audio.labels.clamp(min=0).T[..., None]
    text_N = (text.logits.gather(-1, text_N1).float() - text.logits.gather(-1, text_labels_N1).float())[:, 0]
    audio_MK = (audio.logits.gather(-1, audio_MK1).float() - audio.logits.gather(-1, audio_labels_MK1).float())[..., 0]
    log_p = scattered(outputs, batch, (text_N - text.nll)[None], (audio_MK.T - audio.nll), 0, tokens_BTG.shape[1])
    return torch.exp(log_p).to(_exact(log_p)).masked_fill(~where, 0.0)


def _stops(outputs: TrainingOutput, batch: Mapping[str, Tensor], is_stop_BTG: Tensor) -> Iterator[Tensor]:
    """Find how the stop token stands at each sample's last label that is one: samples, ranks, probabilities, [1, G]."""
    ranks_BG, probabilities_BG = stop_standing(outputs, batch, is_stop_BTG)
    yield (ranks_BG > 0).sum(0)[None]
    yield ranks_BG.sum(0)[None]
    yield probabilities_BG.to(_exact(probabilities_BG)).sum(0)[None]


def stop_standing(outputs: TrainingOutput, batch: Mapping[str, Tensor], is_stop_BTG: Tensor) -> tuple[Tensor, Tensor]:
    """Find rank and probability of the last label of each sample that is a stop token.

    Args:
        outputs: what the model returned.
        batch: the tensors that it was given.
        is_stop_BTG: which labels are stop tokens, bool [B, T, G].

    Returns:
        Ranks, int64 [B, G], and probabilities, float32 [B, G]; 0 where there is no such label.
    """
    text, audio = rows_of(outputs)
    B, T, G = is_stop_BTG.shape
    device = is_stop_BTG.device
    slot_T1 = torch.arange(T, device=device)[:, None]
    last_BG = torch.where(is_stop_BTG, slot_T1, 0).amax(1)  # no row has its slot at 0
    text_rows = torch.arange(len(text.position), device=device)
    audio_rows = torch.arange(len(audio.position), device=device)
    beyond = max(len(text_rows), len(audio_rows))
    row_BTG = scattered(outputs, batch, text_rows[None], audio_rows.expand(G - 1, -1), beyond, T)
    row_BG = row_BTG.gather(1, last_BG[:, None])[:, 0]
    codebook_X = torch.arange(G - 1, device=device).expand(B, -1).flatten()
    text_rank_B, text_probability_B = standing(text, row_BG[:, 0])
    audio_rank_X, audio_probability_X = standing(audio, row_BG[:, 1:].flatten(), codebook_X)
    return (
        torch.cat([text_rank_B[:, None], audio_rank_X.view(B, -1)], dim=1),
        torch.cat([text_probability_B[:, None], audio_probability_X.view(B, -1)], dim=1),
    )


def _by_place(places_BSG: Tensor, which: Tensor) -> Tensor:
    """Count slots by place: [P, G]."""
    return torch.stack([((places_BSG == place) & which).sum((0, 1)) for place in range(NOWHERE)])


def _is_constant(slots: Slots) -> Tensor:
    """Tell which samples' labels are nearly all equal to the one before: bool [B, G]."""
    before = at(slots.labels, -1, IGNORE_INDEX)
    pairs = (slots.labels != IGNORE_INDEX) & (before != IGNORE_INDEX)
    repeats_BG, pairs_BG = (pairs & (slots.labels == before)).sum(1), pairs.sum(1)
    return (pairs_BG >= _FEWEST_REPEATS) & (repeats_BG >= _CONSTANT * pairs_BG)


def _whole(value: float) -> int:
    return 0 if np.isnan(value) else int(value)  # NaN: another rank's extraction failed


def _named(counts: npt.NDArray[Any]) -> dict[str, int]:
    return {name: _whole(count) for name, count in zip(PLACES, counts, strict=True) if _whole(count)}


def _quotient(whole: float, share: float) -> float | None:
    return _short(whole / share) if share and np.isfinite(whole) and np.isfinite(share) else None


def _mean(total: float, count: float) -> float | None:
    return _short(total / count) if count > 0 else None


def _short(value: float) -> float:
    """Cut off the digits that float32 does not have, for they make half of a line."""
    return float(f"{value:.6g}")


def _strip(packed_S: npt.NDArray[Any]) -> str:
    return strip_of([int(p) % 16 for p in packed_S], [bool(p & 16) for p in packed_S], [bool(p & 32) for p in packed_S])
