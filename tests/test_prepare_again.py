"""Manifests that are prepared again: after a change, by another name, or together with another process."""

import errno
import os
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from threading import Event, Lock, Thread, current_thread
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.clips import decode_audio
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.preparation import crew, encoding, workers
from higgs_audio_trainer.data.preparation import prepare as preparation
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.encoding import cache_error
from higgs_audio_trainer.data.preparation.planned_dataset import PlannedDataset
from higgs_audio_trainer.data.preparation.prepare import PreparedData
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.preparation.workers import Workers, WorkerSpec, work
from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.errors import ManifestError, UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from tests.samples import entry, prepare_settings, write_manifest, write_tone


@pytest.fixture(scope="module")
def checkpoint(tiny) -> BaseCheckpoint:
    """Open the tiny checkpoint."""
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture
def prepare(tiny, checkpoint, tmp_path, monkeypatch):
    """Return a function that prepares manifests as a new process would, and keeps the printed lines."""

    def call(*manifests: Path | str, **changes: Any) -> PreparedData:
        monkeypatch.setattr(preparation, "_since", float("inf"))  # no earlier problem counts
        settings = prepare_settings(tiny.codec_dir, tmp_path / "codes", call.said)
        return prepare_manifests([str(manifest) for manifest in manifests], checkpoint, **(settings | changes))

    call.said = []
    return call


def codes_of(dataset: PreparedDataset) -> list[list[list[list[int]]]]:
    """List the codes of all clips of all samples."""
    return [[codes.tolist() for codes in sample.codes_KT] for sample in dataset]


def write_samples(folder: Path, count: int = 2) -> Path:
    """Write recordings of different lengths, and their manifest."""
    names = [f"{number}.wav" for number in range(count)]
    for number, name in enumerate(names):
        write_tone(folder / name, 0.2 + number / 25)
    return write_manifest(folder / "train.jsonl", *(entry(name[:-4], name) for name in names))


