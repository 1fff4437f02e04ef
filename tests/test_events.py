"""The typed events are frozen, consist of builtins, and depend on the standard library alone."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields
from typing import get_args

import pytest
from hypothesis import given, settings

from higgs_audio_trainer import events
from higgs_audio_trainer.config import flags
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS, Envelope, Event, to_mapping
from tests.builders import all_events, random_events, window

CLASSES = [*EVENTS.values(), Envelope, *events.PARTS]
BUILTINS = (str, int, float, bool, type(None))


def leaves(value):
    """Yield every value that is not a container."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_is_frozen_and_slotted(event):
    """An event can neither be changed nor given another field."""
    first = fields(event)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(event, first, None)
    assert not hasattr(event, "__dict__")


#: Padding and speed of a step.
SPEED = {
    *("padding_share", "tokens_per_s", "audio_seconds_per_s", "samples_per_s"),
    *("data_wait_ms", "peak_memory_bytes", "seconds_left"),
    *("step_ms_max", "step_ms_median", "slowest_rank"),
}
#: After the first logs were written.
ADDED = {
    events.RunStart: {
        "base_is_random",
        "family",
        "max_length",
        "modalities",
        "resume_changes",
        "schedule",
        "stops",
        "total_steps",
        "vocab_size",
        "codebook_size",
    },
    events.TrainStep: {"sequence_length", "samples", *SPEED},
    events.PredictionSample: {"stop_rank", "stop_probability", "predicted_audio", "label_audio", "text"},
    events.Window: {"label_ranks", "label_probabilities"},
    events.Diagnosis: {"modality", "codebook", "repeats"},
    events.FoundSample: {"where"},
    events.RunEnd: {"values_replaced", "diagnoses", "lost_ranks"},
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_is_required_and_described(cls):
    """Every field has a description of complete sentences, and is required unless older logs lack the field."""
    for item in fields(cls):
        assert item.metadata["description"].endswith((".", ")")), item.name
        is_required = item.default is item.default_factory is dataclasses.MISSING
        assert is_required != (item.name in ADDED.get(cls, ())), item.name
        assert item.kw_only


def test_table_is_complete():
    """`EVENTS` and the union type contain every event class of the module by name."""
    declared = {
        cls for cls in vars(events).values() if isinstance(cls, type) and isinstance(vars(cls).get("name"), str)
    }
    assert declared == set(EVENTS.values()) == set(get_args(Event))
    assert list(EVENTS) == [cls.name for cls in EVENTS.values()]


def test_names_follow_the_design():
    """The events of the design are there, by the names of the design."""
    assert list(EVENTS) == [
        "run_start",
        "train_step",
        "prediction_sample",
        "token_counts",
        "eval_result",
        "generation_sample",
        "checkpoint",
        "diagnosis",
        "prepare_progress",
        "dataset_audit",
        "sink_recovered",
        "cap_reached",
        "run_end",
    ]


def test_no_payload_hides_the_envelope():
    """No event has a field with a name of the envelope, because both become one object."""
    envelope = {item.name for item in fields(Envelope)} | {"nonfinite", "replaced", "shortened"}
    assert all(envelope.isdisjoint(item.name for item in fields(cls)) for cls in EVENTS.values())


def test_volatile_fields_exist():
    """Each volatile field is a field of the envelope, of an event, or a setting."""
    known = {item.name for cls in (Envelope, *EVENTS.values()) for item in fields(cls)}
    known |= {f"config.{item.name}" for item in flags()}
    known |= {f"findings.samples.{item.name}" for item in fields(events.FoundSample)}
    assert known >= VOLATILE_FIELDS


def test_times_are_volatile():
    """Fields that measure time or count writes are volatile, so that two equal runs compare equal."""
    names = {item.name for cls in EVENTS.values() for item in fields(cls)}
    measured = {name for name in names if name.endswith(("_ms", "_ms_total", "_s")) or name.startswith("events_")}
    assert measured <= VOLATILE_FIELDS


@given(random_events())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_to_mapping(event):
    """An event becomes the result of `dataclasses.asdict`, with builtins in the order of the fields."""
    mapping = to_mapping(event)
    assert repr(mapping) == repr(asdict(event))  # repr: NaN differs from itself
    assert {type(leaf) for leaf in leaves(mapping)} <= set(BUILTINS)


def test_window_to_mapping():
    """A window becomes a mapping as well."""
    assert to_mapping(window([1, -100], start=3)) == {
        "positions": (3, 4),
        "inputs": (None, -100),
        "labels": (1, -100),
        "predictions": (1, None),
        "predicted_text": None,
        "label_text": None,
        "label_ranks": None,
        "label_probabilities": None,
    }


def test_imports_the_standard_library_alone():
    """The types can be imported where nothing else is installed."""
    script = (
        "import json, sys; before = set(sys.modules); import higgs_audio_trainer.events; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
    assert set(json.loads(output)) - set(sys.stdlib_module_names) == {"higgs_audio_trainer"}
