"""Processes that encode beside this process: how many start, and what is reported of all of them."""

from io import StringIO

import numpy as np
import pytest
import torch

from higgs_audio_trainer.data.clips import ClipLimits
from higgs_audio_trainer.data.preparation import crew as crew_module
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.crew import Crew, CrewSettings
from higgs_audio_trainer.data.preparation.jobs import Job, JobsFile
from higgs_audio_trainer.data.preparation.progress import Meter, ProgressLine, progress_line
from higgs_audio_trainer.events import PrepareProgress
from higgs_audio_trainer.phases import phase

LIMITS = ClipLimits(3, 1024, 60.0)


class FakeWorkers:
    """Workers that do nothing but count."""

    def __init__(self, spec):
        self.devices = []
        self.failed = []

    def __len__(self):
        return len(self.devices)

    def start(self, device, threads):
        self.devices.append(device)

    def failures(self):
        failed, self.failed = self.failed, []
        return failed

    def stop(self):
        self.devices.clear()


class Stage:
    """A crew with a clock of its own, and clips that are done by hand."""

    def __init__(self, folder, monkeypatch, devices, workers, cores=8, clips=10_000):
        self.now = 100.0
        self.reports, self.said = [], []
        monkeypatch.setattr(crew_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(crew_module, "Workers", FakeWorkers)
        monkeypatch.setattr(crew_module, "available_cores", lambda: cores)
        jobs = [Job("a", 0.0, None, (0.0, None, None), f"{n:016x}{n:016x}", "c", 10.0, 1, False) for n in range(clips)]
        self.keys = [job.key for job in jobs]
        self.index = ClipIndex(folder, "a")
        settings = CrewSettings(devices, workers, self.reports.append, self.said.append)
        self.crew = Crew(settings, "codec", LIMITS, self.index, JobsFile(jobs, folder))

    def work(self, seconds, clips, writer="a"):
        """Let time pass in which clips are done."""
        with ClipIndex(self.index.folder, f"{writer}-{self.now}") as other:
            for _ in range(clips):
                other.add(self.keys.pop(), {"codes": []})
        self.now += seconds
        self.crew.after_each()

    @property
    def started(self):
        return list(self.crew._workers.devices)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Return a function that makes a crew."""
    threads = torch.get_num_threads()
    yield lambda *arguments, **options: Stage(tmp_path / "codes", monkeypatch, *arguments, **options)
    torch.set_num_threads(threads)


def test_a_given_number_of_workers_starts_at_once(stage):
    """This process is one of them, on the first device."""
    made = stage(["cuda:0", "cuda:1"], 2)
    with made.crew:
        assert made.started == ["cuda:1", "cuda:0", "cuda:1"]
    assert made.started == []


def test_no_more_workers_than_clips(stage):
    """A worker without a clip would load a codec for nothing."""
    made = stage(["cpu"], 4, clips=2)
    with made.crew:
        assert made.started == ["cpu"]


def test_a_processor_gets_a_worker_for_each_core_if_it_pays(stage):
    """They start after the first seconds, and with a thread each."""
    made = stage(["cpu"], None, cores=4)
    with made.crew:
        made.work(1.0, 1)
        assert made.started == []
        made.work(4.0, 2)
        assert made.started == ["cpu"] * 3
        assert torch.get_num_threads() == 1
        made.work(60.0, 20)
        assert len(made.started) == 3


def test_short_work_gets_no_workers(stage):
    """A worker that would start at the end does not start."""
    made = stage(["cpu"], None, clips=6)
    with made.crew:
        made.work(5.0, 3)
        made.work(5.0, 1)
        assert made.started == []


def test_a_gpu_gets_workers_as_long_as_each_makes_it_faster(stage):
    """One starts after the first seconds, another after a gain, and none after that without a gain."""
    made = stage(["cuda:0"], None)
    with made.crew:
        made.work(5.0, 10)
        assert len(made.started) == 1
        made.now += 30  # the worker loads
        made.crew.after_each()
        made.work(1.0, 1, writer="b")
        made.work(5.0, 20, writer="b")
        assert len(made.started) == 2
        made.work(1.0, 1, writer="c")
        made.work(5.0, 20, writer="c")
        assert len(made.started) == 2
        made.work(50.0, 400)
        assert len(made.started) == 2


def test_a_device_that_fails_gets_no_worker_again(stage):
    """Without an end, a worker would start, fail and be reported every few seconds."""
    made = stage(["cuda:0", "cuda:1"], None)
    with made.crew:
        made.work(5.0, 10)
        assert made.started == ["cuda:1"]
        made.crew._workers.failed = ["no memory"]
        made.crew._workers.devices.clear()
        for _ in range(5):
            made.work(5.0, 10)
        assert made.started == []
        assert len(made.said) == 1


def test_every_gpu_works_first(stage):
    """Idle devices get a worker before any gets a second."""
    made = stage(["cuda:0", "cuda:1", "cuda:2"], None)
    with made.crew:
        made.work(5.0, 10)
        assert made.started == ["cuda:1", "cuda:2"]


def test_progress_counts_the_work_of_all(stage):
    """Clips of other processes count, and a worker that ends is reported."""
    made = stage(["cpu"], 2)
    with made.crew:
        made.crew._workers.failed = ["out of memory"]
        made.work(10.0, 36)
        report = made.reports[-1]
        assert (report.clips_done, report.clips_total, report.workers) == (36, 10_000, 2)
        assert report.audio_hours_done == pytest.approx(0.1)
        assert report.times_real_time == pytest.approx(36.0)
        assert report.seconds_left == pytest.approx(9_964 * 10 / 36)
        assert made.said == ["a process that encodes ended: out of memory. The other processes do its work"]


def test_the_speed_is_that_of_the_last_minute():
    """A slow beginning is forgotten."""
    times = iter(np.arange(0.0, 1_000.0, 10.0))
    meter = Meter(100, 1_000.0, clock=lambda: float(next(times)))
    meter.add(1, 1.0)
    for _ in range(10):
        meter.add(1, 50.0)
    assert meter.times_real_time == pytest.approx(5.0)


def progress(stage="encoding", **changes):
    """Make a report."""
    facts = {"clips_done": 1, "clips_total": 2, "audio_hours_done": 0.0, "times_real_time": None}
    return PrepareProgress(stage=stage, **facts | {"seconds_left": None, "faults": 0, "workers": 1} | changes)


def test_lines_of_the_stages():
    """Each stage says what it counts."""
    assert progress_line(progress("reading")) == "reading: 1 samples"
    assert progress_line(progress("checking")) == "checking: 1 of 2 samples"
    assert progress_line(progress(times_real_time=2.5, faults=1)) == "encoding: 1 of 2 clips  2.5x real time  1 fault"


def test_a_terminal_has_the_phase_and_a_file_few_lines(monkeypatch):
    """The phase in progress says how far it is. A file gets a line in half a minute, a terminal none."""
    now = [0.0]
    monkeypatch.setattr("higgs_audio_trainer.data.preparation.progress.time.monotonic", lambda: now[0])
    for is_terminal, expected in ((True, ""), (False, "encoding: 2 of 2 clips  0 faults\n")):
        file = StringIO()
        file.isatty = lambda is_terminal=is_terminal: is_terminal
        line = ProgressLine(file)
        with phase("encoding") as encoding:
            line(progress())
            assert encoding.detail == "1 of 2 clips  0 faults"
            assert file.getvalue() == ""
            now[0] += 31
            line(progress(clips_done=2))
        assert file.getvalue() == expected
