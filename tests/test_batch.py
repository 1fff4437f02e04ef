"""Samples as tensors: layout, padding, masks and fingerprints."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HiggsAudioV2ForConditionalGeneration

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.batch import (
    Collator,
    Example,
    FillingIndex,
    PreparedSample,
    SpeechDataset,
    TokenIds,
    build_example,
)
from higgs_audio_trainer.data.delay import delay_codes, delayed_labels
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.events import IGNORE_INDEX

IDS = TokenIds(pad=0, audio=90, audio_delay=91, stream_bos=1024, stream_eos=1025, num_codebooks=3)
#: Ids of the layout without a frame of BOS alone, as of Higgs TTS 3.
IDS_TTS3 = TokenIds(0, -100, -100, 1024, 1025, 3, bos_frames=0, reference_eos=False, learns_text=False)
SYSTEM = Turn("system", ("S.",))


def text(*ids: int, supervised: bool = False) -> TokenSegment:
    """Make a segment of text."""
    return TokenSegment(np.array(ids), supervised)


def codes(num_frames: int, seed: int = 0, num_codebooks: int = 3) -> np.ndarray:
    """Make random codes."""
    return np.random.default_rng(seed).integers(0, 1024, (num_codebooks, num_frames))


def example(
    *segments: TokenSegment, clips: tuple[np.ndarray, ...] = (), name: str = "a", ids: TokenIds = IDS
) -> Example:
    """Build an example."""
    return build_example(PreparedSample(name, segments, ()), clips, ids)


def test_reference_audio_is_heard_and_not_learned():
    """The stream holds both clips in order, and only the supervised clip has labels."""
    reference, answer = codes(2, 1), codes(3, 2)
    built = example(
        text(1), TokenSegment(None, False), text(2), TokenSegment(None, True), text(3, supervised=True),
        clips=(reference, answer),
    )  # fmt: skip
    streams = [delay_codes(c, bos=1024, eos=1025) for c in (reference, answer)]
    assert np.array_equal(built.audio_ids_FK, np.concatenate(streams))
    assert (built.audio_labels_FK[: len(streams[0])] == IGNORE_INDEX).all()
    assert np.array_equal(built.audio_labels_FK[len(streams[0]) :], delayed_labels(streams[1], 3))
    assert built.input_ids.tolist() == [1, *[90] * 4, 91, 91, 2, *[90] * 5, 91, 91, 3]
    assert built.labels.tolist() == [*[IGNORE_INDEX] * 15, 3]


def test_a_reference_without_the_last_end_is_a_frame_shorter():
    """In the layout without a frame of BOS alone, T frames of a reference take T + K - 1 and of a target T + K."""
    reference, answer = codes(2, 1), codes(3, 2)
    segments = (text(1), TokenSegment(None, False), text(2), TokenSegment(None, True), text(3, supervised=True))
    built = example(*segments, clips=(reference, answer), ids=IDS_TTS3)
    heard, learned = (delay_codes(c, bos=1024, eos=1025, bos_frames=0) for c in (reference, answer))
    assert np.array_equal(built.audio_ids_FK, np.concatenate([heard[:-1], learned]))
    assert (built.audio_labels_FK[:4] == IGNORE_INDEX).all()
    assert np.array_equal(built.audio_labels_FK[4:], delayed_labels(learned, 3, bos_frames=0))
    assert built.input_ids.tolist() == [1, *[-100] * 4, 2, *[-100] * 6, 3]
    assert (built.labels == IGNORE_INDEX).all(), "the text head is unused"


@pytest.mark.parametrize("ids", [IDS, IDS_TTS3], ids=["bos", "no bos"])
def test_every_codebook_of_every_supervised_clip_has_one_stop_label(ids):
    """Two clips in a sample give two stop labels a codebook."""
    clips = (codes(2, 1), codes(5, 2))
    built = example(TokenSegment(None, True), text(1), TokenSegment(None, True), clips=clips, ids=ids)
    assert (built.audio_labels_FK == 1025).sum(axis=0).tolist() == [2, 2, 2]
    assert (built.audio_labels_FK != IGNORE_INDEX).sum(axis=0).tolist() == [2 + 5 + 2] * 3


def test_a_batch_is_padded_on_the_right_and_masked():
    """Padding is in no mask and in no label."""
    short, long = (
        example(text(1, 2), text(3, supervised=True)),
        example(text(4), TokenSegment(None, True), text(5, 6, supervised=True), clips=(codes(2),)),
    )
    batch = Collator(IDS)([short, long])
    assert batch["input_ids"].tolist() == [[1, 2, 3, *[0] * 6], [4, 90, 90, 90, 90, 91, 91, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 6, [1] * 9]
    assert batch["labels"].tolist() == [[-100, -100, 3, *[-100] * 6], [*[-100] * 7, 5, 6]]
    assert batch["audio_input_ids"].shape == batch["audio_labels"].shape == (2, 6, 3)
    assert batch["audio_input_ids"][0].eq(1025).all()
    assert batch["audio_labels"][0].eq(-100).all()
    assert batch["audio_input_ids_mask"].tolist() == [[False] * 6, [True] * 6]
    assert batch["samples"] == [short.ref, long.ref]
    prompt, response, speech = Region.PROMPT, Region.RESPONSE, Region.SPEECH
    assert batch["regions"].tolist() == [
        [prompt, prompt, response, *[Region.PADDING] * 6],
        [prompt, *[speech] * 6, response, response],
    ]
    assert {t.dtype for t in batch.values() if isinstance(t, torch.Tensor)} == {torch.int64, torch.int8, torch.bool}
    assert batch["audio_input_ids_mask"].dtype == torch.bool


def test_a_batch_of_text_alone_has_no_audio_frames():
    """A batch without audio has audio tensors without frames."""
    batch = Collator(IDS)([example(text(1)), example(text(1, 2, supervised=True))])
    assert batch["audio_input_ids"].shape == batch["audio_labels"].shape == (2, 0, 3)
    assert batch["audio_input_ids_mask"].shape == (2, 0)


@pytest.mark.parametrize("ids", [IDS, IDS_TTS3], ids=["bos", "no bos"])
def test_what_each_sample_gives_does_not_depend_on_its_batch(ids):
    """Alone or beside longer ones, a sample's unmasked tokens and labels are the same."""
    rng = random.Random(0)
    examples = [
        example(
            text(*range(1, rng.randint(2, 9))),
            TokenSegment(None, True),
            clips=(codes(rng.randint(1, 9), seed),),
            ids=ids,
        )
        for seed in range(5)
    ]
    together = Collator(ids)(examples)
    for row, one in enumerate(examples):
        tokens = together["attention_mask"][row].bool()
        frames = together["audio_input_ids_mask"][row]
        assert np.array_equal(together["input_ids"][row][tokens], one.input_ids)
        assert np.array_equal(together["labels"][row][tokens], one.labels)
        assert np.array_equal(together["audio_input_ids"][row][frames], one.audio_ids_FK)
        assert np.array_equal(together["audio_labels"][row][frames], one.audio_labels_FK)
        assert (together["audio_labels"][row][~frames] == -100).all()


