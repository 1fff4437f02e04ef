"""The tiny checkpoint: real files, every size, the same bytes for the same seed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DacModel, HiggsAudioV2ForConditionalGeneration

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.tiny_size import TinySize
from higgs_audio_trainer.families.v2.tiny import SPECIAL_TOKENS


def digests(folder: Path) -> dict[str, str]:
    """Hash every file below a folder. The processor names the codec's folder, which is left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes().replace(bytes(folder), b"")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_files_are_those_of_a_real_checkpoint(tiny):
    """The model has configuration, safetensors, tokenizer and chat template; the codec configuration and weights."""
    assert {path.name for path in tiny.model_dir.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
    }
    assert {path.name for path in tiny.codec_dir.iterdir()} >= {"config.json", "model.safetensors"}
    config = json.loads((tiny.model_dir / "config.json").read_text())
    assert (config["model_type"], config["codebook_size"], config["num_codebooks"]) == ("higgs_audio_v2", 1026, 8)


def test_plain_transformers_loads_it_whole(tiny):
    """No weight is missing or left over, text head included."""
    model, info = HiggsAudioV2ForConditionalGeneration.from_pretrained(
        tiny.model_dir, use_text_head=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.text_lm_head.weight.shape == (512, 128)
    _, info = DacModel.from_pretrained(tiny.codec_dir, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_the_codec_gives_25_frames_a_second_in_8_codebooks(tiny):
    """The codec has the strides of the Higgs codec."""
    codec = DacModel.from_pretrained(tiny.codec_dir).eval()
    with torch.no_grad():
        codes_1KT = codec.encode(torch.randn(1, 1, 24_000, generator=torch.manual_seed(0)) * 0.1).audio_codes
    assert codes_1KT.shape == (1, 8, 25)
    assert codec.config.hop_length == 960


def test_the_tokenizer_writes_every_language_and_keeps_special_tokens_whole(tiny):
    """A byte and a marker are a token each, and decoding restores the text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir)
    text = "Tea, شاي, 茶, 🍵\n\t"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode("".join(SPECIAL_TOKENS), add_special_tokens=False)) == len(SPECIAL_TOKENS)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_ids_of_the_configuration_are_those_of_the_tokenizer(tiny):
    """Model and tokenizer fit together, as `train` checks."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    special = checkpoint.tokenizer.convert_tokens_to_ids
    config = checkpoint.config
    assert config.audio_token_id == special("<|AUDIO_OUT|>")
    assert config.audio_bos_token_id == special("<|audio_out_bos|>")
    assert config.audio_delay_token_id == special("<|reserved_special_token_6|>")
    assert (config.bos_token_id, config.pad_token_id) == (special("<|begin_of_text|>"), special("<|end_of_text|>"))


def test_the_same_seed_writes_the_same_bytes(tiny, tmp_path):
    """Equal seeds give equal bytes, other seeds other weights, and the caller's random state is unchanged."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write_tiny(tmp_path / "again")
    assert torch.equal(torch.rand(3), expected)
    assert digests(tmp_path / "again") == digests(tiny.model_dir.parent)
    write_tiny(tmp_path / "other", seed=1)
    changed = {
        name for name, digest in digests(tmp_path / "other").items() if digest != digests(tmp_path / "again")[name]
    }
    assert changed == {"model/model.safetensors", "codec/model.safetensors"}


def test_every_size_can_be_chosen_on_the_command_line(tmp_path, capsys):
    """Width, layers, codebooks and vocabulary; the paths are printed."""
    size = ["--hidden_size", "64", "--layers", "1", "--codebooks", "3", "--vocab_size", "300", "--seed", "4"]
    assert main(["tiny", str(tmp_path / "t"), *size]) == 0
    model_dir, codec_dir = tmp_path / "t" / "model", tmp_path / "t" / "codec"
    assert capsys.readouterr().out == f"model: {model_dir}\ncodec: {codec_dir}\n"
    config = open_checkpoint(str(model_dir)).config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 1, 300)
    assert config.num_codebooks == DacModel.from_pretrained(codec_dir).config.n_codebooks == 3


def test_a_higgs_codec_can_be_chosen(tmp_path, capsys):
    """The codec is of the Higgs codec's class, has the codebooks of the model, and the same bytes for the same seed."""
    size = ["--codec", "higgs", "--hidden_size", "64", "--layers", "1", "--codebooks", "3"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main(["tiny", str(tmp_path / name), *size, "--seed", seed]) == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["codec/model.safetensors"] != digests(tmp_path / "c")["codec/model.safetensors"]
    codes_KT = Codec(str(tmp_path / "a" / "codec")).encode(np.zeros(24_000, dtype=np.float32))
    assert codes_KT.shape == (3, 25)
    assert open_checkpoint(str(tmp_path / "a" / "model")).config.num_codebooks == 3


def test_an_unknown_codec_is_refused(tmp_path, capsys):
    """The message names the codecs."""
    assert main(["tiny", str(tmp_path / "t"), "--codec", "encodec"]) == 2
    assert "--codec: expected one of dac, higgs, got 'encodec'" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("part", ["model", "codec"])
def test_nothing_is_overwritten(tmp_path, capsys, part):
    """A folder with a part of a checkpoint stays unchanged."""
    (tmp_path / part).mkdir()
    assert main(["tiny", str(tmp_path)]) == 2
    assert f"expected a new folder, got {tmp_path / part}, which exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [part]


def test_a_place_that_cannot_be_written_to_is_a_user_error(tmp_path):
    """A file in the way is named."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^tiny: .*: Not a directory\. Choose a writable folder"):
        write_tiny(tmp_path / "file")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("layers", 0, "--layers: expected at least 1, got 0"),
        ("codebooks", 0, "--codebooks: expected at least 1, got 0"),
        ("vocab_size", 100, "--vocab_size: expected at least 271, got 100"),
        ("hidden_size", 32, "--hidden_size: expected at least 64, got 32"),
        ("hidden_size", 100, "--hidden_size: expected a multiple of 64, got 100"),
        ("seed", -1, "--seed: expected 0 to 4294967295, got -1"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path, capsys, flag, value, message):
    """A size out of range is an error, and no file is written."""
    assert main(["tiny", str(tmp_path / "t"), f"--{flag}", str(value)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_the_defaults_of_the_command_are_those_of_the_library():
    """The command states its defaults without importing torch, equal to the library's."""
    from higgs_audio_trainer.cli.tiny import _DEFAULT

    size = TinySize()
    assert {
        "hidden_size": size.hidden_size,
        "layers": size.layers,
        "codebooks": size.codebooks,
        "vocab_size": size.vocab_size,
        "seed": 0,
    } == _DEFAULT
