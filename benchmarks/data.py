"""Cost of preparing a manifest and of loading samples, beside plain reading and resampling of the same clips.

    python -m benchmarks.data [--quick] [--json FILE]

The clips are colored noise of 2 to 8 seconds at 44.1, 48 and 16 kHz, as WAV and FLAC. The codec is the tiny codec of
`higgs-audio-trainer tiny`, which is much faster than the real codec and makes our own cost visible.

- `prepare` with an empty cache, against a loop of `soundfile.read`, `soxr.resample` and the codec. Both load the codec
  each time.
- `prepare` with an instant codec, against the same loop without a codec. The difference is our own cost: a claim and
  the facts of each clip. A further row has the cost of a run whose data set is prepared.
- `prepare` by two processes, against one. Each has one thread. The second half of the clips counts, when both are at
  work.
- A data loader over the prepared samples with the collator of the training, against a data loader whose workers read
  and resample the clips. A training reads codes only, never audio. An epoch includes the start of the workers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from transformers import DacModel

from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio
from benchmarks.workload import torch_threads
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.audio import Waveform
from higgs_audio_trainer.data.batch import Collator, SpeechDataset
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.preparation.progress import Report
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.events import PrepareProgress
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.tiny_size import SAMPLING_RATE_HZ
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties

THREADS = 2
PROCESSES = 2
BATCH_SIZE = 8
WORKERS = (0, 1, 2, 4)
RECORDED = ((44_100, "wav"), (44_100, "flac"), (48_000, "wav"), (48_000, "flac"), (16_000, "wav"), (16_000, "flac"))
UNIT = "s of audio per s"
_TARGET, _LEAST = "at least 0.9", 0.9


@dataclass(frozen=True, slots=True)
class ClipsSize:
    """Number and lengths of the clips.

    Attributes:
        encoded: Number of clips for the measurement with the codec.
        shared: Number of clips that several processes encode.
        clips: Number of clips for all other measurements.
        seconds: Lengths of the shortest and the longest clip.
        epochs: Repetitions of the clips in an epoch of the data loader.
        rounds: Number of counted rounds.
    """

    encoded: int = 4
    shared: int = 90
    clips: int = 30
    seconds: tuple[float, float] = (2.0, 8.0)
    epochs: int = 8
    rounds: int = 3


QUICK = ClipsSize(encoded=2, shared=4, clips=6, seconds=(0.2, 0.4), epochs=1, rounds=1)


@dataclass(frozen=True, slots=True)
class Material:
    """Clips with a manifest, a checkpoint and a codec.

    Attributes:
        folder: Folder of everything.
        clips: Paths of the clips.
        manifest: Path of the manifest.
        codec: Folder of the codec.
        checkpoint: Base checkpoint.
    """

    folder: Path
    clips: Sequence[Path]
    manifest: Path
    codec: Path
    checkpoint: BaseCheckpoint

    @property
    def codes(self) -> Path:
        """Folder of the cached codes."""
        return self.folder / "codes"

    @property
    def seconds(self) -> float:
        """Total length of the clips, in seconds."""
        return sum(float(soundfile.info(clip).duration) for clip in self.clips)

    def prepare(self, workers: int = 1, report: Report = lambda _progress: None) -> PreparedDataset:
        """Prepare the manifest with the cached codes."""
        (samples,), _audit = prepare_manifests(
            [str(self.manifest)],
            self.checkpoint,
            codec_name=str(self.codec),
            codes_dir=str(self.codes),
            max_seconds=60.0,
            skip_bad_samples=False,
            devices=["cpu"],
            workers=workers,
            say=lambda _text: None,
            report=report,
        )
        return samples

    def prepare_anew(self, workers: int = 1, report: Report = lambda _progress: None) -> PreparedDataset:
        """Prepare the manifest with an empty cache."""
        shutil.rmtree(self.codes, ignore_errors=True)
        return self.prepare(workers, report)

    def encode(self) -> None:
        """Read, resample and encode the clips, the minimum to obtain codes."""
        codec: Any = DacModel.from_pretrained(self.codec)
        for clip in self.clips:
            with torch.inference_mode():
                codec.encode(torch.from_numpy(read(clip))[None, None])

    def read(self) -> None:
        """Read and resample the clips, the minimum before a codec."""
        for clip in self.clips:
            read(clip)


def read(clip: Path) -> npt.NDArray[np.float32]:
    """Return the samples of a clip at the rate of the codec, float32 [N]."""
    samples, rate = soundfile.read(clip, dtype="float32")
    resampled: npt.NDArray[np.float32] = soxr.resample(samples, rate, SAMPLING_RATE_HZ)
    return resampled


class Waveforms(Dataset[npt.NDArray[np.float32]]):
    """Dataset of clips, read and resampled at each access."""

    def __init__(self, clips: Sequence[Path]) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return read(self._clips[index])


@contextmanager
def material(clips: int, seconds: tuple[float, float]) -> Iterator[Material]:
    """Create clips, manifest, checkpoint and codec in a temporary folder.

    Args:
        clips: Number of clips.
        seconds: Lengths of the shortest and the longest clip.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = np.random.default_rng(0)
        paths = [_write_clip(folder, index, numbers, seconds) for index in range(clips)]
        manifest = folder / "manifest.jsonl"
        lines = [{"id": clip.stem, "text": f"This is clip {clip.stem}.", "audio": clip.name} for clip in paths]
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        model_dir, codec_dir = write_tiny(folder / "base")
        yield Material(folder, paths, manifest, codec_dir, open_checkpoint(str(model_dir)))


