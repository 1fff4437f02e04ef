"""Token counts against a reference that loops over slots, and on outputs with a known answer."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from higgs_audio_trainer.adapters.adapter import supervised_rows
from higgs_audio_trainer.adapters.logits import MadeLogits
from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX, TokenCounts
from higgs_audio_trainer.extraction.extraction import Extraction
from higgs_audio_trainer.extraction.micro_batch import MicroBatch
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings
from tests.ragged import (
    AUDIO,
    BOS,
    DELAY,
    EOS,
    PAD,
    READ,
    STOP,
    C,
    K,
    V,
    outputs_of,
    pad,
    predicting,
    ragged_batch,
)

SHOWN = WindowSettings(samples=1, window=2, codebooks=(0,), decode=None)
CPU = torch.device("cpu")
FLOATS = {"offset_surplus", "stop_probability", "stop_rank", "unigram_loss", "unigram_accuracy", "top_prediction_share"}


def count(*observed, with_mask_map=False):
    """Observe micro-batches, pairs of batch and outputs, and return the counts: text, then each codebook."""
    extraction = Extraction("train", SHOWN, TokenCounter(with_mask_map=with_mask_map))
    for batch, outputs in observed:
        extraction.observe(READ(outputs, batch, [SampleRef(f"id{b}", f"f{b}") for b in range(len(batch["labels"]))]))
    return extraction.finish(extraction.sums(K, CPU), step=1, epoch=0.0).counts


def slots_of(batch, outputs, b, series):
    """List one sample's tokens by position, and its slots: (slot, label, probabilities), slot by slot."""
    ids = batch["input_ids"][b].tolist()
    if series == 0:
        tokens = dict(enumerate(ids))
        rows, labels, logits = outputs.text, outputs.text.labels, outputs.text.logits
    else:
        places = [p for p, token in enumerate(ids) if token in (AUDIO, DELAY)]
        tokens = dict(zip(places, batch["audio_input_ids"][b, :, series - 1].tolist(), strict=False))
        rows, labels, logits = outputs.audio, outputs.audio.labels[series - 1], outputs.audio.logits[:, series - 1]
    slots = {
        row + 1: (label, torch.softmax(values, -1).tolist())
        for owner, row, label, values in zip(
            rows.batch_index.tolist(), rows.row.tolist(), labels.tolist(), logits, strict=True
        )
        if owner == b and label != IGNORE_INDEX
    }
    return tokens, slots


def reference(observed, series):
    """Count every field of `TokenCounts` by loops."""
    matches, slots_with_competitor, copies, correct_there, surplus = [0] * 5, [0] * 5, [0] * 5, [0] * 5, [0.0] * 5
    labels, predictions, ranks, probabilities, targets, correct = Counter(), Counter(), [], [], 0, 0
    stops = (STOP,) if series == 0 else (EOS,)
    stop_targets = stop_correct = 0
    for batch, outputs in observed:
        for b in range(len(batch["labels"])):
            tokens, slots = slots_of(batch, outputs, b, series)
            last_stop = None
            for slot, (label, p) in sorted(slots.items()):
                said = int(np.argmax(p))
                labels[label] += 1
                predictions[said] += 1
                targets += 1
                correct += said == label
                for index, offset in enumerate((-2, -1, 0, 1, 2)):
                    matches[index] += tokens.get(slot + offset) == label
                others = [slots.get(slot + offset, (None,))[0] for offset in (-2, -1, 1, 2)] + [tokens.get(slot - 1)]
                for index, other in enumerate(others):
                    if other is not None:
                        surplus[index] += p[other] - (other == label)
                        slots_with_competitor[index] += other != label
                        copies[index] += other != label and said == other
                        correct_there[index] += other != label and said == label
                if label in stops:
                    stop_targets += 1
                    stop_correct += said == label
                    last_stop = (1 + sum(q > p[label] for q in p), p[label])
            if last_stop:
                ranks.append(last_stop[0])
                probabilities.append(last_stop[1])
    total = sum(labels.values())
    return {
        "num_targets": targets,
        "num_correct": correct,
        "label_matches": matches,
        "offset_contested": slots_with_competitor,
        "offset_matches": copies,
        "offset_correct": correct_there,
        "offset_surplus": surplus,
        "stop_targets": stop_targets,
        "stop_correct": stop_correct,
        "stop_rank": sum(ranks) / len(ranks) if ranks else None,
        "stop_probability": sum(probabilities) / len(ranks) if ranks else None,
        "unigram_accuracy": max(labels.values()) / total if total else None,
        "unigram_loss": -sum(n / total * math.log(n / total) for n in labels.values()) if total else None,
        "top_prediction_share": max(predictions.values()) / total if total else None,
    }


