"""Logs are read back whole: over segments, ranks, attempts and whatever happened to their lines."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import VOLATILE_FIELDS, to_mapping
from higgs_audio_trainer.logs import lines
from higgs_audio_trainer.logs.gaps import Gap, gaps
from higgs_audio_trainer.logs.lines import LogFile
from tests.builders import (
    cap_reached,
    checkpoint,
    eval_result,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    train_step,
)
from tests.logs import read

LAST_STEP, LOG_STEPS, EVAL_STEPS, SAVE_STEPS = 12, 2, 3, 4


def records_of(events, *, rank=0, attempt=0):
    """Make the records of one rank and attempt."""
    return [
        {"event": event.name, "v": 1, "ts": f"{attempt}-{seq}", "run_id": "r", "attempt": attempt, "rank": rank}
        | {"seq": seq, "level": "info"}
        | to_mapping(event)
        for seq, event in enumerate(events)
    ]


def dump(records):
    """Encode records as lines."""
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def file_of(folder, rank=0, attempt=0, segment=0):
    """Name a file of a log."""
    return Path(folder) / f"rank{rank:05d}-attempt{attempt:03d}{f'.segment{segment:03d}' if segment else ''}.jsonl"


def write(folder, records, rank=0, attempt=0, segment=0):
    """Write a file of a log."""
    file_of(folder, rank, attempt, segment).write_bytes(dump(records))


def seqs(records):
    """Return the numbers of records."""
    return [record["seq"] for record in records]


def loaded(records):
    """Return records as they come out of a file."""
    return [json.loads(line) for line in dump(records).splitlines()]


# Attempts


def evaluation(step):
    """Make the events of an evaluation."""
    return [eval_result(step=step, loss=step / 7), text_sample(step=step, split="eval")]


def attempt_of(resumed=None, *, stopped_at=None, made_up=False):
    """Make the events of an attempt: after a checkpoint or from the beginning, to the end or to a stop signal."""
    events = [run_start(resumed_from_step=resumed), *(evaluation(resumed) if made_up else [])]
    for step in range((resumed or 0) + 1, (stopped_at or LAST_STEP) + 1):
        if step == 1 or step % LOG_STEPS == 0:
            events += [train_step(step=step, loss=step / 3), text_sample(step=step)]
        if step == stopped_at:
            return [*events, checkpoint(step=step, path=f"checkpoint-{step}"), run_end(reason="SIGTERM", step=step)]
        if step % EVAL_STEPS == 0:
            events += evaluation(step)
        if step % SAVE_STEPS == 0:
            events.append(checkpoint(step=step, path=f"checkpoint-{step}"))
    return [*events, run_end(step=LAST_STEP)]


def stable(records):
    """Return records without what a stop may change: volatile fields, where it resumed, checkpoints it made."""
    kept = [
        {key: value for key, value in record.items() if key not in VOLATILE_FIELDS | {"resumed_from_step"}}
        for record in records
        if record["event"] != "checkpoint" or record["step"] % SAVE_STEPS == 0
    ]
    # A run that was stopped where an evaluation and a save are due saves first.
    return sorted(kept, key=lambda record: (record.get("step", -1), record["event"] == "checkpoint"))


@st.composite
def interrupted_runs(draw):
    """Draw the attempts of a run that was killed and stopped again and again, resumed from any checkpoint, and ended.

    A checkpoint is on the disk before its event is written; what an attempt had written when it died is in its file.
    """
    attempts, saved = [], {}  # step of each checkpoint: whether the evaluation that is due there was made
    for _ in range(draw(st.integers(0, 4))):
        resumed = draw(st.sampled_from([None, *saved]))
        made_up = resumed is not None and not saved[resumed]
        left = range((resumed or 0) + 1, LAST_STEP + 1)
        stopped_at = draw(st.sampled_from([None, *left]))
        events = attempt_of(resumed, stopped_at=stopped_at, made_up=made_up)
        events = events[: draw(st.integers(0, len(events)))]
        attempts.append(events)
        for event in events:
            if event.name == "checkpoint":
                saved[event.step] = event.step != stopped_at or event.step % EVAL_STEPS != 0
    resumed = draw(st.sampled_from([None, *saved]))
    return [*attempts, attempt_of(resumed, made_up=resumed is not None and not saved[resumed])]


@settings(max_examples=600, deadline=None)
@given(interrupted_runs(), st.integers(1, 2))
def test_an_interrupted_run_reads_as_one_that_was_not(attempts, ranks):
    """Killed or stopped anywhere, resumed from any checkpoint or none, several times: the log reads the same."""
    with TemporaryDirectory() as folder, TemporaryDirectory() as other:
        for rank in range(ranks):
            write(other, records_of(attempt_of(), rank=rank), rank)
            for attempt, events in enumerate(attempts):
                write(folder, records_of(events, rank=rank, attempt=attempt), rank, attempt)
        assert stable(read(folder)) == stable(read(other))
        assert sum(1 for _ in read(folder, all_attempts=True)) == ranks * sum(map(len, attempts))


def test_the_highest_attempt_of_each_step(tmp_path):
    """Steps that a later attempt has not come to are those of the one before; run_start and run_end are the last's."""
    write(tmp_path, records_of([run_start(), *(train_step(step=step) for step in (2, 4, 6, 8)), run_end(step=9)]))
    again = records_of([run_start(resumed_from_step=3), train_step(step=4), train_step(step=6)], attempt=1)
    write(tmp_path, again, attempt=1)
    shown = [(record["event"], record.get("step"), record["attempt"]) for record in read(tmp_path)]
    steps = [("train_step", 2, 0), ("train_step", 4, 1), ("train_step", 6, 1), ("train_step", 8, 0)]
    assert shown == [("run_start", None, 1), *steps]