def test_a_fingerprint_follows_the_inputs_and_nothing_else():
    """Equal text and audio give equal fingerprints for any id, and a changed token or code changes the fingerprint."""
    speech = TokenSegment(None, True)
    two_frames = np.arange(6).reshape(3, 2)
    one = example(text(1), speech, clips=(two_frames,)).ref
    assert example(text(1), speech, clips=(two_frames,), name="b").ref.fingerprint == one.fingerprint
    assert one.fingerprint == "b8884dbd64bd7e00", "runs on other machines are compared by it"
    others = [
        example(text(2), speech, clips=(two_frames,)),
        example(text(1), speech, clips=(two_frames + 1,)),
        example(text(1), speech, clips=(two_frames[:, :1],)),
        example(text(1)),
    ]
    assert len({one.fingerprint, *(other.ref.fingerprint for other in others)}) == 5


def test_a_dataset_gives_the_same_example_each_time():
    """Every reading of a sample is the same."""
    dataset = SpeechDataset([PreparedSample("a", (TokenSegment(None, True),), (codes(4),), "m:1")], IDS)
    assert len(dataset) == 1
    assert np.array_equal(dataset[0].audio_ids_FK, delay_codes(codes(4), bos=1024, eos=1025))
    assert dataset[0].ref == dataset[0].ref


