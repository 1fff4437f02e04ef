"""Manifests made ready: everything checked first, encoded once, resumable."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.batch import SpeechDataset
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.errors import ManifestError, UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.training.prepare_manifests import default_codes_dir, prepare_manifests
from tests import forks
from tests.samples import entry, prepare_settings, tone, write_manifest, write_tone


@pytest.fixture(scope="module")
def checkpoint(tiny) -> BaseCheckpoint:
    """Open the tiny checkpoint."""
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture
def prepare(tiny, checkpoint, tmp_path):
    """Return `prepare_manifests` for a single manifest with a cache for the test, and keep the printed lines."""

    def call(manifest: Path, **changes: Any) -> PreparedDataset:
        settings = prepare_settings(tiny.codec_dir, tmp_path / "codes", call.said)
        (samples,), _ = prepare_manifests(
            [str(manifest)], changes.pop("checkpoint", checkpoint), **(settings | changes)
        )
        return samples

    call.said = []
    return call


def stored(codes_dir: Path) -> list[str]:
    """List the keys of the recordings in a cache that were encoded."""
    lines = [line for path in codes_dir.glob("codes/*/*.jsonl") for line in path.read_text().splitlines()]
    return sorted(row["key"] for row in map(json.loads, lines) if row.keys() == {"key", "codes"})


def codes_of(dataset: PreparedDataset) -> list[list[list[list[int]]]]:
    """List the codes of all clips of all samples."""
    return [[codes.tolist() for codes in sample.codes_KT] for sample in dataset]


def command(tiny: Any, manifest: Path, codes_dir: Path, *more: str) -> list[str]:
    """Make the arguments of `prepare`."""
    paths = [
        "--base_ckpt",
        str(tiny.model_dir),
        "--audio_tokenizer",
        str(tiny.codec_dir),
        "--codes_dir",
        str(codes_dir),
    ]
    return ["prepare", "--train_manifest", str(manifest), *paths, *more]


@pytest.fixture
def two_clips(clips, tmp_path) -> Path:
    """Write a manifest of two of the bundled clips."""
    lines = [json.loads(line) for line in clips.read_text(encoding="utf-8").splitlines()]
    two = ({**line, "audio": str(clips.parent / line["audio"])} for line in (lines[0], lines[-1]))
    return write_manifest(tmp_path / "two.jsonl", *two)


def test_the_bundled_clips_are_encoded_once(clips, prepare, tmp_path):
    """The first run encodes all clips, the second no clip, and both give the same samples."""
    first = prepare(clips)
    assert prepare.said == [f"{clips}: encoded 8 clips to {tmp_path / 'codes'}"]
    assert len(stored(tmp_path / "codes")) == 8
    assert [sample.id for sample in first] == ["en-1", "en-2", "en-3", "en-4", "en-5", "ar-1", "ar-2", "ar-3"]
    second = prepare(clips)
    assert len(prepare.said) == 1
    assert codes_of(second) == codes_of(first)
    assert second.folder == first.folder


def test_codes_have_the_clips_length_at_25_frames_a_second(clips, prepare, checkpoint):
    """The codes are as long as the clip at any sampling rate, and the data set reads the codes."""
    prepared = prepare(clips)
    for sample in prepared:
        (codes_KT,) = sample.codes_KT
        seconds = soundfile.info(str(clips.parent / f"{sample.id}.flac")).duration
        assert codes_KT.shape[1] == pytest.approx(seconds * 25, abs=1)
    examples = SpeechDataset(prepared, checkpoint.ids)
    assert len({examples[index].ref.fingerprint for index in range(8)}) == 8


@pytest.mark.parametrize("name", ["manifests/*/table.json", "prepared/*/about.json"])
@pytest.mark.parametrize(
    "values",
    [
        [],
        None,
        "[" * 5_000,
        {"sizes": 3},
        {"problems": {"a": 1}},
        {"problems": [[1]]},
        {"retry": {"a": [1]}},
        {"notes": 1},
    ],
    ids=str,
)
def test_a_damaged_file_of_the_cache_is_made_anew(two_clips, prepare, tmp_path, name, values):
    """A file that holds something else is damaged, whatever its JSON."""
    before = codes_of(prepare(two_clips))
    (path,) = (tmp_path / "codes").glob(name)
    if isinstance(values, dict):
        values = json.loads(path.read_text()) | values
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    assert codes_of(prepare(two_clips)) == before


def test_encoding_gives_the_same_codes_each_time(tiny, two_clips, prepare, tmp_path):
    """Two caches filled apart hold the same codes."""
    datasets = [prepare(two_clips, codes_dir=str(tmp_path / name)) for name in ("codes", "other")]
    assert codes_of(datasets[0]) == codes_of(datasets[1])
    assert datasets[0].fingerprint == datasets[1].fingerprint
    assert stored(tmp_path / "codes") == stored(tmp_path / "other")


def test_what_the_command_encoded_training_finds(tiny, clips, prepare, tmp_path, capsys):
    """`prepare` and `train` share the keys of the cache."""
    assert main(command(tiny, clips, tmp_path / "codes", "--eval_manifest", str(clips))) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"{clips}: encoded 8 clips to {tmp_path / 'codes'}",
        f"{clips}: 8 samples ready",
        f"{clips}: 8 samples ready",
        "data: 1 error, 1 note  train 8 samples, 0.4 min, 8 speakers  eval 8 samples, 0.4 min, 8 speakers",
    ]
    prepare(clips)
    assert prepare.said == []


def test_the_cache_is_the_users_unless_one_is_named(monkeypatch, tmp_path):
    """The cache follows XDG_CACHE_HOME, and otherwise lies in the home directory."""
    assert default_codes_dir() == Path(os.environ["XDG_CACHE_HOME"]) / "higgs-audio-trainer" / "codes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_codes_dir() == tmp_path / ".cache" / "higgs-audio-trainer" / "codes"


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    """A user of a container may have no home folder."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", str)
    with pytest.raises(UserError, match=r"^--codes_dir: expected a home folder .*, got none .* Name a folder"):
        default_codes_dir()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_codes_dir() == Path("/home/ann/cache/higgs-audio-trainer/codes")