def test_an_attempt_that_died_at_once_supersedes_no_step(tmp_path):
    """A restart without a checkpoint that has not come to a step leaves all steps to the one before."""
    write(tmp_path, records_of([run_start(), *(train_step(step=step) for step in (1, 2))]))
    write(tmp_path, records_of([run_start(), sink_recovered()], attempt=1), attempt=1)
    write(tmp_path, [], attempt=2)
    shown = [(record["event"], record["attempt"]) for record in read(tmp_path)]
    assert shown == [("run_start", 1), ("sink_recovered", 1), ("train_step", 0), ("train_step", 0)]


def test_an_attempt_that_led_nowhere_is_left_out(tmp_path):
    """A step is the first attempt's where the third went on from its checkpoint, however much the second had done."""
    write(tmp_path, records_of([run_start(), *(train_step(step=step) for step in (1, 2, 3, 4))]))
    write(tmp_path, records_of([run_start(), *(train_step(step=step) for step in (1, 2))], attempt=1), attempt=1)
    write(tmp_path, records_of([run_start(resumed_from_step=2), train_step(step=4)], attempt=2), attempt=2)
    shown = [(record["step"], record["attempt"]) for record in read(tmp_path) if "step" in record]
    assert shown == [(1, 0), (2, 0), (4, 2)]
    saved = [run_start(), train_step(step=1), train_step(step=2), checkpoint(step=2)]
    write(tmp_path, records_of(saved, attempt=1), attempt=1)
    shown = [(record["step"], record["attempt"]) for record in read(tmp_path) if "step" in record]
    assert shown == [(1, 1), (2, 1), (2, 1), (4, 2)]


def test_an_attempt_without_run_start_begins_where_it_is_seen(tmp_path):
    """Where the first line of an attempt is torn, steps before its first event are those of the one before."""
    write(tmp_path, records_of([run_start(), *(train_step(step=step) for step in (2, 4, 6))]))
    write(tmp_path, records_of([train_step(step=4), train_step(step=6)], attempt=1), attempt=1)
    shown = [(record.get("step"), record["attempt"]) for record in read(tmp_path) if "step" in record]
    assert shown == [(2, 0), (4, 1), (6, 1)]


def test_fewer_ranks_after_a_restart(tmp_path):
    """The steps of a rank that a later attempt did without are gone like those of the others."""
    for rank in range(2):
        steps = [train_step(step=step) for step in (1, 2, 3)]
        write(tmp_path, records_of([run_start(), *steps], rank=rank), rank)
    write(tmp_path, records_of([run_start(resumed_from_step=1), train_step(step=2)], attempt=1), attempt=1)
    shown = [(record["step"], record["rank"], record["attempt"]) for record in read(tmp_path) if "step" in record]
    assert shown == [(1, 0, 0), (1, 1, 0), (2, 0, 1), (3, 0, 0), (3, 1, 0)]


# Order


