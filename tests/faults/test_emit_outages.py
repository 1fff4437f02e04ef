"""Sinks that fail and recover: the claims of `sink_recovered` are exactly the missing records."""

import itertools

import pytest

from higgs_audio_trainer.pipeline.emit import Pipeline
from tests.builders import RUN_ID, checkpoint


class Flaky:
    """Sink that fails at the delivery numbers, from 0, for which `fails` is true, and keeps the other records."""

    def __init__(self, fails):
        self.fails = fails
        self.deliveries = 0
        self.records = []

    def __call__(self, record):
        number = self.deliveries
        self.deliveries += 1
        if self.fails(number):
            raise OSError(28 + number % 3, f"failure {number}")
        self.records.append(record)

    @property
    def seqs(self):
        return [record["seq"] for record in self.records]


def unclaimed(name, sink, delivered):
    """Check each claim of a sink against the missing records, and return the records missing after the last claim.

    This oracle uses only the file and the number of deliveries, and no counter of the pipeline.
    """
    present, since = set(sink.seqs), 0
    for record in sink.records:
        if record["event"] == "sink_recovered" and record["sink"] == name:
            missing = [seq for seq in range(since, record["seq"]) if seq not in present]
            assert (record["lost"], record["first_seq"], record["last_seq"]) == (
                len(missing),
                missing[0],
                missing[-1],
            )
            assert record["errno"] == 28 + missing[-1] % 3
            since = record["seq"]
    return [seq for seq in range(since, delivered) if seq not in present]


def run(events, **fails):
    """Emit events to flaky sinks, and return the pipeline, the sinks and the number of deliveries."""
    sinks = {name: Flaky(fail) for name, fail in fails.items()}
    said = []
    emit = Pipeline(list(sinks.items()), run_id=RUN_ID, say=said.append)
    for _ in range(events):
        emit(checkpoint())
    (delivered,) = {sink.deliveries for sink in sinks.values()}
    taken = [set(sink.seqs) for sink in sinks.values()]
    assert emit.written == len(set.intersection(*taken))
    assert emit.lost == sum(delivered - len(seqs) for seqs in taken)
    assert all(sink.seqs == sorted(sink.seqs) for sink in sinks.values())
    assert len(said) == sum(len(seqs) < delivered for seqs in taken), "each sink's failure is said once"
    return emit, sinks, delivered


EVENTS = 12


@pytest.mark.parametrize("times", [1, 2, 3, 7, None])
@pytest.mark.parametrize("first", range(EVENTS))
def test_nth_delivery_fails(first, times):
    """Fault: k deliveries from the N-th on fail, or all. Expected: a single exact claim, or the file ends."""
    last = float("inf") if times is None else first + times - 1
    _, sinks, delivered = run(EVENTS, a=lambda number: first <= number <= last, b=lambda _number: False)
    recovered = last < EVENTS - 1
    assert unclaimed("b", sinks["b"], delivered) == []
    assert unclaimed("a", sinks["a"], delivered) == ([] if recovered else list(range(first, EVENTS)))
    assert delivered == EVENTS + recovered
    claims = [record["seq"] for record in sinks["b"].records if record["event"] == "sink_recovered"]
    assert claims == ([last + 2] if recovered else [])


@pytest.mark.parametrize("pattern", list(itertools.product([False, True], repeat=8)), ids=range(256))
def test_every_pattern_of_one_sink(pattern):
    """Fault: each of the 256 failure patterns of eight deliveries. Expected: the claims add up after recovery."""
    _, sinks, delivered = run(EVENTS, a=lambda number: number < 8 and pattern[number])
    assert unclaimed("a", sinks["a"], delivered) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_pattern_of_two_sinks(length):
    """Fault: two sinks fail by every pair of repeating patterns. Expected: no claim is wrong or missing."""
    patterns = list(itertools.product([False, True], repeat=length))
    for one, two in itertools.product(patterns, repeat=2):
        _, sinks, delivered = run(
            20,
            a=lambda number, one=one: number < 15 and one[number % length],
            b=lambda number, two=two: number < 15 and two[(number + number // 5) % length],
        )
        assert unclaimed("a", sinks["a"], delivered) == []
        assert unclaimed("b", sinks["b"], delivered) == []


@pytest.mark.parametrize("first", range(6))
def test_the_report_itself_fails(first):
    """Fault: a sink fails, works, and fails again at each of several reports.

    Expected: the last claim covers all losses.
    """
    reports = {first + 2 * k for k in range(4)}  # an accepted event and a lost report in turn
    _, sinks, delivered = run(EVENTS, a=lambda number: number in reports)
    claims = [record for record in sinks["a"].records if record["event"] == "sink_recovered"]
    assert [(claim["lost"], claim["first_seq"], claim["last_seq"]) for claim in claims] == [(4, first, first + 6)]
    assert unclaimed("a", sinks["a"], delivered) == []


def test_all_sinks_recover_at_once():
    """Fault: five sinks fail together. Expected: five exact claims after the first accepted record."""
    _, sinks, delivered = run(4, **{name: lambda number: number in (1, 2) for name in "abcde"})
    for name, sink in sinks.items():
        assert unclaimed(name, sink, delivered) == []
        assert [record.get("sink") for record in sink.records] == [None, None, *"abcde"]
