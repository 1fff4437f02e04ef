"""Encoding of clips by several processes."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.clips import ClipLimits, check_audio, clip_key, state_of
from higgs_audio_trainer.data.preparation.claims import Claims
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.encoding import encode_jobs
from higgs_audio_trainer.data.preparation.jobs import Job, JobsFile, read_jobs
from higgs_audio_trainer.data.sample import Clip, packed
from tests.codecs import FakeCodec
from tests.samples import write_tone

LIMITS = ClipLimits(3, 1024, 60.0)


def job_of(path: Path) -> Job:
    """Return the job of a file."""
    clip = Clip(path, encoded=False)
    checked = check_audio(clip, LIMITS, FakeCodec())
    key = clip_key(clip, state_of(path))
    return Job(packed(clip)[0], 0.0, None, (0.0, None, None), key, checked.claim, checked.seconds, 1, False)


def run(jobs: list[Job], folder: Path, codec: FakeCodec) -> None:
    """Encode jobs with an index and claims of their own."""
    with Claims(folder / "claims") as claims, ClipIndex(folder / "codes", claims.name) as index:
        index.refresh()
        encode_jobs(jobs, index, claims, codec, LIMITS, lambda: None)
        assert all(job.key in index for job in jobs)


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    """Write 40 different clips, and a copy of each tenth."""
    noise = np.random.default_rng(0).normal(0, 0.1, (40, 2_400))
    for number, wave in enumerate(noise):
        soundfile.write(tmp_path / f"{number:02}.wav", wave, 24_000)
        if number % 10 == 0:
            shutil.copy(tmp_path / f"{number:02}.wav", tmp_path / f"{number:02}-copy.wav")
    return [job_of(path) for path in sorted(tmp_path.glob("*.wav"))]


def test_a_clip_is_encoded_once_whatever_its_names(jobs, tmp_path):
    """A copy has the codes of the original, and a second run encodes nothing."""
    codec = FakeCodec()
    run(jobs, tmp_path, codec)
    assert len(codec.encoded) == 40
    run(jobs, tmp_path, codec)
    assert len(codec.encoded) == 40
    with ClipIndex(tmp_path / "codes", "reader") as index:
        index.refresh()
        places = [index.get(job.key)["codes"] for job in jobs]
        assert len({str(place) for place in places}) == 40
        assert all(index.codes(place).shape == (3, 2) for place in places)


def test_several_workers_share_the_clips(jobs, tmp_path):
    """Every clip is encoded by one of them."""
    codecs = [FakeCodec() for _ in range(3)]
    threads = [threading.Thread(target=run, args=(jobs, tmp_path, codec)) for codec in codecs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(codec.encoded) for codec in codecs) == 40


def test_a_clip_that_cannot_be_read_has_a_fault(tmp_path):
    """A file that is damaged or changed after the check is a fault, and the other clips are encoded."""
    paths = [write_tone(tmp_path / f"{name}.wav") for name in "abc"]
    jobs = [job_of(path) for path in paths]
    data = np.full((100, 1), np.nan, dtype=np.float32)
    soundfile.write(paths[0], data, 24_000, subtype="FLOAT")
    jobs[0] = jobs[0]._replace(key=clip_key(Clip(paths[0], encoded=False), state_of(paths[0])))
    paths[1].write_bytes(b"gone")
    codec = FakeCodec()
    run(jobs, tmp_path, codec)
    with ClipIndex(tmp_path / "codes", "reader") as index:
        index.refresh()
        assert index.get(jobs[0].key)["fault"] == ["finite samples", "NaN or infinity"]
        assert index.get(jobs[1].key)["fault"][1] == "a file that changed after its check. Start again"
        assert "fault" not in index.get(jobs[2].key)
    assert len(codec.encoded) == 1


def test_codes_that_are_damaged_are_not_taken_for_a_copy(jobs, tmp_path):
    """A recording whose codes are damaged is encoded again under its next name."""
    run(jobs[:1], tmp_path, FakeCodec())
    (file,) = (tmp_path / "codes").glob("*.i16")
    file.write_bytes(bytes(file.stat().st_size))
    codec = FakeCodec()
    run(jobs[1:2], tmp_path, codec)
    assert len(codec.encoded) == 1


def test_jobs_lie_in_a_file_without_a_name(jobs, tmp_path):
    """Jobs come unchanged, the longest first, in the same order however the jobs were found."""
    jobs = [job._replace(seconds=float(number % 3), given=[*job.given]) for number, job in enumerate(jobs)]
    with JobsFile(jobs, tmp_path / "new") as file, JobsFile(jobs[::-1], tmp_path / "new") as other:
        assert not list((tmp_path / "new").iterdir())
        assert len(file) == len(jobs)
        assert list(file) == list(other) == sorted(jobs, key=lambda job: (-job.seconds, job.key))
        assert [job.seconds for job in read_jobs(file.path)] == file.seconds.tolist()
        assert not any(job.has_changed() for job in file)