@pytest.mark.parametrize("seed", range(30))
def test_equals_a_slow_reference(seed):
    """On random ragged batches, of one or two micro-batches, every count equals the result of loops over slots."""
    observed = []
    for number in range(1 + seed % 2):
        batch = ragged_batch(100 * seed + number)
        torch.manual_seed(seed)
        B, S = batch["input_ids"].shape
        observed.append((batch, outputs_of(batch, 3 * torch.randn(B, S, V), 3 * torch.randn(B, S, K, C))))
    for series, got in enumerate(count(*observed)):
        for name, expected in reference(observed, series).items():
            value = getattr(got, name)
            assert value == (expected if expected is None else pytest.approx(expected, rel=1e-4, abs=1e-4)), name
        assert got.codebook == (series - 1 if series else None)
        assert sum(got.supervised.values()) == got.num_targets


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("modalities", [("text",), ("audio",), ("text", "audio")])
def test_foreign_logits_are_counted_alike(seed, modalities):
    """Logits of all positions, read by an adapter, give the same counts, except places and the divisor."""
    batch = ragged_batch(seed)
    torch.manual_seed(seed)
    B, S = batch["input_ids"].shape
    text_BSV, audio_BSKC = 3 * torch.randn(B, S, V), 3 * torch.randn(B, S, K, C)
    streams = READ(outputs_of(batch, text_BSV, audio_BSKC), batch, []).streams
    logits = {"text": MadeLogits(text_BSV.unsqueeze(2)), "audio": MadeLogits(audio_BSKC)}

    def read():
        for stream in streams:
            if stream.modality in modalities:
                rows, predictions = supervised_rows(logits[stream.modality], stream.labels_BSK, 1, stream.modality)
                yield replace(stream, rows=rows, predictions_KN=predictions)

    foreign = Extraction("train", SHOWN, TokenCounter())
    foreign.observe(MicroBatch(list(read()), [SampleRef(f"id{b}", f"f{b}") for b in range(B)]))
    num_codebooks = K if "audio" in modalities else 0
    found = foreign.finish(foreign.sums(num_codebooks, CPU), step=1, epoch=0.0).counts
    expected = [
        replace(counts, masked={}, supervised={}, divisor=None)
        for counts in count((batch, outputs_of(batch, text_BSV, audio_BSKC)))
        if counts.modality in modalities
    ]
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        for name in TokenCounts.__slots__:
            value = getattr(wanted, name)
            value = pytest.approx(value, rel=1e-4, abs=1e-4) if name in FLOATS and value is not None else value
            assert getattr(got, name) == value, name


def test_the_divisor_is_measured():
    """The divisor is the sum of cross-entropies divided by the model's loss, for any divisor passed to the model."""
    batch = ragged_batch(5)
    B, S = batch["input_ids"].shape
    torch.manual_seed(0)
    outputs = outputs_of(batch, torch.randn(B, S, V), torch.randn(B, S, K, C))
    right = count((batch, outputs))
    assert [part.divisor for part in right] == [pytest.approx(part.num_targets, rel=1e-4) for part in right]
    outputs.audio_loss_K = outputs.audio_loss_K / 4
    wrong = count((batch, outputs))
    assert [part.divisor for part in wrong[1:]] == [pytest.approx(4 * part.num_targets, rel=1e-4) for part in wrong[1:]]


def clip(*, frames=4, supervised=True):
    """Make a sample with one delayed clip: text, a reference or learned clip in K codebooks, text."""
    length = frames + K + 1
    codes = [[BOS if f <= k else EOS if f > k + frames else (5 * f + k) % 17 for k in range(K)] for f in range(length)]
    codes_labels = [
        [codes[f][k] if supervised and k < f <= k + frames + 1 else IGNORE_INDEX for k in range(K)]
        for f in range(length)
    ]
    ids = [1, 2, 3, *[AUDIO] * length, 4, STOP]
    labels = [IGNORE_INDEX] * (len(ids) - 2) + ([4, STOP] if supervised else [IGNORE_INDEX] * 2)
    regions = [Region.PROMPT] * 3 + [Region.SPEECH if supervised else Region.REFERENCE] * length
    regions += [Region.RESPONSE if supervised else Region.PROMPT] * 2
    return (ids, labels, codes, codes_labels), regions


def batch_of(*clips):
    """Stack clips, each one sample, and their regions."""
    batch = pad([rows for rows, _ in clips])
    batch["regions"] = torch.zeros_like(batch["input_ids"], dtype=torch.int8)
    for b, (_, regions) in enumerate(clips):
        batch["regions"][b, : len(regions)] = torch.tensor(regions, dtype=torch.int8)
    return batch


def test_slots_are_counted_by_place():
    """Training targets alone are supervised; every other slot is masked under the correct reason."""
    batch = batch_of(clip(frames=4), clip(frames=2, supervised=False))
    text, *codebooks = count((batch, predicting(batch, 0)))
    assert text.supervised == {"response": 2}
    assert text.masked == {"prompt": 8, "placeholder": 14, "padding": 2}
    for k, counts in enumerate(codebooks):
        assert counts.supervised == {"codes": 4, "stop": 1}
        expected = {"stream_bos": 1, "delay_prefix": k, "eos_fill": K - 1 - k, "reference_audio": 6, "padding": 2}
        assert counts.masked == {name: number for name, number in expected.items() if number}


