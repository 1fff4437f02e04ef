"""Child processes of a training write nothing to the training's log and do not hang at the training's locks."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings

import orjson
import pytest
import torch

from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline
from sinks import JsonlSink, MemorySink
from tests.builders import RUN_ID, checkpoint, record_of

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(autouse=True)
def _quiet():
    """Hide Python's warning about a fork of a process with threads, as such forks are the subject of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture
def log(tmp_path):
    """Return a pipeline with a file and a single event in the file."""
    sink = JsonlSink(tmp_path / "log.jsonl")
    emit = Pipeline([("jsonl", sink)], run_id=RUN_ID, say=_must_not_say)
    emit(checkpoint(path="parent"))
    emit.path, emit.sink = tmp_path / "log.jsonl", sink
    yield emit
    sink.close()


def _must_not_say(text):
    raise AssertionError(text)


def paths_in(file):
    """Return the checkpoints that a file lists."""
    return [orjson.loads(line)["path"] for line in file.read_bytes().splitlines()]


def in_child(action, seconds=20):
    """Run an action in a forked child, and return the exit code. A child that hangs is killed and fails."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)  # ends a child that hangs
        try:
            action()
        except BaseException:  # noqa: BLE001 - the child must not continue as pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_fork(log):
    """Fault: a forked child emits. Expected: no effect in the child; the parent's file and counts stay exact."""

    def child():
        log(checkpoint(path="child"))
        log.fail("child", ValueError())
        assert (log.written, log.lost, log.seconds) == before

    before = (log.written, log.lost, log.seconds)
    assert in_child(child) == 0
    log(checkpoint(path="parent"))
    assert paths_in(log.path) == ["parent", "parent"]
    assert (log.written, log.lost) == (2, 0)


def test_fork_with_the_lock_held():
    """Fault: the process forks while another thread is inside emit. Expected: the child does not wait for the lock."""
    inside, done = threading.Event(), threading.Event()
    seqs = []

    def sink(record):
        if not seqs:
            inside.set()
            assert done.wait(30)
        seqs.append(record["seq"])

    emit = Pipeline([("slow", sink)], run_id=RUN_ID)
    thread = threading.Thread(target=emit, args=(checkpoint(),))
    thread.start()
    assert inside.wait(30)
    try:
        for _ in range(5):
            assert in_child(lambda: [emit(checkpoint()), emit.fail("x", ValueError()), emit.lost]) == 0
    finally:
        done.set()
        thread.join()
    emit(checkpoint())
    assert (seqs, emit.written, emit.lost) == ([0, 1], 2, 0)


def test_fork_in_every_thread(log):
    """Fault: processes fork while four threads emit. Expected: no child hangs or writes, and the file is exact."""
    stop = threading.Event()
    counts = [0] * 4

    def work(index):
        while not stop.is_set():
            log(checkpoint(path="thread"))
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    codes = [in_child(lambda: [log(checkpoint(path="child")) for _ in range(3)]) for _ in range(15)]
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 15
    assert paths_in(log.path) == ["parent", *["thread"] * sum(counts)]
    assert [orjson.loads(line)["seq"] for line in log.path.read_bytes().splitlines()] == list(range(sum(counts) + 1))


def test_pickled(log):
    """Fault: a pipeline is sent to another process. Expected: the other process receives a null pipeline."""
    arrived = pickle.loads(pickle.dumps({"emit": log}))["emit"]
    assert type(arrived) is NullPipeline


def _work(emit, queue):
    emit(checkpoint(path="child"))
    emit.fail("child", ValueError())
    queue.put((type(emit).__name__, emit.written))


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing(log, method):
    """Fault: a child of multiprocessing emits. Expected: exit 0, and the parent's file has no event of the child."""
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_work, args=(log, queue))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == (("Pipeline", 1) if method == "fork" else ("NullPipeline", 0))
    log(checkpoint(path="parent"))
    assert paths_in(log.path) == ["parent", "parent"]


class Emitting(torch.utils.data.Dataset):
    """Dataset that logs by a pipeline and by a direct call of a sink."""

    def __init__(self, emit, sink):
        self.emit, self.sink = emit, sink

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.emit(checkpoint(path="worker"))
        self.emit.fail("dataset", ValueError("x"))
        self.sink(record_of(checkpoint(path="worker's sink")))
        return index


@pytest.mark.parametrize("method", METHODS)
def test_data_loader(log, method):
    """Fault: a DataLoader's worker emits.

    Expected: every batch arrives, and the parent's file has no event of the worker.
    """
    loader = torch.utils.data.DataLoader(Emitting(log, log.sink), num_workers=1, multiprocessing_context=method)
    assert [int(batch[0]) for batch in loader] == [0, 1, 2, 3]
    log(checkpoint(path="parent"))
    assert paths_in(log.path) == ["parent", "parent"]
    assert (log.written, log.lost) == (2, 0)


def test_subprocess_inherits_nothing(log):
    """Fault: a program is started with `close_fds=False`. Expected: the program has no descriptor of the log."""
    script = "import os; print([os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')])"
    printed = subprocess.run(
        [sys.executable, "-c", script], close_fds=False, capture_output=True, text=True, check=True
    )
    assert "/dev/null" in printed.stdout or "pipe" in printed.stdout
    assert str(log.path) not in printed.stdout


def test_a_pipeline_of_the_childs_own():
    """Fault: no fault. Expected: a pipeline that a child creates works in the child."""

    def child():
        memory = MemorySink()
        emit = Pipeline([("memory", memory)], run_id=RUN_ID)
        emit(checkpoint())
        assert (emit.written, len(memory.records)) == (1, 1)

    assert in_child(child) == 0
