"""Events are joined by key, whatever order their lines are in and however many there are."""

from collections import Counter
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.logs.diff import join
from higgs_audio_trainer.logs.diff.join import (
    ComparedEvent,
    UnsortedError,
    joined,
    joined_unsorted,
    key_of,
    order_of,
    sortable,
)
from higgs_audio_trainer.logs.diff.sorter import Sorter
from higgs_audio_trainer.logs.lines import int_field
from tests.builders import (
    audio_sample,
    checkpoint,
    record_of,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    train_step,
)


def entry_of(record):
    """Make the entry of a record for the join."""
    return ComparedEvent(int_field(record, "step"), record, orjson.dumps(record))


def entries_of(*events):
    """Make the entries of events for the join."""
    return [entry_of(orjson.loads(orjson.dumps(record_of(event)))) for event in events]


def steps(numbers):
    """Make a `train_step` of each step."""
    return entries_of(*(train_step(step=number) for number in numbers))


def named(pairs):
    """Name the step or the event of either side of each pair."""
    return [tuple(entry and (entry.step or entry.record["event"]) for entry in pair) for pair in pairs]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.builds(
    lambda event, step, codebook, value: {"event": event, "rank": 0, "value": value} | step | codebook,
    st.sampled_from(["train_step", "prediction_sample", "run_start", "run_end", "new_event"]),
    st.integers(0, 3).map(lambda step: {"step": step}) | st.just({}) | st.just({"step": "2"}),
    st.integers(0, 2).map(lambda codebook: {"codebook": codebook}) | st.just({}),
    JSON,
)


def test_steps_of_one_side_alone_have_no_partner():
    """An entry that one log lacks is paired with None."""
    assert named(joined(steps([1, 2, 4]), steps([2, 3, 4]))) == [(1, None), (2, 2), (None, 3), (4, 4)]


def test_the_start_and_the_end_of_a_run_are_joined_at_whatever_step():
    """Runs that ended at different steps are joined, so that the steps can be compared."""
    ours = entries_of(run_start(), train_step(step=1), run_end(step=1))
    theirs = entries_of(run_start(), train_step(step=1), train_step(step=2), run_end(step=2))
    assert named(joined(ours, theirs)) == [(1, 1), (None, 2), ("run_start", "run_start"), (1, 2)]


def test_events_without_a_step_are_joined_wherever_they_stand():
    """The position of a line is irrelevant, also for events without a step."""
    (lost,) = entries_of(sink_recovered())
    ours, theirs = steps([1, 2]), steps([1, 2])
    pairs = list(joined([lost, *ours], [*theirs, lost]))
    assert all(expected is not None and got is not None for expected, got in pairs)


@pytest.mark.parametrize("field", ["split", "step", "rank", "modality", "fingerprint", "codebook", "event"])
def test_every_part_of_the_key_tells_events_apart(field):
    """Each part of the key distinguishes events."""
    record = record_of(audio_sample())
    assert key_of(record | {field: "another"}) != key_of(record)


def test_a_field_that_is_no_part_of_the_key_does_not_tell_events_apart():
    """A sample that moved to another row of the batch is still the same sample."""
    assert key_of(record_of(audio_sample())) == key_of(record_of(audio_sample(sample_index=1, sample_id="x")))


def test_a_sample_that_is_twice_in_a_batch_is_joined_by_its_row():
    """Occurrences of one key are distinguished by content, not by order."""
    ours = entries_of(text_sample(sample_index=0, loss=0.5), text_sample(sample_index=1, loss=0.25))
    theirs = entries_of(text_sample(sample_index=1, loss=0.26), text_sample(sample_index=0, loss=0.51))
    pairs = list(joined(ours, theirs))
    assert {(a.record["sample_index"], b.record["sample_index"]) for a, b in pairs} == {(0, 0), (1, 1)}


def test_equal_occurrences_are_joined_first():
    """If one of three occurrences changed, the result is one difference, not three."""
    ours = entries_of(*(checkpoint(path=path) for path in "abc"))
    theirs = entries_of(*(checkpoint(path=path) for path in "c0b"))
    unlike = [pair for pair in joined(ours, theirs) if pair[0].encoded != pair[1].encoded]
    assert [(a.record["path"], b.record["path"]) for a, b in unlike] == [("a", "0")]


def test_a_log_that_is_not_sorted_is_noticed():
    """Steps in descending order cannot be joined step by step."""
    with pytest.raises(UnsortedError):
        list(joined(steps([1, 2]), steps([2, 1])))


def test_a_step_with_too_many_events_is_not_held(monkeypatch):
    """A step that does not fit into memory is sorted on disk, like an unsorted log."""
    monkeypatch.setattr(join, "_MOST_OF_A_STEP", 3)
    with pytest.raises(UnsortedError):
        list(joined(steps([1]), steps([1] * 4)))


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=12), st.lists(RECORDS, max_size=12), st.randoms())
def test_each_event_is_in_one_pair_and_keys_agree(ours, theirs, random):
    """No event is lost or used twice, partners share a key, and no key has unpaired events on both sides."""
    left, right = ([entry_of(record) for record in records] for records in (ours, theirs))
    random.shuffle(right)
    pairs = list(joined_unsorted(left, right))
    for side, entries in enumerate((left, right)):
        seen = Counter(pair[side].encoded for pair in pairs if pair[side])
        assert seen == Counter(entry.encoded for entry in entries)
    assert all(key_of(a.record) == key_of(b.record) for a, b in pairs if a and b)
    alone = [{key_of(pair[side].record) for pair in pairs if not pair[1 - side]} for side in (0, 1)]
    assert not alone[0] & alone[1]


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=12), st.lists(RECORDS, max_size=12))
def test_both_ways_of_joining_give_the_same_pairs(ours, theirs):
    """Sorting in memory step by step and sorting on disk give the same pairs."""
    ours, theirs = (sorted(records, key=lambda record: int_field(record, "step") or 0) for records in (ours, theirs))
    left, right = ([entry_of(record) for record in records] for records in (ours, theirs))

    def written(pairs):
        return Counter(tuple(entry and entry.encoded for entry in pair) for pair in pairs)

    assert written(joined(left, right)) == written(joined_unsorted(left, right))


@settings(deadline=None)
@given(st.lists(JSON, max_size=5))
def test_any_values_can_be_sorted(values):
    """Values of different types have an order; equal ones have equal keys."""
    keys = sorted(map(sortable, values))
    assert all(earlier <= later for earlier, later in pairwise(keys))
    assert all((sortable(a) == sortable(b)) == (a == b) for a in values for b in values)


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=30), st.integers(1, 4_000))
def test_what_is_sorted_on_disk_is_as_if_sorted_in_memory(records, chunk_bytes):
    """Chunks of any size give the same order and every record."""
    lines = Sorter(order_of, chunk_bytes=chunk_bytes)
    for record in records:
        lines.add(record, orjson.dumps(record))
    expected = sorted((order_of(record), orjson.dumps(record)) for record in records)
    assert list(lines) == expected
    lines.close()
