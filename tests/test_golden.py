"""Goldens have the same bytes for the same run, for any order of the lines and any files of the log."""

import os
import random
import re
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.logs.diff.compare import diff
from higgs_audio_trainer.logs.diff.golden import write_golden
from tests.builders import (
    audio_sample,
    checkpoint,
    diagnosis,
    has_compared_events,
    random_events,
    record_of,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    train_step,
)
from tests.logs import read

EVENTS = [
    run_start(config={"lr": 1e-4, "output_dir": "here", "batch_size": 8}),
    sink_recovered(),
    *(make(step=step) for step in (1, 2) for make in (train_step, text_sample, audio_sample)),
    audio_sample(step=2, sample_index=1, codebook=1),
    diagnosis(step=2),
    diagnosis(step=2),
    checkpoint(step=2),
    run_end(step=2),
]


def records_of(events, *, run="r"):
    """Make the records of a run, with times and sequence numbers that vary between runs."""
    return [record_of(event) | {"run_id": run, "seq": seq, "ts": f"{run}{seq}"} for seq, event in enumerate(events)]


def golden_of(log, path):
    """Write a golden and return the bytes."""
    write_golden(log, path)
    return path.read_bytes()


def test_the_same_run_gives_the_same_bytes(tmp_path):
    """Times, paths, and the order of lines and fields leave no trace."""
    first = golden_of(records_of(EVENTS), tmp_path / "a.jsonl")
    again = records_of([run_start(config={"batch_size": 8, "output_dir": "there", "lr": 1e-4}), *EVENTS[1:]], run="s")
    random.Random(0).shuffle(again)
    again = [dict(reversed(record.items())) for record in again]
    assert golden_of(again, tmp_path / "b.jsonl") == first


def test_a_golden_of_a_golden_is_that_golden(tmp_path):
    """A golden of a golden has the same bytes, also over an existing golden."""
    first = golden_of(records_of(EVENTS), tmp_path / "a.jsonl")
    assert golden_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == first
    assert golden_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == first


def test_a_golden_holds_every_event_in_order(tmp_path):
    """The order is start, steps, events without a step, end. Events, samples and fields have a defined order."""
    golden_of(records_of(EVENTS), tmp_path / "a.jsonl")
    records = list(read(tmp_path / "a.jsonl"))
    step = ["train_step", "prediction_sample", "prediction_sample"]
    names = ["run_start", *step, *step, "prediction_sample", "checkpoint", "diagnosis", "diagnosis"]
    assert [record["event"] for record in records] == [*names, "sink_recovered", "run_end"]
    assert list(records[1])[:6] == ["event", "v", "rank", "level", "step", "epoch"]
    assert list(records[0]["config"]) == ["batch_size", "lr"]
    volatile = {name for name in VOLATILE_FIELDS if "." not in name}
    assert not any(volatile & record.keys() for record in records)


def test_a_run_is_the_same_as_its_golden(tmp_path):
    """A run and the golden of the run have no difference in either direction. Another run differs."""
    golden = tmp_path / "golden.jsonl"
    write_golden(records_of(EVENTS), golden)
    assert diff(golden, records_of(EVENTS, run="s")).same
    assert diff(records_of(EVENTS, run="s"), golden).same
    assert not diff(golden, records_of([*EVENTS[:3], *EVENTS[4:]])).same


@settings(deadline=None)
@given(st.lists(random_events(), min_size=1, max_size=6).filter(has_compared_events))
def test_any_log_is_the_same_as_its_golden(events):
    """The golden of any log is stable, and equals the log."""
    with TemporaryDirectory() as folder:
        golden, again = Path(folder, "golden.jsonl"), Path(folder, "again.jsonl")
        write_golden(records_of(events), golden)
        assert golden_of(golden, again) == golden.read_bytes()
        assert diff(golden, records_of(events, run="s")).same


AS_IT_WAS = b'{"event":"run_start","v":1}\n'


def refused(log, golden, **options):
    """Return the reason why a golden is refused. The existing golden stays."""
    golden.write_bytes(AS_IT_WAS)
    with pytest.raises(UserError) as caught:
        write_golden(log, golden, **options)
    assert golden.read_bytes() == AS_IT_WAS
    assert [path.name for path in golden.parent.iterdir()] == ["golden.jsonl"]
    return str(caught.value)