@st.composite
def streams(draw):
    """Draw the events of 3 ranks x 3 attempts: ascending steps, and events without one among them."""
    resumed = [None, draw(st.none() | st.integers(0, 6)), draw(st.none() | st.integers(0, 6))]
    drawn = {}
    for rank in range(3):
        for attempt in range(3):
            first = 1 if resumed[attempt] is None else resumed[attempt] + 1
            steps = sorted(draw(st.lists(st.integers(first, 9), max_size=5)))
            events = [run_start(resumed_from_step=resumed[attempt])]
            for step in steps:
                events.append(train_step(step=step))
                events += [sink_recovered()] * draw(st.integers(0, 1))
            drawn[rank, attempt] = records_of(events, rank=rank, attempt=attempt)
    return resumed, drawn


def placed(records):
    """Pair each record with its step; one without a step with that of the record before it."""
    place = -1
    for record in records:
        place = record.get("step", place)
        yield place, record


@settings(max_examples=200, deadline=None)
@given(streams())
def test_ranks_and_attempts_are_merged(drawn):
    """Against all lines in memory: ordered by step, rank, attempt and seq; each step of one attempt alone."""
    resumed, files = drawn
    with TemporaryDirectory() as folder:
        for (rank, attempt), records in files.items():
            write(folder, records, rank, attempt)
        everything = [(place, *key, record) for key, records in files.items() for place, record in placed(records)]
        everything.sort(key=lambda item: (*item[:3], item[3]["seq"]))
        assert list(read(folder, all_attempts=True)) == loaded(item[3] for item in everything)
        reached = defaultdict(lambda: -1)
        for place, _, attempt, _ in everything:
            reached[attempt] = max(reached[attempt], place)
        resumed = [-1 if step is None else step for step in resumed]

        def leads_on(attempt, later):
            return any(resumed[way] < resumed[later] < reached[way] for way in range(attempt, later))

        def owner(step):
            makers = [attempt for attempt in range(3) if resumed[attempt] < step <= reached[attempt]]
            while len(makers) > 1 and not all(
                resumed[later] < step or leads_on(makers[-1], later) for later in range(makers[-1] + 1, 3)
            ):
                makers.pop()
            return makers[-1]

        shown = [
            record
            for place, _, attempt, record in everything
            if attempt == (2 if record["event"] == "run_start" else owner(place))
        ]
        assert list(read(folder)) == loaded(shown)


def test_a_file_keeps_its_order_where_steps_go_back(tmp_path):
    """Nothing is lost or reordered within a file, whatever its steps say."""
    steps = [3, 1, 10**18, 2, -5, True, "4", None, 5.5]
    records = [{"event": "x", "step": step, "seq": seq} for seq, step in enumerate(steps)]
    write(tmp_path, records)
    assert list(read(tmp_path)) == records
    assert list(read(file_of(tmp_path))) == records


# Segments


def test_segments_are_read_in_numeric_order(tmp_path):
    """The second segment comes before the tenth, and a log may have a thousand."""
    for segment in (0, 2, 10, 999, 1000):
        write(tmp_path, [{"event": "x", "seq": segment}], segment=segment)
    assert seqs(read(tmp_path)) == [0, 2, 10, 999, 1000]


def test_repeated_lines_are_read_once(tmp_path):
    """Each segment begins with the first line again, and with the record that may be in the last one, or not."""
    records = records_of([run_start(), *(train_step(step=step) for step in range(1, 400))])
    write(tmp_path, records[:150])
    write(tmp_path, [records[0], *records[149:300]], segment=1)
    write(tmp_path, [records[0], records[299]], segment=2)
    write(tmp_path, [records[0], *records[299:]], segment=3)
    assert list(read(tmp_path)) == loaded(records)
    assert gaps(tmp_path) == []


def test_a_first_segment_that_was_removed(tmp_path):
    """With `keep`, a later segment's run_start is the log's."""
    records = records_of([run_start(), *(train_step(step=step) for step in range(1, 9))])
    write(tmp_path, [records[0], *records[4:]], segment=3)
    assert seqs(read(tmp_path)) == [0, 4, 5, 6, 7, 8]
    assert gaps(tmp_path) == [Gap(0, 0, 1, 3, None)]


# Lines


def faults_of(path):
    """Read a log and return its events and what was said of the other lines."""
    said = []
    return list(read(path, on_problem=said.append)), [str(fault) for fault in said]