def test_what_should_not_be_supervised_is_counted_at_its_place():
    """Labels in the prompt, labels in a reference clip and a masked stop token are counted under these names."""
    batch = batch_of(clip(), clip(supervised=False))
    batch["labels"][0, 1] = 2
    batch["audio_labels"][1, 2, 0] = batch["audio_input_ids"][1, 2, 0]
    batch["audio_labels"][0][batch["audio_labels"][0] == EOS] = IGNORE_INDEX
    text, first, *_ = count((batch, predicting(batch, 0)))
    assert text.supervised == {"prompt": 1, "response": 2}
    assert first.supervised == {"codes": 4, "reference_audio": 1}
    assert first.masked["stop"] == 1
    assert first.stop_targets == 0


def test_the_first_sample_is_drawn():
    """A mask map has one sign per slot, at the same positions in text and each codebook; later steps have no map."""
    batch = batch_of(clip(frames=4), clip(frames=9))
    assert PAD in batch["input_ids"][0]
    text, *codebooks = count((batch, predicting(batch, 0)), with_mask_map=True)
    assert text.strip == "3p 8_ 1# 1E"
    assert [counts.strip for counts in codebooks] == [
        "3- 1B 4# 1E 2e 2-",
        "3- 1B 1d 4# 1E 1e 2-",
        "3- 1B 2d 4# 1E 2-",
    ]
    assert count((batch, predicting(batch, 0)))[0].strip is None


def test_a_row_that_is_compared_with_its_own_input_shows():
    """If row p is compared with label p, every label equals the row's input, at offset -1 from the slot."""
    batch = batch_of(clip(frames=12))
    outputs = predicting(batch, 0)
    for rows in (outputs.text, outputs.audio):
        rows.row = rows.row + 1
    for counts in count((batch, outputs)):
        assert counts.label_matches[1] == counts.num_targets
        assert counts.label_matches[2] <= 1  # the stop, which the EOS fill repeats
        assert counts.offset_contested[4] == 0


@pytest.mark.parametrize("shift", [-1, 1])
def test_predictions_of_a_neighbour_are_counted_at_its_offset(shift):
    """A confident model that predicts the neighbouring label has an excess probability of 1 per differing slot."""
    batch = batch_of(clip(frames=30))
    counts = count((batch, predicting(batch, shift)))[1]
    index = {-1: 1, 1: 2}[shift]
    assert counts.offset_matches[index] == counts.offset_contested[index] > 20
    assert counts.offset_correct[index] == 0
    assert counts.offset_surplus[index] == pytest.approx(counts.offset_contested[index], rel=0.01)


def test_a_constant_clip_is_named():
    """A clip of one repeated code is constant; a clip with varying codes is not."""
    silent, regions = clip(frames=20)
    ids, labels, codes, code_labels = silent
    codes, code_labels = (
        [[7 if 0 <= code < BOS else code for code in column] for column in columns] for columns in (codes, code_labels)
    )
    batch = batch_of(clip(frames=20), ((ids, labels, codes, code_labels), regions))
    text, *codebooks = count((batch, predicting(batch, 0)))
    assert text.constant_samples == ()
    assert {counts.constant_samples for counts in codebooks} == {("id1",)}


def test_nan_logits_are_counted():
    """NaN logits leave the counts correct; all other values are NaN or null."""
    batch = batch_of(clip())
    B, S = batch["input_ids"].shape
    outputs = outputs_of(batch, torch.full((B, S, V), math.nan), torch.full((B, S, K, C), math.nan))
    for counts in count((batch, outputs)):
        assert counts.divisor is None
        assert counts.label_matches[2] == counts.num_targets
        assert all(map(math.isnan, counts.offset_surplus[1:2]))


def test_a_batch_without_targets_is_counted():
    """A batch without labels or without audio gives zeros and nulls, and no error."""
    batch = pad([([1, 2, 3], [IGNORE_INDEX] * 3, [], [])])
    B, S = batch["input_ids"].shape
    for counts in count((batch, outputs_of(batch, torch.zeros(B, S, V), torch.zeros(B, S, K, C))), with_mask_map=True):
        assert (counts.num_targets, counts.divisor, counts.stop_rank, counts.top_prediction) == (0, None, None, None)
        assert counts.label_matches == (0,) * 5


def test_a_failed_extraction_keeps_the_shape_of_the_collective():
    """All ranks add up matrices of one shape, also a rank that failed or saw no batch."""
    failed = Extraction("train", SHOWN, TokenCounter())
    failed.failed = True
    whole = Extraction("train", None, TokenCounter())
    batch = batch_of(clip())
    whole.observe(READ(predicting(batch, 0), batch, []))
    assert failed.sums(K, CPU).shape == whole.sums(K, CPU).shape
