"""The JSONL file: one record, one line, one write; private, appended to, and out of a killed process whole."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import orjson
import pytest

import sinks
from sinks import JsonlSink, SinkError
from sinks.jsonl_options import bytes_of
from tests.builders import all_events, context, record_of, run_start, text_sample, train_step, window


@pytest.fixture
def path(tmp_path):
    """Name a file that is not there yet."""
    return tmp_path / "events" / "log.jsonl"


@pytest.fixture
def sink(path):
    """Open a sink; it is closed afterwards."""
    made = JsonlSink(path)
    yield made
    made.close()


class PartialWrites:
    """Stands in for os.write: takes at most `limit` bytes a call, and remembers the calls."""

    def __init__(self, limit):
        self.limit = limit
        self.calls = []
        self._write = os.write

    def __call__(self, descriptor, data):
        """Write a part."""
        self.calls.append(bytes(data))
        return self._write(descriptor, data[: self.limit])


def test_lines_are_the_records(path, sink):
    """Each record is one line of JSON, in order, its fields in their order."""
    records = [record_of(event) for event in all_events()]
    for record in records:
        sink(record)
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert [json.loads(line) for line in lines[:-1]] == json.loads(json.dumps(records))
    [saved] = [line for line in lines if line.startswith(b'{"event":"checkpoint"')]
    assert saved == (
        b'{"event":"checkpoint","v":1,"ts":"2026-01-02T03:04:05.000060Z","run_id":"20260102-030405-abcd","attempt":0,'
        b'"rank":0,"seq":0,"level":"info","step":20,"path":"checkpoint-20"}'
    )


@pytest.mark.parametrize("slots", [5, 8000])
def test_one_write_a_record(monkeypatch, path, sink, slots):
    """A record is handed to the system in one write, however long."""
    writes = PartialWrites(None)
    monkeypatch.setattr("sinks.segment.os.write", writes)
    sink(record_of(text_sample(first=window(range(slots)))))
    assert writes.calls == [path.read_bytes()]


def test_short_writes_are_finished(monkeypatch, path, sink):
    """Where the system takes a part, the rest follows."""
    record = record_of(text_sample())
    monkeypatch.setattr("sinks.segment.os.write", PartialWrites(100))
    sink(record)
    assert path.read_bytes() == orjson.dumps(record) + b"\n"


def test_is_private(tmp_path):
    """The file is its owner's alone, even where the umask would let others read."""
    before = os.umask(0)
    try:
        JsonlSink(tmp_path / "log.jsonl")
    finally:
        os.umask(before)
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o777 == 0o600


def test_appends(path, sink):
    """What a file holds stays, and lines of two writers follow each other whole."""
    other = JsonlSink(path)
    for number, writer in enumerate([sink, other, sink]):
        writer({"event": "x", "number": number})
    other.close()
    again = JsonlSink(path)
    again({"event": "x", "number": 3})
    again.close()
    assert [json.loads(line)["number"] for line in path.read_bytes().split(b"\n")[:-1]] == [0, 1, 2, 3]


def test_refuses_a_symbolic_link(tmp_path):
    """A link in the file's place is never followed, and the error says that it is one."""
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SinkError) as caught:
        JsonlSink(tmp_path / "log.jsonl")
    assert str(caught.value) == (
        f"jsonl: {tmp_path / 'log.jsonl'}: expected a file, got a symbolic link. "
        "Choose another folder: --sinks console,jsonl:dir=FOLDER"
    )
    assert not (tmp_path / "elsewhere").exists()