def test_a_bad_line_costs_itself_alone(tmp_path):
    """Each bad line is reported with file, line, byte offset, what was expected and what there is."""
    good = [b'{"event":"x","seq":%d}\n' % number for number in range(3)]
    bad = [
        *(b'{"event":"tr\n', b"\n", b'{"event":"\xff"}\n', b"[1]\n", b"\0\0\0\n", b'{"seq":1}\n', b'{"event":7}\n'),
        *(b'{"event":"x","seq":NaN}\n', b"[" * 5000 + b"\n", b'{"event":"x"}{"event":"y"}\n'),
    ]
    path = file_of(tmp_path)
    path.write_bytes(good[0] + b"".join(bad) + good[1] + good[2] + b'{"event":"to')
    events, said = faults_of(tmp_path)
    assert seqs(events) == [0, 1, 2]
    offset = len(good[0])
    for number, (line, text) in enumerate(zip([*bad], said, strict=False), start=2):
        assert text.startswith(f"{path}:{number} (byte {offset}): $")
        offset += len(line)
    assert len(said) == len(bad) + 1
    assert said[3].endswith("$: expected a JSON object, got list")
    assert said[5].endswith("$.event: expected the name of an event, got NoneType")
    assert f":{len(bad) + 4} (byte {path.stat().st_size - 12}): $: expected a JSON object, got a torn" in said[-1]


def test_an_unterminated_last_line_counts_if_it_is_whole(tmp_path):
    """Only the newline is owed."""
    file_of(tmp_path).write_bytes(b'{"event":"x","seq":0}\n{"event":"x","seq":1}')
    events, said = faults_of(tmp_path)
    assert seqs(events) == [0, 1]
    assert said == []


def test_lines_are_split_at_the_newline_byte_alone(tmp_path):
    """Separators of Unicode within a text are no ends of lines; a carriage return before the newline is no fault."""
    record = {"event": "x", "seq": 0, "text": "a\u2028b\u0085c\x0bd\u2029\x1c"}
    file_of(tmp_path).write_bytes(orjson.dumps(record) + b"\r\n" + b'{"event":"y"}\n')
    assert faults_of(tmp_path) == ([record, {"event": "y"}], [])


@pytest.mark.parametrize("rest", [b"\n", b"\n{}", b""])
def test_a_line_without_end_is_not_loaded(tmp_path, monkeypatch, rest):
    """A line longer than any the writer makes is passed over part by part, and reported once with its size."""
    monkeypatch.setattr(lines, "LONGEST_LINE", 64)
    path = file_of(tmp_path)
    for size in (*range(60, 70), 128, 129, 1000):
        path.write_bytes(
            b'{"event":"x","seq":1}\n' + b"a" * size + b"\n" + b'{"event":"x","seq":2}\n' + b"b" * 200 + rest
        )
        events, said = faults_of(path)
        assert seqs(events) == [1, 2]
        assert len(said) == 2 + (rest == b"\n{}")
        assert said[0].startswith(f"{path}:2 (byte 22): $: expected ")
        if size >= 64:
            assert said[0].endswith(f"a line of at most 64 bytes, got {size + 1:,} bytes")
        assert f"{path}:4 (byte {22 + size + 1 + 22}): $: expected a line of at most 64" in said[1]


