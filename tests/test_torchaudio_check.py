"""A torchaudio that is installed and does not load looks like none, and any other is left alone."""

import importlib.util
import sys

import pytest
from transformers.utils import import_utils, is_torchaudio_available

import higgs_audio_trainer
from higgs_audio_trainer.torchaudio_check import hide_broken_torchaudio

ANSWERS = (import_utils.is_torchaudio_available, import_utils.is_speech_available)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that installs files of a torchaudio. The process looks for torchaudio anew, also afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)

    def install(**files):
        for name, text in files.items():
            path = tmp_path / "torchaudio" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        for answer in ANSWERS:
            answer.cache_clear()

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    for answer in ANSWERS:
        answer.cache_clear()


BROKEN = {
    "a library of CUDA is missing": {"__init__": "raise OSError('libcudart.so.13: cannot open shared object file')"},
    "an undefined symbol": {"__init__": "from . import _extension", "_extension": "raise ImportError('undefined')"},
    "another version of CUDA": {"__init__": "raise RuntimeError('Detected that PyTorch and TorchAudio were compiled')"},
    "a bug": {"__init__": "1 / 0"},
    "functions are missing": {"__init__": ""},
    "a folder of a package that was removed": {"left": ""},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN)
def test_one_that_does_not_load_looks_like_none(installed, files):
    """Nobody finds it, neither a library that looks for the package nor one that has looked before."""
    installed(**files)
    assert is_torchaudio_available()
    hide_broken_torchaudio()
    assert importlib.util.find_spec("torchaudio") is None
    assert not is_torchaudio_available()
    with pytest.raises(ModuleNotFoundError):
        __import__("torchaudio")
    assert [name for name in sys.modules if name.startswith("torchaudio")] == ["torchaudio"]
    hide_broken_torchaudio()


@pytest.mark.parametrize("name", ["run_training", "PredictionLogger", "adapter_for", "model"])
def test_public_names_that_need_transformers_hide_it(installed, name):
    """A program that imports a name of ours before transformers works as well."""
    installed(__init__="raise OSError('libcudart.so.13: cannot open shared object file')")
    getattr(higgs_audio_trainer, name)
    assert not is_torchaudio_available()


def test_one_that_loads_stays(installed):
    """A torchaudio with functions is imported once, and transformers finds it."""
    installed(__init__="from . import functional", functional="def resample(waveform, orig_freq, new_freq): ...")
    hide_broken_torchaudio()
    module = sys.modules["torchaudio"]
    hide_broken_torchaudio()
    assert sys.modules["torchaudio"] is module
    assert is_torchaudio_available()


def test_metadata_alone_is_no_torchaudio(installed, tmp_path):
    """The metadata of a package that was removed hides and breaks nothing."""
    (tmp_path / "torchaudio-2.11.0.dist-info").mkdir()
    (tmp_path / "torchaudio-2.11.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\n")
    installed()
    if importlib.util.find_spec("torchaudio") is not None:
        pytest.skip("torchaudio is installed")
    hide_broken_torchaudio()
    assert "torchaudio" not in sys.modules
    assert not is_torchaudio_available()


def test_a_loaded_module_is_left_alone(installed, monkeypatch):
    """A stand-in that the user's own program put there stays."""
    stand_in = object()
    monkeypatch.setitem(sys.modules, "torchaudio", stand_in)
    hide_broken_torchaudio()
    assert sys.modules["torchaudio"] is stand_in
