"""A `generation_sample` is read, shown, compared and validated, also where it follows events of later steps."""

import json
import random

import orjson
import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.events import CodesEnd, RunStart
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.logs.diff.compare import DiffOptions, diff
from higgs_audio_trainer.logs.diff.golden import write_golden
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.reader import read
from higgs_audio_trainer.logs.validation.validate import validate
from sinks.rendering.record import render
from tests.builders import (
    audio_sample,
    checkpoint,
    diagnosis,
    eval_result,
    generation_sample,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
)
from tests.plausible import generation, prompt
from tests.test_reader import dump, file_of

START = run_start(num_codebooks=2, config={"text_loss_weight": 1.0, "log_window": 5})
SPEECH = [generation_sample(probe="p-1"), generation_sample(probe="p-2", frames_label=None, agreement=None)]
SPEECH[1] = generation_sample(
    probe="p-2",
    frames_label=None,
    agreement=None,
    first=tuple(CodesEnd(codebook=end.codebook, codes=end.codes, labels=None) for end in SPEECH[0].first),
    last=(),
    frames=5,
)
#: The speech of step 20 follows the events of step 30.
LATE = [
    START,
    train_step(step=20),
    text_sample(step=20),
    eval_result(step=20),
    train_step(step=30),
    *SPEECH,
    diagnosis(step=20, code="never_stops", evidence={}),
    text_sample(step=30),
    run_end(step=30, events_written=9),
]


def lines_of(events, attempt=0):
    """Return the records of a log."""
    made = [record_of(event) | {"seq": seq, "attempt": attempt} for seq, event in enumerate(events)]
    return [orjson.loads(orjson.dumps(record)) for record in made]


def written(folder, events, **place):
    """Write a log and return its folder."""
    path = file_of(folder, **place)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(dump(lines_of(events, place.get("attempt", 0))))
    return folder


def moved(places):
    """Return the log with the speech, and the finding about it, at another place."""
    others = [event for event in LATE if event not in SPEECH and event.name != "diagnosis"]
    return [*others[:places], *SPEECH, LATE[7], *others[places:]]


# Validation


def found(tmp_path, events):
    """Return the places of the errors of a log."""
    return [(item.path, item.kind) for item in validate(written(tmp_path, events)) if item.severity == "error"]


@pytest.mark.parametrize("place", [4, 5, 6])
def test_late_speech_is_no_fault(tmp_path, place):
    """Speech and its findings may stand after events of later steps."""
    assert found(tmp_path, LATE) == found(tmp_path, moved(place)) == []


def test_speech_keeps_the_order_of_its_own_steps(tmp_path):
    """Speech of an earlier step than the speech before, or of one probe twice, is a fault. Others stay ordered."""
    assert found(tmp_path, [START, *SPEECH, generation_sample(step=10)])[0] == ("$.step", "step")
    assert found(tmp_path, [START, *SPEECH, SPEECH[0]])[0] == ("$", "duplicate")
    assert found(tmp_path, [START, train_step(step=30), generation_sample(step=40), train_step(step=35)])[0] == (
        "$.step",
        "step",
    )
    assert found(tmp_path, [START, train_step(step=30), checkpoint(step=20)])[0] == ("$.step", "step")


ENDS = {"first": SPEECH[0].first, "last": SPEECH[0].last}
FAULTS = [
    ({"probe": ""}, "$.probe: expected the id of a prompt"),
    ({"frames": 171}, "$.frames: expected at most 170, decoding.max_frames"),
    ({"stopped": False}, "$.frames: expected about 170, decoding.max_frames, because the model did not stop"),
    ({"longest_run": 81}, "$.longest_run: expected 1 to frames, 80"),
    ({"longest_run": 1}, "$.repeat_share: expected 0 because longest_run is 1"),
    ({"repeat_share": 0.0}, "$.repeat_share: expected more than 0 because longest_run is 2"),
    ({"repeat_share": 1.5}, "$.repeat_share: expected float <= 1.0"),
    ({"silence_share": -0.5}, "$.silence_share: expected float >= 0.0"),
    ({"silence_share": None}, "$.peak: expected null because silence_share is null"),
    ({"cer": 0.5}, "$.wer: expected a number because cer is 0.5"),
    ({"speaker_similarity": 1.5}, "$.speaker_similarity: expected float <= 1.0"),
    ({"agreement": (0.5,)}, "$.agreement: expected 2 items, num_codebooks of run_start"),
    ({"agreement": (0.5, 1.5)}, "$.agreement[1]: expected a share from 0 to 1"),
    ({"agreement": None}, "$.agreement: expected a list because frames_label is 85"),
    ({"audio": "/tmp/x.wav"}, "$.audio: expected a path within the output directory"),
    ({"audio": "audio/../../x.wav"}, "$.audio: expected a path within the output directory"),
    ({"frames": 7}, "$.last[0].codes: expected 2 codes because frames is 7 and log_window is 5"),
    ({"first": ENDS["first"] * 2}, "$.first[2].codebook: expected each codebook once in first"),
    (
        {"first": (CodesEnd(codebook=2, codes=(1, 2, 3, 4, 5), labels=()),)},
        "$.first[0].codebook: expected a codebook from 0 to 1",
    ),
    ({"first": (CodesEnd(codebook=0, codes=(1, 2, 3), labels=()),)}, "$.first[0].codes: expected 5 codes"),
    ({"first": (CodesEnd(codebook=0, codes=(1, 2, 3, 4, -1), labels=()),)}, "$.first[0].codes[4]: expected a code"),
    (
        {"first": (CodesEnd(codebook=0, codes=(1, 2, 3, 4, 5), labels=None),)},
        "$.first[0].labels: expected a list because frames_label is 85",
    ),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=lambda item: str(item)[:40])
