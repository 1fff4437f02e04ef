"""An output directory without this package: transformers and peft load it with the lines that the docs print."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import soundfile
from transformers import AutoProcessor, processing_utils

from higgs_audio_trainer.config import DEFAULT_BASE_CKPT
from higgs_audio_trainer.data.higgs_codec import higgs_codec_class
from higgs_audio_trainer.families.v2.usage import native_lines
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.whole_checkpoint import export_model
from tests.readme import ROOT
from tests.test_run import settings

PAGE = (ROOT / "docs" / "native_loading.md").read_text(encoding="utf-8")
LINES = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture(scope="module")
def out(tiny_higgs, clips, tmp_path_factory):
    """Train a step with the tiny Higgs codec, whose clips are encoded once."""
    folder = tmp_path_factory.mktemp("native") / "out"
    run_training(settings(tiny_higgs, clips, folder, max_steps=1, batch_size=8, grad_accum=1))
    return folder


@pytest.fixture
def codec_class(monkeypatch):
    """Let transformers accept the class of the Higgs codec without torchaudio."""
    monkeypatch.setattr(
        processing_utils.transformers_module, "HiggsAudioV2TokenizerModel", higgs_codec_class(), raising=False
    )


def on_this_machine(lines, base):
    """Replace the base checkpoint, and end the speech of the untrained model early."""
    assert DEFAULT_BASE_CKPT in lines
    return lines.replace(DEFAULT_BASE_CKPT, str(base)).replace("max_new_tokens=1000", "max_new_tokens=30")


def test_the_lines_of_the_docs_speak(tiny_higgs, out, tmp_path, monkeypatch, codec_class):
    """Exactly these lines, in the folder that holds the output directory under another name, write a file of sound."""
    shutil.copytree(out, tmp_path / "elsewhere" / "out")
    monkeypatch.chdir(tmp_path / "elsewhere")
    exec(on_this_machine(LINES, tiny_higgs.model_dir), {})
    samples, rate = soundfile.read("hello.wav")
    assert rate == 24_000
    assert len(samples) >= 960
    assert samples.std() > 0.001


def test_the_lines_run_in_a_process_with_torchaudio(tiny_higgs, out, tmp_path):
    """Without a line of this package: with transformers' own class, as a user has it."""
    torchaudio = os.environ.get("PLAIN_TORCHAUDIO")
    if torchaudio is None and "CI" not in os.environ:
        pytest.skip("PLAIN_TORCHAUDIO names no folder; CI unpacks one")
    shutil.copytree(out, tmp_path / "out")
    lines = (
        on_this_machine(LINES, tiny_higgs.model_dir) + "\nimport sys; assert 'higgs_audio_trainer' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(torchaudio)}
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert soundfile.info(tmp_path / "hello.wav").frames >= 960


def test_the_card_has_the_lines_of_the_docs():
    """One text, with other names."""
    assert native_lines(base=DEFAULT_BASE_CKPT, folder="out") == LINES


@pytest.mark.parametrize("kind", ["higgs", "dac"])
def test_the_processor_loads_from_anywhere(tiny, tiny_higgs, clips, out, tmp_path, monkeypatch, codec_class, kind):
    """From another working folder, after the output directory was moved, with the codec of the training."""
    folders = {"higgs": tiny_higgs, "dac": tiny}[kind]
    made = out
    if kind == "dac":
        run_training(settings(tiny, clips, tmp_path / "made", max_steps=1))
        made = tmp_path / "made"
    shutil.copytree(made, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    processor = AutoProcessor.from_pretrained(".")
    assert processor.audio_tokenizer.name_or_path == str(folders.codec_dir)
    assert processor.tokenizer("Hello.")["input_ids"]


def test_a_relative_codec_is_found_from_anywhere(tiny, clips, tmp_path, monkeypatch, codec_class):
    """The base checkpoint names its codec relative to the working folder of the training."""
    shutil.copytree(tiny.model_dir, tmp_path / "model")
    shutil.copytree(tiny.codec_dir, tmp_path / "codec")
    config = tmp_path / "model" / "processor_config.json"
    config.write_text(config.read_text().replace(str(tiny.codec_dir), "codec"))
    monkeypatch.chdir(tmp_path)
    run_training(settings(tiny, clips, "out", base_ckpt="model", audio_tokenizer=None, max_steps=1))
    monkeypatch.chdir(tmp_path / "model")
    assert AutoProcessor.from_pretrained(tmp_path / "out").audio_tokenizer.name_or_path == str(tmp_path / "codec")


def test_an_exported_checkpoint_speaks_with_the_lines_of_its_card(tiny_higgs, out, tmp_path, monkeypatch, codec_class):
    """From its own folder, without peft."""
    export_model(str(out), tmp_path / "whole")
    monkeypatch.chdir(tmp_path / "whole")
    lines = re.search(r"```python\n(.*?)```", (tmp_path / "whole" / "README.md").read_text(), re.DOTALL)[1]
    assert "peft" not in lines
    exec(lines.replace("max_new_tokens=1000", "max_new_tokens=30"), {})
    assert soundfile.info("hello.wav").frames >= 960