def _write_clip(folder: Path, index: int, numbers: np.random.Generator, seconds: tuple[float, float]) -> Path:
    rate, kind = RECORDED[index % len(RECORDED)]
    steps = numbers.standard_normal(round(numbers.uniform(*seconds) * rate)).astype(np.float32)
    smooth = np.convolve(steps, np.hanning(32), mode="same")  # like speech, with little energy at high frequencies
    path = folder / f"{index:03}-{rate}.{kind}"
    soundfile.write(path, 0.5 * smooth / np.abs(smooth).max(), rate, subtype="PCM_16")
    return path


class _InstantCodec(Codec):
    """Codec without computation, whose codes have the correct shape."""

    def encode(self, waveform: Waveform) -> npt.NDArray[np.int64]:
        frames = -(-len(waveform) // self.hop_length)
        return np.arange(8 * frames).reshape(8, frames) % 1024


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure the preparation, then the data loader."""
    quiet_third_parties()
    size = QUICK if quick else ClipsSize()
    with torch_threads(THREADS):
        with material(size.encoded, size.seconds) as made:
            measured = [_prepare_row(made, size)]
        with torch_threads(1), material(size.shared, size.seconds) as made:
            measured.append(_shared_row(made))
        instant = mock.patch("higgs_audio_trainer.training.prepare_manifests.Codec", _InstantCodec)
        with instant, material(size.clips, size.seconds) as made:
            return [*measured, *_rows_without_codec(made, size), *_loader_rows(made, size)]


def _prepare_row(made: Material, size: ClipsSize) -> ResultRow:
    calls: dict[str, Callable[[], object]] = {"floor": made.encode, "ours": made.prepare_anew}
    taken = interleaved(calls, rounds=min(size.rounds, 2))
    share = ratio(taken["floor"], taken["ours"])
    rate = made.seconds / median(taken["ours"])
    return ResultRow("prepare", rate, UNIT, "soundfile, soxr and the codec", share, _TARGET, share >= _LEAST)


def _shared_row(made: Material) -> ResultRow:
    one, shared = _speed(made, 1), _speed(made, PROCESSES)
    least = 0.8 * PROCESSES
    name, target = f"prepare, {PROCESSES} processes", f"at least {least:g}"
    return ResultRow(name, shared, UNIT, "one process", shared / one, target, shared / one >= least)


def _speed(made: Material, workers: int) -> float:
    """Return the speed of the second half of a preparation, seconds of audio a second."""
    marks: list[tuple[float, float]] = []

    def mark(progress: PrepareProgress) -> None:
        if progress.stage == "encoding":
            marks.append((time.perf_counter(), 3600 * progress.audio_hours_done))

    made.prepare_anew(workers, mark)
    ended = time.perf_counter()
    begun, before = next((mark for mark in marks if mark[1] >= made.seconds / 2), marks[0])
    return (made.seconds - before) / (ended - begun)


def _rows_without_codec(made: Material, size: ClipsSize) -> Iterator[ResultRow]:
    # `anew` fills the cache before `again`.
    calls: dict[str, Callable[[], object]] = {"floor": made.read, "anew": made.prepare_anew, "again": made.prepare}
    taken = interleaved(calls, rounds=size.rounds)
    for name, key in (("with an instant codec", "anew"), ("with all codes cached", "again")):
        rate = made.seconds / median(taken[key])
        yield ResultRow(f"prepare {name}", rate, UNIT, "soundfile and soxr", ratio(taken["floor"], taken[key]))


def _loader_rows(made: Material, size: ClipsSize) -> Iterator[ResultRow]:
    ids = made.checkpoint.ids
    codes: ConcatDataset[Any] = ConcatDataset([SpeechDataset(made.prepare(), ids)] * size.epochs)
    audio = Waveforms(list(made.clips) * size.epochs)
    calls: dict[str, Callable[[], object]] = {}
    for workers in WORKERS:
        calls[f"ours {workers}"] = partial(_epoch, codes, Collator(ids), workers)
        calls[f"floor {workers}"] = partial(_epoch, audio, list, workers)
    taken = interleaved(calls, rounds=size.rounds)
    for workers in WORKERS:
        ours, floor = taken[f"ours {workers}"], taken[f"floor {workers}"]
        share = ratio(floor, ours)
        name = f"data loader, {workers} workers"
        against = "soundfile and soxr, same number of workers"
        yield ResultRow(name, len(codes) / median(ours), "samples/s", against, share, _TARGET, share >= _LEAST)


def _epoch(dataset: Dataset[Any], collate: Callable[[list[Any]], Any], workers: int) -> None:
    for _ in DataLoader(dataset, BATCH_SIZE, collate_fn=collate, num_workers=workers):
        pass


if __name__ == "__main__":
    run_alone(rows, __doc__)
