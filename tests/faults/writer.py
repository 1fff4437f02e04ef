"""Caller that counts as the pipeline does, and reader that trusts no line."""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import orjson

RUN_START = {"event": "run_start", "v": 1, "run_id": "r", "attempt": 0, "rank": 0, "level": "info"}


def record(seq, event="train_step", **payload):
    """Return a record with a number. The other content does not matter in these tests."""
    ts = "2026-01-02T03:04:05.000060Z"
    envelope = {"v": 1, "ts": ts, "run_id": "r", "attempt": 0, "rank": 0, "seq": seq, "level": "info"}
    return {"event": event, **envelope, **payload}


def line(item):
    """Return the expected line of a record."""
    return orjson.dumps(item) + b"\n"


class Caller:
    """Caller that numbers records and counts the calls that raise, as the pipeline does."""

    def __init__(self, sink):
        self.sink = sink
        self.written = []
        self.lost = []
        self.errnos = []
        self._seq = itertools.count()

    def __call__(self, event="train_step", **payload):
        """Write a record, and return whether the call succeeded."""
        seq = next(self._seq)
        try:
            self.sink(record(seq, event, **payload))
        except OSError as error:
            assert error.filename, "an error says which file it is about"  # noqa: PT017 - the caller counts the error, too
            self.lost.append(seq)
            self.errnos.append(error.errno)
            return False
        self.written.append(seq)
        return True


class Clock:
    """Clock in seconds that a test advances."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass
class Found:
    """Content of a log: the unique records in order, the lines that are not JSON, and the parts without a newline."""

    records: list = field(default_factory=list)
    torn: list = field(default_factory=list)
    tails: list = field(default_factory=list)

    @property
    def seqs(self):
        return [item["seq"] for item in self.records]


def read_log(*paths):
    """Return the content of a log's segments. Only newlines end lines, and repeated lines count once."""
    found = Found()
    seen = set()
    for path in paths:
        *lines, tail = Path(path).read_bytes().split(b"\n")
        assert b"" not in lines, "an empty line"
        if tail:
            found.tails.append(tail)
        for text in [*lines, *([tail] if tail else [])]:
            _read(text, found, seen)
    return found


def _read(text, found, seen):
    try:
        item = json.loads(text.decode())
    except ValueError:
        assert text.count(b'{"event"') <= 1, f"fused: {text!r}"
        found.torn.append(text)
        return
    if text not in seen:
        seen.add(text)
        found.records.append(item)


def segments(folder):
    """Return the files of the only log in a folder, in order."""
    return sorted(Path(folder).glob("*.jsonl"))


def check(caller, *paths):
    """Check that the log holds exactly the records of successful calls, in order, and return the content."""
    found = read_log(*paths)
    assert found.seqs == caller.written
    assert sorted(caller.written + caller.lost) == list(range(len(caller.written) + len(caller.lost)))
    return found
