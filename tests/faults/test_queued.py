"""Trackers that hang, raise, fill the disk or lose the network: emission continues, and losses are counted."""

import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import sinks
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import SinkContext
from sinks.null import discard
from sinks.queued import Queued
from sinks.specification import resolve
from sinks.trackers.rows import admitted
from sinks.trackers.tracker import TrackerSink
from tests.builders import RUN_ID, audio_sample, record_of, run_start, text_sample, train_step
from tests.tracked import NAMES, read

RECORDS = [{"event": "x", "seq": seq} for seq in range(20)]
ROOT = Path(__file__).parents[2]
WAIT_S = 20  # bound for an event that normally comes at once


class Slow:
    """Sink that signals the start of a call and blocks until release."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()
        self.taken = []

    def __call__(self, record):
        self.entered.set()
        assert self.released.wait(WAIT_S)
        self.taken.append(record)


def queued(sink, **options):
    """Return a sink behind a queue, and the list of the queue's messages."""
    said = []
    return Queued(sink, name="fancy", say=said.append, **options), said


def test_a_sink_that_hangs_costs_what_it_did_not_take():
    """Calls return during a hang, and the count is correct during the hang, at the close, and after the hang."""
    slow = Slow()
    sink, said = queued(slow, capacity=4, patience_s=0.01)
    sink(RECORDS[0])
    assert slow.entered.wait(WAIT_S)  # the first record has left the queue
    for record in RECORDS[1:]:
        sink(record)
    assert sink.dropped == 15
    sink.close()
    assert sink.dropped == 20
    assert said == ["higgs-audio-trainer: 20 events did not reach fancy: no answer in time"]
    slow.released.set()
    assert sink._ended.wait(WAIT_S)
    assert (sink.dropped, slow.taken) == (15, RECORDS[:5])


def test_close_waits_for_the_rest_and_closes_the_sink_last():
    """All queued records reach the sink in order, and later records count as lost."""
    taken = []
    sink, said = queued(taken.append)
    for record in RECORDS:
        sink(record)
    sink.close()
    sink.close()
    assert (taken, sink.dropped, said) == (RECORDS, 0, [])
    sink(RECORDS[0])
    assert (len(taken), sink.dropped) == (20, 1)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("\x1b[2J"), SystemExit])
def test_a_sink_that_raises_costs_each_record_and_is_said_once(error):
    """Any error costs a record and ends no thread, and control characters of the data reach no terminal."""

    def fail(_record):
        raise error

    sink, said = queued(fail)
    for record in RECORDS:
        sink(record)
    sink.close()
    assert sink.dropped == 20
    first, last = said
    assert first.startswith("higgs-audio-trainer: logging to fancy failed: ")
    assert last.startswith("higgs-audio-trainer: 20 events did not reach fancy: ")
    assert "\x1b" not in first + last


def test_a_sink_that_works_again_takes_what_follows():
    """A record of a failed call is not repeated, as the sink may have stored a part of the record."""
    taken, failures = [], iter([True, True])

    def sometimes(record):
        if next(failures, False):
            raise ConnectionError
        taken.append(record)

    sink, _ = queued(sometimes)
    for record in RECORDS:
        sink(record)
    sink.close()
    assert (sink.dropped, taken) == (2, RECORDS[2:])


def test_it_waits_longer_and_longer_between_tries():
    """Each failure increases the wait, so that a tracker that is down is not tried for each of a thousand records."""
    now, tries = [0.0], []
    sink, _ = queued(discard, clock=lambda: now[0])
    for _ in range(5):
        sink._retry.failed(OSError(errno.EIO, "down"))
        tries.append(sink._retry.wait_s)
    assert tries == [0.0, 0.1, 0.2, 0.4, 0.8]


def test_a_forked_child_does_nothing():
    """The parent's queue and thread do not exist in the child."""
    sink, _ = queued(discard)
    pid = os.fork()
    if pid == 0:
        sink(RECORDS[0])
        sink.close()
        os._exit(sink._given)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_pickled_it_is_the_null_sink():
    """A worker process writes nothing."""
    assert pickle.loads(pickle.dumps(queued(discard)[0])) is discard


