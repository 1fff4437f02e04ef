"""Higgs TTS 3 from a user's view: opened, refused, prepared, spoken."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER, FAMILY_NAMES
from higgs_audio_trainer.demo.run import run_demo
from higgs_audio_trainer.errors import ManifestError, UserError
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.families.tts3.tiny import SPECIAL_TOKENS
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from higgs_audio_trainer.voice.speech_prompt import new_prompt
from tests.samples import prepare_settings, write_manifest, write_tone

MESSAGES = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": {"type": "audio", "audio_url": "a.wav"}},
]


@pytest.fixture(scope="module")
def tiny(tiny_of):
    """Write the tiny checkpoint of the family."""
    return tiny_of("higgs-tts-3")


@pytest.fixture(scope="module")
def checkpoint(tiny):
    """Open the tiny checkpoint."""
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture
def changed(tiny, tmp_path):
    """Return a function that links the tiny checkpoint with another config.json and without some tokens."""

    def link(without=(), **changes):
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in tiny.model_dir.iterdir():
            (folder / path.name).symlink_to(path)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
        text = (folder / "tokenizer.json").read_text()
        for token in without:
            text = text.replace(token, token.replace("<|", "<|no_"))
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.json").write_text(text)
        return str(folder)

    return link


def test_commands_know_the_families():
    """The names that commands offer without torch are those of the families."""
    assert tuple(FAMILIES) == FAMILY_NAMES


def test_ids_and_layout(checkpoint):
    """Special ids are the last two of a codebook, the placeholder is no token, and the text is not learned."""
    ids, tokenizer = checkpoint.ids, checkpoint.tokenizer
    assert (ids.audio, ids.audio_delay, ids.stream_bos, ids.stream_eos) == (-100, -100, 1024, 1025)
    assert (ids.num_codebooks, ids.bos_frames, ids.reference_eos, ids.learns_text) == (8, 0, False, False)
    assert ids.pad == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert checkpoint.text_stop_ids == ()
    assert checkpoint.max_length == 32_768
    assert not checkpoint.vocabulary.has_bos_frame
    assert checkpoint.with_text_loss(0.5).ids.learns_text
    assert not checkpoint.with_text_loss(0.0).ids.learns_text


def test_missing_tokens_are_listed(changed):
    """The message names every token that the tokenizer lacks."""
    with pytest.raises(UserError, match=r"Higgs TTS 3, got one without <\|tts\|>, <\|audio\|>$"):
        open_checkpoint(changed(without=("<|tts|>", "<|audio|>")))


def test_an_older_tokenizer_has_no_text_of_references(changed, tmp_path):
    """Without <|ref_text|>, references go without their texts."""
    old = open_checkpoint(changed(without=("<|ref_text|>",)))
    reference = np.ones((old.ids.num_codebooks, 3), dtype=np.int64)
    with_text = new_prompt("a", "Hi.", old, reference=("Heard.", reference))
    without = new_prompt("a", "Hi.", old, reference=(None, reference))
    assert with_text.inputs.input_ids.tolist() == without.inputs.input_ids.tolist()


def test_tokens_beyond_the_embedding_are_refused(tiny, changed):
    """A tokenizer of another checkpoint is refused."""
    config = json.loads((tiny.model_dir / "config.json").read_text())
    name = changed(text_config=config["text_config"] | {"vocab_size": 270})
    with pytest.raises(UserError, match=r"expected token ids below 270, the vocab_size of config.json, got 306"):
        open_checkpoint(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_token_id": 300}, "expected audio_token_id -100 in config.json, got 300"),
        ({"audio_token_id": None}, "expected audio_token_id -100 in config.json, got None"),
        ({"text_config": {"rope_theta": -5}}, "expected rope_theta above 0 in config.json, got -5"),
        ({"text_config": {"rope_theta": 0}}, "expected rope_theta above 0 in config.json, got 0"),
        (
            {"text_config": {"layer_types": ["sliding_attention"] * 4}},
            "expected text_config.layer_types ['full_attention'] in config.json, got ['sliding_attention']",
        ),
        ({"text_config": {"num_attention_heads": 0}}, "config.json"),
        ({"text_config": {"hidden_act": "foo"}}, "config.json"),
        ({"text_config": {"rope_scaling": {"rope_type": "foo"}}}, "config.json"),
    ],
)
def test_a_configuration_that_cannot_be_is_a_user_error(tiny, changed, changes, message):
    """One line names the checkpoint and the entry."""
    config = json.loads((tiny.model_dir / "config.json").read_text())
    changes = {name: config[name] | value if isinstance(value, dict) else value for name, value in changes.items()}
    name = changed(**changes)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        open_checkpoint(name).family.for_training(name, dtype=torch.float32, attention=None)
    assert "\n" not in str(refused.value)
    assert "--attn_implementation" not in str(refused.value)


def test_damaged_weights_do_not_speak(tiny, tmp_path, capsys):
    """Drawing of logits that are not finite is an error in one line."""
    for path in tiny.model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["body.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    command = ["say", "--base_ckpt", str(tmp_path), "Hello.", "-o", str(tmp_path / "a.wav")]
    assert main([*command, "--temperature", "1", "--audio_tokenizer", str(tiny.codec_dir)]) == 2
    assert "expected finite logits, got NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


def test_the_codec_is_that_of_the_configuration(tiny, changed):
    """config.json names the codec where no processor does."""
    assert codec_of(str(tiny.model_dir)) == str(tiny.codec_dir)
    assert codec_of(changed(audio_tokenizer_id=None)) == DEFAULT_AUDIO_TOKENIZER


def test_a_scene_is_refused_before_the_weights_are_read(tiny, tmp_path, capsys):
    """`say --scene` names what has no place."""
    output = tmp_path / "a.wav"
    arguments = ["say", "--base_ckpt", str(tiny.model_dir), "Hello.", "--scene", "A hall.", "-o", str(output)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "scene: expected no scene, as Higgs TTS 3 has no place for one, got a scene" in error
    assert "Traceback" not in error
    assert not output.exists()


class TestPreparation:
    """Lines of a manifest for this family."""

    @pytest.fixture
    def prepare(self, tiny, checkpoint, tmp_path):
        """Return a function that prepares lines, and the texts that it said."""
        said = []
        write_tone(tmp_path / "a.wav")
        write_tone(tmp_path / "b.wav", hz=500)

        def run(*entries, **options):
            manifest = write_manifest(tmp_path / "m.jsonl", *entries)
            settings = prepare_settings(tiny.codec_dir, tmp_path / "codes", said) | options
            return prepare_manifests([str(manifest)], checkpoint, **settings)

        return run, said

    def test_every_line_that_has_no_place_is_listed(self, prepare):
        """ChatML and scenes are listed with their lines, like any other problem, and can be skipped."""
        run, said = prepare
        lines = (
            {"audio": "a.wav", "text": "One."},
            {"messages": MESSAGES},
            {"audio": "b.wav", "text": "Two.", "scene": "A hall."},
            {"audio": "b.wav", "text": "Three."},
        )
        with pytest.raises(ManifestError) as caught:
            run(*lines)
        chat, scene = str(caught.value).splitlines()[:2]
        assert "m.jsonl:2: messages: expected the simple form, audio and text, as Higgs TTS 3 reads no chat" in chat
        assert "m.jsonl:3: scene: expected no scene, as Higgs TTS 3 has no place for one" in scene
        (dataset,) = run(*lines, skip_bad_samples=True).datasets
        assert len(dataset) == 2
        assert any("skipped 2 of 4 samples" in text for text in said)

    def test_a_control_token_that_the_tokenizer_does_not_know_is_a_warning(self, prepare):
        """Known control tokens are silent; others are named with their sample."""
        run, _ = prepare
        prepared = run(
            {"id": "known", "audio": "a.wav", "text": "<|emotion:sadness|>One <|prosody:pause|> and two."},
            {"id": "odd", "audio": "b.wav", "text": "<|emotion:gloom|>Three <|sfx:sigh|>Uh <|sfx:sighs|> and four."},
        )
        finding = next(item for item in prepared.audit.findings if item.code == "unknown_control_token")
        assert "known" not in {sample.id for item in prepared.audit.findings for sample in item.samples}
        assert (finding.severity, finding.count) == ("warning", 1)
        assert [(item.id, item.detail) for item in finding.samples] == [("odd", "<|emotion:gloom|>, <|sfx:sighs|>")]


class TestTiny:
    """The tiny checkpoint in the original layout."""

    def test_the_files_are_those_of_the_authors(self, tiny):
        """Keys of the configuration, names of the weights without the heads, a codec inside, and the tokens."""
        config = json.loads((tiny.model_dir / "config.json").read_text())
        assert config["architectures"] == ["HiggsMultimodalQwen3ForConditionalGeneration"]
        assert (config["model_type"], config["audio_token_id"]) == ("higgs_multimodal_qwen3", -100)
        assert (config["text_config"]["rope_theta"], config["audio_tokenizer_id"]) == (None, str(tiny.codec_dir))
        with safe_open(tiny.model_dir / "model.safetensors", "pt") as file:
            names = set(file.keys())
        embedding = "tied.embedding.modality_embeddings.0"
        assert {"body.norm.weight", "body.layers.3.self_attn.q_norm.weight", f"{embedding}.embedding.weight"} <= names
        assert {name.partition(".")[0] for name in names} == {"body", "tied"}
        assert any(name.startswith(f"{embedding}.model.") for name in names)
        assert not any("head" in name.split(".") for name in names)
        vocabulary = Tokenizer.from_file(str(tiny.model_dir / "tokenizer.json")).get_vocab()
        assert set(SPECIAL_TOKENS) <= set(vocabulary)

    @pytest.mark.parametrize("size", [["--vocab_size", "306"], ["--layers", "0"]])
    def test_a_size_that_cannot_be_leaves_nothing(self, tmp_path, capsys, size):
        """A vocabulary smaller than the tokenizer is an error, and the next try starts in an empty folder."""
        arguments = ["tiny", str(tmp_path / "t"), "--family", "higgs-tts-3", "--hidden_size", "64", "--layers", "1"]
        assert main([*arguments, *size]) == 2
        assert "expected at least" in capsys.readouterr().err
        assert main(arguments) == 0
        assert open_checkpoint(str(tmp_path / "t" / "model")).config.hidden_size == 64

    def test_it_speaks(self, tiny, tmp_path, capsys):
        """`say` reads the original layout, and finds the codec that config.json names."""
        output = tmp_path / "a.wav"
        write_tone(tmp_path / "r.wav")
        arguments = ["say", "--base_ckpt", str(tiny.model_dir), "Hello.", "-o", str(output), "--max_seconds", "0.4"]
        assert main([*arguments, "--ref_audio", str(tmp_path / "r.wav"), "--ref_text", "A tone."]) == 0
        assert output.stat().st_size > 0


def test_the_codec_of_a_training_is_written_beside_its_adapter(tiny, checkpoint, tmp_path):
    """The base has no processor, so a file of its own names a codec that was given. The base's needs none."""
    save_processor(checkpoint, tmp_path / "a", codec=str(tiny.codec_dir))
    assert codec_of(str(tmp_path / "a")) == str(tiny.codec_dir)
    save_processor(checkpoint, tmp_path / "b")
    assert not (tmp_path / "b" / "processor_config.json").exists()
    assert (tmp_path / "b" / "tokenizer.json").is_file()


