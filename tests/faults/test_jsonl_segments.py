"""Size limits of files and of whole logs."""

import errno
import json
import os
import random
from itertools import pairwise

import pytest
from jsonschema import Draft202012Validator

import schemas
import sinks
from sinks.jsonl import JsonlSink
from tests.builders import RUN_ID, all_events, context, record_of, run_start
from tests.faults.writer import Caller, Clock, check, line, read_log, record, segments

START = line(record(0, "run_start"))
NAMES = ["a.jsonl", "a.segment001.jsonl", "a.segment002.jsonl", "a.segment003.jsonl"]


def names(folder):
    return [path.name for path in segments(folder)]


@pytest.mark.parametrize("size", [0, 10, 500, 3000])
def test_no_segment_outgrows(tmp_path, size):
    """Fault: records of many sizes.

    Expected: each segment is at most `max_bytes` long and has no room for the next record.
    """
    sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096, say=pytest.fail)
    caller = Caller(sink)
    caller("run_start")
    chance = random.Random(size)
    for _ in range(200):
        caller(text="x" * chance.randrange(size + 1))
    sink.close()
    files = segments(tmp_path)
    assert len(files) > 5
    assert check(caller, *files).torn == []
    for file, later in pairwise(files):
        lines = later.read_bytes().splitlines(keepends=True)
        assert lines[0] == START
        assert file.stat().st_size <= 4096 < file.stat().st_size + len(lines[1])
        assert later.stat().st_mode & 0o777 == 0o600


def test_a_record_larger_than_a_segment(tmp_path):
    """Fault: a record is larger than a segment. Expected: a separate segment holds the whole record."""
    sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096)
    caller = Caller(sink)
    for size in (10, 10, 5000, 6000, 10, 10):
        caller(text="x" * size)
    sink.close()
    assert [len(read_log(path).records) for path in segments(tmp_path)] == [2, 1, 1, 2]
    check(caller, *segments(tmp_path))


def test_names_sort_in_order(tmp_path):
    """Fault: many segments. Expected: the names sort in the order of the segments."""
    sink = JsonlSink(tmp_path / "rank00000-attempt000.jsonl", max_bytes=4096)
    paths = [sink.path]
    for seq in range(30):
        sink(record(seq, text="x" * 3000))
        if sink.path != paths[-1]:
            paths.append(sink.path)
    sink.close()
    assert len(paths) == 30
    assert sorted(paths) == paths
    assert paths[1].name == "rank00000-attempt000.segment001.jsonl"


def test_a_run_start_that_failed_is_not_repeated(tmp_path, monkeypatch):
    """Fault: run_start could not be written. Expected: later segments do not repeat run_start."""
    sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096, clock=Clock())
    caller = Caller(sink)
    with monkeypatch.context() as patch:
        patch.setattr(sinks.segment.os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        caller("run_start")
    for _ in range(5):
        caller(text="x" * 3000)
    sink.close()
    assert caller.lost == [0]
    check(caller, *segments(tmp_path))


@pytest.mark.parametrize("keep", [1, 3])
def test_keep(tmp_path, keep):
    """Fault: more segments than `keep`. Expected: the newest segments stay whole; older segments are removed."""
    sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096, keep=keep, say=pytest.fail)
    caller = Caller(sink)
    caller("run_start")
    for _ in range(100):
        caller(text="x" * 1000)
        assert len(segments(tmp_path)) <= keep
    sink.close()
    found = read_log(*segments(tmp_path))
    assert len(segments(tmp_path)) == keep
    assert found.seqs[0] == 0
    assert found.seqs[1:] == list(range(101 - len(found.seqs[1:]), 101))


