"""The prepared data set of a manifest: what is stored, who can read it, and when it is made again."""

import json
import os
import pickle

import datasets
import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data import clips as clips_module
from higgs_audio_trainer.data.batch import PreparedSample, SpeechDataset, build_example
from higgs_audio_trainer.data.clips import ClipLimits, decode_audio, encode_audio
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.preparation import prepared_dataset, samples_table
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from tests.samples import entry, write_manifest, write_tone


@pytest.fixture(scope="module")
def checkpoint(tiny):
    """Open the tiny checkpoint."""
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Write a manifest of eight short clips, in place of the bundled ones."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(8):
        write_tone(folder / f"{number}.wav", 0.2 + number / 50, hz=300 + 40 * number)
    return write_manifest(folder / "manifest.jsonl", *(entry(str(n), f"{n}.wav") for n in range(8)))


@pytest.fixture
def prepare(tiny, checkpoint, tmp_path):
    """Return a function that prepares one manifest."""

    def call(manifest, **changes):
        settings = {"codec_name": str(tiny.codec_dir), "codes_dir": str(tmp_path / "codes"), "max_seconds": 60.0}
        settings |= {"skip_bad_samples": False, "devices": ["cpu"], "say": call.said.append}
        (dataset,), call.audit = prepare_manifests([str(manifest)], checkpoint, **(settings | changes))
        return dataset

    call.said = []
    return call


@pytest.fixture
def no_reading(monkeypatch):
    """Return a function after which no audio, codes or manifest lines may be read."""

    def forbid(*arguments, **keywords):
        raise AssertionError("read again")

    def call():
        for name in ("audio_info", "load_frames", "load_codes"):
            monkeypatch.setattr(f"higgs_audio_trainer.data.clips.{name}", forbid)
        monkeypatch.setattr("higgs_audio_trainer.data.preparation.prepare.read_samples", forbid)

    return call


def test_examples_equal_those_that_are_built_directly(tiny, clips, prepare, checkpoint):
    """Reading, resampling, codec, tokenizer and collation give the same without the cache."""
    dataset = SpeechDataset(prepare(clips), checkpoint.ids)
    codec = Codec(str(tiny.codec_dir))
    samples, _ = read_manifest(clips)
    limits = ClipLimits(checkpoint.ids.num_codebooks, checkpoint.ids.stream_bos, 60.0)
    for index, sample in enumerate(samples):
        codes = [encode_audio(decode_audio(clip, 24_000).waveform, codec, limits) for clip in sample.clips]
        prepared = PreparedSample(sample.id, tuple(checkpoint.tokenize(sample)))
        direct, found = build_example(prepared, codes, checkpoint.ids), dataset[index]
        for name in ("input_ids", "labels", "audio_ids_FK", "audio_labels_FK", "regions"):
            assert np.array_equal(getattr(direct, name), getattr(found, name))
        assert found.ref.fingerprint == direct.ref.fingerprint
        assert dataset.lengths()[index] == len(found.input_ids)


def test_other_programs_read_the_data_set(clips, prepare):
    """`datasets.load_from_disk` finds the documented columns."""
    dataset = prepare(clips)
    loaded = datasets.load_from_disk(str(dataset.folder))
    assert loaded.column_names == prepared_dataset.SCHEMA.names
    for row, sample in zip(loaded, dataset, strict=True):
        codes = np.frombuffer(row["codes"], "<i2").reshape(8, sum(row["frames"]))
        assert np.array_equal(codes, sample.codes_KT[0])
        assert row["where"] == sample.where
        assert row["text"]
        texts = [segment.ids for segment in sample.segments if segment.ids is not None]
        assert row["tokens"] == np.concatenate(texts).tolist()


