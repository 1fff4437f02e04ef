"""`diff` finds every difference of two logs, and equal logs have no difference.

An oracle loads both logs completely.
"""

import copy
import math
import random
from collections import defaultdict
from dataclasses import MISSING as ABSENT
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS
from higgs_audio_trainer.logs.diff.compare import DiffOptions, diff
from higgs_audio_trainer.logs.diff.comparison import MISSING
from tests.builders import (
    audio_sample,
    checkpoint,
    compared_events,
    diagnosis,
    eval_result,
    has_compared_events,
    random_events,
    record_of,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    token_counts,
    train_step,
    window,
)

VOLATILE_TOP = {name for name in VOLATILE_FIELDS if "." not in name}
KEY = ("event", "split", "step", "rank", "modality", "code", "fingerprint", "codebook")


def records_of(events):
    """Make the records of events, as a reader returns records."""
    return [orjson.loads(orjson.dumps(record_of(event))) | {"seq": seq} for seq, event in enumerate(events)]


def run_of(steps=4, *, factor=1.0):
    """Make the events of a run, with the losses multiplied by a factor."""
    events = [run_start()]
    for step in range(1, steps + 1):
        events += [
            train_step(step=step, loss=4.0 / step * factor, grad_norm=1.0 + step),
            text_sample(step=step),
            audio_sample(step=step),
            audio_sample(step=step, codebook=1),
        ]
    return [*events, eval_result(step=steps), checkpoint(step=steps), run_end(step=steps)]


RUN = records_of(run_of())


def leaves(value, path=()):
    """Yield the path of every value that contains no other value."""
    if isinstance(value, (dict, list)) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(value):
    """Return another value of the same type, if possible."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 1.01 if isinstance(value, float) and value else value + 1
    return f"{value}x" if isinstance(value, str) else "new"


def planted(record, path, change=changed):
    """Copy a record with one value changed."""
    record = copy.deepcopy(record)
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = change(holder[path[-1]])
    return record


def is_volatile(path):
    """Return True if two runs may differ in a value."""
    names = [part for part in path if isinstance(part, str)]
    return path[0] in VOLATILE_TOP or ".".join(names[:2]) in VOLATILE_FIELDS or ".".join(names) in VOLATILE_FIELDS


# The proof. Any log equals itself, and any planted change is found.


@settings(deadline=None)
@given(st.lists(random_events(), min_size=1, max_size=8).filter(has_compared_events))
def test_a_log_is_the_same_as_itself(events):
    """`diff(x, x)` finds nothing, whatever is in x."""
    records = records_of(events)
    for options in (DiffOptions(), DiffOptions(exact=True)):
        assert diff(records, records, options=options).same


MISFITTING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1e300, 1e300) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_log_is_the_same_as_itself_and_differs_from_the_whole_one(data):
    """A value of any type in any place, or a torn line, makes the log neither differ from itself nor fail."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("whole.jsonl", "damaged.jsonl")]
        index = data.draw(st.integers(0, len(RUN) - 1))
        path = data.draw(st.sampled_from([path for path in leaves(RUN[index]) if path[0] != "event"]))
        value = data.draw(MISFITTING)
        damaged = [*RUN]
        damaged[index] = planted(RUN[index], path, lambda _: value)
        for file, records in zip(paths, (RUN, damaged), strict=True):
            file.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records) + b'{"event": "run_')
        assert diff(paths[1], paths[1]).same
        assert diff(paths[0], paths[1]).same == diff(RUN, damaged).same


@pytest.mark.parametrize(
    "index", range(len(compared_events())), ids=lambda index: compared_events()[index].name + f"-{index}"
)
def test_a_change_in_any_field_of_any_event_is_found(index):
    """A change of any single value of any event counts as a difference, unless the value is volatile."""
    records = records_of([*compared_events(), train_step(step=1)])
    for path in leaves(records[index]):
        if path == ("run_id",):  # tells runs apart
            continue
        other = [*records]
        # The rank and the excess probability depend on rounding, and agree with near values.
        far = (lambda value: value + 5) if path[0] in ("stop_rank", "offset_surplus") else changed
        other[index] = planted(records[index], path, far)
        comparison = diff(records, other)
        assert comparison.same == is_volatile(path), path
        assert diff(other, records).same == is_volatile(path), path
        assert (sum(comparison.counts.values()) > 0) == (not is_volatile(path)), path


