"""Scores of speech by tiny random models: the path of the waveform, the arithmetic, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, Wav2Vec2FeatureExtractor, Wav2Vec2ForXVector, WavLMConfig, WavLMForXVector

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.voice import scores
from higgs_audio_trainer.voice.scores import Scorer, check_scorers
from higgs_audio_trainer.voice.speaker_embedder import SpeakerEmbedder, similarity_of
from higgs_audio_trainer.voice.speech_recognizer import SpeechRecognizer
from tests.scoring_models import write_ctc, write_whisper, write_xvector

NOTHING = {"cer": None, "wer": None, "speaker_similarity": None}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return str(write_whisper(tmp_path_factory.mktemp("models") / "whisper"))


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    """Write a recognizer that hears the letter a in everything."""
    folder = write_ctc(tmp_path_factory.mktemp("models") / "ctc")
    model = AutoModelForCTC.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)
    torch.nn.init.zeros_(model.lm_head.bias)
    model.lm_head.bias.data[5] = 1.0
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def xvector(tmp_path_factory):
    return str(write_xvector(tmp_path_factory.mktemp("models") / "xvector"))


def noise(seconds, rate=24_000, seed=0):
    return (np.random.default_rng(seed).normal(size=round(seconds * rate)) * 0.1).astype(np.float32)


def test_a_transcript_is_compared_with_the_text(ctc):
    """A wav2vec 2.0 with CTC gives error rates; nothing is compared that was not asked for."""
    scorer = Scorer(ctc, None)
    assert scorer.score(noise(1), 24_000, "A!", noise(1)) == NOTHING | {"cer": 0, "wer": 0}
    assert scorer.score(noise(1), 24_000, "ab", None) == NOTHING | {"cer": 0.5, "wer": 1}
    assert scorer.score(noise(1), 24_000, "…", None) == NOTHING


@pytest.mark.parametrize(("samples", "cer"), [(0, 1), (1, 0), (300, 0)])
def test_short_speech_is_transcribed(ctc, samples, cer):
    """No sample gives no transcript. Fewer than a convolution needs are padded."""
    assert Scorer(ctc, None).score(noise(1)[:samples], 24_000, "a")["cer"] == cer


def test_whisper_transcribes_speech_of_any_length(whisper, monkeypatch):
    """Its window has 2 s here. torchaudio is not needed, and the waveform has the rate of the feature extractor."""
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    recognizer = SpeechRecognizer(whisper)
    heard, generate = [], recognizer._pipeline.model.generate

    def listen(**inputs):
        heard.append(inputs["input_features"].shape[-1])
        return generate(**inputs)

    monkeypatch.setattr(recognizer._pipeline.model, "generate", listen)
    short, long = recognizer.transcript(noise(1), 24_000), recognizer.transcript(noise(5), 24_000)
    assert short
    assert long
    assert heard == [200, 500]  # frames of 10 ms at 16 kHz
    assert recognizer.transcript(noise(1), 24_000) == short


def test_similarity_is_the_cosine_of_the_embeddings(xvector):
    """Of the speech and its reference, each at the model's rate; 1 for the same recording."""
    scorer = Scorer(None, xvector)
    one, other = noise(0.6), np.sin(np.arange(21_600, dtype=np.float32) * 0.05)
    model, extractor = Wav2Vec2ForXVector.from_pretrained(xvector), Wav2Vec2FeatureExtractor.from_pretrained(xvector)
    with torch.inference_mode():
        embeddings = [
            model(**extractor(waveform, sampling_rate=16_000, return_tensors="pt")).embeddings
            for waveform in (one, other)
        ]
    expected = torch.nn.functional.cosine_similarity(*embeddings).item()
    assert expected < 0.999
    assert scorer.score(one, 16_000, "a", other)["speaker_similarity"] == pytest.approx(expected, abs=1e-6)
    assert scorer.score(one, 24_000, "a", one)["speaker_similarity"] == pytest.approx(1)
    assert scorer.score(one, 24_000, "a", None) == NOTHING
    assert scorer.score(noise(0), 24_000, "a", one) == scorer.score(one, 24_000, "a", noise(0.1)) == NOTHING


@pytest.mark.parametrize("has_mask", [False, True])
def test_the_shortest_speech_with_an_embedding(xvector, tmp_path, has_mask):
    """The receptive field of the model and one frame more: 15 + 1 frames of 20 ms, and 5 ms of the last window."""
    Wav2Vec2ForXVector.from_pretrained(xvector).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=has_mask).save_pretrained(tmp_path)
    embedder = SpeakerEmbedder(str(tmp_path))
    length = 15 * 320 + 400
    assert embedder.embedding(noise(1)[: length - 1], 16_000) is None
    embedding = embedder.embedding(noise(1)[:length], 16_000)
    assert embedding.shape == (8,)
    assert np.isfinite(embedding).all()


