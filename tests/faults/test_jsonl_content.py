"""Content of records: ten million tokens, hostile texts, and records above the limit of a line."""

import json
import multiprocessing
import os
import pickle
import resource
import tracemalloc

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schemas
from sinks import shorten
from sinks.jsonl import MAX_LINE_BYTES, JsonlSink
from sinks.null import discard
from sinks.shorten import ENVELOPE, encoded, shortened
from tests.builders import diagnosis, random_events, record_of, run_start, text_sample, train_step, window
from tests.faults.writer import Caller, read_log, record

MILLION = 1_000_000
HOSTILE = [
    "\n",
    "\r\n",
    "\r",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x85",
    "\u2028",
    "\u2029",
    "\x0b\x0c\x1c\x1d\x1e",
    "\x7f\x80\x9b",
    "\u202eright to left override",
    "\u2066isolate",
    "\ufeff",
    "\ufffe\uffff",
    "\U000e0041\U000e007f",
    '"},{"event":"run_end"}',
    '\\",\\n\\u000a',
    "}\n{",
    '{"event":"x"}\n',
    "</script>",
    "'; DROP TABLE runs; --",
    "مرحبا بالعالم",
    "שלום",
    "日本語",
    "👩‍👩‍👧‍👦",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L",
    "\u200b\u200c\u200d",
    "%s%n${jndi:ldap://x}",
    "NaN",
    "-Infinity",
    "1e999",
    "",
    " ",
    "\t",
]


def size(item):
    return len(orjson.dumps(item)) + 1


def is_valid(item):
    return Draft202012Validator(json.loads(schemas.load(item["event"]))).is_valid(item)


class TestHostileTexts:
    def test_corpus(self, tmp_path):
        """Fault: texts with every kind of newline, control characters and embedded JSON, in values and keys.

        Expected: each text is read back unchanged. A line is UTF-8 JSON, and only a newline byte ends a line.
        """
        sink = JsonlSink(tmp_path / "a.jsonl")
        records = [record(seq, text=text, **{text or "empty": [text]}) for seq, text in enumerate(HOSTILE)]
        records.append(record(len(HOSTILE), text="".join(HOSTILE)))
        for item in records:
            sink(item)
        sink.close()
        lines = (tmp_path / "a.jsonl").read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert [json.loads(text.decode()) for text in lines] == records
        assert all(byte >= 0x20 for text in lines for byte in text)

    @given(st.text(), st.text(min_size=1))
    @settings(max_examples=200, deadline=None)
    def test_any_text(self, text, key):
        """Fault: any text, any key. Expected: a line with a single newline at the end, and the text is read back."""
        line = encoded({"event": "x", "of": {key: text}}, MAX_LINE_BYTES)
        assert line.count(b"\n") == 1
        assert json.loads(line) == {"event": "x", "of": {key: text}}

    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
    def test_lone_surrogates(self, tmp_path, text):
        """Fault: a lone surrogate, which UTF-8 cannot encode. Expected: TypeError, and no byte is written."""
        sink = JsonlSink(tmp_path / "a.jsonl")
        with pytest.raises(TypeError):
            sink(record(0, text=text))
        sink.close()
        assert (tmp_path / "a.jsonl").read_bytes() == b""