def default_of(item):
    """Return the meaning of an absent field."""
    return item.default if item.default_factory is ABSENT else item.default_factory()


@pytest.mark.parametrize("index", range(len(compared_events())))
def test_a_field_that_is_missing_or_new_is_found(index):
    """A field that one side lacks is a difference, unless the field is volatile. An unknown field is a difference, too.

    An absent field of a later version has the default value.
    """
    records, event = records_of([*compared_events(), train_step(step=1)]), compared_events()[index]
    absent = {item.name for item in fields(EVENTS[event.name]) if getattr(event, item.name) == default_of(item)}
    for name in records[index]:
        if name in ("event", "run_id"):  # a run_start without run_id begins a golden
            continue
        other = copy.deepcopy(records)
        del other[index][name]
        assert diff(records, other).same == (name in VOLATILE_TOP | absent), name
    other = copy.deepcopy(records)
    other[index]["unheard_of"] = None
    assert not diff(records, other).same


def test_an_older_log_lacks_what_it_did_not_know():
    """A window without ranks equals a window whose ranks are null, and differs from a window with ranks."""
    sample = text_sample()
    old = records_of([sample])
    for name in ("label_ranks", "label_probabilities"):
        del old[0]["first"][name], old[0]["last"][name]
    assert diff(old, records_of([sample])).same
    del old[0]["text"]
    assert diff(old, records_of([sample])).same
    assert diff(old, records_of([replace(sample, text="Good night.")])).worst[0].path == "prediction_sample.text"
    ranked = replace(sample, first=replace(sample.first, label_ranks=(1, 1, 1, 1, 2)))
    assert diff(old, records_of([ranked])).counts == {"other": 1}


def test_ranks_and_probabilities_have_a_tolerance():
    """Ranks agree within 2 or a twentieth, on shown slots as at the stop token; `--atol` names their fields."""

    def ranked(ranks, probabilities, stop_rank):
        sample = text_sample(stop_rank=stop_rank)
        return records_of(
            [replace(sample, first=replace(sample.first, label_ranks=ranks, label_probabilities=probabilities))]
        )

    here = ranked((1, 1, 1, 1, 1000), (0.5, 0.5, 0.5, 0.5, 1e-9), 3)
    there = ranked((1, 1, 1, 3, 1040), (0.50003, 0.5, 0.5, 0.5, 1e-6), 5)
    assert diff(here, there).same
    assert diff(here, there, options=DiffOptions(exact=True)).counts == {"floats": 5}
    assert diff(here, there, options=DiffOptions(atol={"label_ranks": 0.0})).counts == {"floats": 1}
    far = ranked((1, 1, 1, 9, 1000), (0.6, 0.5, 0.5, 0.5, 1e-9), 9)
    comparison = diff(here, far)
    assert comparison.counts == {"floats": 3}
    assert (comparison.first.field, comparison.first.atol) == ("first.label_probabilities[0]", 1e-5)


def test_counts_and_diagnoses_are_joined_by_what_they_are_about():
    """Counts are joined by codebook, and diagnoses by codebook and code. The order of the lines is irrelevant."""
    counts = [token_counts(), *(token_counts(codebook=codebook) for codebook in range(3))]
    found = [diagnosis(code=code, modality="audio", codebook=k) for code in ("collapsed", "too_good") for k in (0, 1)]
    events = records_of([*counts, *found])
    assert diff(events, events[::-1]).same
    lone = diff(events, [*events[:-1], *records_of([diagnosis(code="plateau", modality="audio", codebook=1)])])
    assert lone.counts == {"only_in_expected": 1, "only_in_got": 1}
    fewer = records_of([token_counts(codebook=2, num_correct=12)])
    assert diff(events, [*events[:3], *fewer, *events[4:]]).first.field == "num_correct"


@pytest.mark.parametrize("index", range(len(compared_events())))
def test_an_event_that_is_missing_is_found(index):
    """An event that one side lacks is reported with the side that has the event."""
    records = records_of([*compared_events(), train_step(step=1)])
    other = records[:index] + records[index + 1 :]
    assert diff(records, other).counts == {"only_in_expected": 1}
    assert diff(other, records).counts == {"only_in_got": 1}
    assert diff(records, [*records, records[index]]).counts == {"only_in_got": 1}