def test_a_contradiction_is_found(tmp_path, changes, message):
    """Each rule between the values of a `generation_sample` is reported with the place, expected and got."""
    [found] = list(validate(written(tmp_path, [START, generation_sample(**changes), run_end()])))[:1]
    assert f"{found.path}: expected {found.expected}".startswith(message)


def test_random_speech_is_clean(tmp_path):
    """Speech of any length, stopped or not, with and without a recording and a waveform, fulfils every rule."""
    chance = random.Random(1)
    speech = [generation(chance, step, f"p{step}", prompt(chance)) for step in range(1, 200)]
    assert found(tmp_path, [run_start(num_codebooks=2), *speech, run_end(step=200, events_written=200)]) == []


# Order


@pytest.mark.parametrize("place", [2, 3, 4, 5, 6])
def test_another_place_is_no_difference(tmp_path, place):
    """Two equal runs may emit speech at different places. `diff` finds no difference, and goldens are equal."""
    ours, theirs = (written(tmp_path / name, events) for name, events in (("a", LATE), ("b", moved(place))))
    assert diff(ours, theirs, options=DiffOptions(exact=True)).same
    for name in ("a", "b"):
        write_golden(tmp_path / name, tmp_path / f"{name}.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert diff(tmp_path / "a.jsonl", theirs).same
    assert [item for item in validate(tmp_path / "a.jsonl") if item.severity == "error"] == []


def test_a_difference_of_speech_is_found(tmp_path):
    """A difference names probe, step and field. Codes are tokens, floats have tolerances, durations do not count."""
    first = SPEECH[0].first
    codes = (CodesEnd(codebook=0, codes=(12, 345, 678, 90, 13), labels=first[0].labels), first[1])
    changed = [generation_sample(first=codes, duration_s=9.0, silence_share=0.125 + 1e-9), *LATE[6:]]
    result = diff(lines_of(LATE), lines_of([*LATE[:5], *changed]))
    assert result.counts == {"tokens": 1}
    assert (result.first.place.step, result.first.place.sample_id, result.first.field) == (
        20,
        "p-1",
        "first[0].codes[4]",
    )
    louder = [generation_sample(silence_share=0.25), *LATE[6:]]
    assert diff(lines_of(LATE), lines_of([*LATE[:5], *louder])).counts == {"floats": 1}
    loose = DiffOptions(atol={"generation_sample.silence_share": 0.5})
    assert diff(lines_of(LATE), lines_of([*LATE[:5], *louder]), options=loose).same


def test_a_changed_prompt_is_a_difference_of_its_probe(tmp_path, capsys):
    """A probe is the same over runs, so another prompt differs by its fields, and is no missing event."""
    changed = [generation_sample(fingerprint="00", text="Au revoir."), *LATE[6:]]
    result = diff(lines_of(LATE), lines_of([*LATE[:5], *changed]))
    assert (result.lone, result.counts) == ({}, {"other": 2})
    for name, events in (("a", LATE), ("b", [*LATE[:5], *changed])):
        written(tmp_path / name, events)
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "step 20, generation_sample, probe p-1" in capsys.readouterr().out


# Steps for the checks, and attempts


def shown(parts):
    """Describe logged steps in short."""
    return [
        "start"
        if isinstance(part, RunStart)
        else (part.step, part.train is not None, part.evaluation is not None, len(part.samples), len(part.generations))
        for part in parts
    ]


def test_speech_is_a_logged_step_of_its_own(tmp_path):
    """Contiguous speech of a step is one part, at its place; samples of probes are neither training nor evaluation."""
    events = [*LATE[:3], text_sample(step=20, split="probe"), *LATE[3:5], LATE[8], *LATE[5:8], LATE[9]]
    parts = list(logged_steps(read(written(tmp_path, events))))
    assert shown(parts) == [
        "start",
        (20, True, False, 1, 0),
        (20, False, True, 0, 0),
        (30, True, False, 1, 0),
        (20, False, False, 0, 2),
    ]
    assert isinstance(parts[-1], LoggedStep)
    assert [event.probe for event in parts[-1].generations] == ["p-1", "p-2"]


def test_a_resumed_run_has_its_speech_once(tmp_path):
    """Speech counts for its own step: late speech of the stopped attempt stays, and repeated steps count once."""
    first = [START, train_step(step=20), train_step(step=30), *SPEECH, checkpoint(step=30), train_step(step=40)]
    first += [generation_sample(step=40), diagnosis(step=20)]
    second = [
        run_start(num_codebooks=2, resumed_from_step=30),
        train_step(step=40),
        train_step(step=50),
        generation_sample(step=40, peak=0.5),
    ]
    written(tmp_path, first)
    written(tmp_path, second, attempt=1)
    kept = [(event.attempt, event.event, event.step) for event in read(tmp_path) if event.event != "run_start"]
    assert (0, "train_step", 40) not in kept
    assert [(attempt, step) for attempt, event, step in kept if event == "generation_sample"] == [(0, 20)] * 2 + [
        (1, 40)
    ]


def test_filters_find_probes(tmp_path, capsys):
    """`show` finds speech by the id of the probe, and samples of probes by their split."""
    written(tmp_path, [*LATE[:3], audio_sample(step=20, split="probe", sample_id="p-1"), *LATE[3:]])
    assert main(["show", str(tmp_path), "--sample-id", "p-2"]) == 0
    assert capsys.readouterr().out.startswith("Generated p-2 at step 20: 0.2 s, stopped by itself, 12 % silent\n")
    assert main(["show", str(tmp_path), "--split", "probe", "--raw"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "probe"
    assert main(["show", str(tmp_path), "--split", "probe"]) == 0
    assert "Codebook 0) (probe):  p-1 at step 20" in capsys.readouterr().out


def test_the_summary_says_how_the_probes_end(tmp_path, capsys):
    """`show --summary` has a line about the probes, with the end and the agreement at the last step."""
    later = [generation_sample(step=30, stopped=False, frames=170), generation_sample(step=30, probe="p-2")]
    written(tmp_path, [*LATE[:-1], *later])
    assert main(["show", "--summary", "--width", "120", str(tmp_path)]) == 0
    expected = (
        "voice    2 probes spoken at 2 steps; at step 30 1 of 2 stopped by themselves, 50.0% of codebook 0 as recorded"
    )
    assert expected in capsys.readouterr().out.splitlines()


# Text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"agreement": None, "frames_label": None, "silence_share": None}, "3.2 s, stopped by itself"),
        ({"stopped": False, "frames": 170}, "6.8 s of 3.4 s, did not stop, 12 % silent, 50 % as recorded"),
        ({"longest_run": 60}, "3.2 s of 3.4 s, stopped by itself, one frame 60 times in a row, 12 % silent, 50 % as"),
        ({"cer": 0.08, "wer": 1.25, "speaker_similarity": 0.875}, "50 % as recorded, CER 8 %, WER 125 %, speaker"),
        ({"frames": 0, "first": (), "last": ()}, "0.0 s of 3.4 s, stopped by itself"),
    ],
)
def test_facts(changes, text):
    """One line a probe says what came out, with error rates and similarity where they are known."""
    assert text in render(record_of(generation_sample(**changes)))


def test_codes_without_a_recording_have_no_labels():
    """Codes are shown as predictions are; without a recording without labels, with a shorter one with masked labels."""
    shorter = CodesEnd(codebook=0, codes=(1, 2, 3), labels=(1, 9))
    lines = render(record_of(generation_sample(first=(shorter,), last=(shorter,)))).splitlines()
    assert lines[1:] == [
        "  Codebook 0:",
        "  First 3 - Predictions: [   1,   *2,    3]",
        "  First 3 - Labels:      [   1,    9, -100]",
        "  Last 3  - Predictions: [   1,   *2,   *3]",
        "  Last 3  - Labels:      [-100,    1,    9]",
    ]
    assert len(render(record_of(SPEECH[1])).splitlines()) == 5
