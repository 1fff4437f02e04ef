"""Models and data sets on the Hub: local faults come first, and every failure has its cause and a way out."""

import errno
import os
import socket
import time

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers.utils import hub as transformers_hub

from higgs_audio_trainer import hub as access
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint, open_config
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.sources import open_source
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.voice.scores import check_scorers
from tests.fake_hub import fake_hub

NAME = "ann/voice"
GATED = (403, {"X-Error-Code": "GatedRepo"})
#: Each place of a name on the Hub, with the flag in messages.
PLACES = {
    f"--base_ckpt {NAME}": lambda: open_checkpoint(NAME),
    f"--base_ckpt {NAME} ": lambda: open_config(NAME),
    f"--audio_tokenizer {NAME}": lambda: Codec(NAME),
    f"--say_asr {NAME}": lambda: check_scorers(NAME, None),
    f"--say_speaker {NAME}": lambda: check_scorers(None, NAME),
    f"hf:{NAME}:train": lambda: open_source(f"hf:{NAME}:train"),
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Give the libraries of this process an empty cache, and restore all that an offline start changes."""
    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(access, "_why_offline", "")
    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return monkeypatch


def name_as_hub(patch, url):
    """Let the libraries of this process find a Hub at another address."""
    patch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(offline):
    """Serve a Hub, and let the libraries of this process find it in place of the real one."""
    with fake_hub() as served:
        name_as_hub(offline, served.url)
        yield served


@pytest.fixture
def nobody(offline):
    """Name an address where nothing listens as the Hub."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name_as_hub(offline, f"http://127.0.0.1:{unused.getsockname()[1]}")
        pauses = []
        offline.setattr(time, "sleep", pauses.append)
        yield pauses


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (GATED, "expected access, but its authors ask everybody to accept their terms first. Accept them at http://"),
        (
            (404, {"X-Error-Code": "RepoNotFound"}),
            "or a private one. Check the spelling; for a private one, log in with",
        ),
        ((404, {}), "of this name on 127.0.0.1"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "but not this revision. Look at http://"),
        ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "refused the token (401)"),
        ((403, {}), "refused access (403)"),
        ((429, {}), "too many requests from here (429)"),
        ((500, {}), "has a fault of its own (500). Try again later, or name a folder."),
    ],
)
def test_an_answer_of_the_hub_is_told_in_words(hub, where, answer, cause):
    """The same for models, codecs, models of scores and data sets, after one request."""
    hub.answer_to_reads = answer
    with pytest.raises(UserError) as error:
        PLACES[where]()
    assert str(error.value).startswith(f"{where.strip()}: ")
    assert cause in str(error.value)
    assert len([path for path in hub.asked if NAME in path]) == 1


@pytest.mark.parametrize("where", [where for where in PLACES if not where.startswith("hf:")])
def test_without_a_network_three_tries_are_made(nobody, where):
    """Three seconds, not half a minute; the error names the cache and what the system said."""
    with pytest.raises(UserError, match=rf"^{where.strip()}: .*no answer: 127\..* cannot be reached \(.*refused"):
        PLACES[where]()
    assert nobody == [0.0, 1.0, 2.0]


def test_a_data_set_without_a_network_may_be_in_its_own_cache(nobody):
    """`datasets` looks there, and if there is none, the reason is the network."""
    with pytest.raises(UserError, match=rf"^hf:{NAME}:train: .*cannot be reached \(.*refused"):
        PLACES[f"hf:{NAME}:train"]()


def test_a_copy_in_the_cache_is_used_without_a_network(nobody, tiny, tmp_path, capsys):
    """After one request, with a note; then nothing is asked any more."""
    snapshot = tmp_path / "hub" / "models--ann--voice" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(tiny.model_dir)
    (tmp_path / "hub" / "models--ann--voice" / "refs").mkdir()
    (tmp_path / "hub" / "models--ann--voice" / "refs" / "main").write_text("0" * 40)
    assert open_checkpoint(NAME).ids == open_checkpoint(str(tiny.model_dir)).ids
    assert nobody == [0.0]
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_no_download_is_named(number):
    """Wherever in the causes of a library's error."""
    outer = OSError("Can't load the model")
    outer.__cause__ = OSError(number, os.strerror(number), "/cache/blobs/1")
    error = access.hub_error(outer, "--base_ckpt", NAME)
    reason = (
        f"the download failed: /cache/blobs/1: {os.strerror(number)}. Free space, or set HF_HOME to another folder."
    )
    assert str(error) == f"--base_ckpt {NAME}: {reason}"


def test_other_errors_are_left_to_the_caller(tmp_path):
    """An error of a folder, or of a file's content, is none of the Hub's."""
    assert access.hub_error(ValueError("no JSON"), "--base_ckpt", NAME) is None
    assert access.hub_error(LocalEntryNotFoundError("x"), "--base_ckpt", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--train_manifest", "no.jsonl", "--output_dir", "out"), "no.jsonl: No such file"),
        (("train", "--train_manifest", "{clips}", "--eval_manifest", "no", "--output_dir", "out"), "no: No such file"),
        (("train", "--train_manifest", "{clips}", "--output_dir", "file/out"), "--output_dir: file: Not a directory"),
        (("train", "--train_manifest", "{clips}", "--output_dir", "out", "--resume", "gone"), "--resume: expected the"),
        (("train", "--train_manifest", "{clips}", "--output_dir", "out", "--audio_tokenizer", "./no"), "--audio_token"),
        (("train", "--train_manifest", "file", "--output_dir", "out"), "file: expected a manifest"),
        (("train", "--train_manifest", "hf:a/b:train", "--output_dir", "out", "--base_ckpt", "./no"), "--base_ckpt: "),
        (("train", "--train_manifest", "no.jsonl", "--output_dir", "out", "--say_speaker", NAME), "no.jsonl: No such"),
        (("train", "--train_manifest", "{clips}", "--output_dir", "out", "--quux"), "--quux: expected a known flag"),
        (("prepare", "--train_manifest", "no.jsonl"), "no.jsonl: No such file"),
        (("prepare", "--train_manifest", "{clips}", "--device", "abacus"), "--device: expected a device"),
        (("prepare", "--train_manifest", "{clips}", "--audio_tokenizer", "./no"), "--audio_tokenizer: expected"),
        (("prepare", "--train_manifest", "{clips}", "--audit", "file/a.json"), "--audit: file: Not a directory"),
        (("manifest", "hf:a/b:train", "-o", "file/train.jsonl"), "file: Not a directory. Name another file with -o."),
        (("manifest", "hf:a/b:train", "-o", "m.jsonl", "--eval", "x"), "--eval: expected"),
        (("say", "--base_ckpt", NAME, "Hello.", "-o", "file/a.wav"), "file: Not a directory"),
        (("say", "--base_ckpt", NAME, "Hello.", "-o", "a.wav", "--device", "abacus"), "--device: expected a device"),
        (("say", "gone", "Hello.", "-o", "a.wav"), "gone: expected the output directory"),
        (("export-model", "gone", "merged"), "gone: expected the output directory"),
        (("export-model", "adapter", "file/merged"), "/file: Not a directory"),
        (("doctor", "--plan", "--base_ckpt", NAME, "--card", "-1"), "--card: expected more than 0"),
        (("doctor", "--plan", "--base_ckpt", "./no"), "--base_ckpt: expected a folder or a name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_local_faults_come_before_the_hub(hub, clips, tmp_path, monkeypatch, capsys, arguments, message):
    """The Hub gets no request, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{NAME}"}}')
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    assert main([argument.format(clips=clips) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert hub.asked == []
    assert sorted(tmp_path.rglob("*")) == before