@pytest.mark.parametrize(
    ("ours", "theirs"), [(True, 1), (0, False), (1, 1.5), (None, 0), ("1", 1), ([], {}), ([], None)]
)
def test_values_of_another_type_differ(ours, theirs):
    """True differs from 1, although the values are equal in Python."""
    records = records_of([diagnosis(evidence={"x": ours})])
    assert not diff(records, records_of([diagnosis(evidence={"x": theirs})])).same


def test_a_float_without_a_fraction_may_be_written_as_an_integer():
    """1 and 1.0 are the same value of a float field, also with --exact."""
    ours, theirs = records_of([train_step(epoch=1.0)]), records_of([train_step(epoch=1.0)])
    theirs[0]["epoch"] = 1
    assert diff(ours, theirs, options=DiffOptions(exact=True)).same


# The oracle


def oracle(expected, got):
    """Join by brute force.

    Return the differences as `(key, field)`, and the keys that one side lacks. Keys are unique.
    """
    sides = []
    for records in (expected, got):
        by_key = {}
        for record in records:
            is_run = record["event"] in ("run_start", "run_end")
            key = (record["event"], record["rank"]) if is_run else tuple(record.get(name) for name in KEY)
            assert key not in by_key
            by_key[key] = {name: value for name, value in record.items() if name not in VOLATILE_TOP}
        sides.append(by_key)
    ours, theirs = sides
    missing = object()
    differing = {
        (key, name)
        for key in ours.keys() & theirs.keys()
        for name in ours[key] | theirs[key]
        if not alike(ours[key].get(name, missing), theirs[key].get(name, missing))
    }
    return differing, ours.keys() - theirs.keys(), theirs.keys() - ours.keys()


def alike(a, b):
    """Return True if two values agree, floats within the tolerance that all fields have here."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    if isinstance(a, float) and isinstance(b, float):
        return abs(b - a) <= 1e-6 + 1e-3 * abs(a)
    return type(a) is type(b) and a == b


def some_floats(value):
    """Return a float that is near or far, or no float."""
    return st.sampled_from([value, value * 1.0005, value * 0.9, value + 1e-7, None, -value])


@st.composite
def mutated(draw):
    """Draw a run with values changed, events dropped and moved."""
    records = copy.deepcopy(RUN)
    for _ in range(draw(st.integers(0, 4))):
        index = draw(st.integers(1, len(records) - 1))
        paths = [path for path in leaves(records[index]) if path[0] not in KEY and not is_volatile(path)]
        path = draw(st.sampled_from(paths))
        holder = records[index]
        for key in path[:-1]:
            holder = holder[key]
        value = holder[path[-1]]
        if isinstance(value, float):
            holder[path[-1]] = draw(some_floats(value))
        elif isinstance(value, int):
            holder[path[-1]] = value + draw(st.integers(-1, 1))
        else:
            holder[path[-1]] = draw(st.sampled_from([value, "other", None]))
    for _ in range(draw(st.integers(0, 3))):
        del records[draw(st.integers(1, len(records) - 1))]
    return draw(st.permutations(records)) if draw(st.booleans()) else records


@settings(deadline=None, max_examples=200)
@given(mutated(), mutated())
def test_it_agrees_with_an_oracle(ours, theirs):
    """The verdict, the joined and differing events, and the events that one side lacks equal the oracle's result."""
    differing, only_ours, only_theirs = oracle(ours, theirs)
    comparison = diff(ours, theirs, options=DiffOptions(rtol=1e-3, atol=1e-6))
    counts = dict(comparison.counts)
    drift = counts.pop("drift", 0)
    assert comparison.same == (not (differing or only_ours or only_theirs or drift))
    assert comparison.differing == len({key for key, _ in differing})
    assert counts.pop("only_in_expected", 0) == len(only_ours)
    assert counts.pop("only_in_got", 0) == len(only_theirs)
    assert bool(counts) == bool(differing)
    found = {(field.event, field.name.split(".")[0]) for field in comparison.worst}
    assert found == {(key[0], name) for key, name in differing}
    steps = [key[2] for key in {key for key, _ in differing} | only_ours | only_theirs if len(key) == len(KEY)]
    if steps:
        assert comparison.first.place.step == min(steps)


