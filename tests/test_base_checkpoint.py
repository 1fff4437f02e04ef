"""Base checkpoints and codecs that are accepted or refused, each refusal with the reason."""

import copy
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
from higgs_audio_trainer.checkpoint.processor_files import save_processor
from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.v2.checkpoint import check_template

SPEECH = Turn("assistant", (Clip(Path("a.wav"), encoded=False),), supervised=True)
SAMPLE = Sample("one", (Turn("system", ("S.",)), Turn("user", ("Hi",)), SPEECH), "m:1")
TEXT_ONLY = Sample("two", (Turn("system", ("S.",)), Turn("assistant", ("Hello.",), supervised=True)), "m:2")
NOISE = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)


@pytest.fixture
def model_dir(tiny, tmp_path) -> Path:
    """Copy the tiny checkpoint without the weights, as a copy to damage."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(tiny.model_dir, tmp_path / "model", ignore=ignored))


@pytest.fixture
def codec_dir(tiny, tmp_path) -> Path:
    """Copy the tiny codec, as a copy to damage."""
    return Path(shutil.copytree(tiny.codec_dir, tmp_path / "codec"))


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_good_checkpoint_says_what_layout_and_labels_need(tiny):
    """The ids come from the configuration and the tokenizer. The weights are not read."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    ids, token = checkpoint.ids, checkpoint.tokenizer.convert_tokens_to_ids
    assert checkpoint.vocabulary.placeholders == (token("<|AUDIO_OUT|>"), token("<|reserved_special_token_6|>"))
    assert (ids.stream_bos, ids.stream_eos, ids.num_codebooks) == (1024, 1025, 8)
    assert ids.pad == token("<|end_of_text|>")
    assert checkpoint.text_stop_ids == tuple(token(["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]))


def test_a_checkpoint_without_a_pad_token_pads_as_its_configuration_says(model_dir):
    """Without a pad token in the tokenizer, the configuration's pad token is used."""
    settings = json.loads((model_dir / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (model_dir / "tokenizer_config.json").write_text(json.dumps(settings))
    change(model_dir / "config.json", pad_token_id=261)
    assert open_checkpoint(str(model_dir)).ids.pad == 261


NOT_NATIVE = [
    ({"model_type": "higgs_audio"}, r"expected model_type higgs_audio_v2, got higgs_audio: this is Boson's original"),
    ({"model_type": "llama"}, r"expected model_type higgs_audio_v2 or higgs_multimodal_qwen3, got 'llama'"),
    ({"model_type": None}, r"expected model_type higgs_audio_v2 or higgs_multimodal_qwen3, got None"),
    (
        {"codebook_size": 1024},
        r"expected codebook_size of at least 1026, to hold stream BOS 1024 and EOS 1025, got 1024",
    ),
    ({"hidden_size": "wide"}, r"expected a valid config\.json, got: Validation error for field 'hidden_size'"),
    ({"num_attention_heads": 7}, r"expected a valid config\.json, got: .*not a multiple of the number of attention"),
    ({"audio_token_id": 7}, r"expected <\|AUDIO_OUT\|> to be token 7, as config\.json says, got 265 from the token"),
    ({"audio_delay_token_id": 7}, r"expected <\|reserved_special_token_6\|> to be token 7, .* different checkpoints"),
    ({"vocab_size": 200}, r"expected token ids below 200, the vocab_size of config\.json, got 270"),
]


@pytest.mark.parametrize(("values", "message"), NOT_NATIVE, ids=[" ".join(values) for values, _ in NOT_NATIVE])
def test_a_configuration_that_does_not_fit_is_a_user_error(model_dir, values, message):
    """Each error names the expected and the found value, before anything large is loaded."""
    change(model_dir / "config.json", **values)
    with pytest.raises(UserError, match=rf"^--base_ckpt {model_dir}: {message}"):
        open_checkpoint(str(model_dir))


def test_bosons_layout_is_named_with_the_way_out(model_dir):
    """The error for the original checkpoint explains how to convert the checkpoint."""
    change(model_dir / "config.json", model_type="higgs_audio")
    with pytest.raises(UserError, match=r"native layout of transformers, or convert this one with the script .*\.py$"):
        open_checkpoint(str(model_dir))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"[1]", b"{}", b"3"])
def test_a_configuration_that_is_broken_is_a_user_error(tmp_path, content):
    """Empty, no JSON, or no object. The error names the file and what is wrong with it."""
    (tmp_path / "config.json").write_bytes(content)
    what = "the configuration of a model" if content in (b"[]", b"[1]", b"{}", b"3") else "JSON"
    with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json: expected {what}, got.*copy the file again\.$"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_a_configuration_is_a_user_error(tmp_path, model_dir):
    """The error names a folder below that has one."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=rf"^--base_ckpt {tmp_path}/empty: expected a config\.json, got none\. Name the"
    ):
        open_checkpoint(str(tmp_path / "empty"))
    codec = model_dir.parent / "codec"  # before the model in the order of names
    codec.mkdir()
    (codec / "config.json").write_text('{"model_type": "higgs_audio_v2_tokenizer"}')
    with pytest.raises(UserError, match=rf"expected a config\.json, got none\. Name {model_dir}\.$"):
        open_checkpoint(str(model_dir.parent))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "got '/no/such/folder': there is no such folder; / exists. Check the path."),
        ("no/such/folder", "there is no such folder; "),
        ("x" * 300, "there is no such folder; "),
        (
            "no/such-name",
            "got neither, and HF_HUB_OFFLINE forbids requests to the Hub. Unset HF_HUB_OFFLINE, or run with a",
        ),
        (__file__, f"--base_ckpt {__file__}: expected the folder of a model, got a file. Name the folder."),
    ],
)
@pytest.mark.parametrize("opened", [open_checkpoint, Codec])
def test_a_model_that_is_not_there_is_a_user_error(opened, name, message):
    """An error refuses a path that is no folder, and a name that cannot be fetched, of codecs too."""
    with pytest.raises(UserError) as error:
        opened(name)
    assert message.replace("--base_ckpt", "--audio_tokenizer" if opened is Codec else "--base_ckpt") in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json", "config.json"])
def test_integers_beyond_64_bits_of_a_real_checkpoint_are_read(model_dir, name):
    """Tokenizers without a limit have int(1e30) as their model_max_length."""
    change(model_dir / name, model_max_length=1000000000000000019884624838656)
    checkpoint = open_checkpoint(str(model_dir))
    assert codec_of(str(model_dir))
    save_processor(checkpoint, model_dir.parent)
    assert "1000000000000000019884624838656" in (model_dir.parent / "tokenizer_config.json").read_text()


DEEP, WIDE = "[" * 5_000 + "]" * 5_000, "9" * 5_000


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [f'{{"a": {DEEP}}}', f'{{"a": {WIDE}}}', '{"a": 1e400', "\0"])
def test_a_hostile_file_of_a_checkpoint_is_a_user_error(model_dir, name, content):
    """A file that is nested too deep, has too wide an integer, is cut off or has another form."""
    (model_dir / name).unlink(missing_ok=True)
    (model_dir / name).write_text(content)
    with pytest.raises(UserError) as caught:
        codec_of(str(model_dir)) if name == "processor_config.json" else open_checkpoint(str(model_dir))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [10**30, 10**18])
@pytest.mark.parametrize(("family", "part"), [("higgs-audio-v2", ""), ("higgs-tts-3", "audio_encoder_config")])
def test_sizes_of_no_model_are_a_user_error(tiny_of, family, part, size):
    """A configuration whose tensors no memory holds is refused before data are prepared."""
    checkpoint = open_checkpoint(str(tiny_of(family).model_dir))
    config = copy.deepcopy(checkpoint.config)
    if part:
        getattr(config, part)["vocab_size"] = size
    else:
        config.codebook_size = size
    with pytest.raises(UserError, match=r"--base_ckpt: expected a config.json of a model, got [A-Z][a-zA-Z]+Error: "):
        checkpoint.family.without_weights(config)


def test_no_code_of_a_checkpoint_is_run(model_dir, tmp_path, monkeypatch):
    """An auto_map in config.json and in the tokenizer's configuration is not followed, and nobody is asked."""
    (model_dir / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((model_dir / name).read_text())
        content["auto_map"] = {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]}
        (model_dir / name).unlink()
        (model_dir / name).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    with suppress(UserError):
        open_checkpoint(str(model_dir))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spoil", ["missing", "broken"])
def test_a_checkpoint_without_a_tokenizer_is_a_user_error(model_dir, spoil):
    """An error refuses a checkpoint whose tokenizer files are missing or do not load."""
    for path in model_dir.glob("tokenizer*"):
        if spoil == "missing":
            path.unlink()
        else:
            path.write_text("{")
    with pytest.raises(UserError, match=r"expected a tokenizer beside the model, got an error: \S") as caught:
        open_checkpoint(str(model_dir))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_higgs_tokens_is_a_user_error(model_dir):
    """The missing ones are named."""
    tokenizer = (model_dir / "tokenizer.json").read_text()
    (model_dir / "tokenizer.json").write_text(tokenizer.replace("<|audio_eos|>", "<|other|>"))
    with pytest.raises(UserError, match=r"expected a tokenizer with the tokens of Higgs, got one without .*audio_eos"):
        open_checkpoint(str(model_dir))


def test_our_prompt_is_the_tiny_checkpoints(tiny):
    """Nothing is reported if both prompts agree, or if the template cannot render a sample."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    check_template(checkpoint, [TEXT_ONLY, SAMPLE])
    check_template(checkpoint, [TEXT_ONLY])
    check_template(checkpoint, [])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% endfor %}",
            r"template to render '<\|start_header_id\|>system.*' at character 17 of .*'one', got '\[system\]\[user",
        ),
        ("{{ raise_exception('text only') }}", r"expected a chat template that renders speech .*, got: text only"),
        ("{{ 'a' + messages }}", r"expected a chat template that renders speech .*, got: can only concatenate"),
        (
            "{{ messages[0].nothing.there }}",
            r"expected a chat template that renders speech .*, got: .*undefined|has no",
        ),
        ("{% if %}", r"expected a chat template that renders speech .*, got: Expected an expression"),
    ],
)
def test_a_template_that_renders_another_prompt_is_a_user_error(model_dir, template, message):
    """The error shows the first difference, or the reason why the template cannot be rendered."""
    (model_dir / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=message):
        check_template(open_checkpoint(str(model_dir)), [TEXT_ONLY, SAMPLE])


def test_a_checkpoint_without_a_template_is_taken_at_its_word(model_dir):
    """There is nothing to compare with."""
    (model_dir / "chat_template.jinja").unlink()
    check_template(open_checkpoint(str(model_dir)), [SAMPLE])


def test_newlines_around_the_whole_prompt_are_no_difference(model_dir):
    """Newlines around the prompt are no difference, because template files often begin and end with a newline."""
    template = (model_dir / "chat_template.jinja").read_text()
    (model_dir / "chat_template.jinja").write_text("{{ '\\n' }}" + template + "{{ '\\n' }}")
    check_template(open_checkpoint(str(model_dir)), [SAMPLE])


@pytest.mark.parametrize(
    ("content", "codec"),
    [
        (None, DEFAULT_AUDIO_TOKENIZER),
        ({"audio_tokenizer": {"audio_tokenizer_name_or_path": "some/codec"}}, "some/codec"),
        ({"audio_tokenizer": None}, DEFAULT_AUDIO_TOKENIZER),
        ({"audio_tokenizer": "odd"}, DEFAULT_AUDIO_TOKENIZER),
        ([], DEFAULT_AUDIO_TOKENIZER),
    ],
)
def test_the_codec_is_the_one_that_the_processor_names(model_dir, content, codec):
    """The codec is the codec that a saved processor of transformers names, or else the default codec."""
    (model_dir / "processor_config.json").unlink()
    if content is not None:
        (model_dir / "processor_config.json").write_text(json.dumps(content))
    assert codec_of(str(model_dir)) == codec


def test_a_broken_processor_is_a_user_error(model_dir):
    """It is named, and not passed over."""
    (model_dir / "processor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"expected JSON in processor_config\.json, got: "):
        codec_of(str(model_dir))


def test_a_codec_is_told_from_another_by_configuration_and_weights(tiny, codec_dir):
    """A copy is the same codec.

    One changed byte makes another codec, in either file and in either format of weights.
    """
    fingerprints = [Codec(str(folder)).fingerprint for folder in (tiny.codec_dir, codec_dir)]
    change(codec_dir / "config.json", codebook_dim=16)
    fingerprints.append(Codec(str(codec_dir)).fingerprint)
    for content in (b"one", b"two"):
        (codec_dir / "pytorch_model.bin").write_bytes(content)
        fingerprints.append(Codec(str(codec_dir)).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 4


def test_a_codec_whose_weights_are_in_half_precision_encodes(codec_dir):
    """The codec encodes in float32, whatever the saved precision is."""
    change(codec_dir / "config.json", dtype="bfloat16")
    codes_KT = Codec(str(codec_dir)).encode(NOISE)
    assert (codes_KT.shape, codes_KT.dtype) == ((8, 25), np.int64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "expected a codec in transformers' layout"),
        ("{", "expected a codec in transformers' layout"),
        ('{"model_type": "dac", "n_codebooks": "x"}', "expected a codec in transformers' layout"),
        ('{"n_filters": 32, "ratios": [8, 5, 4, 2]}', "Convert a codec in Boson's original layout first"),
        ('{"model_type": "encodec"}', "expected model_type higgs_audio_v2_tokenizer or dac, got 'encodec'"),
    ],
)
def test_a_folder_that_holds_no_codec_is_a_user_error(tmp_path, config, message):
    """It is found out before anything is encoded."""
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=rf"^--audio_tokenizer {tmp_path}: .*{message}"):
        Codec(str(tmp_path))


def drop_weights(codec_dir: Path) -> None:
    """Take the weights away."""
    (codec_dir / "model.safetensors").unlink()


def cut_weights(codec_dir: Path) -> None:
    """Cut the weights off, as a broken download does."""
    path = codec_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change_shape(codec_dir: Path) -> None:
    """Replace the configuration by that of another codec."""
    change(codec_dir / "config.json", codebook_dim=16)


def drop_tensor(codec_dir: Path) -> None:
    """Remove one tensor of the encoder."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(codec_dir / "model.safetensors")
    del tensors["encoder.conv1.weight"]
    save_file(tensors, codec_dir / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_weights, "the codec cannot be loaded: "),
        (cut_weights, "the codec cannot be loaded: "),
        (change_shape, "the codec cannot be loaded: "),
        (drop_tensor, r"expected weights for encoder\.conv1\.weight, got none"),
    ],
)
def test_a_codec_that_is_not_whole_is_a_user_error(codec_dir, spoil, message):
    """Nothing is ever encoded with random weights in place of missing ones."""
    spoil(codec_dir)
    with pytest.raises(UserError, match=rf"--audio_tokenizer {codec_dir}: {message}"):
        Codec(str(codec_dir)).encode(NOISE)


def test_a_codec_that_decodes_may_lack_the_encoder_until_a_clip_is_encoded(codec_dir):
    """Weights that are missing in the encoder do not hinder decoding, and no clip is encoded with random weights."""
    drop_tensor(codec_dir)
    codec = Codec(str(codec_dir))
    assert len(codec.decode(np.zeros((8, 5), dtype=np.int64))) > 0
    with pytest.raises(UserError, match=r"expected weights for encoder\.conv1\.weight, got none"):
        codec.encode(NOISE)


def test_a_sample_without_a_system_text_is_compared_too(tiny):
    """Any sample of a manifest has the values that the template needs."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    scene = replace(SAMPLE, turns=(SAMPLE.turns[0], Turn("scene", ("A hall.",)), *SAMPLE.turns[1:]))
    check_template(checkpoint, [scene])