def test_a_manifest_may_be_named_from_another_folder(prepare, tmp_path, monkeypatch):
    """The recordings are found when the manifest is named from another working folder, and nothing is encoded again."""
    (tmp_path / "data").mkdir()
    write_samples(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (first,), _ = prepare("data/train.jsonl")
    monkeypatch.chdir("data")
    (second,), _ = prepare("train.jsonl", max_seconds=50)
    assert prepare.said == [f"data/train.jsonl: encoded 2 clips to {tmp_path / 'codes'}"]
    assert [sample.where for sample in first] == ["data/train.jsonl:1", "data/train.jsonl:2"]
    assert [sample.where for sample in second] == ["train.jsonl:1", "train.jsonl:2"]


def test_the_audit_sees_what_was_repaired(prepare, tmp_path):
    """A recording that is repaired without a change of its size and time is prepared and audited."""
    manifest = write_samples(tmp_path)
    recording = tmp_path / "1.wav"
    whole, state = recording.read_bytes(), recording.stat()
    recording.write_bytes(bytes(len(whole)))
    os.utime(recording, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert prepare(manifest, skip_bad_samples=True).audit.splits["train"].samples == 1
    recording.write_bytes(whole)
    os.utime(recording, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert prepare(manifest).audit.splits["train"].samples == 2


def test_recordings_that_are_elsewhere_now_are_found(prepare, tmp_path):
    """A table of samples holds paths. They are found anew once a file is missing: wavs/ has become audio/."""
    (tmp_path / "wavs").mkdir()
    for number in range(2):
        write_tone(tmp_path / "wavs" / f"{number}.wav", 0.2 + number / 25)
    table = tmp_path / "metadata.csv"
    table.write_text("0|One sentence.|One sentence.\n1|Another sentence.|Another sentence.\n")
    assert len(prepare(table).datasets[0]) == 2
    (tmp_path / "wavs").rename(tmp_path / "audio")
    assert len(prepare(table).datasets[0]) == 2


def test_a_line_that_was_corrected_counts_in_the_same_process(tiny, checkpoint, tmp_path):
    """In a notebook, the second call sees the recording that the first has missed."""
    manifest = write_samples(tmp_path)
    settings = prepare_settings(tiny.codec_dir, tmp_path / "codes", [])
    recording = (tmp_path / "1.wav").rename(tmp_path / "aside.wav")
    with pytest.raises(ManifestError):
        prepare_manifests([str(manifest)], checkpoint, **settings)
    recording.rename(tmp_path / "1.wav")
    assert len(prepare_manifests([str(manifest)], checkpoint, **settings).datasets[0]) == 2


def test_a_fault_that_has_gone_is_not_taken_from_an_unfinished_part(prepare, tmp_path, monkeypatch):
    """A preparation that was killed between its last part and its end leaves the parts to the next."""
    manifest = write_samples(tmp_path)

    def fail(clip: Clip, rate: int) -> Any:
        if clip.path.name == "1.wav":
            raise AudioError("a disk that reads", "an error")
        return decode_audio(clip, rate)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode_audio", fail)
        patch.setattr(PlannedDataset, "complete", lambda _plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(manifest, skip_bad_samples=True)
    assert len(prepare(manifest, skip_bad_samples=True).datasets[0]) == 2


def test_damaged_codes_of_a_recording_that_cannot_be_read_now(prepare, tmp_path):
    """The sample is left out, as one that could never be read."""
    manifest = write_samples(tmp_path)
    prepare(manifest)
    shutil.rmtree(tmp_path / "codes" / "prepared")
    for shard in (tmp_path / "codes").glob("codes/*/*.i16"):
        shard.write_bytes(b"")
    recording = tmp_path / "1.wav"
    state = recording.stat()
    recording.write_bytes(bytes(state.st_size))
    os.utime(recording, ns=(state.st_mtime_ns, state.st_mtime_ns))
    (dataset,), _ = prepare(manifest, skip_bad_samples=True)
    assert [sample.id for sample in dataset] == ["0"]
    assert [problem.where for problem in dataset.problems] == [f"{manifest}:2"]


def test_names_that_are_not_utf_8(prepare, tmp_path):
    """A name on a disk may have any encoding; Arrow and JSON have UTF-8. Places name such a file with escapes."""
    (tmp_path / "cafe").mkdir()
    write_samples(tmp_path / "cafe")
    folder = (tmp_path / "cafe").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    manifest = folder / "train.jsonl"
    (dataset,), _ = prepare(manifest)
    assert [sample.where for sample in dataset] == [f"{tmp_path}/caf\\udce9/train.jsonl:{line}" for line in (1, 2)]
    with pytest.raises(UserError, match=r"--codes_dir: expected a folder with a name in UTF-8.* got '.*caf\\udce9'"):
        prepare(manifest, codes_dir=str(folder))


def test_a_recording_beyond_full_scale_is_prepared_and_told(prepare, tmp_path):
    """A loud MP3 decodes to samples beyond full scale, as does a WAV of floats."""
    loud = 1.4 * np.sin(np.arange(24_000) / 20)
    soundfile.write(tmp_path / "loud.mp3", loud / 1.4, 24_000)
    soundfile.write(tmp_path / "loud.wav", loud, 24_000, subtype="FLOAT")
    manifest = write_manifest(
        tmp_path / "m.jsonl",
        {"audio": "loud.mp3", "text": "One sentence."},
        {"audio": "loud.wav", "text": "Another sentence."},
    )
    (dataset,), audit = prepare(manifest)
    assert len(dataset) == 2
    findings = {finding.code: finding for finding in audit.findings}
    assert findings["beyond_full_scale"].samples[0].where.startswith(f"{manifest}:")


def test_a_stretch_of_a_training_file_is_a_leak(prepare, tmp_path):
    """Files and stretches reach the audit of the prepared data."""
    write_tone(tmp_path / "a.wav", 3.0)
    train = write_manifest(tmp_path / "t.jsonl", {"audio": "a.wav", "text": "The whole sentence."})
    stretch = {"audio": "a.wav", "offset": 1.0, "duration": 1.5, "text": "A part."}
    audit = prepare(train, write_manifest(tmp_path / "e.jsonl", stretch)).audit
    (leak,) = [finding for finding in audit.findings if finding.code == "leak"]
    assert [sample.where for sample in leak.samples] == [f"{tmp_path / 'e.jsonl'}:1"]


def test_a_manifest_for_both_purposes_has_each_problem_once(prepare, tmp_path):
    """A manifest that is given for training and evaluation is judged once."""
    manifest = write_samples(tmp_path)
    with pytest.raises(ManifestError) as error:
        prepare(manifest, manifest, max_seconds=0.22)
    assert len(error.value.problems) == 1


def test_workers_take_other_clips(prepare, tmp_path, monkeypatch):
    """A worker and the process that started it divide the clips, and ask the codec for the model's codebooks."""
    encode, made, threads, worker_is_at_work = Codec.encode, [], [], Event()
    # A worker is a process. Two threads in `from_pretrained` would leave transformers without tied weights for good.
    load, one_at_a_time = Codec._load, Lock()

    class Threads(Workers):
        def start(self, device: str, threads_of_torch: int) -> None:
            told = asdict(self._spec) | {"device": device, "threads": threads_of_torch, "parent": os.getppid()}
            threads.append(Thread(target=work, args=(told,)))
            threads[-1].start()

        def stop(self) -> None:
            for thread in threads:
                thread.join()

    def encode_together(self: Codec, waveform: np.ndarray) -> np.ndarray:
        made.append((current_thread(), len(waveform)))
        if current_thread() in threads:
            worker_is_at_work.set()
        assert worker_is_at_work.wait(60)
        return encode(self, waveform)

    def load_alone(self: Codec) -> Any:
        with one_at_a_time:
            return load(self)

    monkeypatch.setattr(crew, "Workers", Threads)
    monkeypatch.setattr(Codec, "_load", load_alone)
    monkeypatch.setattr(signal, "signal", lambda *_args: None)  # not in a thread
    monkeypatch.setattr(Codec, "encode", encode_together)
    prepare(write_samples(tmp_path, 30), workers=2)
    assert len({length for _, length in made}) == len(made) == 30
    assert len({thread for thread, _ in made}) == 2


DAMAGES = {
    "prepared/*/data-*.arrow": (b"", b"x" * 5_000, 1_000, -600, None),
    "prepared/*/about.json": (b'{"num_', b"{}", None),
    "prepared/*/state.json": (b"", b"{}"),
    "manifests/*/table.json": (b'{"n', b"{}", None),
    "manifests/*/samples.arrow": (500, None),
    "manifests/*/files.arrow": (50,),
    "audits/*.json": (b'{"sp', b"{}", None),
}


@pytest.mark.parametrize(
    ("pattern", "damage"), [(pattern, damage) for pattern, damages in DAMAGES.items() for damage in damages]
)
def test_damaged_files_of_the_cache_are_made_again(prepare, tmp_path, pattern, damage):
    """A file that is missing, truncated, or has other content is made again, and the samples are the same."""
    manifest = write_samples(tmp_path)
    (before,), audit = prepare(manifest)
    (path,) = (tmp_path / "codes").glob(pattern)
    content = path.read_bytes()
    path.unlink()  # `before` keeps its memory map
    if damage is not None:
        path.write_bytes(content[:damage] if isinstance(damage, int) else damage)
    (after,), audit_after = prepare(manifest)
    assert after.fingerprint == before.fingerprint
    assert codes_of(after) == codes_of(before)
    assert audit_after == audit


@pytest.mark.parametrize("damage", [None, b"", b"[["])
@pytest.mark.parametrize("name", ["00000.json", "00000.part.json"])
def test_blocks_that_vanish_or_are_damaged_are_made_again(prepare, tmp_path, monkeypatch, name, damage):
    """A process that starts later checks samples with problems again, and removes their files meanwhile."""
    complete, done = PlannedDataset.complete, []

    def complete_later(plan: PlannedDataset) -> None:
        if not done:
            done.append(True)
            path = plan.folder / "blocks" / name
            path.unlink() if damage is None else path.write_bytes(damage)
            if name == "00000.json":
                (plan.folder / "blocks" / "00000.part.json").unlink()
        complete(plan)

    monkeypatch.setattr(PlannedDataset, "complete", complete_later)
    (samples,), _ = prepare(write_samples(tmp_path))
    assert [sample.id for sample in samples] == ["0", "1"]


def test_a_torn_line_of_the_index_is_encoded_again(prepare, tmp_path):
    """A line that another continues is no row, and its clip is encoded again."""
    manifest = write_samples(tmp_path)
    (before,), _ = prepare(manifest)
    (path,) = (tmp_path / "codes").glob("codes/*/index-*.jsonl")
    path.write_bytes(b"".join(line[:60] + line for line in path.read_bytes().splitlines(keepends=True)))
    (after,), _ = prepare(manifest, max_seconds=50)
    assert codes_of(after) == codes_of(before)


def test_a_folder_without_links_is_named(prepare, tmp_path, monkeypatch):
    """The error of a file system without symbolic links names the folder and what to do."""

    def refuse(target: str, path: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target, None, path)

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(UserError, match=r"^--codes_dir: /.*/codes/claims/.*: Operation not permitted\. Name another"):
        prepare(write_samples(tmp_path))


def test_a_cache_that_is_read_only_needs_no_write(prepare, tmp_path, monkeypatch):
    """Data sets of a cache that others filled are used and audited, also together as never before."""
    manifest = write_samples(tmp_path)
    prepare(manifest)

    def refuse(path: str, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return really_open(path, flags, mode, **more)

    really_open = os.open
    monkeypatch.setattr(os, "open", refuse)
    datasets, audit = prepare(manifest, manifest)
    assert [len(dataset) for dataset in datasets] == [2, 2]
    assert [finding.code for finding in audit.findings if finding.severity == "error"] == ["leak"]


def test_a_read_only_cache_of_a_manifest_with_problems(prepare, tmp_path, monkeypatch):
    """Without a right to write, the problems that others found count."""
    manifest = write_samples(tmp_path)
    with manifest.open("a") as file:
        file.write('{"text": "no recording"}\n')
    prepare(manifest, skip_bad_samples=True)

    def refuse(path: str, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return really_open(path, flags, mode, **more)

    really_open = os.open
    monkeypatch.setattr(os, "open", refuse)
    assert len(prepare(manifest, skip_bad_samples=True).datasets[0]) == 2


def test_a_full_disk_is_told_in_the_words_of_the_system(tmp_path):
    """Arrow's words about a file that cannot be written are left out."""
    error = OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    message = f"--codes_dir: {tmp_path}: No space left on device. Name another folder, or free space."
    assert str(cache_error(error, tmp_path)) == message


@pytest.mark.parametrize(
    ("end", "reason"), [("os.kill(os.getpid(), 9)", "killed by SIGKILL"), ("sys.exit('no codec')", "no codec")]
)
def test_why_a_worker_ended_is_told(monkeypatch, end, reason):
    """A worker that was killed has no last words but the remains of a progress bar."""
    monkeypatch.setattr(workers, "_START", f"import os, sys; print('100%|####|', file=sys.stderr, flush=True); {end}")
    crew_of_one = Workers(WorkerSpec("", "", "", 8, 1024, 60.0))
    crew_of_one.start("cpu", 1)
    crew_of_one._running[0][0].wait()
    assert crew_of_one.failures() == [reason]
    assert len(crew_of_one) == 0


@pytest.mark.parametrize(("program", "reason"), [("/nowhere/python", "not started: No such file"), ("/bin/false", "1")])
def test_a_worker_that_cannot_start_is_told(monkeypatch, program, reason):
    """The preparation goes on without the worker."""
    monkeypatch.setattr(workers.sys, "executable", program)
    crew_of_one = Workers(WorkerSpec("", "", "", 8, 1024, 60.0))
    crew_of_one.start("cpu", 1)
    for process, _errors in crew_of_one._running:
        process.wait()
    (said,) = crew_of_one.failures()
    assert reason in said
    assert len(crew_of_one) == 0


def test_workers_share_the_clips_that_had_faults(prepare, tmp_path, monkeypatch):
    """A clip that could not be read at an earlier start is tried by any process."""
    with ClipIndex(tmp_path, "before") as index:
        index.add("0" * 32, {"fault": ["a", "b"]})
    seen = []
    monkeypatch.setattr(encoding, "encode_jobs", lambda _jobs, index, *_more: seen.append("0" * 32 in index))
    monkeypatch.setattr(workers.signal, "signal", lambda *_args: None)
    monkeypatch.setattr("higgs_audio_trainer.data.codec.Codec", lambda *_args, **_more: None)
    (tmp_path / "jobs").touch()
    told = asdict(WorkerSpec(str(tmp_path / "jobs"), str(tmp_path), "", 8, 1024, 60.0))
    work(told | {"device": "cpu", "threads": torch.get_num_threads(), "parent": os.getpid()})
    assert seen == [False]