@settings(deadline=None)
@given(mutated(), mutated(), st.randoms())
def test_the_order_of_lines_means_nothing(ours, theirs, shuffle):
    """Whatever order the lines of either side are in, the same is found."""
    ours, theirs = [*ours, *ours[3:5]], [*theirs, *theirs[3:6]]  # some samples occur twice
    before = diff(ours, theirs)
    shuffle.shuffle(ours)
    shuffle.shuffle(theirs)
    after = diff(ours, theirs)
    assert (after.same, after.counts, after.first, after.settings) == (
        before.same,
        before.counts,
        before.first,
        before.settings,
    )


# The report of a comparison


def first_of(ours, theirs, **options):
    """Return the first divergence of two lists of events."""
    return diff(records_of(ours), records_of(theirs), options=DiffOptions(**options)).first


def test_the_first_divergence_is_the_first_step_whatever_comes_later():
    """The report names the step, sample, codebook and position, with the expected and the found value."""
    theirs = run_of()
    wrong = window([2345, 6789, 123, 4567, 8902], [2345, 6789, 7, 4567, 8901], start=17)
    theirs[7] = audio_sample(step=2, last=wrong)
    theirs[11] = audio_sample(step=3, first=window([1]))
    first = first_of(run_of(), theirs)
    assert (first.place.step, first.place.sample_id, first.place.codebook, first.position) == (2, "en-1", 0, 19)
    assert (first.field, first.expected, first.got, first.kind) == ("last.predictions[2]", 123, 7, "tokens")
    assert first.only_predictions


def test_text_comes_before_audio_and_a_codebook_before_the_next():
    """The order within a step is text, then codebooks in order, whatever the order of the lines is."""
    ours = [train_step(step=1), audio_sample(step=1, codebook=1), audio_sample(step=1), text_sample(step=1)]
    for number in range(1, len(ours)):
        theirs = [event if index < 1 or index > number else dict_changed(event) for index, event in enumerate(ours)]
        place = first_of(ours, theirs).place
        assert (place.modality, place.codebook) == [("audio", 1), ("audio", 0), ("text", None)][number - 1]


def dict_changed(event):
    """Copy a sample with another loss."""
    return type(event)(**{name: getattr(event, name) for name in event.__slots__} | {"loss": 9.0})


def test_kinds_of_differences_are_told_apart():
    """Each difference is counted by kind."""
    first = window([1, 2, 3], start=5)
    ours = [text_sample(first=first), train_step(), run_start()]
    cases = {
        "masks": [text_sample(first=window([1, -100, 3], [1, 2, 3], start=5)), *ours[1:]],
        "tokens": [text_sample(first=window([1, 9, 3], [1, 2, 3], start=5)), *ours[1:]],
        "shapes": [text_sample(first=first, logits_shape=(25, 128256)), *ours[1:]],
        "floats": [ours[0], train_step(loss=4.2), ours[2]],
        "other": [text_sample(first=first, num_correct=1), *ours[1:]],
        "configuration": [*ours[:2], run_start(seed=1)],
        "versions": [*ours[:2], run_start(versions={"python": "3.11.7", "torch": "2.12.0"})],
    }
    for kind, theirs in cases.items():
        counts = diff(records_of(ours), records_of(theirs)).counts
        # A label is also an input, and an input differs as a token.
        assert counts == {"masks": {"masks": 1, "tokens": 1}, "tokens": {"tokens": 2}}.get(kind, {kind: 1}), kind
    nulled = [text_sample(first=window([1, 2, 3], [1, None, 3], start=5)), *ours[1:]]
    assert diff(records_of(ours), records_of(nulled)).counts == {"masks": 1}


def test_settings_and_versions_are_said_by_name():
    """Differences of the setup are listed separately by name, nested settings included. Folders are only noted."""
    theirs = run_of()
    theirs[0] = run_start(
        config={"lr": 2e-4, "extra": {"bf16": False}, "output_dir": "b"},
        versions={"python": "3.12.1", "torch": "2.13.0"},
        seed=43,
    )
    ours = [run_start(config={"lr": 1e-4, "extra": {"bf16": True}, "output_dir": "a"}), *run_of()[1:]]
    comparison = diff(records_of(ours), records_of(theirs))
    assert {(item.kind, item.field, item.expected, item.got) for item in comparison.settings} == {
        ("configuration", "config.lr", 1e-4, 2e-4),
        ("configuration", "config.extra.bf16", True, False),
        ("versions", "versions.python", "3.11.7", "3.12.1"),
        ("configuration", "seed", 42, 43),
    }
    assert comparison.uncounted == ("config.output_dir",)
    assert comparison.first is None
    assert comparison.counts == {"configuration": 3, "versions": 1}


