"""Lines become the typed events that they were emitted as; what does not fit is said in words."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.events import EVENTS, PARTS, VOLATILE_FIELDS, PredictionSample, TrainStep, Window
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.gaps import gaps
from higgs_audio_trainer.logs.reader import read
from higgs_audio_trainer.logs.typed import MORE, Unknown, typed
from higgs_audio_trainer.logs.validation.strict import invalid_field
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.jsonl import JsonlSink
from tests.builders import RUN_ID, all_events, fixed_clock, random_events, record_of, run_start, text_sample, train_step
from tests.test_reader import file_of


def record(event):
    """Return the record of an event as it comes out of a file."""
    return json.loads(orjson.dumps(record_of(event)))


def alike(read_value, emitted):
    """Compare a value with what was emitted: a line holds neither infinities nor integers beyond 64 bits."""
    if isinstance(emitted, PARTS):
        return all(alike(getattr(read_value, item.name), getattr(emitted, item.name)) for item in fields(emitted))
    if isinstance(emitted, float) and not math.isfinite(emitted):
        return read_value is None or math.isnan(read_value)
    if isinstance(emitted, (tuple, list)):
        return len(read_value) == len(emitted) and all(map(alike, read_value, emitted))
    if isinstance(emitted, dict):
        return read_value.keys() == emitted.keys() and all(alike(read_value[key], emitted[key]) for key in emitted)
    if type(emitted) is int:
        return read_value == min(max(emitted, -(2**63)), 2**64 - 1)
    return read_value == emitted


@settings(max_examples=100, deadline=None, phases=[Phase.generate])
@given(st.lists(random_events(), max_size=6))
def test_reading_what_was_written_is_the_identity(events):
    """Through pipeline, sink and file: each event comes back as an instance of its class, with equal fields."""
    with TemporaryDirectory() as folder:
        sink = JsonlSink(file_of(folder))
        pipeline = Pipeline([("jsonl", sink)], run_id=RUN_ID, clock=fixed_clock)
        for event in [run_start(), *events]:
            pipeline(event)
        sink.close()
        faults = []
        back = sorted(read(folder, on_problem=faults.append, all_attempts=True), key=lambda event: event.seq)
        assert faults == []
        assert len(back) == len(events) + 1
        for seq, (event, emitted) in enumerate(zip(back, [run_start(), *events], strict=True)):
            assert isinstance(event, type(emitted))
            assert (event.event, event.v, event.run_id, event.seq) == (emitted.name, 1, RUN_ID, seq)
            assert all(alike(getattr(event, item.name), getattr(emitted, item.name)) for item in fields(emitted))


def test_match_and_isinstance():
    """A reader's code names the classes of `events`."""
    match typed(record(text_sample())):
        case PredictionSample(step=step, modality="text", first=Window(labels=labels)):
            assert (step, labels) == (20, (1234, 5678, 9012, 3456, 7891))
        case other:
            pytest.fail(f"{other}")
    assert isinstance(typed(record(train_step())), TrainStep)


@pytest.mark.parametrize("name", EVENTS)
def test_a_golden_has_none_where_runs_may_differ(name):
    """What a golden leaves out is None; what was added to the schema later is what its absence means."""
    whole = next(record(event) for event in all_events() if event.name == name)
    event = typed({key: value for key, value in whole.items() if key not in VOLATILE_FIELDS})
    assert isinstance(event, EVENTS[name])
    left_out = {key: getattr(event, key) for key in whole.keys() & VOLATILE_FIELDS}
    assert left_out.pop("values_replaced", 0) == 0
    assert set(left_out.values()) == {None}


def test_unknown_events_and_fields_are_kept():
    """With all that they say; a field that is called `extra` too."""
    event = typed({"event": "later", "v": 1, "rank": 0, "seq": 3, "novel": [1], "extra": {"a": 1}})
    assert isinstance(event, Unknown)
    assert (event.event, event.seq, event.ts, event.extra) == ("later", 3, None, {"novel": [1], "extra": {"a": 1}})
    assert typed(record(train_step()) | {"novel": None, "extra": 1}).extra == {"novel": None, "extra": 1}
    later = typed(record(train_step()) | {"v": 2})
    assert isinstance(later, Unknown)
    assert later.extra["loss"] == 4.13217


def test_unknown_fields_of_windows_are_kept():
    """Under the name of the window."""
    line = record(text_sample())
    assert typed(line).extra == {}
    line["first"] |= {"probabilities": [0.5], "extra": 1}
    line["last"] |= {"probabilities": []}
    event = typed(line | {"novel": 2})
    assert isinstance(event, PredictionSample)
    kept = {"first.probabilities": [0.5], "first.extra": 1, "last.probabilities": [], "novel": 2}
    assert event.extra == kept


def test_an_envelope_of_another_version_may_have_other_types():
    """What is of another type is in `extra`, and the rest where it belongs."""
    whole = record(train_step())
    event = typed(whole | {"v": 2, "ts": 1.7e9, "rank": "node0:3"})
    assert isinstance(event, Unknown)
    assert (event.v, event.ts, event.rank, event.seq) == (2, None, None, whole["seq"])
    assert (event.extra["ts"], event.extra["rank"], event.extra["loss"]) == (1.7e9, "node0:3", whole["loss"])
    later = typed({"event": "later", "v": "2.1", "attempt": {}, "extra": []})
    assert (later.event, later.v, later.extra) == ("later", None, {"v": "2.1", "attempt": {}, "extra": []})


