"""The writer against a model file system: every order of faults that hypothesis can think of."""

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
    """A sink, faults, other people's hands, and power cuts.

    `contents` follows every file that the sink ever had open: what it may hold is an extension of what it held.
    `promised` is what must be there after a power cut.
    """

    def __init__(self):
        super().__init__()
        self.files = FileSystem()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sinks.segment, "os", self.files)
        self.clock = Clock()
        self.said = []
        self.seq = 0
        self.returned = []  # in order: (line, the file that had it last)
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
        """Open the sink on nothing, on a whole file or on a torn one."""
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
        """Write a record; what is said of it must be so."""
        item = record(self.seq, event, text="x" * size)
        self.seq += 1
        try:
            self.sink(item)
        except OSError as error:
            assert error.filename  # noqa: PT017 - the rule goes on
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
        """Writes fail, the first of them after a part was taken."""
        self.files.fault("write", number, times, part)

    @rule(part=st.integers(1, 400))
    def short_write(self, part):
        """A write takes a part; the rest follows."""
        self.files.fault("write", 0, 1, part)

    @rule(call=st.sampled_from(["open", "pread", "listdir", "makedirs", "unlink"]), times=st.integers(1, 3))
    def calls_fail(self, call, times):
        """Another call fails: no descriptors, no memory, a bad disk."""
        self.files.fault(call, errno.EMFILE if call == "open" else errno.EIO, times)

    @rule(times=st.integers(1, 5))
    def syncs_fail(self, times):
        """Syncs fail: what was not on the disk may be lost, which the sink says and cannot help."""
        self.files.fault("fsync", errno.EIO, times)

    @rule()
    def mend(self):
        """All is well again."""
        self.files.faults.clear()

    @rule(seconds=st.sampled_from([0.05, 0.2, 10]))
    def wait(self, seconds):
        """Time passes."""
        self.clock.now += seconds

    @rule(how=st.sampled_from(["deleted", "renamed", "replaced", "folder renamed"]))
    def move(self, how):
        """Somebody moves the file or the folder away. What is not in the log's place is not promised to last."""
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
        """The system writes something to the disk, as it likes."""
        node = data.draw(st.sampled_from(list(self.contents)) if self.contents else st.just(self.files.root))
        self.files.write_back(node)

    @rule(written=st.sampled_from([0, 1, 100, 10_000]))
    def power_cut(self, written):
        """The machine dies, and a new process goes on: what was promised is on the disk."""
        self.files.cut_power(written)
        logs = [node for node in self._names().values() if node not in self.theirs.values()]
        on_disk = {text for node in logs for text in node.data.split(b"\n")}
        if self.keep is None:
            assert all(text[:-1] in on_disk for text in self.promised), "synced, and not on the disk"
        self.contents = {node: node.data for node in logs}
        self.returned = [(text, node) for text, node in self.returned if text[:-1] in node.data.split(b"\n")]
        self.unsynced = []
        self.failures += len(logs)  # each may end in a torn line
        self.theirs = {}
        self._open()

    def _names(self):
        folder = self.files.node(FOLDER, missing_ok=True)
        return folder.names if folder else {}

    @invariant()
    def nothing_is_cut_off_or_written_over(self):
        """Every file that the sink had is an extension of what it was."""
        for node in self.files.open_files.values():
            if node.mode & FILE:
                self._follow(node)
        for node in list(self.contents):
            self._follow(node)

    @invariant()
    def what_returned_is_there_in_order(self):
        """Every record whose call returned is whole in the file it was written to, in order, not fused."""
        last = {}
        for text, node in self.returned:
            lines = node.data.split(b"\n")
            where = len(lines) - 1 - lines[::-1].index(text[:-1])
            assert where > last.get(node, -1)
            last[node] = where

    @invariant()
    def torn_lines_are_alone_and_few(self):
        """A line that is no record is the beginning of one that failed, or of what was there before."""
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
        """Nothing but this log's own names is removed, and nobody else's file is written to."""
        for node in self.theirs.values():
            assert node.data == THEIRS
        for path in self.files.removed:
            assert path == FIRST or path.startswith(f"{FOLDER}/a.segment0"), path

    @invariant()
    def few_files_are_open(self):
        """One descriptor: none is leaked."""
        assert len(self.files.open_files) <= 1

    def teardown(self):
        """Close, whatever is broken: it never raises."""
        try:
            if hasattr(self, "sink"):
                self.sink.close()
                assert self.files.open_files == {}
                self.nothing_is_cut_off_or_written_over()
        finally:
            self.patch.undo()


Writer.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestWriter = Writer.TestCase