def test_keep_removes_nothing_else(tmp_path):
    """Fault: similar names of other ranks, attempts, links, folders, odd numbers and other people's files.

    Expected: the sink removes no such file and no target of a link.
    """
    folder = tmp_path / "events"
    folder.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    alike = [
        "rank00001-attempt000.jsonl",
        "rank00001-attempt000.segment001.jsonl",
        "rank00000-attempt001.jsonl",
        "rank00000-attempt0000.jsonl",
        "rank00000-attempt000.segment1.jsonl",
        "rank00000-attempt000.segment0001.jsonl",
        "rank00000-attempt000.segment000.jsonl",
        "rank00000-attempt000.segment١٢٣.jsonl",
        "rank00000-attempt000.segment001.jsonl.gz",
        "rank00000-attempt000.segment001.jsonl\n",
        "xrank00000-attempt000.segment001.jsonl",
        "rank00000-attempt000xsegment001.jsonl",
        "notes.txt",
    ]
    for name in alike:
        (folder / name).write_bytes(b"theirs")
    (folder / "rank00000-attempt000.segment001.jsonl").symlink_to(tmp_path / "precious")
    (folder / "rank00000-attempt000.segment002.jsonl").mkdir()
    sink = JsonlSink(folder / "rank00000-attempt000.jsonl", max_bytes=4096, keep=1, say=pytest.fail)
    for seq in range(50):
        sink(record(seq, text="x" * 1000))
    sink.close()
    own = {sink.path.name, "rank00000-attempt000.segment001.jsonl", "rank00000-attempt000.segment002.jsonl"}
    assert set(os.listdir(folder)) == {*alike, *own}  # noqa: PTH208 - names
    assert all((folder / name).read_bytes() == b"theirs" for name in alike)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (folder / "rank00000-attempt000.segment001.jsonl").is_symlink()


def test_an_old_segment_that_cannot_be_removed(tmp_path, monkeypatch):
    """Fault: a segment cannot be removed. Expected: no record is lost; a message reports the segment."""
    said = []
    sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096, keep=1, say=said.append)

    def refuse(path):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(sinks.segment.os, "unlink", refuse)
    caller = Caller(sink)
    for _ in range(8):
        caller(text="x" * 2000)
    sink.close()
    assert caller.lost == []
    check(caller, *segments(tmp_path))
    assert "could not be removed: [Errno 1] Operation not permitted" in said[0]


