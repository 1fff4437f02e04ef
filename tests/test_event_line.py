"""The line of an event: the fast path writes the bytes of the exact path, whatever a processor makes of an event."""

import enum
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from functools import partial, wraps
from unittest import mock

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.events import Checkpoint
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.pipeline.timestamp import TimestampFormat
from sinks.jsonl import MAX_LINE_BYTES, JsonlSink
from sinks.memory import MemorySink
from tests.builders import RUN_ID, all_events, fixed_clock


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(
        [
            math.nan,
            math.inf,
            -0.0,
            "\x00\x1b[2J",
            "\ud800",
            "نص",
            Text("t"),
            Number(2**65),
            Level.HIGH,
            Colour.RED,
            uuid.UUID(int=1),
            orjson.Fragment(b"1"),
            np.float64("nan"),
            np.int64(3),
            np.str_("a"),
            torch.tensor(1.5),
            b"x",
        ]
    ),
)
KEYS = st.one_of(st.text(max_size=4), st.sampled_from(["\ud800", Text("k"), 1, None, "loss", "event", "step"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def pipeline(sink, *processors):
    return Pipeline([("sink", sink)], run_id=RUN_ID, clock=fixed_clock, processors=processors, say=lambda _text: None)


def without_line(sink):
    """Return a sink that takes no line of the pipeline."""

    def take(record):
        sink(record)

    return take


def written(path, emit_to):
    """Return the bytes in a log after a call with the log's sink."""
    sink = JsonlSink(path)
    emit_to(sink)
    sink.close()
    content = path.read_bytes()
    path.unlink()
    return content


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.sampled_from(all_events()))
def test_bytes_of_the_exact_path(tmp_path_factory, added, event):
    """Whatever a processor adds, the line is that of the values' exact conversion, encoded by the sink itself."""
    path = tmp_path_factory.getbasetemp() / "line.jsonl"

    def add(_logger, _level, event_dict):
        return event_dict | added

    def fast(sink):
        pipeline(sink, add)(event)

    def exact(sink):
        with (
            mock.patch("higgs_audio_trainer.pipeline.emit.plain_record", return_value=None),
            mock.patch("higgs_audio_trainer.pipeline.json_values.plain_record", return_value=None),
        ):
            pipeline(without_line(sink), add)(event)

    line = written(path, fast)
    assert line == written(path, exact)
    assert line.count(b"\n") == 1
    assert orjson.loads(line)["event"] == event.name


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_each_event(tmp_path, event):
    """Each event's line is the encoded record that another sink gets."""
    memory = MemorySink()
    pipeline(memory)(event)
    line = written(tmp_path / "a.jsonl", lambda sink: pipeline(sink)(event))
    assert line == orjson.dumps(memory.records[0]) + b"\n"


def test_a_processor_changes_the_line(tmp_path):
    """The line shows what the processors made of the event."""
    line = written(
        tmp_path / "a.jsonl",
        lambda sink: pipeline(sink, lambda _logger, _level, event: event | {"path": "b"})(Checkpoint(step=1, path="a")),
    )
    assert orjson.loads(line)["path"] == "b"


def test_a_long_line_is_shortened(tmp_path):
    """A line that is too long is shortened, though the pipeline has encoded the record."""
    event = Checkpoint(step=1, path="a" * MAX_LINE_BYTES)
    line = written(tmp_path / "a.jsonl", lambda sink: pipeline(sink)(event))
    assert len(line) <= MAX_LINE_BYTES
    assert orjson.loads(line)["shortened"] == {"path": MAX_LINE_BYTES}


class TestWrappers:
    """A sink around the file sink decides what the file gets."""

    def test_a_wrapper_takes_the_record(self, tmp_path):
        """Functions, methods, partials and mocks around a sink get the record alone and may change the record."""

        class Proxy:
            def __init__(self, sink):
                self._sink = sink

            def __call__(self, record):
                self._sink(record | {"path": "changed"})

            def __getattr__(self, name):
                return getattr(self._sink, name)

        class Renaming(JsonlSink):
            def __call__(self, record):
                super().__call__(record | {"path": "changed"})

        def wrapped(sink):
            @wraps(sink.__call__)
            def write(record):
                sink(record | {"path": "changed"})

            return write

        def write(sink, record):
            sink(record | {"path": "changed"})

        makers = {
            "proxy": Proxy,
            "wraps": wrapped,
            "partial": lambda sink: partial(write, sink),
            "mock": lambda sink: mock.Mock(side_effect=lambda record: sink(record | {"path": "changed"})),
        }
        for name, make in makers.items():
            line = written(
                tmp_path / "a.jsonl", lambda sink, make=make: pipeline(make(sink))(Checkpoint(step=1, path="a"))
            )
            assert orjson.loads(line)["path"] == "changed", name
        sink = Renaming(tmp_path / "b.jsonl")
        pipeline(sink)(Checkpoint(step=1, path="a"))
        assert orjson.loads(sink.path.read_bytes())["path"] == "changed"

    def test_a_sink_that_declares_the_line(self):
        """A user's sink that declares `json_line` gets the line; None for a record with a replaced value."""
        got = []

        def sink(record, *, json_line=None):
            got.append((record["path"], json_line))

        emit = pipeline(sink)
        emit(Checkpoint(step=1, path="a"))
        emit(Checkpoint(step=1, path="\ud800"))
        (first, line), (second, none) = got
        assert (first, second, none) == ("a", "\\ud800", None)
        assert orjson.loads(line)["path"] == "a"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.datetimes(
            datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the time zone
            datetime(9998, 1, 1),  # noqa: DTZ001
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=3, minutes=30)), timezone(timedelta(hours=-11))]),
        ),
        max_size=4,
    ),
    st.timedeltas(timedelta(seconds=-2), timedelta(seconds=2)),
)
def test_timestamps(times, step):
    """A time's text is that of `isoformat`, in any order of times, also within a second and backwards."""
    timestamp = TimestampFormat()
    for time in [later for first in times for later in (first, first + step, first)]:
        expected = time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        assert timestamp(time) == expected
