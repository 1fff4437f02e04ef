"""Extraction against a slow reference in plain Python, and on logits with a known answer."""

import math

import numpy as np
import pytest
import torch

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.batch_sizes import NUM_SIZES
from higgs_audio_trainer.extraction.extraction import Extraction
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.families.training_forward import TrainingOutput
from higgs_audio_trainer.training.model_streams import micro_batch_of
from tests.ragged import (
    EOS,
    PAD,
    READ,
    STOP,
    VOCABULARIES,
    C,
    K,
    V,
    clip_batch,
    frame_positions,
    one_hot,
    outputs_of,
    pad,
    predicting,
    ragged_batch,
)


def shown(**changes):
    """Return settings that show two samples, five slots at each end, all codebooks."""
    defaults = {
        "samples": 2,
        "window": 5,
        "codebooks": tuple(range(K)),
        "decode": lambda ids: " ".join(map(str, ids)),
    }
    return WindowSettings(**(defaults | changes))


def extract(batch, outputs, show=None, bos_frames=1):
    """Observe one batch, finish, and return the loss sums and samples."""
    extraction = Extraction("train", show or shown())
    refs = [SampleRef(f"id{b}", f"f{b}") for b in range(len(batch["labels"]))]
    extraction.observe(micro_batch_of(outputs, batch, refs, vocabulary=VOCABULARIES[bos_frames]))
    return finished(extraction, grad_norm=torch.tensor(2.5))


def finished(extraction, grad_norm=None):
    """Finish, and return loss sums and samples."""
    extracted = extraction.finish(extraction.sums(K, torch.device("cpu")), step=3, epoch=0.5, grad_norm=grad_norm)
    return extracted.loss_sums, extracted.samples


def reference_series(batch, b, codebook, text_logits, audio_logits):
    """List the slots of one series one by one: (position, input, label, prediction, nll, rank of the label)."""
    slots = []
    if codebook is None:
        length = int((batch["input_ids"][b] != PAD).sum())
        candidates = [
            (p, batch["input_ids"][b, p - 1].item(), batch["labels"][b, p].item(), text_logits[b, p - 1])
            for p in range(1, length)
        ]
    else:
        places = frame_positions(batch, b)
        candidates = []
        for frame, p in enumerate(places):
            follows = frame > 0 and places[frame - 1] == p - 1
            fed = batch["audio_input_ids"][b, frame - 1, codebook].item() if follows else None
            label = batch["audio_labels"][b, frame, codebook].item()
            candidates.append((p, fed, label, audio_logits[b, p - 1, codebook]))
    for p, fed, label, logits in candidates:
        if label == IGNORE_INDEX:
            slots.append((p, fed, label, None, 0.0, None))
        else:
            probabilities = torch.log_softmax(logits, -1)
            rank = 1 + sum(other > logits[label].item() for other in logits.tolist())
            slots.append((p, fed, label, int(np.argmax(logits.numpy())), -probabilities[label].item(), rank))
    supervised = [i for i, slot in enumerate(slots) if slot[2] != IGNORE_INDEX]
    return slots[supervised[0] : supervised[-1] + 1] if supervised else []


def assert_sample_equals(sample, span, window=5):
    """Compare one event with the slots of the event's span."""
    first, last = span[:window], span[window:][-window:]
    for got, expected in ((sample.first, first), (sample.last, last)):
        assert list(got.positions) == [slot[0] for slot in expected]
        assert list(got.inputs) == [slot[1] for slot in expected]
        assert list(got.labels) == [slot[2] for slot in expected]
        assert list(got.predictions) == [slot[3] for slot in expected]
        if got.label_ranks is not None:
            assert list(got.label_ranks) == [slot[5] for slot in expected]
            seen = [None if slot[3] is None else pytest.approx(math.exp(-slot[4]), rel=1e-4) for slot in expected]
            assert list(got.label_probabilities) == seen
    targets = [slot for slot in span if slot[2] != IGNORE_INDEX]
    assert sample.num_targets == len(targets)
    assert sample.num_correct == sum(slot[2] == slot[3] for slot in targets)
    assert sample.accuracy == (sample.num_correct / len(targets) if targets else None)
    stop = STOP if sample.modality == "text" else EOS
    assert sample.stop_targets == sum(slot[2] == stop for slot in targets)
    stops = [slot for slot in targets if slot[2] == stop]
    assert sample.stop_rank == (stops[-1][5] if stops else None)
    assert sample.stop_probability == (pytest.approx(math.exp(-stops[-1][4]), rel=1e-4) if stops else None)
    if targets:
        assert sample.loss == pytest.approx(sum(slot[4] for slot in targets) / len(targets), rel=1e-4)
    else:
        assert sample.loss is None