def test_codes_alone_need_no_home(prepare, tmp_path, monkeypatch):
    """A manifest without audio fills no cache."""
    np.save(tmp_path / "c.npy", np.zeros((8, 5), dtype=int))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", str)
    manifest = write_manifest(tmp_path / "m.jsonl", {"id": "a", "codes": "c.npy", "text": "t"})
    assert len(prepare(manifest, codes_dir=None)) == 1


def test_what_is_decided_for_the_user_is_said(prepare, tmp_path):
    """Fields under another name, unused fields, beginnings of files and single channels are named."""
    write_tone(tmp_path / "a.wav", 3.0)
    wave = tone(1.0, 24_000)
    soundfile.write(tmp_path / "b.wav", np.stack([wave, -wave], axis=1), 24_000)
    lines = [entry("a", "a.wav", duration=1.5, lang="en"), entry("b", "b.wav", reference_audio="b.wav", lang="en")]
    manifest = write_manifest(tmp_path / "m.jsonl", *lines)
    prepare(manifest)
    assert prepare.said == [
        f"{manifest}: fields read under another name: reference_audio as ref_audio (1 line)",
        f"{manifest}: fields that are not used: lang (2 lines)",
        f"{manifest}: encoded 2 clips to {tmp_path / 'codes'}",
        "duration without an offset: only the beginning is taken of a.wav",
        "channels cancel each other out: only the loudest channel is taken of b.wav",
    ]


def test_stretches_of_a_long_recording_are_encoded_apart(prepare, tmp_path):
    """Each text of the simple form gets its own stretch."""
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000 * 4)
    soundfile.write(tmp_path / "long.wav", noise, 8_000)
    lines = [entry(str(n), "long.wav", offset=float(n), duration=1.0) for n in range(4)]
    samples = prepare(write_manifest(tmp_path / "m.jsonl", *lines))
    assert [codes.shape for sample in samples for codes in sample.codes_KT] == [(8, 25)] * 4
    assert len({str(codes) for codes in codes_of(samples)}) == 4