def test_null_is_nan_where_a_number_was():
    """As `nonfinite` says, or as the field's type does; where null has a meaning of its own it stays."""
    event = typed(record(train_step(loss=math.nan, audio_loss_per_codebook=(1.0, math.inf), grad_norm=None)))
    assert math.isnan(event.loss)
    assert event.audio_loss_per_codebook[0] == 1.0
    assert math.isnan(event.audio_loss_per_codebook[1])
    assert event.grad_norm is None
    assert math.isnan(typed(record(train_step(grad_norm=math.nan))).grad_norm)
    assert event.extra == {"nonfinite": ["loss", "audio_loss_per_codebook[1]"]}
    shown = replace(text_sample().first, labels=(7, -100), label_probabilities=(math.nan, None))
    sample = typed(record(text_sample(first=shown)))
    assert math.isnan(sample.first.label_probabilities[0])
    assert sample.first.label_probabilities[1] is None
    many = record(train_step()) | {"nonfinite": ["x[1]"] * 60_000, "x": [None] * 60_000}
    assert isinstance(typed(many), TrainStep)  # in no time


def test_what_a_line_says_of_itself_is_no_invalid_field():
    """A value that was replaced makes an event `Unknown`; a field that is not there was not replaced."""
    replaced = record(train_step()) | {"step": None, "replaced": {"step": "<torch.Tensor>"}}
    assert isinstance(typed(replaced), Unknown)
    assert invalid_field(replaced) is None
    assert invalid_field(replaced | {"epoch": "x"}) == InvalidField("$.epoch", "float", "str")
    del replaced["step"]
    assert typed(replaced) == invalid_field(replaced) == InvalidField("$.step", "this field", "none")
    odd = record(run_start()) | {"versions": {"torch": None}, "replaced": {"versions.torch": "<Version>"}}
    assert isinstance(typed(odd), Unknown)
    assert invalid_field(record(train_step()) | {"step": None, "nonfinite": [MORE]}) is None
    cut = record(text_sample()) | {"first": {}, "shortened": {"first": 6}}
    assert isinstance(typed(cut), Unknown)
    assert invalid_field(cut) is None


STEP, TEXT, START = record(train_step()), record(text_sample()), record(run_start())
MISFITS = [
    (STEP | {"step": "4"}, ("$.step", "int", "str")),
    (STEP | {"step": 4.0}, ("$.step", "int", "float")),
    (STEP | {"step": True}, ("$.step", "int", "bool")),
    (STEP | {"step": 0}, ("$.step", "int >= 1", "0")),
    (STEP | {"v": True}, ("$.v", "int", "bool")),
    (STEP | {"v": 1.0}, ("$.v", "int", "float")),
    (STEP | {"grad_norm": []}, ("$.grad_norm", "float | null", "array")),
    (STEP | {"audio_loss_per_codebook": {}}, ("$.audio_loss_per_codebook", "array", "object")),
    (STEP | {"audio_loss_per_codebook": [1.0, "x"]}, ("$.audio_loss_per_codebook[1]", "float", "str")),
    (
        STEP | {"ts": "now"},
        ("$.ts", "str matching regex '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\\\.[0-9]{6}Z$'", "'now'"),
    ),
    (STEP | {"nonfinite": "loss"}, ("$.nonfinite", "array", "str")),
    (STEP | {"shortened": {"a": -1}}, ("$.shortened[...]", "int >= 0", "{'a': -1}")),
    (TEXT | {"split": "test - at `$.x`"}, ("$.split", "train or eval or probe", "'test - at `$.x`'")),
    (TEXT | {"level": 3}, ("$.level", "str", "int")),
    (TEXT | {"first": [1]}, ("$.first", "object", "array")),
    (TEXT | {"first": {}}, ("$.first.positions", "this field", "none")),
    (TEXT | {"first": TEXT["first"] | {"labels": [None]}}, ("$.first.labels[0]", "int", "null")),
    (START | {"versions": {"python": "3", "torch": 2}}, ("$.versions.torch", "str", "int")),
    (START | {"config": 5}, ("$.config", "object", "int")),
]


@pytest.mark.parametrize(("line", "expected"), MISFITS)
def test_invalid_fields_in_words(line, expected):
    """Where, what is expected, what there is."""
    assert invalid_field(line) == expected


def test_huge_numbers_and_deep_nesting(tmp_path):
    """Numbers beyond 64 bits and deep nesting are lines like others, or faults."""
    path = tmp_path / "x.jsonl"
    step = orjson.dumps(STEP)[:-1]
    deep = b'{"a":' * 500 + b"1" + b"}" * 500
    path.write_bytes(
        step + b',"huge":' + b"9" * 5000 + b"}\n" + step + b',"deep":' + deep + b"}\n" + step + b',"e":1e999}\n'
    )
    faults = []
    assert len(list(read(path, on_problem=faults.append))) + len(faults) == 3
    assert gaps(path) == []


@settings(max_examples=300, deadline=None, phases=[Phase.generate])
@given(st.sampled_from([STEP, TEXT, START]), st.data())
def test_no_value_in_any_field_is_an_exception(line, data):
    """It is an event or a invalid_field, whatever the JSON."""
    key = data.draw(st.sampled_from([*list(line)[1:], "nonfinite", "replaced", "shortened", "extra"]))
    value = data.draw(
        st.sampled_from([None, True, -1, 2**64 - 1, 0.5, "x", [], [None], [[]], {}, {"a": None}, ["loss"]])
    )
    found = typed(line | {key: value})
    assert isinstance(found, (InvalidField, Unknown, *EVENTS.values()))
    wrong = invalid_field(line | {key: value}) if key != "v" else None
    assert wrong is None or isinstance(wrong, InvalidField)


def test_fields_of_every_class_are_there():
    """Those of the payload and of the envelope, and `extra`."""
    event = typed(record(train_step()))
    assert Path(f"{event.event}.json").stem == event.name == "train_step"
    assert {"ts", "seq", "extra", "loss"} <= {item.name for item in fields(event)}
