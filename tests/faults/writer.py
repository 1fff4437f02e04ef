"""A caller that counts as the pipeline does, and a reader that trusts nothing."""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import orjson

RUN_START = {"event": "run_start", "v": 1, "run_id": "r", "attempt": 0, "rank": 0, "level": "info"}


def record(seq, event="train_step", **payload):
    """Make a record: what it says beside its number does not matter here."""
    ts = "2026-01-02T03:04:05.000060Z"
    envelope = {"v": 1, "ts": ts, "run_id": "r", "attempt": 0, "rank": 0, "seq": seq, "level": "info"}
    return {"event": event, **envelope, **payload}


def line(item):
    """Return the line that a record should be."""
    return orjson.dumps(item) + b"\n"


class Caller:
    """Numbers records and counts, as the pipeline does, those whose call raised."""

    def __init__(self, sink):
        self.sink = sink
        self.written = []
        self.lost = []
        self.errnos = []
        self._seq = itertools.count()

    def __call__(self, event="train_step", **payload):
        """Write one record; tell whether it is said to be there."""
        seq = next(self._seq)
        try:
            self.sink(record(seq, event, **payload))
        except OSError as error:
            assert error.filename, "an error says which file it is about"  # noqa: PT017 - it is counted, too
            self.lost.append(seq)
            self.errnos.append(error.errno)
            return False
        self.written.append(seq)
        return True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass
class Found:
    """What a log holds: the records in order, each once; the lines that are no JSON; what had no newline."""

    records: list = field(default_factory=list)
    torn: list = field(default_factory=list)
    tails: list = field(default_factory=list)

    @property
    def seqs(self):
        return [item["seq"] for item in self.records]


def read_log(*paths):
    """Read the segments of a log. Lines end at newlines and nowhere else; repeated ones count once."""
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
    """Check the promise: exactly the records whose call returned are there, in order. Return what was found."""
    found = read_log(*paths)
    assert found.seqs == caller.written
    assert sorted(caller.written + caller.lost) == list(range(len(caller.written) + len(caller.lost)))
    return found
