"""Processes for the encoding, as many as keep the devices busy, and the progress of all processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from higgs_audio_trainer.data.clips import ClipLimits
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.jobs import JobsFile
from higgs_audio_trainer.data.preparation.progress import Meter, Report
from higgs_audio_trainer.data.preparation.workers import Workers, WorkerSpec, available_cores, spread
from higgs_audio_trainer.events import PrepareProgress

_LOOK_S = 0.1  # between looks at the work of other processes
_MEASURED_S = 4.0  # that a number of workers is measured
_WORTH_S = 20.0  # of remaining work that pays for the start of a worker
_GAIN = 1.1  # by which a worker more must speed up the work
_MOST_ON_A_GPU = 6


@dataclass(frozen=True, slots=True)
class CrewSettings:
    """Settings of the processes for the encoding.

    Attributes:
        devices: Devices of this machine. This process encodes on the first.
        workers: Processes on each device, this process included. None for as many as keep the device busy.
        report: Takes reports of the progress.
        say: Prints a message.
    """

    devices: Sequence[str]
    workers: int | None
    report: Report
    say: Callable[[str], None]


class Crew:
    """Processes for the encoding of the same clips.

    Without a given number, a process more starts on a GPU as long as each makes the work faster. On the CPU, a process
    for each core starts. None starts if the work is nearly done.

    Args:
        settings: Settings of the processes.
        codec: Folder of the codec.
        limits: Limits for clips.
        index: Index of the codec.
        jobs: Clips to encode.
    """

    def __init__(
        self, settings: CrewSettings, codec: str, limits: ClipLimits, index: ClipIndex, jobs: JobsFile
    ) -> None:
        self._settings, self._index = settings, index
        self._workers = Workers(
            WorkerSpec(
                str(jobs.path), str(index.folder), codec, limits.num_codebooks, limits.num_codes,
                limits.max_seconds,
            )
        )  # fmt: skip
        in_order = np.argsort(jobs.keys)
        self._keys, self._seconds = jobs.keys[in_order], jobs.seconds[in_order]  # 0 seconds for a clip that is done
        self._meter = Meter(len(jobs), float(jobs.seconds.sum()), clock=time.monotonic)
        self._looked_at = 0.0
        self._threads = torch.get_num_threads()
        self._grows = settings.workers is None
        self._mark = (time.monotonic(), 0.0, 0.0)  # time, audio and speed when the number of workers changed
        self._writers = 0

    def __enter__(self) -> Self:
        self._index.drain()
        try:
            if self._settings.workers is not None:
                self._start(spread(self._settings.devices, self._settings.workers * len(self._settings.devices) - 1))
            self._settings.report(self._progress())
        except BaseException:
            self._workers.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._workers.stop()
        torch.set_num_threads(self._threads)

    def after_each(self) -> None:
        """Look at the work of all processes, report progress, and start profitable workers."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        self._index.refresh()
        self._count()
        for failure in self._workers.failures():
            self._settings.say(f"a process that encodes ended: {failure}. The other processes do its work")
            self._grows = False
        self._settings.report(self._progress())
        if self._grows:
            self._grow(now)

    def _count(self) -> None:
        added = self._index.drain()[:, 1]
        places = np.minimum(np.searchsorted(self._keys, added), len(self._keys) - 1)
        places = np.unique(places[self._keys[places] == added])
        places = places[self._seconds[places] > 0]
        if len(places):
            faults = int(np.isin(self._keys[places], self._index.faults()[:, 1]).sum())
            self._meter.add(len(places), float(self._seconds[places].sum()), faults)
            self._seconds[places] = 0

    def _progress(self) -> PrepareProgress:
        meter = self._meter
        return PrepareProgress(
            stage="encoding",
            clips_done=meter.done,
            clips_total=meter.total,
            audio_hours_done=meter.seconds_done / 3600,
            times_real_time=meter.times_real_time,
            seconds_left=meter.seconds_left,
            faults=meter.faults,
            workers=1 + len(self._workers),
        )

    def _grow(self, now: float) -> None:
        """Start profitable workers, or end the growth."""
        since, audio_before, speed_before = self._mark
        if self._workers and self._index.num_writers <= self._writers:  # the last worker is not at work yet
            self._mark = (now, self._meter.seconds_done, speed_before)
            return
        left = self._meter.seconds_left
        if now - since < _MEASURED_S or left is None:
            return
        speed = (self._meter.seconds_done - audio_before) / (now - since)
        started, devices = len(self._workers), self._settings.devices
        if left < _WORTH_S:
            return
        if started < len(devices) - 1:
            self._start(list(devices[1:]))
        elif devices[0] == "cpu":
            self._start(spread(devices, available_cores() - 1))
            self._grows = False
        elif speed > _GAIN * speed_before and started < min(available_cores(), _MOST_ON_A_GPU * len(devices)) - 1:
            self._start(spread(devices, len(devices)))
        else:
            self._grows = False
        self._mark = (now, self._meter.seconds_done, speed)

    def _start(self, devices: Sequence[str]) -> None:
        more = min(len(devices), self._meter.total - self._meter.done - 1)
        if more <= 0:
            return
        self._writers = self._index.num_writers + more - 1
        threads = max(1, available_cores() // (1 + len(self._workers) + more))
        torch.set_num_threads(min(self._threads, threads))
        for device in devices[:more]:
            self._workers.start(device, threads)