def test_a_setting_may_not_be_a_little_off():
    """A learning rate within the tolerance of losses is still another learning rate."""
    ours, theirs = (records_of([run_start(config={"lr": lr}), train_step()]) for lr in (1e-4, 1.000001e-4))
    assert diff(ours, theirs).counts == {"configuration": 1}


def test_a_run_that_ended_at_another_step_says_so():
    """The end is joined by rank alone, and the step of the end is compared."""
    first = first_of(run_of(), [*run_of()[:-1], run_end(step=3)])
    assert (first.place.event, first.field, first.expected, first.got) == ("run_end", "step", 4, 3)


# Floats


def test_floats_within_their_tolerance_agree():
    """Each field has a default tolerance, and the caller may set a tolerance."""
    near = [train_step(step=step, loss=1 + 5e-5 * (-1) ** step) for step in range(1, 5)]
    ours = [train_step(step=step, loss=1.0) for step in range(1, 5)]
    assert diff(records_of(ours), records_of(near)).same
    assert not diff(records_of(ours), records_of(near), options=DiffOptions(exact=True)).same
    assert not diff(records_of(ours), records_of(near), options=DiffOptions(rtol={"loss": 1e-6}, atol=0.0)).same
    far = [train_step(step=1, loss=1.5)]
    assert not diff(records_of(ours[:1]), records_of(far)).same
    assert diff(records_of(ours[:1]), records_of(far), options=DiffOptions(rtol={"loss": 0.6})).same
    of_an_event = DiffOptions(rtol={"loss": 1e-6, "train_step.loss": 0.6})
    assert diff(records_of(ours[:1]), records_of(far), options=of_an_event).same
    other = DiffOptions(rtol={"eval_result.loss": 0.6})
    assert not diff(records_of(ours[:1]), records_of(far), options=other).same
    assert diff(records_of(ours[:1]), records_of(far), options=DiffOptions(atol={"loss": 0.6})).same
    assert diff(records_of(ours[:1]), records_of(far), options=DiffOptions(rtol=0.6)).same


def test_a_learning_rate_is_compared_relatively():
    """A learning rate has no absolute tolerance, because the values are small."""
    ours, theirs = (records_of([train_step(learning_rate=rate)]) for rate in (1e-9, 1.01e-9))
    assert not diff(ours, theirs).same


@pytest.mark.parametrize("value", [math.nan, None, math.inf])
def test_null_is_no_number(value):
    """A loss that is not finite is null in the record, and differs from every number."""
    ours = records_of([train_step(grad_norm=1.0)])
    theirs = records_of([train_step(grad_norm=value)])
    assert "floats" in diff(ours, theirs, options=DiffOptions(rtol=1e9)).counts
    assert diff(theirs, theirs).same


def test_zero_has_a_sign_bit_for_bit_only():
    """-0.0 is 0.0, but not with --exact."""
    ours, theirs = (records_of([train_step(loss=loss)]) for loss in (0.0, -0.0))
    assert diff(ours, theirs).same
    assert not diff(ours, theirs, options=DiffOptions(exact=True)).same


def test_a_shift_to_one_side_is_found_where_every_value_passes():
    """Sixty values are each within tolerance, but all are too high. The drift is found."""
    ours = [train_step(step=step, grad_norm=1 + step / 7) for step in range(1, 61)]
    theirs = [train_step(step=step, grad_norm=(1 + step / 7) * (1 + 4e-5)) for step in range(1, 61)]
    comparison = diff(records_of(ours), records_of(theirs))
    assert comparison.counts == {"drift": 1}
    (drift,) = comparison.drifts
    assert (drift.path, drift.values, drift.differing) == ("train_step.grad_norm", 60, 0)
    assert drift.mean_residual == pytest.approx(0.4, abs=0.01)
    assert diff(records_of(ours), records_of(theirs), options=DiffOptions(rtol=1e-2)).same


def test_noise_to_both_sides_is_no_drift():
    """Values with random errors agree, however many values there are."""
    noise = random.Random(0)
    ours = [train_step(step=step) for step in range(1, 301)]
    theirs = [train_step(step=step, grad_norm=1.23456 * (1 + noise.uniform(-9e-5, 9e-5))) for step in range(1, 301)]
    assert diff(records_of(ours), records_of(theirs)).same