def test_paths_below_home_are_expanded(tiny, two_clips, tmp_path, monkeypatch):
    """A tilde that a shell left as it is, as in --codes_dir=~/codes, is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(command(tiny, Path("~/two.jsonl"), Path("~/cache"))) == 0
    assert len(stored(tmp_path / "cache")) == 2


NON_UTF_8 = """
import sys
from higgs_audio_trainer.data.audio import load_audio
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.media_path import shown_name
assert sys.getfilesystemencoding() == "ascii"
samples, problems = read_manifest(sys.argv[1])
clips = [clip for sample in samples for clip in sample.clips]
print(ascii([shown_name(clip.path) for clip in clips]), [len(load_audio(clip.path)[0].waveform) for clip in clips])
print(ascii(str(*problems)))
"""


def test_names_are_found_whatever_the_locale(tmp_path):
    """Names in the manifest and on the disk are UTF-8. A missing file's message names the locale and the way out."""
    for name in ("é.wav", "صباح.wav"):
        write_tone(tmp_path / name)
    manifest = write_manifest(tmp_path / "m.jsonl", *(entry(n, f"{n}.wav") for n in ("é", "صباح", "ü")))
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", NON_UTF_8, manifest], env=os.environ | locale, capture_output=True, text=True, check=True
    )
    found, fault = done.stdout.splitlines()
    assert found == ascii(["é.wav", "صباح.wav"]) + " [4800, 4800]"
    assert "which does not exist in the encoding of the locale, ascii, nor in UTF-8. Set LC_ALL=C.UTF-8" in fault


def test_a_setting_that_the_locale_cannot_spell_is_one_line(monkeypatch, capsys):
    """An error of the encoding is bad input where the locale is not UTF-8, and a bug elsewhere."""

    def run(arguments: Any, prog: str) -> int:
        Path("o").joinpath("ö".encode("ascii").decode())
        return 0

    monkeypatch.setattr("higgs_audio_trainer.cli.prepare.run", run)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    assert main(["prepare"]) == 2
    said = capsys.readouterr().err
    assert (
        said
        == "higgs-audio-trainer: ö: expected letters of the locale's encoding, ascii, got 'ö'. Set LC_ALL=C.UTF-8\n"
    )
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "utf-8")
    assert main(["prepare"]) == 1