def test_refuses_an_impossible_folder(tmp_path):
    """Where no folder can be made, the error says what is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SinkError, match=r"^jsonl: .*file/log\.jsonl: (File exists|Not a directory)\. Choose another folder"
    ):
        JsonlSink(tmp_path / "file" / "log.jsonl")


@pytest.mark.parametrize(
    "value",
    [object(), np.zeros(2), np.float32(1), np.int64(1), {1, 2}, b"bytes", 2**64],
    ids=lambda v: type(v).__name__,
)
def test_takes_builtins_alone(path, sink, value):
    """What is not a builtin of JSON raises, and nothing of its record is written."""
    with pytest.raises(TypeError):
        sink({"event": "x", "value": value})
    assert path.read_bytes() == b""


def test_takes_no_tensor(path, sink):
    """A tensor that leaks into a record raises: it is never written as its repr."""
    import torch

    with pytest.raises(TypeError):
        sink({"event": "x", "value": torch.zeros(2)})
    assert path.read_bytes() == b""


def test_line_separators_of_other_scripts(path, sink):
    """Only a newline ends a line: U+2028, U+0085 and newlines within texts do not, and every script stays readable."""
    text = "a\u2028b\u0085c\nd مرحبا"
    sink({"event": "x", "text": text})
    [line, rest] = path.read_bytes().split(b"\n")
    assert (json.loads(line)["text"], rest) == (text, b"")
    assert "مرحبا".encode() in line


def test_heals(path):
    """A torn last line is ended before the next one, in the same write; nothing is cut off."""
    path.parent.mkdir()
    path.write_bytes(b'{"event":"x","numb')
    sink = JsonlSink(path)
    sink({"event": "x"})
    sink.close()
    assert path.read_bytes() == b'{"event":"x","numb\n{"event":"x"}\n'


def test_errors_name_the_file(monkeypatch, path, sink):
    """An error says which file it is about."""
    monkeypatch.setattr("sinks.segment.os.write", lambda descriptor, data: _full())
    with pytest.raises(OSError, match=re.escape(f"[Errno 28] No space left on device: '{path}'")):
        sink({"event": "x"})


def _full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"durability": "all"}, "durability: expected one of none, checkpoint, record, got 'all'"),
        ({"keep": 2}, "keep: expected a whole number from 1, and max_bytes beside it, got 2"),
        ({"keep": 0, "max_bytes": 4096}, "keep: expected a whole number from 1, and max_bytes beside it, got 0"),
    ],
)
def test_contradicting_arguments(path, options, expected):
    """Arguments that make no sense are refused before a file is made."""
    with pytest.raises(SinkError, match=re.escape(expected)):
        JsonlSink(path, **options)
    assert not path.parent.exists()


def test_goes_on_in_segments(path):
    """With max_bytes the log goes on in further files, whose names sort after the first and whose first line is its."""
    sink = JsonlSink(path, max_bytes=800)
    start = record_of(run_start())
    sink(start)
    steps = [record_of(train_step()) | {"seq": seq} for seq in range(1, 4)]
    for step in steps:
        sink(step)
    sink.close()
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["log.jsonl", *[f"log.segment00{number}.jsonl" for number in (1, 2, 3)]]
    lines = [file.read_bytes().split(b"\n")[:-1] for file in files]
    assert [held[0] for held in lines] == [orjson.dumps(start)] * 4
    assert [held[1] for held in lines[1:]] == [orjson.dumps(step) for step in steps]
    assert sink.path == files[-1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("4K", 4096), ("100M", 100 * 1024**2), ("2G", 2 * 1024**3)]
    + [(text, None) for text in ("", "K", "1k", "1.5M", "-1", "1 M", "1MB", "٣", "1\n", "9" * 16)],
)
def test_sizes(text, size):
    """Sizes are whole numbers of bytes, with K, M and G for powers of 1024."""
    assert bytes_of(text) == size


def test_closed(path, sink):
    """Closing twice does nothing, and a late record raises instead of ending in another file."""
    sink({"event": "x"})
    sink.close()
    sink.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sink({"event": "y"})
    assert path.read_bytes() == b'{"event":"x"}\n'


def test_a_sink_that_got_no_record_leaves_no_file(tmp_path):
    """A start that fails before its first event leaves nothing, neither file nor folders; other files stay."""
    JsonlSink(tmp_path / "out" / "events" / "a.jsonl").close()
    assert list(tmp_path.iterdir()) == []
    other = tmp_path / "out" / "events" / "b.jsonl"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    JsonlSink(tmp_path / "out" / "events" / "a.jsonl").close()
    sink = JsonlSink(other)
    sink({"event": "x"})
    sink.close()
    JsonlSink(other).close()
    assert other.read_bytes() == b'{"event":"x"}\n'
    assert [path.name for path in other.parent.iterdir()] == ["b.jsonl"]


def test_descriptor_is_not_inherited(path, sink):
    """A child program gets no hold of the file."""
    listing = "import os, sys; print(*[os.readlink(f'/proc/self/fd/{number}') for number in sys.argv[1:]])"
    held = [link.name for link in Path("/proc/self/fd").iterdir() if _leads_to(link, path)]
    assert held
    child = subprocess.run([sys.executable, "-c", listing, *held], close_fds=False, capture_output=True, check=False)
    assert str(path).encode() not in child.stdout
    assert all(not os.get_inheritable(int(name)) for name in held)


def _leads_to(link, path):
    try:
        return link.readlink() == path
    except OSError:  # the one that listed them
        return False


def test_survives_kill(path):
    """A record whose call returned is in the file, though the process is killed right after."""
    script = """
        import os, signal, sys
        from sinks import JsonlSink

        sink = JsonlSink(sys.argv[1])
        for number in range(3):
            sink({"event": "x", "number": number})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", dedent(script), path], check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == b"".join(b'{"event":"x","number":%d}\n' % number for number in range(3))


class TestFactory:
    @pytest.mark.parametrize(
        ("option", "folder"), [("", "out/events"), (":dir={}/logs/deep", "logs/deep"), (":dir=~/logs", "home/logs")]
    )
    def test_names_the_file(self, monkeypatch, tmp_path, option, folder):
        """One file a rank and attempt, in the output directory's `events` or in the folder given."""
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        where = context(tmp_path / "out", rank=3, attempt=2)
        [(name, sink)] = sinks.build("jsonl" + option.format(tmp_path), where)
        sink({"event": "x"})
        sink.close()
        assert (name, sink.path) == ("jsonl", tmp_path / folder / "rank00003-attempt002.jsonl")
        assert sink.path.exists()

    def test_empty_folder(self):
        """A folder that is named but empty, as by a variable that is not set, is refused."""
        with pytest.raises(SinkError, match="dir: expected a folder, got nothing"):
            sinks.build("jsonl:dir=", context())