def test_other_x_vector_models_give_embeddings(tmp_path):
    """A WavLM, whose saved feature extractor returns a mask."""
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, tdnn_dim=(8,) * 5, xvector_output_dim=4,
    )  # fmt: skip
    WavLMForXVector(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    assert Scorer(None, str(tmp_path)).score(noise(1), 24_000, "a", noise(1))["speaker_similarity"] == pytest.approx(1)


def test_embeddings_without_a_direction_have_no_cosine():
    """Zero, NaN and infinity give None."""
    one = np.ones(2, dtype=np.float32)
    for value in (0, np.nan, np.inf):
        assert similarity_of(one, one * np.float32(value)) is None
    assert similarity_of(one, -one) == pytest.approx(-1)


def test_nothing_asked_for_needs_nothing(monkeypatch):
    """Without models no package is missed, and all scores are None."""
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    assert Scorer(None, None).score(noise(1), 24_000, "a", noise(1)) == NOTHING


def test_a_missing_package_is_named_with_its_extra(xvector, monkeypatch):
    """Error rates need jiwer. The similarity does not."""
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--say_asr: .*jiwer.*pip install 'higgs-audio-trainer\[metrics\]'"):
        check_scorers("any", None)
    check_scorers(None, xvector)


def test_models_are_checked_without_their_weights(ctc, whisper, xvector, monkeypatch):
    """Good ones pass, and no weights are read."""
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a model was built"))
    check_scorers(ctc, xvector)
    check_scorers(whisper, None)


def test_models_of_another_kind_are_refused(ctc, xvector, tiny):
    """The message names the flag, the expectation and what the folder has."""
    with pytest.raises(
        UserError, match=r"--say_asr .*: expected a model of speech recognition.*got Wav2Vec2ForXVector"
    ):
        check_scorers(xvector, None)
    with pytest.raises(UserError, match=r"--say_speaker .*: expected an x-vector model.*got Wav2Vec2ForCTC"):
        check_scorers(None, ctc)
    with pytest.raises(UserError, match=r"--say_asr .*, got HiggsAudioV2ForConditionalGeneration"):
        check_scorers(str(tiny.model_dir), None)


@pytest.mark.parametrize("name", ["nobody/nothing", "../nowhere", "/no/such/folder", "", "~/x", "a b c"])
def test_models_that_do_not_exist_are_refused(name):
    """Folders and names on the Hub, valid names or not."""
    for asr, speaker, flag in ((name, None, "--say_asr"), (None, name, "--say_speaker")):
        with pytest.raises(UserError, match=f"{flag}.*: expected a folder,? or a "):
            check_scorers(asr, speaker)


def test_incomplete_folders_are_refused(ctc, tmp_path):
    """Each part that is missing or damaged is named."""
    config = json.loads(Path(ctc, "config.json").read_bytes())
    place = tmp_path / "config.json"
    place.write_text("{")
    refused = [
        ("{", "config.json: expected JSON, got"),
        (json.dumps(config | {"architectures": None}), "one without"),
    ]
    refused.append((json.dumps(config), "expected a feature extractor beside the model"))
    for content, message in refused:
        place.write_text(content)
        with pytest.raises(UserError, match=message):
            check_scorers(str(tmp_path), None)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected a file of weights, got none"):
        check_scorers(str(tmp_path), None)


def test_damaged_weights_are_an_error_of_the_user(ctc, xvector, tmp_path):
    """A truncated file, and weights of another head that would leave the embedding at random."""
    for source in (ctc, xvector):
        folder = tmp_path / Path(source).name
        folder.mkdir()
        for name in ("config.json", "preprocessor_config.json"):
            (folder / name).write_bytes(Path(source, name).read_bytes())
        (folder / "model.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match=r"--say_asr .*: the model cannot be loaded"):
        Scorer(str(tmp_path / "ctc"), None)
    with pytest.raises(UserError, match=r"--say_speaker .*: the model cannot be loaded"):
        Scorer(None, str(tmp_path / "xvector"))
    (tmp_path / "xvector" / "model.safetensors").write_bytes(Path(ctc, "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"--say_speaker .*: expected weights for .*, got none"):
        Scorer(None, str(tmp_path / "xvector"))