def test_a_fault_that_the_family_cannot_have_is_refused(tmp_path, capsys):
    """The reason is named, and nothing is made."""
    arguments = ["demo", "--family", "higgs-tts-3", "--fault", "text_masked", "--output_dir", str(tmp_path / "d")]
    assert main(arguments) == 2
    assert "--fault text_masked: cannot be planted in higgs-tts-3: its texts are masked" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_the_demo_learns_and_speaks(tmp_path, capsys):
    """The tiny model speaks the eight sentences by itself, with an adapter that leaves the tied heads alone."""
    outcome = run_demo(tmp_path / "d", max_steps=60, seed=0, log_steps=60, family="higgs-tts-3")
    assert min(outcome.last["audio_accuracy_per_codebook"]) > 0.95
    assert outcome.last["text_targets"] == 0
    assert len(outcome.spoken) == 8
    assert all(event["agreement"][0] > 0.5 and event["stopped"] for event in outcome.spoken)
    assert not outcome.found
    targets = json.loads((tmp_path / "d" / "run" / "adapter_config.json").read_text())["target_modules"]
    assert not any("head" in target for target in targets)
    capsys.readouterr()
    output = tmp_path / "a.wav"
    sentence = "The kettle is on, and the tea is almost ready."
    assert main(["say", str(tmp_path / "d" / "run"), sentence, "-o", str(output), "--temperature", "0"]) == 0
    assert f"{output}: 2.9 s, stopped by itself" in capsys.readouterr().out