def test_a_log_that_is_no_model_is_refused(tmp_path):
    """Faulty lines, an empty log, and a run without an end are refused, and the existing golden is unchanged."""
    (tmp_path / "g").mkdir()
    golden, log = tmp_path / "g" / "golden.jsonl", tmp_path / "log.jsonl"
    lines = [orjson.dumps(record) for record in records_of(EVENTS)]
    log.write_bytes(b"\n".join([*lines, b'{"event": "run_e']))
    assert "log.jsonl:14 (byte" in refused(log, golden)
    assert "expected events" in refused([], golden)
    assert "run_end of rank 0" in refused(records_of(EVENTS[:-1]), golden, finished=True)
    whole = records_of(EVENTS)
    killed = [*whole, record_of(train_step()) | {"rank": 1, "run_id": whole[0]["run_id"]}]
    assert "run_end of rank 1" in refused(killed, golden, finished=True)
    stopped = records_of([*EVENTS[:-1], run_end(step=2, reason="interrupted")])
    assert "run_end of rank 0 with the reason interrupted" in refused(stopped, golden, finished=True)
    assert "no such file" in refused(tmp_path / "none.jsonl", golden).lower()


def test_a_place_where_no_golden_can_be_is_refused(tmp_path):
    """A folder, a pipe, standard input, a compressed file, and a file in place of a folder are refused."""
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for place, says in [
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        ("-", "standard input"),
        (tmp_path / "a.jsonl.gz", "uncompressed"),
        (tmp_path / "file" / "a.jsonl", "file: Not a directory. Name another file"),
    ]:
        with pytest.raises(UserError, match=says):
            write_golden(records_of(EVENTS), place)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b"# My notes\n", "a line without an event"),
        (b"\x1f\x8b\x08\x00", "a line without an event"),
        (b"[1]\n", "a line without an event"),
        (b'{"step": 1}\n', "a line without an event"),
        (b"\n" + AS_IT_WAS, "a line without an event"),
        (b'{"event": "x", "seq": 0}\n', "a log (the events have seq)"),
        (b'{"event": "x", "ts": "2026"}\n', "a log (the events have ts)"),
    ],
)
def test_a_file_that_is_no_golden_is_not_written_over(tmp_path, first, says):
    """Notes, a log or any other file stays unchanged, also through a link. An empty file may be overwritten."""
    other = tmp_path / "other"
    other.write_bytes(first)
    (tmp_path / "link").symlink_to(other)
    for place in (other, tmp_path / "link"):
        with pytest.raises(
            UserError, match=re.escape(f"expected a golden or no file, got {says}; remove the file first")
        ):
            write_golden(records_of(EVENTS), place)
        assert other.read_bytes() == first
    other.write_bytes(b"")
    assert write_golden(records_of(EVENTS), other) == len(EVENTS)


def test_a_log_is_not_written_over_by_its_golden(tmp_path):
    """The same file under any name is refused."""
    golden = tmp_path / "a.jsonl"
    write_golden(records_of(EVENTS), golden)
    (tmp_path / "link.jsonl").symlink_to(golden)
    (tmp_path / "hard.jsonl").hardlink_to(golden)
    for name in ("a", "link", "hard"):
        with pytest.raises(UserError, match="expected another file than the log"):
            write_golden(golden, tmp_path / f"{name}.jsonl")


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    """A cycle of links and a name that is too long are refused in one line."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for place in (tmp_path / "a", tmp_path / "a" / "c.jsonl", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"(Symlink loop|Too many levels|File name too long).*\. Name a"):
            write_golden(records_of(EVENTS), place)


def test_a_place_that_cannot_be_written_is_as_it_was_only_where_it_was(tmp_path):
    """The error for a missing golden does not claim that the golden is unchanged."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Name another file") as caught:
        write_golden(records_of(EVENTS), tmp_path / "file" / "a.jsonl")
    assert "as it was" not in str(caught.value)


def test_folders_are_made_and_modes_and_links_kept(tmp_path):
    """A new golden has the mode of any new file. An existing golden keeps the mode, and a link stays a link."""
    golden = tmp_path / "new" / "golden.jsonl"
    write_golden(records_of(EVENTS), golden)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(golden.stat().st_mode) == 0o666 & ~umask
    golden.chmod(0o640)
    link = tmp_path / "link.jsonl"
    link.symlink_to(golden)
    write_golden(records_of(EVENTS[:3]), link)
    assert link.is_symlink()
    assert stat.S_IMODE(golden.stat().st_mode) == 0o640
    assert golden.read_bytes().count(b"\n") == 3