def shifted(residuals, *, codebooks=1):
    """Compare runs whose codebook losses are so many tolerances apart, step by step."""
    losses = [2.0] * codebooks
    ours = [train_step(step=step, audio_loss_per_codebook=losses) for step in range(len(residuals))]
    theirs = [
        train_step(step=step, audio_loss_per_codebook=[loss + off * (1e-6 + 1e-4 * loss) for loss in losses])
        for step, off in enumerate(residuals)
    ]
    return diff(records_of(ours), records_of(theirs))


def test_a_shift_is_found_by_how_little_it_scatters():
    """A shift is found if all values shift alike, or scatter less than the shift. Few events are no evidence."""
    noise = random.Random(0)
    assert shifted([0.9] * 15).counts == {"drift": 1}
    assert shifted([0.3 + noise.uniform(-0.1, 0.1) for _ in range(20)]).counts == {"drift": 1}
    assert shifted([-0.4] * 8).counts == {"drift": 1}
    assert shifted([0.4] * 7, codebooks=8).same
    assert shifted([0.04] * 50).same
    assert shifted([0.9] * 3 + [0.0] * 17).same


def test_noise_that_the_codebooks_of_a_step_share_is_no_drift():
    """Eight codebooks with a common error are one piece of evidence, not eight."""
    for seed in range(50):
        noise = random.Random(seed)
        assert shifted([noise.gauss(0, 0.2) for _ in range(15)], codebooks=8).same, seed


def test_mean_residuals_are_those_of_all_values():
    """The mean covers every joined value, equal values included."""
    ours = records_of([train_step(step=step, loss=1.0) for step in range(1, 5)])
    theirs = copy.deepcopy(ours)
    theirs[2]["loss"] = 2.0
    (field,) = diff(ours, theirs, options=DiffOptions(rtol=0.1, atol=0.0)).worst
    assert (field.path, field.values, field.differing, field.step) == ("train_step.loss", 4, 1, 3)
    assert (field.residual, field.mean_residual) == (pytest.approx(10), pytest.approx(2.5))


# What is left out


def test_fields_and_events_can_be_left_out():
    """--ignore and --only accept fields, events, fields of an event, and entries of a field."""
    theirs = run_of()
    theirs[0] = run_start(config={"lr": 9.0, "extra": {"bf16": True}})
    theirs[1] = train_step(step=1, loss=9.0, grad_norm=2.0)
    theirs[2] = text_sample(step=1, loss=9.0)
    ours = records_of(run_of())
    cases = {
        (("config.lr", "loss"), ()): True,
        (("config.lr", "loss", "config.rank", "run_start.config.rank", "step"), ()): True,
        (("config", "loss"), ()): True,
        (("run_start", "train_step", "prediction_sample"), ()): True,
        (("run_start", "train_step.loss", "prediction_sample.loss"), ()): True,
        (("config.lr", "train_step.loss"), ()): False,
        (("loss",), ()): False,
        ((), ("grad_norm",)): True,
        ((), ("loss",)): False,
        ((), ("eval_result",)): True,
        ((), ("train_step",)): False,
        ((), ("first.predictions", "text_loss")): True,
        ((), ("config.extra",)): True,
        ((), ("config.lr",)): False,
        (("train_step",), ("eval_result.loss",)): True,
    }
    for (ignore, only), same in cases.items():
        options = DiffOptions(ignore=frozenset(ignore), only=frozenset(only))
        assert diff(ours, records_of(theirs), options=options).same == same, (ignore, only)


def test_an_event_that_one_side_lacks_counts_where_something_of_it_is_compared():
    """With --only, events without the field are neither missing nor joined."""
    ours = records_of(run_of())
    theirs = [record for record in ours if record["event"] != "checkpoint"]
    only = DiffOptions(only=frozenset({"train_step.loss"}))
    assert diff(ours, theirs, options=only).same
    assert diff(ours, theirs, options=only).joined == 4
    assert diff(ours, theirs[:1] + theirs[2:], options=only).counts == {"only_in_expected": 1}
    assert not diff(ours, theirs, options=DiffOptions(only=frozenset({"path"}))).same


