"""Worker processes for the encoding of clips."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from higgs_audio_trainer.own_packages import import_path

_START = """
import json, sys
told = json.load(sys.stdin)
sys.path[:] = told.pop("sys_path")
from higgs_audio_trainer.data.preparation.workers import work
work(told)
"""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Facts for a worker process.

    Attributes:
        jobs: File of the jobs.
        index: Folder of the index.
        codec: Folder of the codec.
        num_codebooks: Number of codebooks K of the model.
        num_codes: Number of codes of a codebook.
        max_seconds: Length of the longest clip.
    """

    jobs: str
    index: str
    codec: str
    num_codebooks: int
    num_codes: int
    max_seconds: float


class Workers:
    """Worker processes of this process.

    Workers claim clips as this process does. A worker that dies leaves its clips to the others. Workers end when all
    clips are encoded, or when this process ends.

    Args:
        spec: Facts for the workers.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._running: list[tuple[subprocess.Popen[str], IO[str]]] = []
        self._unstarted: list[str] = []  # reasons

    def __len__(self) -> int:
        return len(self._running)

    def start(self, device: str, threads: int) -> None:
        """Start a worker. `failures` has the reason of a failed start.

        Args:
            device: Device of the worker.
            threads: Number of threads of torch.
        """
        told = asdict(self._spec) | {"device": device, "threads": threads, "parent": os.getpid()}
        told["sys_path"] = import_path()
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the worker
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
            )
        except OSError as error:
            errors.close()
            self._unstarted.append(f"not started: {error.strerror}")
            return
        self._running.append((process, errors))
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as file:  # a worker that has ended is told of by `failures`
            json.dump(told, file)

    def failures(self) -> list[str]:
        """Remove ended workers, and return the reasons of the workers with a failure."""
        said, self._unstarted = self._unstarted, []
        for worker in list(self._running):
            process, errors = worker
            if process.poll() is not None:
                self._running.remove(worker)
                if process.returncode < 0:
                    said.append(f"killed by {signal.Signals(-process.returncode).name}")
                elif process.returncode:
                    errors.seek(0)
                    said.append((errors.read().strip().splitlines() or [f"exit status {process.returncode}"])[-1])
                errors.close()
        return said

    def stop(self) -> None:
        """End the workers."""
        for process, _errors in self._running:
            process.terminate()
        for process, errors in self._running:
            process.wait()
            errors.close()
        self._running.clear()


def work(told: dict[str, object]) -> None:
    """Encode clips in a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from higgs_audio_trainer.data.clips import ClipLimits
    from higgs_audio_trainer.data.codec import Codec
    from higgs_audio_trainer.data.preparation.claims import Claims
    from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
    from higgs_audio_trainer.data.preparation.encoding import encode_jobs
    from higgs_audio_trainer.data.preparation.jobs import read_jobs
    from higgs_audio_trainer.errors import UserError

    device, threads, parent = str(told.pop("device")), int(str(told.pop("threads"))), told.pop("parent")
    spec = WorkerSpec(**told)  # type: ignore[arg-type]
    torch.set_num_threads(threads)

    def end_with_parent() -> None:
        if os.getppid() != parent:
            sys.exit(0)

    folder = Path(spec.index)
    limits = ClipLimits(spec.num_codebooks, spec.num_codes, spec.max_seconds)
    try:
        with Claims(folder / "claims") as claims, ClipIndex(folder, claims.name) as index:
            index.refresh()
            index.forget_faults()
            codec = Codec(spec.codec, device=device, num_codebooks=spec.num_codebooks)
            encode_jobs(read_jobs(Path(spec.jobs)), index, claims, codec, limits, end_with_parent)
    except UserError as error:
        sys.exit(str(error))


def available_cores() -> int:
    """Return the number of processor cores that this process may use, divided among the ranks of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def spread(devices: Sequence[str], number: int) -> list[str]:
    """Return a device for each of a number of further workers, if this process works on the first device.

    Example:
        >>> spread(["cuda:0", "cuda:1"], 3)
        ['cuda:1', 'cuda:0', 'cuda:1']
    """
    return [devices[(position + 1) % len(devices)] for position in range(number)]
