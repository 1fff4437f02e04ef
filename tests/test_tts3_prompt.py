"""Prompts of Higgs TTS 3: the layout of its servers, the tokens of each text alone, and what has no place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from higgs_audio_trainer.data.batch import PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM, read_manifest
from higgs_audio_trainer.data.prompt import tokenize_all
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.tts3.prompt import render
from higgs_audio_trainer.families.tts3.tiny import SPECIAL_TOKENS, build_tokenizer
from tests.samples import write_manifest, write_tone

IDS = TokenIds(
    *(0, -100, -100),
    stream_bos=1024,
    stream_eos=1025,
    num_codebooks=3,
    bos_frames=0,
    reference_eos=False,
    learns_text=False,
)
ASK, CLIP = Turn("user", ("Hello.",)), Clip(Path("a.wav"), encoded=False)
SAY = Turn("assistant", (CLIP,), supervised=True)


def read(tmp_path, **fields):
    """Read the sample of a line without an id."""
    write_tone(tmp_path / "a.wav")
    write_tone(tmp_path / "r.wav")
    samples, problems = read_manifest(write_manifest(tmp_path / "m.jsonl", {"audio": "a.wav", **fields}))
    assert not problems
    return samples[0]


def shown(sample, **options):
    """Return the contents of a sample's prompt, with the stem for a clip."""
    contents = (segment.content for segment in render(sample, **options))
    return [content.path.stem if isinstance(content, Clip) else content for content in contents]


def test_a_line_of_the_public_form(tmp_path):
    """A text and a recording without an id: the text between its markers, and the speech at the end."""
    assert shown(read(tmp_path, text="Hello.")) == ["<|tts|>", "<|text|>", "Hello.", "<|audio|>", "a"]


def test_a_reference(tmp_path):
    """The text and the recording of a reference come first, and the text is optional."""
    speech = ["<|text|>", "Hello.", "<|audio|>", "a"]
    sample = read(tmp_path, text="Hello.", ref_audio="r.wav", ref_text="Heard.")
    assert shown(sample) == ["<|tts|>", "<|ref_text|>", "Heard.", "<|ref_audio|>", "r", *speech]
    without = ["<|tts|>", "<|ref_audio|>", "r", *speech]
    assert shown(sample, with_reference_text=False) == without
    assert shown(read(tmp_path, text="Hello.", ref_audio="r.wav")) == without


def test_speech_and_its_text_are_supervised_and_nothing_else(tmp_path):
    """The reference and the markers are masked."""
    sample = read(tmp_path, text="Hello.", ref_audio="r.wav", ref_text="Heard.")
    supervised = [segment.content for segment in render(sample) if segment.supervised]
    assert supervised == ["Hello.", sample.clips[-1]]


@pytest.mark.parametrize(
    "text", ["Hello.", "صباح الخير 🍵", "<|emotion:joy|>a", "<|sfx:sigh|>Uh", "a\n<|prosody:pause|> b"]
)
def test_the_tokens_of_a_text_are_those_of_the_text_alone(tmp_path, text):
    """A known control token is one token, and an unknown one is many."""
    tokenizer = build_tokenizer()
    sample = read(tmp_path, text=text, ref_audio="r.wav", ref_text=text)
    (segments,) = tokenize_all([render(sample)], tokenizer)
    alone = tokenizer.encode(text, add_special_tokens=False)
    ids = [None if segment.ids is None else segment.ids.tolist() for segment in segments]
    marker = dict(zip(SPECIAL_TOKENS, range(256, 400), strict=False))
    assert ids == [
        *([marker["<|tts|>"]], [marker["<|ref_text|>"]], alone, [marker["<|ref_audio|>"]], None),
        *([marker["<|text|>"]], alone, [marker["<|audio|>"]], None),
    ]


@pytest.mark.parametrize("learns_text", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_the_labels_by_brute_force(tmp_path, frames, learns_text):
    """Rows without a row of BOS alone; T codes and one EOS of each codebook; a reference has T + K - 1 rows."""
    K, tokenizer = 3, build_tokenizer()
    sample = read(tmp_path, text="Hi", ref_audio="r.wav", ref_text="Yo")
    (segments,) = tokenize_all([render(sample)], tokenizer)
    rng = np.random.default_rng(frames)
    reference, speech = rng.integers(0, 1024, (K, 4)), rng.integers(0, 1024, (K, frames))
    prepared = PreparedSample("a", tuple(segments), (reference, speech))
    example = build_example(prepared, prepared.codes_KT, replace(IDS, learns_text=learns_text))
    rows, labels = [], []
    for codes, learn in ((reference, False), (speech, True)):
        length = codes.shape[1]
        for row in range(length + K - 1 + learn):
            for k in range(K):
                at = row - k
                value = 1024 if at < 0 else int(codes[k, at]) if at < length else 1025
                rows.append(value)
                labels.append(value if learn and 0 <= at <= length else IGNORE_INDEX)
    assert example.audio_ids_FK.flatten().tolist() == rows
    assert example.audio_labels_FK.flatten().tolist() == labels
    assert ((example.audio_labels_FK == 1025).sum(axis=0) == 1).all()
    text = tokenizer.encode("Hi")
    assert example.labels[example.labels != IGNORE_INDEX].tolist() == (text if learns_text else [])
    assert (example.input_ids == -100).sum() == 4 + K - 1 + frames + K
    first = np.flatnonzero(example.input_ids != -100)[-1]
    assert tokenizer.decode(example.input_ids[first]) == "<|audio|>"


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ((DEFAULT_SYSTEM, Turn("scene", ("A hall.",)), ASK, SAY), "scene: expected no scene"),
        ((Turn("system", ("Be kind.",)), ASK, SAY), "got a system turn of its own"),
        ((ASK, Turn("assistant", (CLIP,), supervised=True, recipient="ann")), "got a recipient"),
        ((ASK, Turn("assistant", ("Hm.", CLIP), supervised=True)), "got a turn of several parts"),
        ((ASK, Turn("assistant", ("Hm.",), supervised=True)), "got an answer in text"),
        ((ASK, SAY, ASK, SAY), "a reference to learn"),
        ((ASK, ASK, SAY), "got turns of user, user, assistant"),
        ((ASK,), "got turns of user"),
        ((), "got turns of nobody"),
    ],
)
def test_what_has_no_place(turns, problem):
    """A sample that a prompt cannot hold is refused, and the message names the part."""
    with pytest.raises(BadField) as caught:
        render(Sample("a", turns, "m.jsonl:1"))
    assert problem in str(caught.value)
    assert "Higgs TTS 3 has no place" in str(caught.value)


def test_chatml_is_refused_even_if_its_turns_would_fit():
    """A line of ChatML is refused as such."""
    with pytest.raises(BadField, match=r"messages: expected the simple form, .* Higgs TTS 3 reads no chat"):
        render(Sample("a", (DEFAULT_SYSTEM, ASK, SAY), "m.jsonl:1", is_chat=True))
