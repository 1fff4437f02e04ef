"""Reading of damaged logs, and the cost of reading a long log."""

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.logs.gaps import Gap, gaps
from tests.builders import run_start
from tests.logs import read
from tests.test_reader import attempt_of, dump, faults_of, file_of, loaded, records_of, write

RECORDS = records_of(attempt_of())
LINES = dump(RECORDS).splitlines(keepends=True)
SHORT = [orjson.dumps({"event": "é\u2028", "rank": 0, "attempt": 0, "seq": seq}) + b"\n" for seq in range(20)]


def test_truncated_at_every_byte(tmp_path):
    """A file cut at any byte gives all complete lines. A torn line is a fault, and a missing last newline is not."""
    whole = b"".join(SHORT)
    ends = [sum(map(len, SHORT[: count + 1])) for count in range(len(SHORT))]
    path = file_of(tmp_path)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        events, said = faults_of(tmp_path)
        complete = sum(end - 1 <= size for end in ends)
        assert [event["seq"] for event in events] == list(range(complete))
        assert len(said) == (size not in (0, *ends) and size + 1 not in ends)


def test_truncated_and_appended_to(tmp_path):
    """A torn line that ends in a newline costs a single record and leaves an unexplained gap."""
    path = file_of(tmp_path)
    for size in range(1, len(SHORT[1]) - 1):
        path.write_bytes(SHORT[0] + SHORT[1][:size] + b"\n" + SHORT[2])
        events, said = faults_of(tmp_path)
        assert [event["seq"] for event in events] == [0, 2]
        assert len(said) == 1
        assert gaps(tmp_path) == [Gap(0, 0, 1, 1, None)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, sum(map(len, LINES)) - 1), st.integers(0, 255)), min_size=1, max_size=30))
def test_any_bytes_flipped(flips):
    """Changed bytes raise nothing, and all untouched lines are read in order."""
    data = bytearray(b"".join(LINES))
    for position, value in flips:
        data[position] = value
    mutated = bytes(data).split(b"\n")
    untouched = [record for line, record in zip(LINES, loaded(RECORDS), strict=True) if line[:-1] in mutated]
    with TemporaryDirectory() as folder:
        file_of(folder).write_bytes(data)
        for all_attempts in (False, True):
            events = list(read(folder, all_attempts=all_attempts, on_problem=str))
            assert [event for event in events if event in untouched] == untouched
            assert len(events) <= len(mutated)
        gaps(folder)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=80), max_size=8), min_size=1, max_size=3))
def test_any_bytes_at_all(files):
    """Random bytes in place of logs are faults and never exceptions."""
    with TemporaryDirectory() as folder:
        for attempt, parts in enumerate(files):
            file_of(folder, attempt=attempt).write_bytes(b"\n".join(parts))
        events, said = faults_of(Path(folder))
        assert len(events) + len(said) <= sum(b"\n".join(parts).count(b"\n") + 1 for parts in files)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
FIELDS = ["event", "step", "rank", "attempt", "seq", "sink", "lost", "first_seq", "last_seq", "split"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(RECORDS) - 1), st.sampled_from(FIELDS), JSON)))
def test_any_value_in_any_field(changes):
    """Fields of a wrong kind raise nothing. With all attempts, each line gives an event or a fault."""
    attempts = [[dict(record) for record in RECORDS] for _ in range(3)]
    for attempt, index, name, value in changes:
        attempts[attempt][index] |= {"sink": "jsonl", name: value}
    with TemporaryDirectory() as folder:
        for attempt, records in enumerate(attempts):
            file_of(folder, attempt=attempt).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
        faults = []
        events = list(read(folder, all_attempts=True, on_problem=faults.append))
        assert len(events) + len(faults) == sum(map(len, attempts))
        list(read(folder))
        gaps(folder)


def test_memory_is_constant_in_the_length_of_the_log(tmp_path):
    """Reading ten times as many events of 3 ranks and attempts takes no more memory."""
    peaks = []
    for steps in (500, 5000):
        for rank in range(3):
            for attempt in range(3):
                start = records_of([run_start(resumed_from_step=100 * attempt or None)])[0]
                events = ({"event": "note", "seq": step, "step": step, "x": "y" * 50} for step in range(steps))
                write(tmp_path, [start, *events], rank, attempt)
        tracemalloc.start()
        assert sum(1 for _ in read(tmp_path)) > 2 * steps
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000