def test_what_this_version_does_not_know_can_be_left_out():
    """`extra.x` names an unknown field or an unknown event."""
    ours = records_of(run_of())
    theirs = copy.deepcopy(ours)
    theirs[1]["novel"] = 3
    theirs.append({"event": "news", "v": 1, "rank": 0})
    assert diff(ours, theirs, options=DiffOptions(ignore=frozenset({"extra.novel", "extra.news"}))).same
    assert not diff(ours, theirs, options=DiffOptions(ignore=frozenset({"extra.novel"}))).same


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ignore": frozenset({"grad_nrom"})}, "Did you mean grad_norm?"),
        ({"only": frozenset({"step_ms"})}, "differs from run to run"),
        ({"rtol": {"grad_nrom": 1.0}}, "Did you mean grad_norm?"),
        ({"rtol": {"train_stp.loss": 1.0}}, "Did you mean train_step.loss?"),
        ({"ignore": frozenset({"rank"})}, "which joins the events of the two logs"),
        ({"ignore": frozenset({"prediction_sample.fingerprint"})}, "which joins the events of the two logs"),
        ({"rtol": -1.0}, "at least 0"),
        ({"atol": math.nan}, "at least 0"),
        ({"rtol": 1.0, "exact": True}, "--exact"),
    ],
)
def test_a_mistaken_option_is_refused(options, says):
    """Unknown names are refused with the nearest known name."""
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        DiffOptions(**options)


# What cannot be compared


def test_logs_without_a_common_event_cannot_be_compared():
    """Logs without a common event are not equal. The error lists the steps of both sides."""
    ours, theirs = records_of([run_start(), train_step(step=1)]), records_of([run_start(), train_step(step=2)])
    with pytest.raises(UserError, match=r"2 events, step 1\..*2 events, step 2\."):
        diff(ours, theirs)
    for side in (ours, []):
        with pytest.raises(UserError, match="no event"):
            diff(side, [])
    assert diff(ours[:1], theirs[:1]).same  # runs that ended before the first logged step


def test_nothing_left_to_compare_is_not_the_same():
    """A field that no event has compares nothing."""
    records = records_of([train_step()])
    with pytest.raises(UserError, match="fields to compare"):
        diff(records, records, options=DiffOptions(only=frozenset({"first.labels"})))


@pytest.mark.parametrize("record", [{"event": 3}, {"event": "x", "value": object()}, {}])
def test_what_is_no_record_is_refused(record):
    """Records are builtins with the name of their event."""
    with pytest.raises(UserError, match=r"records\[0\]"):
        diff([record], [])


def test_records_are_left_as_they_are():
    """A sink's records are compared, not changed."""
    records = [record_of(event) for event in run_of()]
    before = copy.deepcopy(records)
    assert diff(iter(records), records).same
    assert records == before


def test_hostile_events_are_compared_as_well():
    """Unknown events, keys of any type, deep nesting, other versions."""
    deep = orjson.loads("[" * 200 + "]" * 200)
    strange = [
        {"event": "x", "step": [1], "rank": {"a": None}, "codebook": True, "value": deep},
        {"event": "train_step", "v": 2, "rank": 0, "step": -1, "loss": "none"},
        {"event": "", "nonfinite": ["x"]},
    ]
    assert diff(strange, strange[::-1]).same
    for index in range(len(strange)):
        other = copy.deepcopy(strange)
        other[index]["new"] = 1
        assert not diff(strange, other).same


def test_a_field_that_one_side_lacks_is_told_from_null():
    """Missing is not null."""
    ours = records_of([train_step()])
    theirs = [{name: value for name, value in ours[0].items() if name != "grad_norm"}]
    first = diff(ours, theirs).first
    assert (first.field, first.got) == ("grad_norm", MISSING)


def test_sink_outages_at_another_place_are_the_same():
    """An event without a step is joined by content."""
    ours, theirs = run_of(), run_of()
    ours.insert(3, sink_recovered())
    theirs.insert(9, sink_recovered())
    assert diff(records_of(ours), records_of(theirs)).same


def test_names_of_fields_may_be_endless():
    """A log with a new field in every line does not fill the memory."""
    ours = [{"event": "x", "rank": 0, "step": step} for step in range(3_000)]
    theirs = [record | {f"field{record['step']}": 1} for record in ours]
    comparison = diff(ours, theirs)
    assert comparison.counts == {"other": 3_000}
    assert len(comparison.worst) == 100
    by_path = defaultdict(int, {field.path: field.differing for field in comparison.worst})
    assert by_path["....other fields"] == 1_000
