"""Cost of starts with many samples: time to the first batch, and memory.

    python -m benchmarks.scale [--samples N ...] [--quick] [--json FILE]

Samples have codes, in 1,000 files that many samples share. Each start is a process of its own. Times and memory begin
after the imports.

- The first start prepares the manifest. The second start finds the prepared data set.
- Memory is anonymous memory, since pages of the memory-mapped data set go when memory is short. Of the workers of a
  data loader, memory that a worker shares with nobody counts.
- The data loader, against a data loader that reads a file of codes for each sample, with the tokens in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.rows import ResultRow, argument_parser, report
from benchmarks.timing import interleaved, ratio
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.batch import Collator, Example, PreparedSample, SpeechDataset, build_example
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.prompt import tokenize_all
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests, quiet_third_parties
from higgs_audio_trainer.training.sampler import LengthGroupedOrder

SAMPLES = (10_000, 100_000)
QUICK = (200,)
CODES_FILES = 1_000
FRAMES = (25, 60)  # of a clip, at least and below
BATCH_SIZE, BATCHES, WORKERS = 8, 50, 4
COMPARED = 1_000
ROUNDS = 3
_MOST_S = {100_000: 15.0, 600_000: 30.0}  # second start to the first batch
_MOST_MIB = 300.0


def rows(samples: Sequence[int]) -> list[ResultRow]:
    """Measure starts with each number of samples."""
    quiet_third_parties()
    return [row for number in samples for row in _rows(number)]


def _rows(samples: int) -> Iterator[ResultRow]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, samples)
        first, second = _start(folder), _start(folder)
        of = f"{samples:,} samples"
        yield ResultRow(f"first start to the first batch, {of}", first["wall_s"], "s")
        yield ResultRow(f"first start, {of}", first["cpu_s"], "CPU s")
        yield ResultRow(f"first start, memory, {of}", first["mib"], "MiB")
        most = next((limit for number, limit in _MOST_S.items() if samples <= number), None)
        yield ResultRow(
            f"second start to the first batch, {of}",
            second["wall_s"],
            "s",
            target="" if most is None else f"at most {most:g} s",
            holds=None if most is None else second["wall_s"] <= most,
        )
        yield ResultRow(f"second start, {of}", second["cpu_s"], "CPU s")
        for kind, key in (("memory", "mib"), (f"private memory of each of {WORKERS} workers", "worker_mib")):
            holds = second[key] <= _MOST_MIB
            yield ResultRow(
                f"second start, {kind}, {of}", second[key], "MiB", target=f"at most {_MOST_MIB:g} MiB", holds=holds
            )
        yield from _loader_rows(folder, samples)


def _write(folder: Path, samples: int) -> None:
    """Write files of codes, a manifest and a checkpoint."""
    numbers = np.random.default_rng(0)
    for number in range(min(samples, CODES_FILES)):
        np.save(_codes_file(folder, number), numbers.integers(0, 1024, (8, numbers.integers(*FRAMES)), dtype=np.int16))
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(samples):
            codes = _codes_file(folder, number).name
            line = {"id": f"s{number}", "codes": codes, "text": f"This is the sentence with number {number}."}
            file.write(json.dumps(line) + "\n")
    write_tiny(folder / "base")


def _codes_file(folder: Path, number: int) -> Path:
    return folder / f"{number % CODES_FILES:03}.npy"


def _prepare(folder: Path) -> tuple[PreparedDataset, BaseCheckpoint]:
    checkpoint = open_checkpoint(str(folder / "base" / "model"))
    prepared = prepare_manifests(
        [str(folder / "train.jsonl")],
        checkpoint,
        codec_name=str(folder / "base" / "codec"),
        codes_dir=str(folder / "cache"),
        max_seconds=60.0,
        skip_bad_samples=False,
        devices=["cpu"],
        workers=1,
        say=lambda _text: None,
    )
    return prepared.datasets[0], checkpoint


def _start(folder: Path) -> dict[str, float]:
    """Start in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--start", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measured_start(folder: Path) -> dict[str, float]:
    """Prepare the manifest, and load some batches."""
    quiet_third_parties()
    before, began = _mib(os.getpid(), "Anonymous"), (time.perf_counter(), time.process_time())
    prepared, checkpoint = _prepare(folder)
    data = SpeechDataset(prepared, checkpoint.ids)
    order = LengthGroupedOrder(BATCH_SIZE, data.lengths(), seed=0)
    next(iter(DataLoader(data, BATCH_SIZE, sampler=order, collate_fn=Collator(checkpoint.ids))))
    wall_s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    loader = DataLoader(data, BATCH_SIZE, sampler=order, collate_fn=Collator(checkpoint.ids), num_workers=WORKERS)
    batches = iter(loader)
    for _ in range(min(BATCHES, len(loader) // 2)):
        next(batches)
    workers = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined] # noqa: SLF001
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "mib": _mib(os.getpid(), "Anonymous") - before,
        "worker_mib": max(_mib(pid, "Private_Dirty") for pid in workers),
    }


def _mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


class _FilesOfCodes(Dataset[Example]):
    """Samples with their tokens in memory and a file of codes for each."""

    def __init__(self, folder: Path, samples: Sequence[Sample], checkpoint: BaseCheckpoint) -> None:
        segments = tokenize_all([checkpoint.family.render(sample) for sample in samples], checkpoint.tokenizer)
        self._samples = [
            PreparedSample(sample.id, tuple(tokens), (), sample.where)
            for sample, tokens in zip(samples, segments, strict=True)
        ]
        self._folder, self._ids = folder, checkpoint.ids

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        codes = np.load(_codes_file(self._folder, index)).astype(np.int64)
        return build_example(self._samples[index], [codes], self._ids)


def _loader_rows(folder: Path, samples: int) -> Iterator[ResultRow]:
    prepared, checkpoint = _prepare(folder)
    count = min(samples, COMPARED)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    (folder / "some.jsonl").write_text("".join(lines), encoding="utf-8")
    some, _problems = read_manifest(folder / "some.jsonl")
    former = _FilesOfCodes(folder, some, checkpoint)
    ours = Subset(SpeechDataset(prepared, checkpoint.ids), range(count))
    equal = sum(_is_equal(former[number], ours[number]) for number in range(count))
    yield ResultRow(
        f"examples equal to those from files, {samples:,} samples",
        equal,
        f"of {count}",
        target="all",
        holds=equal == count,
    )
    collate = Collator(checkpoint.ids)
    taken = interleaved(
        {"former": partial(_epoch, former, collate), "ours": partial(_epoch, ours, collate)}, rounds=ROUNDS
    )
    share = ratio(taken["former"], taken["ours"])
    name, against = f"data loader, {samples:,} samples", "a file of codes for each sample"
    yield ResultRow(name, count / median(taken["ours"]), "samples/s", against, share, "at least 1", share >= 1)


def _is_equal(one: Example, other: Example) -> bool:
    names = ("input_ids", "labels", "audio_ids_FK", "audio_labels_FK", "regions")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _epoch(dataset: Dataset[Example], collate: Collator) -> None:
    for _ in DataLoader(dataset, BATCH_SIZE, collate_fn=collate):
        pass


def main() -> None:
    """Run the command line, or a start in a process of its own."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--samples", metavar="N", type=int, nargs="+", help="numbers of samples")
    parser.add_argument("--start", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.start:
        print(json.dumps(_measured_start(given.start)))
        return
    report(rows(given.samples or (QUICK if given.quick else SAMPLES)), given.json)


if __name__ == "__main__":
    main()