def test_samples_are_found_in_any_part(clips, prepare, monkeypatch):
    """Parts of three samples hold the samples in the order of the manifest, for a worker of a loader too."""
    whole = prepare(clips)
    monkeypatch.setattr(samples_table, "BLOCK_SAMPLES", 3)
    monkeypatch.setattr(samples_table.SamplesTable, "num_blocks", property(lambda table: -(-table.num_samples // 3)))
    parts = prepare(clips, codes_dir=str(whole.folder.parent.parent / "parts"))
    assert len(list(parts.folder.glob("*.arrow"))) == 3
    for dataset in (parts, pickle.loads(pickle.dumps(parts))):
        assert [sample.id for sample in dataset] == [sample.id for sample in whole]
        assert dataset[-1].id == whole[7].id
        assert [sample.id for sample in dataset[2:5]] == [whole[index].id for index in (2, 3, 4)]
        assert list(dataset.lengths()) == list(whole.lengths())
        with pytest.raises(IndexError):
            dataset[8]


def test_a_second_start_reads_nothing_again(clips, prepare, no_reading):
    """States of files are enough."""
    first = prepare(clips)
    no_reading()
    assert prepare(clips).folder == first.folder


def test_a_manifest_with_a_new_line_reads_the_new_clip_alone(tmp_path, prepare, monkeypatch):
    """Clips of other manifests are known by path, size and time."""
    for name in "abc":
        write_tone(tmp_path / f"{name}.wav", 0.5, hz=300 + ord(name))
    prepare(write_manifest(tmp_path / "one.jsonl", entry("a", "a.wav"), entry("b", "b.wav")))
    read = []
    original = clips_module.load_frames
    monkeypatch.setattr(
        "higgs_audio_trainer.data.clips.load_frames",
        lambda path, **options: read.append(path.name) or original(path, **options),
    )
    prepare(write_manifest(tmp_path / "two.jsonl", *(entry(name, f"{name}.wav") for name in "abc")))
    assert read == ["c.wav"]


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_file_that_changed_is_noticed(tmp_path, prepare, change):
    """Other sound of the same size has other codes. The same sound with another time has the same codes."""
    path = write_tone(tmp_path / "a.wav", 0.5, hz=300)
    manifest = write_manifest(tmp_path / "m.jsonl", entry("a", "a.wav"))
    first = prepare(manifest)
    if change == "content":
        write_tone(path, 0.5, hz=500)
    os.utime(path, ns=(1, 1))
    second = prepare(manifest)
    assert second.folder != first.folder
    same = np.array_equal(first[0].codes_KT[0], second[0].codes_KT[0])
    assert same == (change == "time")
    assert (first.fingerprint == second.fingerprint) == same


def test_a_clip_that_is_repaired_is_taken_at_the_next_start(tmp_path, prepare):
    """A reason may be gone while the file stays as it is, such as a missing right."""
    write_tone(tmp_path / "a.wav", 0.5)
    bad = write_tone(tmp_path / "b.wav", 0.6)
    manifest = write_manifest(tmp_path / "m.jsonl", entry("a", "a.wav"), entry("b", "b.wav"))
    content, state = bad.read_bytes(), bad.stat()
    bad.write_bytes(bytes(len(content)))
    os.utime(bad, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(prepare(manifest, skip_bad_samples=True)) == 1
    assert len(prepare(manifest, skip_bad_samples=True)) == 1
    bad.write_bytes(content)
    os.utime(bad, ns=(state.st_atime_ns, state.st_mtime_ns))  # nothing but the content tells
    assert len(prepare(manifest, skip_bad_samples=True)) == 2


def test_damaged_codes_are_encoded_again(tmp_path, prepare):
    """A power failure may leave a row of the index without its codes."""
    write_tone(tmp_path / "a.wav", 0.5)
    first = prepare(write_manifest(tmp_path / "m.jsonl", entry("a", "a.wav")))
    (codes,) = (tmp_path / "codes" / "codes").glob("*/*.i16")
    codes.write_bytes(bytes(codes.stat().st_size))
    second = prepare(write_manifest(tmp_path / "n.jsonl", entry("x", "a.wav")))
    assert np.array_equal(first[0].codes_KT[0], second[0].codes_KT[0])


def test_a_complete_cache_is_only_read(clips, prepare, tmp_path):
    """A cache that others may not write to is enough for a training."""
    first = prepare(clips)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "codes").rglob("*")}
    prepare(clips)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "codes").rglob("*")} == before
    assert first.folder in before


def test_places_have_the_name_that_is_used_now(clips, prepare, tmp_path, monkeypatch):
    """A manifest that is called by another path is the same manifest."""
    (tmp_path / "data").symlink_to(clips.parent)
    monkeypatch.chdir(clips.parent)
    assert prepare("manifest.jsonl")[0].where == "manifest.jsonl:1"
    first = prepare(clips)
    assert first[0].where == f"{clips}:1"


def test_the_audit_knows_the_clips(tmp_path, prepare):
    """Facts of the decoded clip reach the audit, and the next start has the same audit."""
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 24_000)
    write_tone(tmp_path / "b.wav", 1.0)
    manifest = write_manifest(tmp_path / "m.jsonl", entry("a", "a.wav"), entry("b", "b.wav", text="x  y"))
    prepare(manifest)
    codes = {finding.code: [sample.id for sample in finding.samples] for finding in prepare.audit.findings}
    assert codes["silent"] == ["a"]
    assert codes["double_spaces"] == ["b"]
    first = prepare.audit
    prepare(manifest)
    assert prepare.audit == first
    assert json.loads(next((tmp_path / "codes" / "audits").iterdir()).read_bytes())["findings"]
