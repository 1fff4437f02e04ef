"""Logs of older versions are readable today, with unchanged meaning.

`fixtures/logs` contains logs of older versions. `fixtures/schemas/vN` contains the schemas at the time of the latest
addition to version N. A version may add fields, but only a new version may change the meaning of a field. An added
field is frozen with `python -c "from tests.test_compatibility import freeze; freeze()"`.
"""

import copy
import json
from pathlib import Path

import pytest

import schemas
from higgs_audio_trainer.events import EVENTS, SCHEMA_VERSION
from higgs_audio_trainer.logs.reader import read
from higgs_audio_trainer.logs.typed import Unknown
from tests.logs import read as records

FIXTURES = Path(__file__).parent / "fixtures"
LOGS = sorted(path.name for path in (FIXTURES / "logs").iterdir())
FROZEN = {path.stem: json.loads(path.read_bytes()) for path in (FIXTURES / "schemas" / "v1").glob("*.json")}
WHAT_TO_DO = (
    "Logs of older versions would be misread. Undo it; or declare a new field with `_added`; or raise SCHEMA_VERSION "
    "in events.py, freeze the schemas as tests/fixtures/schemas/vN and teach the reader the old version."
)


HOW_TO_FREEZE = (
    'is added and not frozen. Run: python -c "from tests.test_compatibility import freeze; freeze()" '
    "and commit tests/fixtures/schemas/v1"
)


def unfrozen(frozen, today, path="$"):
    """List the parts of today's schema that are not frozen, because the tests cannot see changes of these parts."""
    if not isinstance(frozen, dict) or not isinstance(today, dict):
        return []
    found = [f"{path}.{key} {HOW_TO_FREEZE}" for key in today if key not in frozen]
    return found + [
        text for key in frozen if key in today for text in unfrozen(frozen[key], today[key], f"{path}.{key}")
    ]


def freeze(folder=FIXTURES / "schemas" / "v1"):
    """Freeze the additions to version 1. Refuse if a frozen part has changed."""
    today = {name: schemas.load(name) for name in EVENTS}
    changed = [text for name, was in FROZEN.items() for text in breaches(was, json.loads(today[name]))]
    if changed or SCHEMA_VERSION != 1:
        raise SystemExit("\n".join(changed) or f"expected version 1 of the schema, got {SCHEMA_VERSION}")
    for name, data in today.items():
        (folder / f"{name}.json").write_bytes(data)


def breaches(frozen, today, path="$"):
    """List the changes that make an older log misread. Only added optional fields are allowed."""
    if not isinstance(frozen, dict) or not isinstance(today, dict):
        return [] if frozen == today else [f"{path}: was {frozen!r}, is {today!r}. {WHAT_TO_DO}"]
    found = []
    for key, was in frozen.items():
        if key == "required":
            continue
        found += breaches(was, today.get(key, "nothing"), f"{path}.{key}")
    is_properties = path.endswith(("properties", "$defs"))
    for key in today.keys() - frozen.keys() - {"required"}:
        if not is_properties:
            found.append(f"{path}.{key}: was nothing, is {today[key]!r}. {WHAT_TO_DO}")
    found += [
        f"{path}.required: was without {name!r}, is with it. {WHAT_TO_DO}"
        for name in sorted(set(today.get("required", ())) - set(frozen.get("required", ())))
    ]
    return found


@pytest.mark.skipif(SCHEMA_VERSION != 1, reason="another version of the schema may say otherwise")
@pytest.mark.parametrize("name", FROZEN)
def test_a_field_means_what_it_meant(name):
    """No field of version 1 is gone, renamed, of another type, unit or description, or bound more tightly."""
    assert breaches(FROZEN[name], json.loads(schemas.load(name))) == []


@pytest.mark.skipif(SCHEMA_VERSION != 1, reason="another version is frozen in another folder")
@pytest.mark.parametrize("name", EVENTS)
def test_what_was_added_is_frozen(name):
    """Each event and each field is frozen, so that the test above protects each field from the day of the addition."""
    assert unfrozen(FROZEN, {name: json.loads(schemas.load(name))}) == []


def test_freeze_writes_what_is_there_today(tmp_path, monkeypatch):
    """It refuses where a meaning has changed."""
    freeze(tmp_path)
    assert {path.stem: json.loads(path.read_bytes()) for path in tmp_path.iterdir()}.keys() == EVENTS.keys()
    spoiled = copy.deepcopy(FROZEN["train_step"])
    spoiled["properties"]["loss"]["description"] = "Bits."
    monkeypatch.setitem(FROZEN, "train_step", spoiled)
    with pytest.raises(SystemExit, match="raise SCHEMA_VERSION"):
        freeze(tmp_path)


