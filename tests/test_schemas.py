"""The schemas: generated from the types, committed, true of every record, and strict where it matters."""

import json
from dataclasses import MISSING, fields
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

import schemas
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.events import EVENTS, Window
from higgs_audio_trainer.schema import encode, schema_of, schema_of_any
from tests.builders import all_events, random_events, record_of

SCHEMAS = {name: json.loads(schemas.load(name)) for name in EVENTS}
ANY = Draft202012Validator(schema_of_any())


def line_of(event):
    """Return an event as a reader of the log gets it."""
    return orjson.loads(orjson.dumps(record_of(event)))


def is_valid(record, name=None):
    """Tell whether a record fits the schema of its event, or of another."""
    return Draft202012Validator(SCHEMAS[name or record["event"]]).is_valid(record)


def test_committed_files_are_up_to_date():
    """The committed files are what the types generate; `schema --write` writes them anew."""
    committed = {path.stem: path.read_bytes() for path in Path(schemas.__file__).parent.glob("*.json")}
    assert committed == {name: encode(schema_of(name)) for name in EVENTS}


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), schema_of_any()], ids=lambda schema: schema["title"])
def test_is_a_schema(schema):
    """Each is a schema of draft 2020-12 and says so."""
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"]


@pytest.mark.parametrize("name", EVENTS)
def test_every_property_is_described(name):
    """Every property of an event and of what it holds has a description."""
    for part in (SCHEMAS[name], *SCHEMAS[name].get("$defs", {}).values()):
        assert part["description"]
        assert all(item["description"] for item in part["properties"].values())


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_records_fit(event):
    """What the pipeline emits fits its event's schema, the schema of any line, and no other event's."""
    record = line_of(event)
    assert is_valid(record)
    assert ANY.is_valid(record)
    assert not any(is_valid(record, name) for name in EVENTS if name != record["event"])


@given(random_events())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_random_records_fit(event):
    """Whatever the types allow, NaN and infinities included, fits the schema once it is emitted."""
    Draft202012Validator(SCHEMAS[event.name]).validate(line_of(event))


def added_to(event):
    """Name the fields that were added after the first logs were written."""
    return {item.name for item in fields(event) if (item.default, item.default_factory) != (MISSING, MISSING)}


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_every_field_is_required(event):
    """A record that lacks a field does not fit, unless it was added later; windows neither."""
    record = {name: value for name, value in line_of(event).items() if name not in added_to(event)}
    assert is_valid(record)
    assert all(not is_valid({k: v for k, v in record.items() if k != name}) for name in record if name != "event")
    assert not is_valid({k: v for k, v in record.items() if k != "event"}, event.name)
    for end in {"first", "last"} & set(record) if event.name == "prediction_sample" else ():
        for name in record[end].keys() - added_to(Window):
            assert not is_valid(record | {end: {k: v for k, v in record[end].items() if k != name}}), name


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_types_are_checked(event):
    """A record with a value of another type does not fit."""
    record = line_of(event)
    for name, value in record.items():
        other = [] if isinstance(value, dict) or name == "resume_changes" else {}
        assert not is_valid(record | {name: other}, event.name), name


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"ts": "2026-01-02T03:04:05Z"},
        {"ts": "2026-01-02T03:04:05.000060+00:00"},
        {"seq": -1},
        {"level": "fatal"},
        {"step": 0},
        {"step": 1.5},
        {"step": True},
        {"loss": "1.0"},
        {"nonfinite": [3]},
        {"replaced": ["loss"]},
        {"replaced": {"loss": 3}},
        {"shortened": {"loss": "3"}},
        {"audio_loss_per_codebook": ["1.0"]},
    ],
    ids=str,
)
def test_values_are_checked(change):
    """A record of another version, without microseconds, or with a value out of its range does not fit."""
    record = line_of(next(event for event in all_events() if event.name == "train_step"))
    assert is_valid(record)
    assert not is_valid(record | change)


def test_unknown_fields_are_ignored():
    """A field that this version does not know is no fault."""
    assert is_valid(line_of(all_events()[0]) | {"new_field": 1})


def test_unknown_event():
    """There is no schema of an event that does not exist, and a line of such an event fits none."""
    with pytest.raises(KeyError):
        schema_of("no_such_event")
    with pytest.raises(FileNotFoundError):
        schemas.load("no_such_event")
    assert not ANY.is_valid(line_of(all_events()[0]) | {"event": "no_such_event"})


class TestCommand:
    def test_prints_one(self, capsys):
        """`schema EVENT` prints the committed file."""
        assert main(["schema", "checkpoint"]) == 0
        assert capsys.readouterr().out.encode() == schemas.load("checkpoint")

    def test_prints_that_of_any_line(self, capsys):
        """`schema` alone prints one schema that every line of a log fits."""
        assert main(["schema"]) == 0
        assert json.loads(capsys.readouterr().out) == schema_of_any()

    @pytest.mark.parametrize(("name", "hint"), [("predictions", " Did you mean prediction_sample?"), ("zzz", "")])
    def test_unknown_event(self, capsys, name, hint):
        """An unknown event is answered with the known ones and the nearest; exit code 2."""
        assert main(["schema", name]) == 2
        assert capsys.readouterr().err == (
            f"higgs-audio-trainer: schema: expected one of {', '.join(EVENTS)}, got {name!r}.{hint}\n"
        )

    def test_writes(self, capsys, monkeypatch, tmp_path):
        """`schema --write` writes every file anew and says where."""
        monkeypatch.setattr(schemas, "__file__", str(tmp_path / "__init__.py"))
        assert main(["schema", "--write"]) == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.json") for name in EVENTS]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            f"{name}.json": schemas.load(name) for name in EVENTS
        }