class TestTotal:
    @pytest.mark.parametrize("options", [{}, {"max_bytes": 4096}, {"durability": "record"}], ids=str)
    @pytest.mark.parametrize("size", [0, 700, 5000])
    def test_is_never_exceeded(self, tmp_path, monkeypatch, options, size):
        """Fault: more records than the total allows.

        Expected: for any size of records, all files together stay within the total, with a single cap_reached and then
        run_end. Further records raise with the reason, and earlier records stay.
        """
        monkeypatch.setattr(sinks.segment.os, "fsync", lambda descriptor: None)  # a real sync takes milliseconds
        for total in range(65_536, 65_536 + 3000, 311):
            folder = tmp_path / str(total)
            sink = JsonlSink(folder / "a.jsonl", max_total_bytes=total, say=pytest.fail, clock=Clock(), **options)
            caller = Caller(sink)
            caller("run_start", config={"x": "y" * 3000})
            for _ in range(500 if size < 700 else 120):
                caller(text="x" * size)
            assert caller("run_end", reason="completed")
            sink.close()
            assert sum(path.stat().st_size for path in segments(folder)) <= total
            records = read_log(*segments(folder)).records
            assert [item["event"] for item in records][-2:] == ["cap_reached", "run_end"]
            assert [item["event"] for item in records].count("cap_reached") == 1
            assert records[-2]["seq"] == caller.lost[0]
            assert [item["seq"] for item in records if item["event"] != "cap_reached"] == caller.written
            assert set(caller.errnos) == {errno.EDQUOT}
            assert records[-2]["total_bytes"] > total - 12_000 - size

    def test_the_record(self, tmp_path):
        """Fault: the total is reached.

        Expected: cap_reached fits the schema and has the seq of the first refused record.
        """
        sink = JsonlSink(tmp_path / "a.jsonl", max_total_bytes=8192)
        caller = Caller(sink)
        caller("run_start")
        while caller(text="x" * 2000):
            pass
        sink.close()
        last = read_log(tmp_path / "a.jsonl").records[-1]
        Draft202012Validator(json.loads(schemas.load("cap_reached"))).validate(last)
        before = len((tmp_path / "a.jsonl").read_bytes()) - len(line(last))
        assert last == record(caller.lost[0], "cap_reached") | {
            "level": "warning",
            "sink": "jsonl",
            "max_total_bytes": 8192,
            "total_bytes": before,
        }

    def test_the_error(self, tmp_path):
        """Fault: records after the total is reached. Expected: each error gives the reason."""
        sink = JsonlSink(tmp_path / "a.jsonl", max_total_bytes=4096)
        for seq in range(3):
            with pytest.raises(OSError, match=r"max_total_bytes=4096 is reached: '.*a\.jsonl'") as caught:
                sink(record(seq, text="x" * 5000))
            assert caught.value.errno == errno.EDQUOT
        sink.close()

    def test_a_full_disk_before_the_cap(self, tmp_path, monkeypatch):
        """Fault: cap_reached itself cannot be written. Expected: the sink tries again with the next record."""
        sink = JsonlSink(tmp_path / "a.jsonl", max_total_bytes=4096)
        caller = Caller(sink)
        with monkeypatch.context() as patch:
            patch.setattr(sinks.segment.os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "x")))
            caller(text="x" * 5000)
        caller(text="x" * 5000)
        caller(text="x" * 5000)
        sink.close()
        assert caller.errnos == [errno.ENOSPC, errno.EDQUOT, errno.EDQUOT]
        assert read_log(tmp_path / "a.jsonl").seqs == [1]

    def test_a_preface_counts(self, tmp_path):
        """Fault: run_end needs a new segment, whose run_start does not fit.

        Expected: refused, and the total is not exceeded.
        """
        sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=4096, max_total_bytes=8192)
        caller = Caller(sink)
        caller("run_start", config={"x": "y" * 3300})
        caller(text="x" * 1000)
        caller("run_end", reason="x" * 500)
        sink.close()
        assert caller.errnos == [errno.EDQUOT] * 2
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= 8192

    @pytest.mark.parametrize("room", [0, 1])
    def test_an_owed_newline_counts(self, tmp_path, room):
        """Fault: the file ends in a torn line.

        Expected: the last record fits only together with the missing newline.
        """
        (tmp_path / "a.jsonl").write_bytes(b"torn")
        total = 4 + len(line(record(0, "run_end"))) + room
        sink = JsonlSink(tmp_path / "a.jsonl", max_total_bytes=total)
        assert Caller(sink)("run_end") == (room == 1)
        sink.close()
        assert (tmp_path / "a.jsonl").stat().st_size <= total

    def test_a_line_written_again_counts(self, tmp_path, monkeypatch):
        """Fault: a sync fails, and the line does not fit twice. Expected: an error, and the total is not exceeded."""
        total = len(line(record(0, "run_end"))) + 10

        def fail(descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(sinks.segment.os, "fsync", fail)
        said = []
        sink = JsonlSink(tmp_path / "a.jsonl", durability="record", max_total_bytes=total, say=said.append)
        assert not Caller(sink)("run_end")
        sink.close()
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= total

    def test_with_keep_it_goes_on(self, tmp_path):
        """Fault: more records than the total, with `keep`.

        Expected: removed segments do not count, and the log continues.
        """
        sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=8192, keep=3, max_total_bytes=65_536)
        caller = Caller(sink)
        caller("run_start")
        for _ in range(500):
            caller(text="x" * 1000)
        sink.close()
        assert caller.lost == []

    def test_counts_earlier_segments(self, tmp_path):
        """Fault: the log already has segments. Expected: earlier segments count."""
        (tmp_path / "a.segment001.jsonl").write_bytes(b"x" * 60_000)
        sink = JsonlSink(tmp_path / "a.jsonl", max_total_bytes=65_536)
        caller = Caller(sink)
        while caller(text="x" * 100):
            pass
        sink.close()
        assert (tmp_path / "a.jsonl").stat().st_size < 5536


