"""`validate` accepts whatever the sinks can write, and finds what was done to it since."""
# ruff: noqa: E501 - messages are compared whole, each on its line

import copy
import errno
import gzip
import json
import os
import re
import tracemalloc
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schemas
import sinks.jsonl
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS
from higgs_audio_trainer.logs.gaps import gaps
from higgs_audio_trainer.logs.typed import typed
from higgs_audio_trainer.logs.validation.members import repeated_member
from higgs_audio_trainer.logs.validation.strict import invalid_field, is_plain
from higgs_audio_trainer.logs.validation.validate import validate
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.jsonl import JsonlSink
from tests.builders import (
    RUN_ID,
    all_events,
    audio_sample,
    cap_reached,
    checkpoint,
    diagnosis,
    eval_result,
    fixed_clock,
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
from tests.plausible import end_of, run
from tests.test_reader import dump, file_of

FIXTURES = Path(__file__).parent / "fixtures" / "logs"
SCHEMAS = {name: Draft202012Validator(json.loads(schemas.load(name))) for name in EVENTS}


def errors_of(*paths):
    """Return the errors of a log."""
    return [finding for finding in validate(*paths) if finding.severity == "error"]


# Whatever the sinks can write


class Flaky:
    """A sink that fails at some of its calls, and leaves a part of the line in the file at some of these."""

    def __init__(self, sink, failing):
        self.sink, self.failing, self.calls = sink, failing, 0

    def __call__(self, record):
        self.calls += 1
        if self.calls in self.failing:
            if self.failing[self.calls]:
                with self.sink.path.open("ab") as file:
                    file.write(orjson.dumps(dict(record))[: self.failing[self.calls]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.sink(record)


@settings(max_examples=150, deadline=None, phases=[Phase.generate])
@given(
    st.integers(0, 2**32),
    st.sampled_from([{}, {"max_bytes": 4096}, {"max_bytes": 4096, "keep": 2}, {"max_total_bytes": 15_000}]),
    st.dictionaries(st.integers(1, 40), st.sampled_from([0, 0, 1, 50]), max_size=6),
    st.sampled_from([sinks.jsonl.MAX_LINE_BYTES, 900]),
)
def test_whatever_the_sink_writes_is_clean(seed, options, failing, longest):
    """Segments, caps, short lines, values that no line holds, outages and torn lines: no finding is an error.

    But for an outage whose `sink_recovered` the cap keeps out, or whose segment is gone with `keep`: then the log does
    not explain a gap, or a `run_start` that is missing.
    """
    failing = {} if "max_total_bytes" in options else failing
    failing = {call: size for call, size in failing.items() if call > 1} if "keep" in options else failing
    events = run(Random(seed), ":".join(["jsonl", *(f"{name}={value}" for name, value in options.items())]))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinks.jsonl, "MAX_LINE_BYTES", longest)
        sink = JsonlSink(file_of(folder), say=lambda text: None, **options)
        flaky = Flaky(sink, failing)
        pipeline = Pipeline([("jsonl", flaky)], run_id=RUN_ID, clock=fixed_clock, say=lambda text: None)
        for event in events:
            pipeline(event)
        flaky.failing = {}
        pipeline.recover()
        pipeline(end_of(events, pipeline))
        sink.close()
        assert errors_of(folder) == []


def test_the_demo_is_clean(demo):
    """So is the log of a real training."""
    found = validate(demo[0] / "higgs-demo" / "run")
    assert list(found) == []
    assert found.events > 10


@pytest.mark.parametrize("name", ["first_light", "trust"])
def test_older_logs_are_clean(name):
    """So are the logs of older versions, of which one was stopped and resumed."""
    assert list(validate(FIXTURES / name)) == []


# What was done to it since

EVENTS_OF_A_RUN = [
    run_start(num_codebooks=2, config={"text_loss_weight": 1.0}),
    train_step(step=20),
    text_sample(step=20),
    eval_result(step=20),
    checkpoint(step=20),
    run_end(step=20, events_written=5),
]


def a_run(*events, attempt=0, rank=0):
    """Make the records of a clean run."""
    made = [{**record_of(event), "rank": rank, "attempt": attempt} for event in events or EVENTS_OF_A_RUN]
    return [json.loads(orjson.dumps({**record, "seq": seq})) for seq, record in enumerate(made)]


def found_in(tmp_path, records, **place):
    """Write records and return what is found, without the folder and the byte offset."""
    path = file_of(tmp_path, **place)
    path.write_bytes(records if isinstance(records, bytes) else dump(records))
    return [re.sub(r" \(byte \d+\)", "", str(finding).replace(f"{path.parent}/", "")) for finding in validate(tmp_path)]


def test_the_run_is_clean(tmp_path):
    """The run that the other tests spoil is."""
    assert found_in(tmp_path, a_run()) == []


def test_texts_of_samples_are_free(tmp_path):
    """Any text is sound, another text of the same sample, an empty text, none at all, and an older log without one."""
    records = a_run()
    samples = [record for record in records if record["event"] == "prediction_sample"]
    for record, text in zip(samples, cycle(["Good night.", "صباح الخير", "", None]), strict=False):
        record["text"] = text
    assert found_in(tmp_path, records) == []
    for record in samples:
        del record["text"]
    assert found_in(tmp_path, records) == []


@pytest.mark.parametrize("name", EVENTS)
def test_every_field_of_the_wrong_type_is_found(name, tmp_path):
    """Each field of each event, and of its windows, that is missing, or of a type that it cannot have."""
    record = next(
        record for record in map(json.loads, map(orjson.dumps, map(record_of, all_events()))) if record["event"] == name
    )
    schema = SCHEMAS[name].schema
    required = schema.get("$defs", {}).get("Window", {}).get("required")
    missed = []
    for key in record:
        spoiled = [{k: v for k, v in record.items() if k != key}] if key in schema["required"] else []
        spoiled += [record | {key: value} for value in ("a text", 5, 0.5, None, [], [None], {}, True, [{}], {"a": 1})]
        if required and key in ("first", "last"):
            for part in record[key]:
                if part in required:
                    spoiled.append(record | {key: {k: v for k, v in record[key].items() if k != part}})
                spoiled += [record | {key: record[key] | {part: value}} for value in (5, {}, True, ["x"], [0.5], "a")]
        for changed in spoiled:
            if changed != record and type(changed.get(key)) is not type(record[key]):
                fits = SCHEMAS[name].is_valid(changed) and changed.get(key) is not None
                if not fits and not found_alone(tmp_path, changed) and not may_be_null(name, key, changed):
                    missed.append((key, changed.get(key)))
    assert missed == []


def may_be_null(name, key, changed):
    nullable = {
        "resumed_from_step",
        "grad_norm",
        "errno",
        "codebook",
        "num_codebooks",
        "divisor",
        "times_real_time",
        "seconds_left",
        "lost_ranks",
        *("step_ms_max", "step_ms_median", "slowest_rank"),
        "audio",
    }
    return key in nullable and key in changed and changed[key] is None and name != "prediction_sample"


def found_alone(tmp_path, record):
    """Return the errors of a line that stands alone, but for those of a log that is one line long."""
    path = tmp_path / "line.jsonl"
    path.write_bytes(orjson.dumps(record) + b"\n")
    return [finding for finding in errors_of(path) if finding.kind not in ("gap", "run_start", "run_end")]


def changed(record, path, value):
    """Return a copy of a record with one value changed."""
    copied = copy.deepcopy(record)
    *way, last = path
    target = copied
    for step in way:
        target = target[step]
    target[last] = value
    return copied


TEXT = json.loads(orjson.dumps(record_of(text_sample())))
AUDIO = json.loads(
    orjson.dumps(record_of(audio_sample(first=window([1, 2, 3, 4, 1025]), last=window([5], [6], start=20))))
)
AUDIO |= {"num_targets": 6, "num_correct": 5, "accuracy": 5 / 6}
STEP = json.loads(orjson.dumps(record_of(train_step())))
COUNTS = json.loads(orjson.dumps(record_of(token_counts())))
RANKED = copy.deepcopy(TEXT)
RANKED["first"] |= {"label_ranks": [1, 1, 1, 1, 9], "label_probabilities": [0.5, 0.5, 0.5, 0.5, 1e-9]}
VALUES = [
    (
        TEXT,
        ("ts",),
        "2026-13-02T03:04:05.000060Z",
        "$.ts: expected an existing date and time, got '2026-13-02T03:04:05.000060Z'",
    ),
    (TEXT, ("ts",), "yesterday", "$.ts: expected str matching regex"),
    (TEXT, ("seq",), -1, "$.seq: expected int >= 0, got -1"),
    (TEXT, ("rank",), -1, "$.rank: expected int >= 0, got -1"),
    (TEXT, ("run_id",), "", "$.run_id: expected the name of a run, got an empty string"),
    (TEXT, ("level",), "fatal", "$.level: expected debug or info or warning or error, got 'fatal'"),
    (TEXT, ("split",), "test", "$.split: expected train or eval or probe, got 'test'"),
    (
        TEXT,
        ("v",),
        2,
        "$.v: expected 1, got 2 of a newer higgs-audio-trainer, as perhaps in more lines; check the log with that version",
    ),
    (TEXT, ("step",), 0, "$.step: expected at least 1 because the split is train, got 0"),
    (TEXT, ("epoch",), -1.0, "$.epoch: expected at least 0, got -1.0"),
    (TEXT, ("modality",), "audio", "$.num_codebooks: expected at least 1 because the modality is audio, got null"),
    (TEXT, ("codebook",), 0, "$.codebook: expected null because the modality is text, got 0"),
    (TEXT, ("shift",), -1, "$.shift: expected at least 0, got -1"),
    (TEXT, ("logits_shape",), [24], "$.logits_shape: expected [N, V] because the modality is text, got [24]"),
    (TEXT, ("labels_shape",), [23], "$.labels_shape: expected [24] because logits_shape is [24, 128256], got [23]"),
    (TEXT, ("num_targets",), 25, "$.num_targets: expected at most 24, the rows of logits_shape, got 25"),
    (TEXT, ("num_targets",), 13, "$.accuracy: expected num_correct / num_targets, 0.769231, got 0.8333333333333334"),
    (TEXT, ("num_correct",), 13, "$.num_correct: expected at most num_targets, 12, got 13"),
    (TEXT, ("accuracy",), 0.5, "$.accuracy: expected num_correct / num_targets, 0.833333, got 0.5"),
    (TEXT, ("accuracy",), None, "$.accuracy: expected num_correct / num_targets, 0.833333, got null"),
    (TEXT, ("loss",), None, "$.loss: expected a number because num_targets is 12, got null"),
    (TEXT, ("loss",), -0.5, "$.loss: expected a cross-entropy, at least 0, got -0.5"),
    (TEXT, ("stop_targets",), 13, "$.stop_targets: expected at most num_targets, 12, got 13"),
    (TEXT, ("first", "positions", 1), 9, "$.first.positions[1]: expected 11, the next position, got 9"),
    (TEXT, ("first", "labels", 1), -1, "$.first.labels[1]: expected a token or -100, got -1"),
    (TEXT, ("first", "labels", 1), -100, "$.first.predictions[1]: expected null because the label is -100, got 5678"),
    (
        TEXT,
        ("first", "predictions", 1),
        None,
        "$.first.predictions[1]: expected a token because the label is 5678, got null",
    ),
    (
        TEXT,
        ("first", "predictions", 1),
        -3,
        "$.first.predictions[1]: expected a token because the label is 5678, got -3",
    ),
    (TEXT, ("first", "inputs", 1), -3, "$.first.inputs[1]: expected a token or null, got -3"),
    (
        TEXT,
        ("first", "labels", 1),
        128256,
        "$.first.labels[1]: expected a token, less than 128256, or -100, got 128256",
    ),
    (
        TEXT,
        ("last", "predictions", 0),
        128256,
        "$.last.predictions[0]: expected a token less than 128256 because the label is 2345, got 128256",
    ),
    (AUDIO, ("first", "inputs", 1), 1026, "$.first.inputs[1]: expected a token less than 1026 or null, got 1026"),
    (AUDIO, ("first", "labels", 1), 1026, "$.first.labels[1]: expected a token, less than 1026, or -100, got 1026"),
    (
        AUDIO,
        ("first", "positions", 0),
        0,
        "$.first.positions[0]: expected at least 1 because no row precedes position 0, got 0",
    ),
    (
        record_of(run_end(events_written=0)),
        ("reason",),
        "done",
        "$.reason: expected one of completed, SIGTERM, SIGINT, SIGHUP, ",
    ),
    (
        record_of(checkpoint()),
        ("path",),
        "checkpoint-9",
        "$.path: expected checkpoint-20, the number of the step, got ",
    ),
    (record_of(run_start()), ("versions",), {}, "$.versions: expected at least the version of Python, got none"),
    (TEXT, ("first", "inputs"), [None], "$.first.inputs: expected 5 items, as many as positions, got 1"),
    (
        TEXT,
        ("last", "label_text"),
        "x",
        "$.last.predicted_text: expected a text because the other text is decoded, got null",
    ),
    (STEP, ("loss",), None, "$.loss: expected a number, or a null listed in `nonfinite` or `replaced`, got null"),
    (STEP, ("audio_loss",), 3.0, "$.audio_loss: expected the mean of the codebooks, 3.30096, got 3.0"),
    (STEP, ("text_accuracy",), 1.5, "$.text_accuracy: expected a share from 0 to 1, got 1.5"),
    (STEP, ("text_accuracy",), None, "$.text_accuracy: expected a number because text_targets is 16, got null"),
    (STEP, ("text_targets",), 0, "$.text_accuracy: expected null because text_targets is 0, got 0.8125"),
    (
        STEP,
        ("audio_loss_per_codebook",),
        [3.30096],
        "$.audio_accuracy_per_codebook: expected 1 items, as many as audio_loss_per_codebook, got 2",
    ),
    (STEP, ("audio_loss_per_codebook", 1), "x", "$.audio_loss_per_codebook[1]: expected float, got str"),
    (
        STEP,
        ("audio_targets",),
        1,
        "$.audio_targets: expected at least one for each of 2 codebooks with an accuracy, got 1",
    ),
    (STEP, ("learning_rate",), -1.0, "$.learning_rate: expected at least 0, got -1.0"),
    (STEP, ("grad_norm",), -1.0, "$.grad_norm: expected at least 0, got -1.0"),
    (STEP, ("step_ms",), -1.0, "$.step_ms: expected float >= 0.0, got -1.0"),
    (record_of(sink_recovered()), ("lost",), 9, "$.lost: expected 2 to 3 because the range is seq 4 to 6, got 9"),
    (record_of(sink_recovered()), ("last_seq",), 3, "$.last_seq: expected at least first_seq, 4, got 3"),
    (
        record_of(cap_reached()),
        ("total_bytes",),
        2_000_000,
        "$.total_bytes: expected at most max_total_bytes, 1000000, got 2000000",
    ),
    (
        record_of(run_start()),
        ("resumed_from_step",),
        -1,
        "$.resumed_from_step: expected at least 0, got -1",
    ),
    (record_of(run_start()), ("versions", "torch"), 2, "$.versions.torch: expected str, got int"),
    (TEXT, ("stop_rank",), None, "$.stop_rank: expected a number because stop_targets is 1, got null"),
    (TEXT, ("stop_rank",), 0, "$.stop_rank: expected int >= 1, got 0"),
    (TEXT, ("stop_targets",), 0, "$.stop_rank: expected null because stop_targets is 0, got 3"),
    (TEXT, ("stop_probability",), 1.5, "$.stop_probability: expected a probability from 0 to 1, got 1.5"),
    (RANKED, ("first", "label_ranks", 1), 0, "$.first.label_ranks[1]: expected a rank, at least 1, got 0"),
    (RANKED, ("first", "label_ranks"), [1], "$.first.label_ranks: expected 5 items, as many as positions, got 1"),
    (
        RANKED,
        ("first", "label_ranks", 1),
        None,
        "$.first.label_ranks[1]: expected a number because the label is 5678, got null",
    ),
    (
        RANKED,
        ("first", "label_probabilities", 2),
        -0.5,
        "$.first.label_probabilities[2]: expected a probability from 0 to 1",
    ),
    (COUNTS, ("codebook",), 0, "$.codebook: expected null because the modality is text, got 0"),
    (COUNTS, ("num_targets",), 17, "$.num_targets: expected the sum of supervised, 16, got 17"),
    (COUNTS, ("num_correct",), 17, "$.num_correct: expected at most num_targets, 16, got 17"),
    (COUNTS, ("stop_targets",), 17, "$.stop_targets: expected at most num_targets, 16, got 17"),
    (COUNTS, ("stop_correct",), 2, "$.stop_correct: expected at most stop_targets, 1, got 2"),
    (COUNTS, ("masked", "prompt"), -1, "$.masked.prompt: expected at least 0, got -1"),
    (COUNTS, ("label_matches",), [1, 2, 16, 2], "$.label_matches: expected 5 items, one for each offset, got 4"),
    (COUNTS, ("label_matches", 2), 17, "$.label_matches[2]: expected 0 to num_targets, 16, got 17"),
    (
        COUNTS,
        ("offset_matches", 1),
        3,
        "$.offset_matches[1]: expected at most 2, offset_contested - offset_correct, got 3",
    ),
    (COUNTS, ("offset_surplus", 1), None, "$.offset_surplus[1]: expected a number, or a null listed in"),
    (COUNTS, ("stop_rank",), None, "$.stop_rank: expected a number because stop_targets is 1, got null"),
    (COUNTS, ("stop_rank",), 0.5, "$.stop_rank: expected float >= 1.0, got 0.5"),
    (COUNTS, ("divisor",), -1.0, "$.divisor: expected at least 0, got -1.0"),
    (COUNTS, ("unigram_accuracy",), 1.5, "$.unigram_accuracy: expected a share from 0 to 1, got 1.5"),
    (COUNTS, ("unigram_loss",), -0.5, "$.unigram_loss: expected at least 0, got -0.5"),
    (COUNTS, ("top_prediction",), None, "$.top_prediction: expected a number because num_targets is 16, got null"),
    (COUNTS, ("strip",), "57p", "$.strip: expected null because the step is not 1, got '57p'"),
    (
        COUNTS | {"step": 1},
        ("strip",),
        "0p",
        "$.strip: expected runs of a count and a symbol, as in 57p 1# 72_ 2#, got '0p'",
    ),
    (record_of(diagnosis()), ("codebook",), 3, "$.modality: expected audio because the codebook is 3, got null"),
    (
        record_of(run_end(events_written=0)),
        ("diagnoses",),
        {"collapsed": "x"},
        "$.diagnoses.collapsed: expected int, got str",
    ),
]


@pytest.mark.parametrize(
    "record", [TEXT, AUDIO, STEP, COUNTS, RANKED], ids=["text", "audio", "step", "counts", "ranked"]
)
def test_the_lines_that_are_spoiled_are_sound(record, tmp_path):
    """So that each finding below is the change's. A text may be predicted from a token that it never predicts."""
    assert found_alone(tmp_path, record) == []
    if record is TEXT:
        assert found_alone(tmp_path, changed(record, ("first", "inputs", 1), 128256)) == []


@pytest.mark.parametrize(("record", "path", "value", "message"), VALUES, ids=lambda item: str(item)[:30])
def test_a_value_that_cannot_be_is_found(record, path, value, message, tmp_path):
    """One value is changed; the finding says where it is, what was expected and what there is."""
    (*_, first), *_ = [str(finding).partition(": ") for finding in found_alone(tmp_path, changed(record, path, value))]
    assert first.startswith(message)


def spoiled(change):
    """Make the bytes of the clean run with a change to its records."""
    records = a_run()
    change(records)
    return dump(records)


def drop(*indices):
    def change(records):
        records[:] = drop_of(records, *indices)

    return change


def drop_of(records, *indices):
    return [record for index, record in enumerate(records) if index not in indices]


def put(index, **values):
    return lambda records: records[index].update(values)


LOGS = [
    (
        dump(a_run())[:-20],
        ["rank00000-attempt000.jsonl:6: $: expected a JSON object, got a torn last line"],
    ),
    (
        spoiled(drop(5)),
        [":5: $.event: expected run_end as the last line, got checkpoint: the process was killed, or"],
    ),
    (
        spoiled(drop(0)),
        [":1: $.seq: expected seq 0, got none, and", ":1: $.event: expected run_start as the first"],
    ),
    (spoiled(drop(2)), [":3: $.seq: expected seq 2, got none, and no event explains the gap"]),
    (
        spoiled(put(3, seq=9)),
        [
            ":5: $.seq: expected more than 9, the previous seq, got 4",
            ":4: $.seq: expected seq 3, got none",
            ":4: $.seq: expected seq 6 to 8, got none",
        ],
    ),
    (spoiled(put(2, step=19)), [":3: $.step: expected at least 20, the previous step, got 19"]),
    (
        spoiled(put(2, run_id="other")),
        [
            ":3: $.run_id: expected '20260102-030405-abcd', the run of the lines before, got 'other', another run",
            ":4: ",
        ],
    ),
    (
        spoiled(put(2, rank=1)),
        [
            ":3: $.rank: expected less than world_size, 1, got 1",
            ":3: $.rank: expected 0, as in the file's name, got 1",
        ],
    ),
    (spoiled(put(2, attempt=3)), [":3: $.attempt: expected 0, as in the file's name, got 3"]),
    (
        spoiled(put(2, event="later")),
        [":3: $.event: expected one of run_start, train_step, prediction_sample, "],
    ),
    (
        spoiled(lambda records: records.insert(5, records[4])),
        [":6: $.seq: expected more than 4, the previous seq, got 4, a repeated line"],
    ),
    (
        spoiled(lambda records: records.insert(1, records[0])),
        [":2: $.event: expected run_start only as the first line, got a second run_start", ":2: "],
    ),
    (
        spoiled(lambda records: records.insert(3, records[2] | {"seq": 9})),
        [
            ":5: ",
            ":4: $: expected one train prediction_sample of sample 0, text, of step 20, got a repetition of ",
        ],
    ),
    (
        dump(a_run()) + dump([a_run()[4] | {"seq": 6}]),
        [":7: $.event: expected no line after run_end, got checkpoint"],
    ),
    (
        dump(a_run()).replace(b'"step":20', b'"step":3,"step":20', 1),
        [":2: $: expected each member of a JSON object once, got 'step' twice"],
    ),
    (b"", [":1: $: expected run_start as the first line, got no line"]),
]


@pytest.mark.parametrize(("data", "expected"), LOGS)
def test_what_was_done_to_a_log_is_found(data, expected, tmp_path):
    """Lines torn, left out, repeated, in another order or of another run; the first findings are compared."""
    found = found_in(tmp_path, data)
    for line in expected:
        assert any(line in text for text in found), found


def test_an_outage_is_a_note_and_a_torn_line_within_it_too(tmp_path):
    """What the log itself accounts for is said, and is no error."""
    records = a_run(run_start(num_codebooks=2), *[checkpoint(step=n) for n in range(5)], run_end(events_written=3))
    claim = a_run(sink_recovered(lost=2, first_seq=2, last_seq=3))[0] | {"seq": 5}
    lines = dump([*records[:2]]) + b'{"event":"x",\n' + dump([records[4], claim, records[6] | {"step": 30}])
    assert found_in(tmp_path, lines) == [
        "rank00000-attempt000.jsonl:4: $.seq: expected seq 2 to 3, got none: lost by sink jsonl (ENOSPC, No space left on device), reported by sink_recovered at seq 5",
        "rank00000-attempt000.jsonl:3: $: expected a JSON object, got 14 bytes that are not JSON (unexpected end of data: line 2 column 1 (char 14)): the rest of a failed write of an event reported as lost",
    ]
    assert errors_of(tmp_path) == []


def test_a_killed_attempt_that_was_resumed_is_a_note(tmp_path):
    """It has no run_end; the attempt after it has."""
    file_of(tmp_path, attempt=0).write_bytes(dump(a_run()[:3]))
    resumed = [
        run_start(num_codebooks=2, resumed_from_step=20),
        train_step(step=21),
        run_end(step=21, events_written=2),
    ]
    found = found_in(tmp_path, a_run(*resumed, attempt=1), attempt=1)
    assert len(found) == 1
    assert found[0].endswith(
        "expected run_end as the last line, got prediction_sample: the process was killed, then resumed"
    )
    assert errors_of(tmp_path) == []


KEEPING = {"text_loss_weight": 1.0, "sinks": "jsonl:max_bytes=1M:keep=1"}


@pytest.mark.parametrize(
    ("config", "segment", "severity"),
    [(KEEPING, 2, "note"), (KEEPING, 0, "error"), (KEEPING | {"sinks": "jsonl:max_bytes=1M"}, 1, "error")],
)
def test_keep_explains_the_segments_it_removed_alone(config, segment, severity, tmp_path):
    """Not lines that are gone from a first segment, nor a first segment that somebody else removed."""
    records = a_run(run_start(config=config), *[checkpoint(step=n) for n in range(8)], run_end(events_written=9))
    path = file_of(tmp_path, segment=segment)
    path.write_bytes(dump(drop_of(records, 1, 2, 3)))
    (found,) = validate(tmp_path)
    assert (found.expected, found.severity) == ("seq 1 to 3", severity)
    assert [gap.explained_by for gap in gaps(tmp_path)] == ["keep" if severity == "note" else None]
    joined = tmp_path / "joined.jsonl"
    path.rename(joined)
    (found,) = validate(joined)
    assert found.severity == ("note" if config is KEEPING else "error")


def test_an_attempt_without_files_is_a_note(tmp_path):
    """Nobody can tell whether it wrote any."""
    for attempt in (0, 3):
        file_of(tmp_path, attempt=attempt).write_bytes(dump(a_run(attempt=attempt)))
    assert found_in(tmp_path, a_run(attempt=4), attempt=4) == [
        "rank00000-attempt003.jsonl:1: $.attempt: expected files of attempts 1 to 2, got none"
    ]
    assert errors_of(tmp_path) == []


def test_counts_are_of_the_last_iteration(tmp_path):
    """Whoever iterates twice sees the same findings twice, and counts them once."""
    file_of(tmp_path).write_bytes(dump(a_run()[:-1]))
    found = validate(tmp_path)
    assert list(found) == list(found)
    assert (found.events, found.errors) == (5, 1)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 0, 2, 3, 4, 5], []),  # as segments that were put together
        ([0, 1, 0, 1, 2, 3, 4, 5], []),  # the line whose fate was not known is there twice
        (
            [0, 1, 2, 3, 4, 5, 0],
            [":7: $.event: expected run_start only before lines with a higher seq, got run_start as the last line"],
        ),
        (
            [0, 1, 0, 0, 2, 3, 4, 5],
            [":3: $.event: expected run_start only before lines with a higher seq, got run_start before seq 0"],
        ),
        (
            [0, 1, 2, 0, 1, 3, 4, 5],
            [":4: $.event: expected run_start only before lines with a higher seq, got run_start before seq 1"],
        ),
    ],
)
def test_run_start_again_in_a_joined_file(order, expected, tmp_path):
    """Segments begin with it: it may stand where the numbers go on."""
    records, path = a_run(), tmp_path / "joined.jsonl"
    path.write_bytes(dump([records[index] for index in order]))
    found = [re.sub(r" \(byte \d+\)", "", str(finding)) for finding in errors_of(path)]
    assert found[:1] == [f"{path}{text}" for text in expected]