def test_another_codec_has_codes_of_its_own(tiny, two_clips, prepare, tmp_path):
    """One changed weight is another codec."""
    prepare(two_clips)
    shutil.copytree(tiny.codec_dir, tmp_path / "codec")
    weights = bytearray((tmp_path / "codec" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "codec" / "model.safetensors").write_bytes(weights)
    prepare(two_clips, codec_name=str(tmp_path / "codec"))
    assert len(list((tmp_path / "codes" / "codes").iterdir())) == 2


CLIPS = 200  # of which the first are on the disk long before the last are encoded


def test_a_killed_command_continues_where_it_was(tiny, tmp_path, capsys):
    """After kill -9 the encoded clips stay, the rest is encoded, and nothing half-written counts."""
    noise = np.random.default_rng(0).normal(0, 0.1, (CLIPS, 4_800))
    for index, wave in enumerate(noise):
        soundfile.write(tmp_path / f"{index}.wav", wave, 8_000)
    manifest = write_manifest(tmp_path / "m.jsonl", *(entry(str(i), f"{i}.wav") for i in range(CLIPS)))
    arguments = command(tiny, manifest, tmp_path / "codes", "--workers", "1")
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = forks.start(forks.command, *arguments, out=tmp_path / "out", err=Path(os.ttyname(terminal)))
    while not stored(tmp_path / "codes") and process.is_alive():
        time.sleep(0.001)
    process.kill()
    assert forks.wait(process, tmp_path / "out") == 128 + signal.SIGKILL
    os.set_blocking(screen, False)
    assert b"encoding: " in os.read(screen, 10_000), "a terminal is shown the progress"
    os.close(terminal)
    os.close(screen)

    before = stored(tmp_path / "codes")
    assert 1 <= len(before) < CLIPS
    assert main(arguments) == 0
    assert f"encoded {CLIPS - len(before)} clips" in capsys.readouterr().out
    after = stored(tmp_path / "codes")
    assert len(after) == len(set(after)) == CLIPS, "nothing was encoded twice"
    assert set(before) <= set(after)


BAD_LINES = [
    ({"id": "gone", "audio": "gone.wav", "text": "t"}, "audio: expected a file, got 'gone.wav', which does not exist"),
    (entry("silent", "good.wav", text=" "), "text: expected a text, got an empty text"),
    (entry("empty", "empty.wav"), "audio: expected at least one sample of audio, got an empty clip ('empty.wav')"),
    (
        entry("noise", "noise.wav"),
        "audio: expected audio that libsndfile reads, got Format not recognised ('noise.wav')",
    ),
    (entry("long", "long.wav"), "audio: expected at most 2 s (--max_seconds), got 2.50 s ('long.wav')"),
    (
        entry("blip", "blip.wav"),
        "audio: expected at least one codec frame of audio, 40 ms, got 20.0 ms ('blip.wav')",
    ),
    (
        {"id": "codes", "codes": "codes.npy", "text": "t"},
        "codes: expected codes of shape [8, frames], got shape [2, 5] ('codes.npy')",
    ),
    (
        entry("reference", "good.wav", ref_audio="noise.wav"),
        "ref_audio: expected audio that libsndfile reads, got Format not recognised ('noise.wav')",
    ),
    (entry("many", "good.wav", text="word " * 500), "sample: expected at most 2048 tokens, got "),
]


@pytest.fixture
def bad_manifest(tmp_path) -> Path:
    """Write a manifest with a good line, a line for each kind of problem, and a good line."""
    for name, seconds in (("good", 1.0), ("good2", 1.2), ("empty", 0), ("long", 2.5), ("blip", 0.02)):
        write_tone(tmp_path / f"{name}.wav", seconds, 8_000)
    (tmp_path / "noise.wav").write_bytes(b"this is no audio at all")
    np.save(tmp_path / "codes.npy", np.zeros((2, 5), dtype=int))
    return write_manifest(
        tmp_path / "m.jsonl", entry("a", "good.wav"), *(bad for bad, _ in BAD_LINES), entry("z", "good2.wav")
    )


def test_every_fault_is_listed_at_once_and_nothing_is_encoded(bad_manifest, prepare, tmp_path):
    """Problems of lines, files and lengths are listed in the order of the manifest."""
    with pytest.raises(ManifestError) as caught:
        prepare(bad_manifest, max_seconds=2.0)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(BAD_LINES) + 1
    for number, (line, (_, fault)) in enumerate(zip(lines, BAD_LINES, strict=False), start=2):
        assert line.startswith(f"{bad_manifest}:{number}: {fault}")
    assert lines[-1] == "9 problems. Fix them, or pass --skip_bad_samples to train without these lines."
    assert stored(tmp_path / "codes") == []


def test_skipping_says_how_many_and_which(bad_manifest, prepare, tmp_path):
    """The good samples are ready, the problems are listed, and only clips of good samples are encoded."""
    prepared = prepare(bad_manifest, max_seconds=2.0, skip_bad_samples=True)
    assert [sample.id for sample in prepared] == ["a", "z"]
    encoded, listed, counted = prepare.said
    assert encoded == f"{bad_manifest}: encoded 2 clips to {tmp_path / 'codes'}"
    assert [line.split(":")[1] for line in listed.splitlines()] == [str(number) for number in range(2, 11)]
    assert counted == f"{bad_manifest}: skipped 9 of 11 samples, listed above"


def test_faults_are_the_same_when_everything_is_encoded_already(bad_manifest, prepare):
    """The length of a clip is the length of its audio, not of its codes in the cache."""
    prepare(bad_manifest, skip_bad_samples=True)
    with pytest.raises(ManifestError) as caught:
        prepare(bad_manifest, max_seconds=1.0)
    faults = {fault.where.rpartition(":")[2]: fault.got for fault in caught.value.problems}
    assert faults["11"] == "1.20 s ('good2.wav')"
    assert "1" not in faults


def test_skipping_all_is_no_way_to_train(prepare, tmp_path):
    """A manifest without any usable sample is an error."""
    manifest = write_manifest(tmp_path / "m.jsonl", entry("a", "gone.wav"))
    with pytest.raises(UserError) as caught:
        prepare(manifest, skip_bad_samples=True)
    fault, end = str(caught.value).splitlines()
    assert fault.startswith(f"{manifest}:1: audio: expected a file")
    assert end == "expected at least one sample without problems, got none"


def test_a_clip_that_many_samples_share_is_judged_and_encoded_once(prepare, tmp_path):
    """A reference voice may stand in every line."""
    write_tone(tmp_path / "voice.wav")
    shutil.copy(tmp_path / "voice.wav", tmp_path / "copy.wav")
    lines = [entry(str(i), name, ref_audio="voice.wav") for i, name in enumerate(["voice.wav", "copy.wav"])]
    prepared = prepare(write_manifest(tmp_path / "m.jsonl", *lines))
    assert len({str(codes) for sample in codes_of(prepared) for codes in sample}) == 1
    assert len(stored(tmp_path / "codes")) == 1


def test_codes_and_text_alone_need_no_codec(prepare, tmp_path):
    """A machine without a codec trains on codes from another machine."""
    np.save(tmp_path / "c.npy", np.zeros((8, 5), dtype=int))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    manifest = write_manifest(
        tmp_path / "m.jsonl", {"id": "a", "codes": "c.npy", "text": "t"}, {"id": "b", "messages": messages}
    )
    prepared = prepare(manifest, codec_name="no/such codec")
    assert codes_of(prepared) == [[[[0] * 5] * 8], []]


def test_a_sample_is_as_long_as_the_model_takes_and_no_longer(clips, prepare, checkpoint):
    """The border is the exact length in tokens, whether or not the clips are encoded already."""
    lengths = [len(example.input_ids) for example in SpeechDataset(prepare(clips), checkpoint.ids)]
    assert len(prepare(clips, checkpoint=replace(checkpoint, max_length=max(lengths)))) == 8
    with pytest.raises(ManifestError) as caught:
        prepare(clips, checkpoint=replace(checkpoint, max_length=max(lengths) - 1))
    expected, got = f"at most {max(lengths) - 1} tokens", str(max(lengths))
    assert [(f.field, f.expected, f.got) for f in caught.value.problems] == [("sample", expected, got)]


def test_a_frame_that_only_encoding_shows_is_counted(prepare, checkpoint, tmp_path, monkeypatch):
    """A codec that rounds up may make a sample a token too long, which is reported before the training."""
    write_tone(tmp_path / "a.wav", 0.99)
    manifest = write_manifest(tmp_path / "m.jsonl", entry("a", "a.wav"))
    codec = SimpleNamespace(
        name="fake",
        folder=tmp_path,
        fingerprint="f0",
        sampling_rate_hz=24_000,
        hop_length=960,
        encode=lambda waveform: np.zeros((8, -(-len(waveform) // 960)), dtype=int),
    )
    monkeypatch.setattr("higgs_audio_trainer.training.prepare_manifests.Codec", lambda *_args, **_kwargs: codec)

    def prepared(max_length: int) -> PreparedDataset:
        shorter = replace(checkpoint, max_length=max_length)
        return prepare(manifest, checkpoint=shorter, codes_dir=str(tmp_path / str(max_length)))

    length = len(SpeechDataset(prepared(2048), checkpoint.ids)[0].input_ids)
    assert len(prepared(length)) == 1
    with pytest.raises(ManifestError, match=rf"m\.jsonl:1: sample: expected at most {length - 1} tokens, got {length}"):
        prepared(length - 1)
    assert stored(tmp_path / str(length - 1)), "it was found out by encoding"


def test_bad_input_is_exit_code_2_in_words(tiny, bad_manifest, tmp_path):
    """A real process with a bad manifest lists the problems on stderr without a traceback."""
    out, err = tmp_path / "out", tmp_path / "err"
    arguments = command(tiny, bad_manifest, tmp_path / "codes", "--max_seconds", "2")
    assert forks.wait(forks.start(forks.command, *arguments, out=out, err=err), err) == 2
    assert out.read_text() == ""
    said = err.read_text()
    assert "Traceback" not in said
    assert said.startswith(f"higgs-audio-trainer: {bad_manifest}:2: audio: expected a file")
    assert len(said.splitlines()) == 10
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max_seconds", "0"], "--max_seconds: expected more than 0, got 0"),
        (["--max_seconds", "nan"], "--max_seconds: expected more than 0, got nan"),
        (["--max_seconds", "x"], "--max_seconds"),
        (["--device", "abacus"], "--device: expected a device that torch can use, got 'abacus'"),
        (["--train_manifest", "no.jsonl"], "no.jsonl: No such file or directory. Name a manifest (JSON Lines)."),
        (["--base_ckpt", "/no/such"], "--base_ckpt: expected a folder or a name on the Hugging Face Hub"),
        (["--audio_tokenizer", "/no/such"], "--audio_tokenizer: expected a folder or a name"),
        (["--skip_bad_samples", "maybe"], "expected true or false, got 'maybe'"),
        (["--codes_dir", "/dev/null"], ": Not a directory. Name another folder, or free space."),
        (["--unknown"], "--unknown: expected a known flag. See"),
    ],
)
def test_a_wrong_argument_is_exit_code_2_with_the_way_out(tiny, clips, tmp_path, capsys, more, message):
    """Each message has an expected and an actual value."""
    assert main(command(tiny, clips, tmp_path / "codes", *more)) == 2
    assert message in capsys.readouterr().err
