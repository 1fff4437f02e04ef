"""State machine of the writer on a model file system, with random sequences of faults."""

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import sinks.segment
from sinks.jsonl import JsonlSink
from tests.faults.filesystem import FILE, FileSystem
from tests.faults.writer import Clock, line, record

FOLDER = "/run/events"
FIRST = f"{FOLDER}/a.jsonl"
THEIRS = b'"theirs"'
ERRNOS = st.sampled_from([errno.ENOSPC, errno.EIO, errno.EFBIG, errno.ESTALE, errno.EROFS, errno.EDQUOT, errno.EBADF])
EVENTS = st.sampled_from(["train_step", "prediction_sample", "checkpoint"])


class Writer(RuleBasedStateMachine):
    """Sink under faults, changes by other programs, and power cuts.

    `contents` holds the last known content of every file of the sink. Later content must be an extension of earlier
    content. `promised` holds the lines that must survive a power cut.
    """

    def __init__(self):
        super().__init__()
        self.files = FileSystem()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sinks.segment, "os", self.files)
        self.clock = Clock()
        self.said = []
        self.seq = 0
        self.returned = []  # in order: (line, last file of the line)
        self.raised = set()
        self.failures = 0
        self.contents = {}
        self.theirs = {}
        self.promised = []
        self.unsynced = []
        self.known_failures = 0
        self.keep = None

    @initialize(
        durability=st.sampled_from(["none", "checkpoint", "record"]),
        max_bytes=st.none() | st.integers(400, 3000),
        keep=st.none() | st.integers(1, 3),
        left=st.sampled_from([b"", line(record(10**6)), b'{"event":"torn', line(record(10**6)) + b'{"eve']),
    )
    def begin(self, durability, max_bytes, keep, left):
        """Open the sink on no file, on a whole file or on a torn file."""
        self.durability, self.max_bytes = durability, max_bytes
        self.keep = keep if max_bytes else None
        self.files.makedirs(FOLDER, exist_ok=True)
        if left:
            self._follow(self.files.put(FIRST, left))
        for name in ("b.jsonl", "a.segment1.jsonl", "a.jsonl.old"):
            self.theirs[name] = self.files.put(f"{FOLDER}/{name}", THEIRS)
        self.files.write_back_all()
        self.left = left
        self._open()
        self.emit("run_start", 10)

    def _open(self):
        self.sink = JsonlSink(
            FIRST,
            durability=self.durability,
            max_bytes=self.max_bytes,
            keep=self.keep,
            say=self.said.append,
            clock=self.clock,
        )

    def _follow(self, node):
        before = self.contents.get(node, b"")
        assert node.data.startswith(before), "cut off or written over"
        self.contents[node] = node.data

    @rule(event=EVENTS, size=st.sampled_from([0, 10, 300, 5000]))
    def emit(self, event, size):
        """Write a record, and check that the result of the call is true."""
        item = record(self.seq, event, text="x" * size)
        self.seq += 1
        try:
            self.sink(item)
        except OSError as error:
            assert error.filename  # noqa: PT017 - the rule continues
            self.raised.add(line(item))
            self.failures += 1
        else:
            node = self._node()
            assert line(item)[:-1] in node.data.split(b"\n"), "returned, and not in the file"
            self.returned.append((line(item), node))
            self.unsynced.append(line(item))
            if self.durability == "record" or (self.durability == "checkpoint" and event == "checkpoint"):
                broken = self.files.sync_failures > self.known_failures
                self.promised += [line(item)] if broken else self.unsynced
                self.unsynced, self.known_failures = [], self.files.sync_failures

    def _node(self):
        return self.files.open_files[self.sink._segment._fd]

    @rule(number=ERRNOS, times=st.integers(1, 6), part=st.sampled_from([0, 1, 50, 100]))
    def writes_fail(self, number, times, part):
        """Let writes fail, the first after a partial write."""
        self.files.fault("write", number, times, part)

    @rule(part=st.integers(1, 400))
    def short_write(self, part):
        """Let a write accept only a part. The rest follows."""
        self.files.fault("write", 0, 1, part)

    @rule(call=st.sampled_from(["open", "pread", "listdir", "makedirs", "unlink"]), times=st.integers(1, 3))
    def calls_fail(self, call, times):
        """Let another call fail, as without descriptors or memory or on a bad disk."""
        self.files.fault(call, errno.EMFILE if call == "open" else errno.EIO, times)

    @rule(times=st.integers(1, 5))
    def syncs_fail(self, times):
        """Let syncs fail. Unsynced lines may be lost, and the sink reports the risk."""
        self.files.fault("fsync", errno.EIO, times)

    @rule()
    def mend(self):
        """Remove all faults."""
        self.files.faults.clear()

    @rule(seconds=st.sampled_from([0.05, 0.2, 10]))
    def wait(self, seconds):
        """Let time pass."""
        self.clock.now += seconds

    @rule(how=st.sampled_from(["deleted", "renamed", "replaced", "folder renamed"]))
    def move(self, how):
        """Move the file or the folder away. Durability is promised only for files at the log's path."""
        path = self.sink.path
        folder = self.files.node(path.parent, missing_ok=True)
        if folder is None or path.name not in folder.names:
            return
        if how == "folder renamed":
            above = self.files.node(path.parent.parent)
            above.names[f"kept{self.seq}-{len(above.names)}"] = above.names.pop("events")
            self.theirs = {}
        else:
            moved = folder.names.pop(path.name)
            if how == "renamed":
                folder.names[f"kept{self.seq}-{len(folder.names)}"] = moved
            if how == "replaced":
                self.theirs[path.name] = self.files.put(path, THEIRS)
        self.promised, self.unsynced = [], []

    @rule(data=st.data())
    def write_back(self, data):
        """Write a random node to the disk, as the system may do at any time."""
        node = data.draw(st.sampled_from(list(self.contents)) if self.contents else st.just(self.files.root))
        self.files.write_back(node)

    @rule(written=st.sampled_from([0, 1, 100, 10_000]))
    def power_cut(self, written):
        """Cut the power and start a new process. All promised lines are on the disk."""
        self.files.cut_power(written)
        logs = [node for node in self._names().values() if node not in self.theirs.values()]
        on_disk = {text for node in logs for text in node.data.split(b"\n")}
        if self.keep is None:
            assert all(text[:-1] in on_disk for text in self.promised), "synced, and not on the disk"
        self.contents = {node: node.data for node in logs}
        self.returned = [(text, node) for text, node in self.returned if text[:-1] in node.data.split(b"\n")]
        self.unsynced = []
        self.failures += len(logs)  # each file may end in a torn line
        self.theirs = {}
        self._open()

    def _names(self):
        folder = self.files.node(FOLDER, missing_ok=True)
        return folder.names if folder else {}

    @invariant()
    def nothing_is_cut_off_or_written_over(self):
        """Check that every file of the sink is an extension of the earlier content."""
        for node in self.files.open_files.values():
            if node.mode & FILE:
                self._follow(node)
        for node in list(self.contents):
            self._follow(node)

    @invariant()
    def what_returned_is_there_in_order(self):
        """Check that each record of a successful call is whole in the file of the call, in order and not fused."""
        last = {}
        for text, node in self.returned:
            lines = node.data.split(b"\n")
            where = len(lines) - 1 - lines[::-1].index(text[:-1])
            assert where > last.get(node, -1)
            last[node] = where

    @invariant()
    def torn_lines_are_alone_and_few(self):
        """Check that each torn line is the start of a failed record or of earlier content."""
        known = {text[:-1] for text, _ in self.returned} | {text[:-1] for text in self.raised}
        torn = 0
        for node in self.contents:
            for text in node.data.split(b"\n")[:-1]:
                assert text, "an empty line"
                if text in known or self.left.startswith(text) or text == THEIRS:
                    continue
                torn += 1
                assert text.count(b'{"event"') <= 1, "fused"
        assert torn <= self.failures + len(self.said)

    @invariant()
    def others_are_left_alone(self):
        """Check that the sink removes only files of this log and never writes to other files."""
        for node in self.theirs.values():
            assert node.data == THEIRS
        for path in self.files.removed:
            assert path == FIRST or path.startswith(f"{FOLDER}/a.segment0"), path

    @invariant()
    def few_files_are_open(self):
        """Check that at most a single descriptor is open."""
        assert len(self.files.open_files) <= 1

    def teardown(self):
        """Close the sink under any fault. `close` never raises."""
        try:
            if hasattr(self, "sink"):
                self.sink.close()
                assert self.files.open_files == {}
                self.nothing_is_cut_off_or_written_over()
        finally:
            self.patch.undo()


Writer.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestWriter = Writer.TestCase