@pytest.mark.parametrize(("seed", "bos_frames"), [(seed, 1 - seed // 60) for seed in range(120)])
def test_equals_a_slow_reference(seed, bos_frames):
    """On random ragged batches of both layouts every field of every sample equals the result of loops over slots."""
    batch = ragged_batch(seed, bos_frames=bos_frames)
    torch.manual_seed(seed)
    B, S = batch["input_ids"].shape
    text_logits, audio_logits = torch.randn(B, S, V), torch.randn(B, S, K, C)
    window, codebooks, with_ranks = 1 + seed % 6, ((0,), (2, 0), (0, 1, 2))[seed % 3], seed % 2 == 0
    sums, samples = extract(
        batch,
        outputs_of(batch, text_logits, audio_logits),
        shown(window=window, codebooks=codebooks, ranks=with_ranks),
        bos_frames,
    )
    wanted = [(b, k) for b in range(2) for k in (None, *codebooks)]
    assert [(sample.sample_index, sample.codebook) for sample in samples] == wanted
    for sample, (b, k) in zip(samples, wanted, strict=True):
        assert_sample_equals(sample, reference_series(batch, b, k, text_logits, audio_logits), window)
        assert (sample.first.label_ranks is not None) == with_ranks
        assert (sample.sample_id, sample.fingerprint) == (f"id{b}", f"f{b}")
        assert (sample.step, sample.epoch, sample.split, sample.shift) == (3, 0.5, "train", 1)
        assert sample.num_codebooks == (None if k is None else K)
    payload = sums.event_fields(0.5)
    spans = {
        k: [
            s
            for b in range(B)
            for s in reference_series(batch, b, k, text_logits, audio_logits)
            if s[2] != IGNORE_INDEX
        ]
        for k in (None, *range(K))
    }
    means = {k: sum(s[4] for s in span) / len(span) if span else 0.0 for k, span in spans.items()}
    right = {k: sum(s[2] == s[3] for s in span) / len(span) if span else None for k, span in spans.items()}
    assert payload["text_targets"] == len(spans[None])
    assert payload["audio_targets"] == sum(len(spans[k]) for k in range(K))
    assert payload["text_loss"] == pytest.approx(means[None], rel=1e-4)
    assert payload["audio_loss_per_codebook"] == pytest.approx([means[k] for k in range(K)], rel=1e-4)
    assert payload["loss"] == pytest.approx(0.5 * means[None] + sum(means[k] for k in range(K)) / K, rel=1e-4)
    assert payload["text_accuracy"] == right[None]
    assert list(payload["audio_accuracy_per_codebook"]) == [right[k] for k in range(K)]
    assert sums.grad_norm == 2.5


@pytest.mark.parametrize("targets", range(1, 13))
def test_windows_never_overlap(targets):
    """Of 1 to 12 slots, the windows show the first five and at most the last five, each slot once."""
    batch = clip_batch(targets)
    _, samples = extract(batch, predicting(batch, 0))
    for sample in samples[1:]:
        assert len(sample.first.labels) == min(5, targets)
        assert len(sample.last.labels) == min(5, max(targets - 5, 0))
        positions = sample.first.positions + sample.last.positions
        assert len(set(positions)) == len(positions)
        assert list(positions) == sorted(positions)
        assert sample.num_targets == targets
        assert sample.stop_targets == 1


def test_a_perfect_model_is_all_right():
    """Predictions equal labels, accuracy is 1 and the loss is close to 0."""
    batch = clip_batch(12)
    sums, samples = extract(batch, predicting(batch, 0))
    for sample in samples:
        assert sample.first.predictions == sample.first.labels
        assert sample.last.predictions == sample.last.labels
        assert sample.accuracy == 1.0
        assert sample.loss < 0.01
    assert sums.event_fields(1.0)["audio_accuracy_per_codebook"] == (1.0,) * K


def test_a_copying_model_shows_its_input():
    """A model that copies has predictions that equal the inputs, not the labels."""
    batch = clip_batch(12)
    _, samples = extract(batch, predicting(batch, -1))
    for sample in samples[1:]:
        assert sample.first.predictions == sample.first.inputs
        assert sample.last.predictions == sample.last.inputs
        assert sample.num_correct == 0


@pytest.mark.parametrize("shift", [1, -1, 2])
def test_an_offset_is_visible(shift):
    """Predictions that are off by some frames equal the labels of slots at the same distance."""
    batch = clip_batch(12)
    _, samples = extract(batch, predicting(batch, shift), shown(window=12))
    sample = samples[1]
    inner = slice(max(0, -shift), 12 - max(0, shift))
    moved = [sample.first.labels[i + shift] for i in range(12)[inner] if 0 <= i + shift < 12]
    assert list(sample.first.predictions[inner]) == moved


def test_a_constant_model_repeats_itself():
    """A constant prediction is shown unchanged, and is correct where the label is the same token."""
    batch = clip_batch(9)
    B, S = batch["input_ids"].shape
    outputs = outputs_of(batch, torch.zeros(B, S, V), one_hot(torch.full((B, S, K), EOS), C))
    _, samples = extract(batch, outputs)
    for sample in samples[1:]:
        assert set(sample.first.predictions + sample.last.predictions) == {EOS}
        assert (sample.num_correct, sample.num_targets) == (1, 9)


def test_nan_logits_are_told_as_nan():
    """NaN logits give NaN losses instead of an exception, and the counts stay correct."""
    batch = clip_batch(6)
    B, S = batch["input_ids"].shape
    outputs = outputs_of(batch, torch.full((B, S, V), math.nan), torch.full((B, S, K, C), math.nan))
    sums, samples = extract(batch, outputs)
    assert all(math.isnan(sample.loss) for sample in samples)
    assert math.isnan(sums.event_fields(1.0)["loss"])
    assert sums.targets == (1, 6, 6, 6)


def test_a_codebook_without_targets_is_empty():
    """A sample without targets has empty windows, and null accuracy and loss; the loss of the step counts 0."""
    batch = clip_batch(6)
    batch["audio_labels"][..., 1] = IGNORE_INDEX
    sums, samples = extract(batch, predicting(batch, 0))
    sample = samples[2]
    assert sample.codebook == 1
    assert (sample.num_targets, sample.accuracy, sample.loss, sample.first.labels) == (0, None, None, ())
    payload = sums.event_fields(1.0)
    assert payload["audio_loss_per_codebook"][1] == 0.0
    assert payload["audio_accuracy_per_codebook"][1] is None


def test_a_batch_without_audio_or_without_text_targets():
    """Batches of text alone, and batches without targets, are extracted without error."""
    batch = pad([([1, 2, 3, STOP], [IGNORE_INDEX, IGNORE_INDEX, 3, STOP], [], [])])
    B, S = batch["input_ids"].shape
    sums, samples = extract(batch, outputs_of(batch, torch.zeros(B, S, V), torch.zeros(B, S, K, C)))
    assert [len(sample.first.labels) for sample in samples] == [2, 0, 0, 0]
    assert sums.targets == (2, 0, 0, 0)
    batch["labels"][:] = IGNORE_INDEX
    sums, samples = extract(batch, outputs_of(batch, torch.zeros(B, S, V), torch.zeros(B, S, K, C)))
    assert all(sample.num_targets == 0 for sample in samples)


def test_shapes_are_those_the_loss_saw():
    """Text [N, V] and [N]; audio [M, K, C] and [K, M]."""
    batch = clip_batch(6)
    _, (text, audio, *_) = extract(batch, predicting(batch, 0))
    assert (text.logits_shape, text.labels_shape) == ((1, V), (1,))
    assert (audio.logits_shape, audio.labels_shape) == ((6, K, C), (K, 6))


def test_text_is_decoded_without_masked_slots():
    """Predictions and labels of supervised slots are decoded; audio and a run without decoding have no text."""
    batch = clip_batch(3)
    _, (text, audio, *_) = extract(batch, predicting(batch, 0))
    assert (text.first.label_text, text.first.predicted_text) == (str(STOP), str(STOP))
    assert audio.first.label_text is None
    _, (text, *_) = extract(batch, predicting(batch, 0), shown(decode=None))
    assert text.first.label_text is None


def test_micro_batches_add_up_and_the_first_is_shown():
    """Sums run over all micro-batches of the step; samples come from the first micro-batch only."""
    batches = [ragged_batch(seed) for seed in (1, 2)]
    torch.manual_seed(0)
    extraction = Extraction("train", shown())
    alone = []
    for batch in batches:
        B, S = batch["input_ids"].shape
        outputs = outputs_of(batch, torch.randn(B, S, V), torch.randn(B, S, K, C))
        alone.append(extract(batch, outputs))
        extraction.observe(READ(outputs, batch, [SampleRef(f"id{b}", f"f{b}") for b in range(B)]))
    sums, samples = finished(extraction)
    assert samples == alone[0][1]
    assert sums.targets == tuple(a + b for a, b in zip(alone[0][0].targets, alone[1][0].targets, strict=True))
    assert sums.grad_norm is None


def test_a_rank_that_writes_nothing_adds_its_sums():
    """Without settings, no windows are cut and `finish` returns None."""
    batch = clip_batch(4)
    extraction = Extraction("train", None)
    extraction.observe(READ(predicting(batch, 0), batch, []))
    sums = extraction.sums(K, torch.device("cpu"))
    assert sums[2].tolist() == [1, 4, 4, 4]
    assert extraction.finish(sums, step=1, epoch=0.0) is None


def test_a_failed_extraction_still_takes_part():
    """After an error the sums are NaN of the correct shape, so that the collective operation of the ranks succeeds."""
    extraction = Extraction("train", shown())
    extraction.failed = True
    sums = extraction.sums(K, torch.device("cpu"))
    assert sums.shape == (3 + NUM_SIZES, 1 + K)
    assert sums.isnan().all()
    assert extraction.finish(sums, step=1, epoch=0.0) is None


def test_one_transfer_to_the_host(monkeypatch):
    """A logged step copies all results to the host once; observing copies nothing."""
    copies = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.numel()) or original(self))
    for method in ("item", "tolist", "numpy"):
        monkeypatch.setattr(torch.Tensor, method, forbidden(method, getattr(torch.Tensor, method), copies))
    batch = clip_batch(12)
    outputs = predicting_without_transfers(batch)
    extraction = Extraction("train", shown())
    extraction.observe(READ(outputs, batch, [SampleRef("a", "b")]))
    assert copies == []
    extraction.finish(extraction.sums(K, torch.device("cpu")), step=1, epoch=0.0, grad_norm=torch.tensor(1.0))
    assert len(copies) == 1


def forbidden(name, original, copies):
    """Allow a conversion only of copied tensors."""

    def convert(self, *args):
        assert copies, f"{name}() waits for the device"
        return original(self, *args)

    return convert


def predicting_without_transfers(batch):
    """Make the outputs of a perfect model before conversions are forbidden."""
    with pytest.MonkeyPatch.context():
        rows = batch["audio_labels"][0, 1:]
        count = len(rows)
        positions = torch.arange(4, 4 + count)
        zeros = torch.zeros(count, dtype=torch.long)
        end = torch.full((1,), batch["input_ids"].shape[1] - 1)
        text = SupervisedRows(torch.zeros(1, V), batch["labels"][0, -1:], torch.zeros(1), zeros[:1], end, end - 1)
        audio = SupervisedRows(one_hot(rows, C), rows.T, torch.zeros(K, count), zeros, positions, positions - 1)
        return TrainingOutput(text_loss=torch.zeros(()), audio_loss_K=torch.zeros(K), text=text, audio=audio)


def test_a_batch_of_repeated_samples_shows_none():
    """If every sample of a rank's last batch is a repetition, no sample is shown and all sums are 0."""
    batch = clip_batch(4)
    batch["labels"][:] = IGNORE_INDEX
    batch["audio_labels"][:] = IGNORE_INDEX
    B, S = batch["input_ids"].shape
    outputs = outputs_of(batch, torch.zeros(B, S, V), torch.zeros(B, S, K, C))
    extraction = Extraction("eval", shown())
    extraction.observe(READ(outputs, batch, []))
    sums, samples = finished(extraction)
    assert samples == ()
    assert sums.targets == (0, 0, 0, 0)