@pytest.mark.parametrize("name", ["", "none", "none/file.jsonl", "empty"])
def test_no_log_is_said(tmp_path, name):
    """A path that is not there or holds no log is an error that says what was expected, at the call."""
    (tmp_path / "empty" / "events").mkdir(parents=True)
    (tmp_path / "other.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UserError, match=r"expected .* got|: No such file or directory. Name a file"):
        read(tmp_path / name)


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    """A system's error is the user's to mend, not a traceback."""
    with pytest.raises(UserError, match=r": Is a directory\. Name a file or a folder of logs"):
        list(LogFile(tmp_path, print).lines())


def test_an_output_directory_a_folder_or_a_file(tmp_path):
    """All three are read; other files of the folder are not."""
    folder = tmp_path / "events"
    folder.mkdir()
    records = loaded(records_of([run_start(), train_step()], attempt=1))
    write(folder, records, attempt=1)
    (folder / "notes.jsonl").write_bytes(b'{"event":"other"}\n')
    (folder / "rank00000-attempt002.jsonl").mkdir()
    assert list(read(tmp_path)) == list(read(str(folder))) == list(read(file_of(folder, attempt=1))) == records


# Gaps


def numbered(present, *more):
    """Make records with these numbers, and further ones."""
    records = [{"event": "x", "rank": 0, "attempt": 0, "seq": seq} for seq in present]
    return sorted([*records, *more], key=lambda record: record["seq"])


def said_at(seq, event):
    """Make the record of an event with a number."""
    return records_of([event])[0] | {"seq": seq}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        (numbered(range(5)), []),
        (numbered([0, 1, 5, 7]), [(2, 4, None), (6, 6, None)]),
        (numbered([3]), [(0, 2, None)]),
        (
            numbered([0, 1, 2, 3, 7], said_at(8, sink_recovered(lost=3, first_seq=4, last_seq=6))),
            [(4, 6, "sink_recovered")],
        ),
        (  # another sink's outage explains nothing
            numbered([0, 1, 2, 3, 7], said_at(8, sink_recovered(sink="console", lost=3, first_seq=4, last_seq=6))),
            [(4, 6, None)],
        ),
        (  # one more is missing beside the outage
            numbered([0, 1, 2, 7], said_at(8, sink_recovered(lost=3, first_seq=4, last_seq=6))),
            [(3, 3, None), (4, 6, "sink_recovered")],
        ),
        (  # two lost in a range of four; the others came through
            numbered([0, 2, 4, 5], said_at(6, sink_recovered(lost=2, first_seq=1, last_seq=3))),
            [(1, 1, "sink_recovered"), (3, 3, "sink_recovered")],
        ),
        (  # two lost, as it says, but three are missing
            numbered([0, 4], said_at(5, sink_recovered(lost=2, first_seq=1, last_seq=3))),
            [(1, 3, None)],
        ),
        (  # a line that was written although its sync failed
            numbered([0, 1, 4], said_at(5, sink_recovered(lost=3, first_seq=1, last_seq=3))),
            [(2, 3, "sink_recovered")],
        ),
        (numbered([0, 1], said_at(2, cap_reached()), said_at(90, run_end())), [(3, 89, "cap_reached")]),
        (numbered([0], said_at(2, cap_reached()), said_at(4, run_end())), [(1, 1, None), (3, 3, "cap_reached")]),
        (  # two outages side by side are one gap
            numbered(
                [0, 5],
                said_at(6, sink_recovered(lost=2, first_seq=1, last_seq=2)),
                said_at(7, sink_recovered(lost=2, first_seq=3, last_seq=4)),
            ),
            [(1, 4, "sink_recovered")],
        ),
    ],
)
def test_gaps_are_explained_or_not(records, expected):
    """A missing number is explained by the outage of the file that lost it, by the cap, or by nothing."""
    assert gaps(records) == [Gap(0, 0, *gap) for gap in expected]


def test_gaps_count():
    """A gap says how many are missing, by rank and attempt."""
    records = [{"event": "x", "rank": rank, "attempt": 1, "seq": 2 * rank} for rank in range(3)]
    assert [(gap.rank, gap.attempt, gap.count) for gap in gaps(records)] == [(1, 1, 2), (2, 1, 4)]


@given(st.lists(st.integers(0, 60), max_size=40))
def test_gaps_are_what_is_missing(order):
    """Against a set: in any order, with repeats and with numbers far too high, exactly the missing ones are told."""
    records = [{"event": "x", "rank": 0, "attempt": 0, "seq": seq} for seq in order]
    missing = set(range(max(order, default=-1) + 1)) - set(order)
    found = gaps(records)
    assert [seq for gap in found for seq in range(gap.first_seq, gap.last_seq + 1)] == sorted(missing)
    assert all(one.last_seq + 1 < other.first_seq for one, other in pairwise(found))


@given(st.sets(st.integers(0, 40), max_size=30), st.lists(st.tuples(*[st.integers(0, 40)] * 3), max_size=4))
def test_outages_explain_what_they_say(present, outages):
    """Against a set: what is missing within an outage that adds up is explained, the rest is not."""
    says = [(min(a, b), max(a, b), lost) for a, b, lost in outages]
    events = [said_at(100 + n, sink_recovered(first_seq=a, last_seq=b, lost=c)) for n, (a, b, c) in enumerate(says)]
    missing = set(range(max(present | {99 + len(events)} if events else present, default=-1) + 1)) - present
    missing -= set(range(100, 100 + len(events)))
    believed = [range(a, b + 1) for a, b, c in says if len(missing & set(range(a, b + 1))) <= c]
    told = {
        seq: gap.explained_by
        for gap in gaps(numbered(present, *events))
        for seq in range(gap.first_seq, gap.last_seq + 1)
    }
    assert told == {seq: "sink_recovered" if any(seq in r for r in believed) else None for seq in missing}


def test_gaps_of_a_path(tmp_path):
    """All attempts of a log are looked at."""
    for attempt in range(2):
        write(tmp_path, [{"event": "x", "rank": 0, "attempt": attempt, "seq": 2}], attempt=attempt)
    assert gaps(tmp_path) == gaps(str(tmp_path)) == [Gap(0, 0, 0, 1, None), Gap(0, 1, 0, 1, None)]