@pytest.fixture(scope="module")
def model(tiny):
    """Load the tiny model with plain transformers."""
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir, use_text_head=True).eval()


def conversation(*turns: Turn) -> Sample:
    """Make a sample."""
    return Sample("a", (SYSTEM, *turns), "m:1")


def speaks(*parts: str) -> Turn:
    """Make a supervised turn of texts, and of clips where a part ends in `.wav`."""
    return Turn(
        "assistant",
        tuple(Clip(Path(p), encoded=False) if p.endswith(".wav") else p for p in parts),
        supervised=True,
    )


CONVERSATIONS = [
    [conversation(Turn("user", ("Hi",)), speaks("a.wav")), conversation(speaks("Hello", "a.wav", "b.wav"))],
    [conversation(speaks("a.wav")), conversation(Turn("user", ("Hi",)), speaks("words alone"))],
    [conversation(Turn("user", ("Hi",)), speaks("words alone"))],
]


@pytest.mark.parametrize("samples", CONVERSATIONS, ids=["speech", "mixed", "text"])
def test_the_native_model_takes_the_batch(tiny, model, samples):
    """Forward pass and loss of plain transformers accept our batch, and each placeholder has a frame."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    examples = [
        build_example(
            PreparedSample("a", tuple(checkpoint.tokenize(sample)), ()),
            [codes(3 + index, index, num_codebooks=8) for index in range(len(sample.clips))],
            checkpoint.ids,
        )
        for sample in samples
    ]
    batch = Collator(checkpoint.ids)(examples)
    del batch["samples"], batch["regions"]
    is_audio = torch.isin(batch["input_ids"], torch.tensor(checkpoint.vocabulary.placeholders))
    assert is_audio.sum(dim=1).tolist() == batch["audio_input_ids_mask"].sum(dim=1).tolist()
    has_audio = bool(is_audio.any())
    if not has_audio:
        del batch["audio_labels"]  # without a target, transformers' own loss of a codebook is NaN
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.shape == (*batch["input_ids"].shape, 8 * 1026)
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(("ids", "frames"), [(IDS, 24 + 54), (IDS_TTS3, 22 + 53)], ids=["bos", "no bos"])
def test_lengths_are_those_of_the_examples(ids, frames):
    """The length of a sample is the number of its positions, the frames of a reference and of a target among them."""
    segments = (TokenSegment(np.array([1, 2]), False), TokenSegment(None, False), TokenSegment(None, True))
    sample = PreparedSample("a", segments, (codes(20), codes(50)), "m:1", audio_seconds=2.0)
    dataset = SpeechDataset([sample], ids)
    assert dataset.lengths().tolist() == [2 + frames] == [len(dataset[0].input_ids)]
    assert dataset.audio_seconds().tolist() == [2.0]


def test_a_filling_sample_counts_for_nothing():
    """No label and no name: only the shape of a batch."""
    segments = (TokenSegment(np.array([1, 2]), True), TokenSegment(None, True))
    dataset = SpeechDataset([PreparedSample("a", segments, (codes(3),), "m:1")], IDS)
    batch = Collator(IDS)([dataset[FillingIndex(0)]])
    assert batch["samples"] == []
    assert (batch["labels"] == -100).all()
    assert (batch["audio_labels"] == -100).all()
    assert batch["input_ids"].equal(Collator(IDS)([dataset[0]])["input_ids"])