def test_a_golden_is_clean(tmp_path):
    """It lacks what two runs may differ in; all else is held against the schema."""
    records = [{key: value for key, value in record.items() if key not in VOLATILE_FIELDS} for record in a_run()]
    path = tmp_path / "golden.jsonl"
    path.write_bytes(dump(records))
    assert list(validate(path)) == []
    path.write_bytes(dump([records[0], {key: value for key, value in records[1].items() if key != "loss"}]))
    assert [finding.path for finding in validate(path)] == ["$.loss"]
    path.write_bytes(dump([a_run()[0], {key: value for key, value in a_run()[1].items() if key != "ts"}]))
    assert "$.ts" in [finding.path for finding in validate(path)]


def test_unknown_fields_are_noted_once(tmp_path):
    """A newer version may have written them; a misspelt one is one of these."""
    records = a_run(*EVENTS_OF_A_RUN[:2], train_step(step=21), run_end(events_written=3))
    for record in records[1:3]:
        record["novel"] = 1
    (found,) = found_in(tmp_path, records)
    assert found == (
        "rank00000-attempt000.jsonl:2: $.novel: expected a field of train_step, got a field unknown to this version; "
        "a processor of the run may have added the field, or a newer version may have written the line"
    )


def test_nothing_there_is_said(tmp_path):
    """At the call, before anything is read."""
    with pytest.raises(UserError, match="none: No such file or directory"):
        validate(tmp_path / "none")