@pytest.mark.parametrize("closes", [True, False])
def test_a_sink_that_hangs_keeps_no_process_from_ending(closes):
    """The process ends with and without a close of the sink."""
    script = (
        "import threading\nfrom sinks.queued import Queued\n"
        "sink = Queued(lambda record: threading.Event().wait(), name='fancy', say=print, patience_s=0.05)\n"
        "sink({'event': 'x'})\n" + "sink.close()\n" * closes
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (
        "higgs-audio-trainer: 1 event did not reach fancy: no answer in time\n",
        "",
    )


class Hanging:
    """Real tracker that hangs at a sample."""

    def __init__(self, tracker, slow):
        self._tracker, self._slow = tracker, slow

    def __getattr__(self, name):
        return getattr(self._tracker, name)

    def log_sample(self, at, row):
        self._slow(row)


@pytest.fixture
def folder(tmp_path, trackio_store, mlflow_store):
    """Return an output directory with an empty database of MLflow."""
    shutil.copytree(mlflow_store, tmp_path / "mlflow")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_hangs(name, folder):
    """Earlier events are in the tracker, emission continues, and `lost` counts all events that did not arrive."""
    factory = resolve(name)
    opened = factory.__wrapped__(SinkContext(str(folder), f"hangs-{name}", 0, 0))
    slow = Slow()
    tracker = TrackerSink(lambda: Hanging(opened(), slow))
    sink, said = queued(tracker, admit=admitted, capacity=3, patience_s=0.01)
    emit = Pipeline([(name, sink)], run_id=f"hangs-{name}")
    emit(run_start())
    emit(train_step())
    emit(text_sample())
    assert slow.entered.wait(WAIT_S)
    for _ in range(10):
        emit(audio_sample())
    assert (emit.lost, emit.written) == (7, 13)
    sink.close()
    assert (emit.lost, len(said)) == (11, 1)
    slow.released.set()
    assert sink._ended.wait(WAIT_S)
    assert (emit.lost, len(slow.taken)) == (7, 4)
    assert [step for step, _ in read(name, folder / name, f"hangs-{name}").scalars["train/loss"]] == [20]


@contextmanager
def files_of_at_most(size):
    """Limit the size of files, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("name", "size"), [("trackio", 4096), ("tensorboard", 4096), ("mlflow", 100)])
def test_a_disk_that_is_full(name, size, folder):
    """Events without room are counted and not half written, and all stored events can be read."""
    run = f"full-{name}"
    tracker = TrackerSink(resolve(name).__wrapped__(SinkContext(str(folder), run, 0, 0)))
    tracker(record_of(train_step(step=1)) | {"run_id": run})  # there is room to open the tracker
    sink, said = queued(tracker)
    sample = record_of(text_sample()) | {"run_id": run}
    with files_of_at_most(size):
        for seq in range(1, 21):
            sink(sample | {"seq": seq, "step": seq})
        sink.close()
    found = read(name, folder / name, run)
    assert sink.dropped > 0
    assert len(said) == 2
    assert len(found.samples) == 20 - sink.dropped
    assert [step for step, _ in found.scalars["train/loss"]] == [1]


def test_a_server_that_cannot_be_reached(monkeypatch, tmp_path):
    """Each event is counted, and a message gives the reason."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = []
    [(_, sink)] = sinks.build(
        "mlflow:uri=http://127.0.0.1:9", SinkContext(str(tmp_path), RUN_ID, 0, 0, say=said.append)
    )
    for _ in range(5):
        sink(record_of(train_step()))
    sink.close()
    assert sink.dropped == 5
    assert "127.0.0.1" in said[0]
    assert said[1].startswith("higgs-audio-trainer: 5 events did not reach mlflow: ")


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "wandb"])
def test_a_machine_without_a_network(name, folder, monkeypatch):
    """These trackers need no network and connect to no internet socket."""
    import socket

    def refuse(_socket, address):
        assert isinstance(address, str) or address[0] == "127.0.0.1", address
        return connect(_socket, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    said = []
    [(_, sink)] = sinks.build(name, SinkContext(str(folder), f"alone-{name}", 0, 0, say=said.append))
    sink(record_of(train_step()) | {"run_id": f"alone-{name}"})
    sink.close()
    assert (sink.dropped, said) == (0, [])
    assert list(read(name, folder / name, f"alone-{name}").scalars["train/loss"])


def test_a_program_of_the_tracker_that_is_killed(tmp_path):
    """Weights & Biases writes in a separate process. Without this process, emission continues with a message."""
    script = """
import os, signal, sys
from pathlib import Path
from sinks import SinkContext
from sinks.queued import Queued
from sinks.trackers.tracker import TrackerSink
from sinks.trackers.wandb import opener
from tests.builders import record_of, text_sample, train_step
tracker = TrackerSink(opener(SinkContext(sys.argv[1], "killed", 0, 0)))
tracker(record_of(train_step()))
for children in Path("/proc/self/task").glob("*/children"):
    for child in map(int, children.read_text().split()):
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print("killed")
sink = Queued(tracker, name="wandb", say=print)
for _ in range(20):
    sink(record_of(text_sample()))
sink.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    killed, said, *_ = done.stdout.splitlines()
    assert killed == "killed"
    assert said.startswith("higgs-audio-trainer: logging to wandb failed: ")