class TestFactory:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ("max_bytes=x", "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got 'x'"),
            ("max_bytes=", "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got ''"),
            (
                "max_bytes=4095",
                "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got '4095'",
            ),
            ("max_bytes=-1M", "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got '-1M'"),
            (
                "max_bytes=1.5M",
                "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got '1.5M'",
            ),
            ("max_bytes=1T", "max_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 4K, got '1T'"),
            (
                "max_total_bytes=63K",
                "max_total_bytes: expected a number of bytes such as 500K, 100M or 2G, at least 64K, got '63K'",
            ),
            ("keep=2", "keep: expected a whole number from 1, and max_bytes beside it, got 2"),
            ("keep=0:max_bytes=1M", "keep: expected a whole number from 1, and max_bytes beside it, got 0"),
            ("keep=two:max_bytes=1M", "keep: expected a whole number from 1, and max_bytes beside it, got 'two'"),
            ("keep=٣:max_bytes=1M", "keep: expected a whole number from 1, and max_bytes beside it, got '٣'"),
            ("durability=always", "durability: expected one of none, checkpoint, record, got 'always'"),
        ],
    )
    def test_wrong_options(self, tmp_path, options, expected):
        """Fault: wrong values of options. Expected: each value is refused by name before a file is created."""
        with pytest.raises(sinks.SinkError) as caught:
            sinks.build(f"jsonl:{options}", context(tmp_path))
        assert str(caught.value) == f"--sinks: jsonl: {expected}"
        assert list(tmp_path.iterdir()) == []

    def test_options_arrive(self, tmp_path):
        """Fault: no fault. Expected: the options of the command line and the context's `say` take effect."""
        said = []
        where = sinks.SinkContext(str(tmp_path), RUN_ID, 0, 0, say=said.append)
        options = "jsonl:max_bytes=8K:keep=2:max_total_bytes=1M:durability=checkpoint"
        [(_, sink)] = sinks.build(options, where)
        sink(record_of(run_start()))
        for seq in range(1, 40):
            sink(record(seq, text="x" * 1000))
        sink.path.unlink()
        sink(record(40))
        sink.close()
        assert len(segments(tmp_path / "events")) == 2
        assert len(said) == 1

    def test_refuses_a_log_whose_first_segment_is_gone(self, tmp_path):
        """Fault: `keep` removed the first file of an earlier run.

        Expected: refused, as the folder still has the run's log.
        """
        (tmp_path / "events").mkdir()
        (tmp_path / "events" / "rank00000-attempt000.segment007.jsonl").write_bytes(b"{}\n")
        with pytest.raises(sinks.SinkError, match=r"segment007\.jsonl, which holds another run's events"):
            sinks.build("jsonl", context(tmp_path))
        sinks.build("jsonl", context(tmp_path, attempt=1))[0][1].close()

    def test_every_event_in_every_mode(self, tmp_path):
        """Fault: no fault. Expected: records of every kind are read back unchanged with any options."""
        for number, options in enumerate(["", ":durability=record", ":max_bytes=4K", ":max_bytes=4K:keep=99"]):
            [(_, sink)] = sinks.build("jsonl" + options, context(tmp_path / str(number)))
            records = [
                json.loads(json.dumps(record_of(event) | {"seq": seq})) for seq, event in enumerate(all_events())
            ]
            for item in records:
                sink(item)
            sink.close()
            assert read_log(*segments(tmp_path / str(number) / "events")).records == records