class TestLongRecords:
    @pytest.mark.parametrize("kind", [tuple, list])
    def test_ten_million_tokens(self, tmp_path, kind):
        """Fault: a label of ten million tokens, in four parallel lists.

        Expected: the line has at most 256 KiB, is marked, holds equally long lists with the original length, and fits
        the schema. The call takes less than 32 MB of memory beside the label, where a full encoding takes 280 MB.
        """
        tokens = kind([128_000]) * (10 * MILLION)
        item = record_of(text_sample())
        lists = ("positions", "inputs", "labels", "predictions")
        item["first"] = item["first"] | dict.fromkeys(lists, tokens)
        sink = JsonlSink(tmp_path / "a.jsonl")
        tracemalloc.start()
        sink(item)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        sink.close()
        assert peak < 32 * MILLION
        [found] = read_log(tmp_path / "a.jsonl").records
        assert is_valid(found)
        assert found["shortened"] == {f"first.{name}": 10 * MILLION for name in lists}
        lengths = {len(found["first"][name]) for name in lists}
        assert len(lengths) == 1
        assert lengths.pop() > 4000
        assert MAX_LINE_BYTES / 2 < (tmp_path / "a.jsonl").stat().st_size <= MAX_LINE_BYTES
        assert found["last"] == json.loads(json.dumps(item["last"]))

    @pytest.mark.parametrize(
        "value",
        [
            "x" * (10 * MILLION),
            [["x"] * 1000] * 10_000,
            [[[1] * 100] * 100] * 1000,
            {str(number): "x" for number in range(MILLION)},
            [1, "x" * MILLION, {"a": [None] * MILLION}],
            {"k" * MILLION: 1, "short": "y" * MILLION},
            [{"a": {"b": ["x" * 100] * 100}}] * 10_000,
        ],
        ids=["text", "lists", "deep lists", "mapping", "mixed", "long key", "mappings"],
    )
    def test_other_giants(self, value):
        """Fault: a giant value of any kind.

        Expected: a marked line of at most 256 KiB, a whole envelope, and little memory.
        """
        item = record(0, "diagnosis", evidence={"it": value})
        tracemalloc.start()
        line = encoded(item, MAX_LINE_BYTES)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(line) <= MAX_LINE_BYTES
        assert peak < 32 * MILLION  # orjson takes 8 MiB at once for a long line
        found = json.loads(line)
        assert found["shortened"]
        assert {key: found[key] for key in ENVELOPE} == {key: item[key] for key in ENVELOPE}

    def test_memory_of_the_process(self, tmp_path):
        """Fault: a hundred records of a million tokens each. Expected: the process's peak memory hardly grows."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            tokens = (1,) * MILLION
            sink = JsonlSink(tmp_path / "a.jsonl")
            sink(record(0, labels=[1]))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for seq in range(1, 101):
                sink(record(seq, labels=tokens))
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(writer, str(grown_kib).encode())
            os._exit(0)
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
        assert int(os.read(reader, 100)) < 32 * 1024
        os.close(reader)
        assert len(read_log(tmp_path / "a.jsonl").records) == 101

    @pytest.mark.parametrize("delta", [-1, 0, 1])
    def test_the_limit_is_exact(self, delta):
        """Fault: a line at the limit. Expected: 256 KiB stay unchanged; a single byte more is shortened."""
        item = record(0, text="")
        item["text"] = "x" * (MAX_LINE_BYTES - size(item) + delta)
        line = encoded(item, MAX_LINE_BYTES)
        assert (line == orjson.dumps(item) + b"\n") == (delta <= 0)
        assert len(line) <= MAX_LINE_BYTES
        assert json.loads(line).get("shortened") == (None if delta <= 0 else {"text": len(item["text"])})

    def test_paths(self):
        """Fault: long values at many places.

        Expected: marks give the fields by name and the items by number; earlier marks stay.
        """
        item = record(0, config={"x": [1, "a" * 5000], "y": "b" * 4000}, label="c" * 3000, shortened={"before": 7})
        found = shortened(item, 1024)
        assert found["shortened"] == {"before": 7, "config.x[1]": 5000, "config.y": 4000, "label": 3000}
        assert found["config"]["x"][1] == "a" * 256
        assert found["label"] == "c" * 256

    def test_the_envelope_is_never_cut(self):
        """Fault: a long run_id in a long record. Expected: the envelope stays whole."""
        found = shortened(record(0, text="x" * 5000) | {"run_id": "r" * 500}, 1024)
        assert (found["run_id"], found["shortened"]) == ("r" * 500, {"text": 5000})

    def test_an_endless_name_is_left_out(self):
        """Fault: a field whose name has a million characters.

        Expected: the field is left out; the other fields stay.
        """
        found = json.loads(encoded(record(0, config={"k" * MILLION: 1, "lr": 2}), MAX_LINE_BYTES))
        assert (found["config"], found["shortened"]) == ({"lr": 2}, {"config": 2})

    def test_hardly_any_room(self):
        """Fault: room for only a few list items. Expected: longer names and the fields of a window stay."""
        small = text_sample(first=window(range(2)), last=window([]))
        sample = text_sample(first=window(range(100_000)), last=window([]))
        found = json.loads(orjson.dumps(shortened(record_of(sample), size(record_of(small)) + 150)))
        assert len(found["first"]["labels"]) in (1, 2, 4)
        assert (found["split"], found["modality"]) == ("train", "text")
        assert is_valid(found)

    def test_short_values_stay(self):
        """Fault: an ordinary record, or short names beside a giant value. Expected: no short value is shortened."""
        item = record_of(train_step())
        assert shortened(item, MAX_LINE_BYTES) == json.loads(json.dumps(item))
        sample = record_of(text_sample(first=window(range(100_000)), sample_id="s" * 64))
        found = shortened(sample, 8192)
        assert (found["modality"], found["split"], found["sample_id"]) == ("text", "train", "s" * 64)
        assert "sample_id" not in found["shortened"]

    @pytest.mark.parametrize("limit", [2048, 8192, 65_536])
    @pytest.mark.parametrize(
        "event",
        [
            run_start(config={f"option_{number}": {"x": list(range(50))} for number in range(2000)}),
            text_sample(first=window(range(100_000), label_text="م" * 100_000)),
            diagnosis(message="m" * 100_000, evidence={"deep": {"er": [{"a": "b" * 1000}] * 1000}}),
        ],
        ids=lambda event: event.name,
    )
    def test_still_fits_the_schema(self, event, limit):
        """Fault: giant values at any place. Expected: the line fits the limit and the schema of the event."""
        found = json.loads(orjson.dumps(shortened(record_of(event), limit)))
        assert size(found) <= limit
        assert is_valid(found)
        assert found["shortened"]

    @given(random_events(), st.integers(1, 3000))
    @settings(max_examples=150, deadline=None)
    @example(text_sample(first=window(range(1000))), 1000)
    def test_any_event(self, event, room):
        """Fault: any event, at any limit above the size of the fixed fields, which grows with their numbers.

        Expected: the shortened event fits the limit and the schema.
        """
        item = record_of(event)
        limit = size(shorten._cut_record(item, shorten._Limits(1))) + room
        found = json.loads(orjson.dumps(shortened(item, limit)))
        assert is_valid(found)
        assert size(found) <= limit
        if size(item) <= limit:
            assert found == json.loads(orjson.dumps(item))
        for key in ENVELOPE:
            assert found[key] == item[key]

    def test_the_run_start_that_opens_segments_is_bounded(self, tmp_path):
        """Fault: a giant configuration. Expected: each segment begins with the shortened line."""
        sink = JsonlSink(tmp_path / "a.jsonl", max_bytes=MAX_LINE_BYTES)
        sink(record_of(run_start(config={"x": [1] * MILLION})))
        first = (tmp_path / "a.jsonl").read_bytes()
        sink(record(1, text="x" * 100_000))
        sink(record(2, text="x" * 200_000))
        sink.close()
        assert len(first) <= MAX_LINE_BYTES
        assert (tmp_path / "a.segment001.jsonl").read_bytes().startswith(first)


class TestOtherProcesses:
    def test_forked_child_writes_nothing(self, tmp_path):
        """Fault: a forked child calls and closes the sink. Expected: the file has no record of the child."""
        sink = JsonlSink(tmp_path / "a.jsonl", durability="record")
        caller = Caller(sink)
        caller()
        child = os.fork()
        if child == 0:
            sink(record(99))
            sink.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        caller()
        sink.close()
        assert read_log(tmp_path / "a.jsonl").seqs == [0, 1]

    def test_forked_child_ends_no_torn_line(self, tmp_path):
        """Fault: a forked child closes a sink after a torn line. Expected: the file is untouched."""
        (tmp_path / "a.jsonl").write_bytes(b"torn")
        sink = JsonlSink(tmp_path / "a.jsonl")
        child = os.fork()
        if child == 0:
            sink.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / "a.jsonl").read_bytes() == b"torn"
        sink.close()

    def test_pickled(self, tmp_path):
        """Fault: the sink is sent to a spawned worker. Expected: the worker receives the null sink."""
        sink = JsonlSink(tmp_path / "a.jsonl")
        assert pickle.loads(pickle.dumps(sink)) is discard
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(sink, [record(0)])
        assert (tmp_path / "a.jsonl").read_bytes() == b""
        sink.close()