def test_counts_are_said_once_a_step(tmp_path):
    """Of text and of each codebook."""
    counts = [token_counts(), *(token_counts(codebook=codebook, num_codebooks=2) for codebook in range(2))]
    step = train_step(audio_targets=32, audio_accuracy_per_codebook=(13 / 16, 13 / 16))
    events = [run_start(num_codebooks=2), step, *counts]
    end = run_end(step=20, events_written=6)
    assert found_in(tmp_path, a_run(*events, diagnosis(), end)) == []
    (found,) = found_in(tmp_path, a_run(*events, counts[-1], end))
    assert ": $: expected one token_counts of audio codebook 1 of step 20, got a repetition of " in found


# The schema


def replaced_at(value, path, new):
    """Return a copy of JSON with the value at a path replaced, or removed where `new` is ...."""
    if not path:
        return new
    step, *rest = path
    copied = copy.copy(value)
    if rest:
        copied[step] = replaced_at(value[step], rest, new)
    elif new is ...:
        del copied[step]
    else:
        copied[step] = new
    return copied


def paths_of(value):
    """List the paths of all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in ([key], *([key, *rest] for rest in paths_of(item)))]


ODD = [..., None, True, "", "text", -1, 0, 3, 2**64 - 1, 0.5, -0.5, [], [1], [None], ["x"], {}, {"a": 1}, {"a": "b"}]


@settings(max_examples=400, deadline=None, phases=[Phase.generate])
@given(random_events(), st.integers(0, 10**6), st.sampled_from(ODD))
def test_the_verdict_is_that_of_the_json_schemas(event, choice, odd):
    """A random event with a random change: `invalid_field` and the committed schema agree, but for what a line says of itself."""
    record = json.loads(orjson.dumps(record_of(event)))
    paths = [path for path in paths_of(record) if path[0] not in ("event", "v")]
    record = replaced_at(record, paths[choice % len(paths)], odd)
    found = invalid_field(record)
    if found is not None:
        assert not SCHEMAS[event.name].is_valid(record), found
    elif "nonfinite" not in record and "replaced" not in record:
        assert SCHEMAS[event.name].is_valid(record)
    if is_plain(record):
        assert found is None
        assert typed(record).extra == {}


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_what_nearly_every_line_is(event):
    """An event is plain as it is emitted, and not where a line has more than its schema or says more of itself."""
    record = json.loads(orjson.dumps(record_of(event)))
    assert is_plain(record)
    for more in ({"nonfinite": []}, {"extra": 1}, {"newer": 1}, {"v": 2}, {"v": True}, {"event": "newer"}, {"seq": -1}):
        assert not is_plain(record | more)
    if event.name == "prediction_sample":
        assert not is_plain(record | {"first": record["first"] | {"newer": 1}})
    if event.name == "generation_sample":
        assert not is_plain(record | {"first": [record["first"][0] | {"newer": 1}]})


def test_repeated_members_are_seen_however_deep(tmp_path):
    """Numbers and spaces that are written otherwise are no repetition."""
    for raw, name in [
        (b'{"event":"x","a":{"b":1,"b":1}}\n', "b"),
        (b'{"event": "x", "a": 1e2, "c": 10000000000000000000000000}\n', None),
        (b'{"event":"x","event":"x"}', "event"),
    ]:
        assert repeated_member(raw, orjson.loads(raw)) == name


# Anything at all

CLEAN = dump(a_run())


@settings(max_examples=150, deadline=None, phases=[Phase.generate])
@given(st.lists(st.tuples(st.integers(0, len(CLEAN) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(CLEAN)))
def test_flipped_and_cut_bytes_raise_nothing(flips, size):
    """Nor do those of a compressed log; and a log that is not the clean one has a finding, unless its text alone differs."""
    data = bytearray(CLEAN)
    for position, value in flips:
        data[position] = value
    with TemporaryDirectory() as folder:
        file_of(folder).write_bytes(data[:size])
        list(validate(folder))
        path = Path(folder) / "x.jsonl.gz"
        path.write_bytes(gzip.compress(bytes(data))[:size])
        list(validate(path))


@settings(max_examples=150, deadline=None, phases=[Phase.generate])
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing(data):
    """Whatever they are."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(data)
        assert errors_of(path)


def test_memory_is_constant_in_the_length_of_the_log(tmp_path):
    """Ten times as many steps take no more."""
    peaks = []
    for steps in (300, 3000):
        events = [train_step(step=step) for step in range(1, steps)]
        file_of(tmp_path).write_bytes(dump(a_run(run_start(num_codebooks=2), *events, run_end(step=steps))))
        list(validate(tmp_path))
        tracemalloc.start()
        found = validate(tmp_path)
        assert [finding.path for finding in found] == (["$.events_written"] if steps < 1234 else [])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 50_000