def test_a_version_is_frozen():
    """A change of the schema's version must freeze the new schemas here."""
    assert (FIXTURES / "schemas" / f"v{SCHEMA_VERSION}").is_dir()
    assert FROZEN.keys() <= EVENTS.keys() or SCHEMA_VERSION > 1


def change(path, value):
    """Return a function that changes a schema at a path. The value `...` removes the entry."""

    def apply(schema):
        *way, last = path
        for key in way:
            schema = schema[key]
        if value is ...:
            del schema[last]
        else:
            schema[last] = value

    return apply


BREACHES = [
    change(("properties", "loss"), ...),
    change(("properties", "loss", "description"), "Sum of cross-entropies; bits."),
    change(("properties", "shift", "type"), "number"),
    change(("properties", "shift", "minimum"), 1),
    change(("properties", "step", "minimum"), 1),
    change(("properties", "split", "enum"), ["train"]),
    change(("properties", "codebook", "anyOf"), [{"type": "integer"}]),
    change(("properties", "logits_shape", "items", "type"), "string"),
    change(("$defs", "Window", "properties", "inputs"), ...),
    change(("$defs", "Window", "required"), ["positions", "novel"]),
    change(("required",), [*FROZEN["prediction_sample"]["required"], "novel"]),
    change(("properties", "event", "const"), "sample"),
    change(("$id",), "urn:other"),
]
ADDITIONS = [
    change(("properties", "novel"), {"type": "integer", "description": "Added."}),
    change(("$defs", "Window", "properties", "novel"), {"type": "integer"}),
    change(("$defs", "Novel"), {"type": "object"}),
    change(("required",), FROZEN["prediction_sample"]["required"][:-1]),
]


@pytest.mark.parametrize("apply", BREACHES)
def test_a_changed_meaning_is_found(apply):
    """The test above fails for each way to change a field's meaning, and explains what to do."""
    today = copy.deepcopy(FROZEN["prediction_sample"])
    apply(today)
    (found,) = breaches(FROZEN["prediction_sample"], today)
    assert found.startswith("$.")
    assert "raise SCHEMA_VERSION" in found


@pytest.mark.parametrize("apply", ADDITIONS)
def test_an_added_field_is_none(apply):
    """A version may add a field that older logs lack."""
    today = copy.deepcopy(FROZEN["prediction_sample"])
    apply(today)
    assert breaches(FROZEN["prediction_sample"], today) == []


@pytest.mark.parametrize("name", LOGS)
def test_an_older_log_is_read_whole(name):
    """Every line becomes the original event with every field, and nothing is unknown."""
    folder, faults = FIXTURES / "logs" / name, []
    events = list(read(folder, all_attempts=True, on_problem=faults.append))
    assert faults == []
    assert {event.event for event in events} >= {
        "run_start",
        "train_step",
        "prediction_sample",
        "eval_result",
        "run_end",
    }
    for event, record in zip(events, records(folder, all_attempts=True), strict=True):
        assert isinstance(event, EVENTS[record["event"]])
        assert not isinstance(event, Unknown)
        assert event.extra == {}
        for field, value in record.items():
            read_as = getattr(event, field)
            if isinstance(value, dict) and not isinstance(read_as, dict):
                read_as = {key: getattr(read_as, key) for key in value}
                read_as = {key: list(item) if isinstance(item, tuple) else item for key, item in read_as.items()}
            assert (list(read_as) if isinstance(read_as, tuple) else read_as) == value


def test_what_older_logs_say():
    """The figures equal the figures at the time of writing.

    `first_light` has no count of replaced values, because that version had no such field.
    """
    first_light = list(read(FIXTURES / "logs" / "first_light"))
    assert [event.values_replaced for event in first_light if event.event == "run_end"] == [0]
    steps = [(event.step, round(event.loss, 3)) for event in first_light if event.event == "train_step"]
    assert steps[0] == (1, 14.37)
    text = next(event for event in first_light if event.event == "prediction_sample")
    assert (text.sample_id, text.num_targets, text.stop_targets, text.shift) == ("en-5", 3, 1, 1)
    trust = list(read(FIXTURES / "logs" / "trust"))
    assert [event.step for event in trust if event.event == "train_step"] == [1, 2, 4]
    assert [event.attempt for event in trust if event.event == "train_step"] == [0, 0, 1]
