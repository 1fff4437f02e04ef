"""Tests of the assessment at the top of a report, of the facts beside it, and of the command line made from a log."""

import random
import shlex
from math import inf, nan
from pathlib import Path

import pytest

from higgs_audio_trainer.cli.train_flags import parse_train
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.logs.lines import LogLine
from higgs_audio_trainer.logs.typed import typed
from higgs_audio_trainer.report.assessment import assess
from higgs_audio_trainer.report.gather import gather
from higgs_audio_trainer.report.run_facts import command, different_settings, key_facts, settings, versions
from tests.builders import (
    audio_sample,
    diagnosis,
    eval_result,
    generation_sample,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
)

CHANCE = audio_sample(logits_shape=(20, 8, 1026))  # ln 1,026 = 6.93


def log_of(*events, attempts=None):
    """Return the contents of a log with events; of the given attempts, else of one attempt."""
    records = [record_of(event) | {"seq": seq} for seq, event in enumerate(events)]
    for record, attempt in zip(records, attempts or (), strict=False):
        record["attempt"] = attempt
    lines = [LogLine(record, typed(dict(record)), b"", Path("a.jsonl"), 1, 0) for record in records]
    return gather("run", ((line, True) for line in lines))


def steps(*losses, **changes):
    """Make steps with an audio loss each."""
    return [train_step(step=10 * number, audio_loss=loss, **changes) for number, loss in enumerate(losses, 1)]


def evaluations(*losses):
    """Make evaluations with an audio loss each."""
    return [eval_result(step=10 * number, audio_loss=loss) for number, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("events", "level", "headline"),
    [
        ([], "note", "No losses are logged yet"),
        (steps(7.0), "note", "Too early to tell: one step is logged"),
        (steps(7.6, 6.9), "warning", "Nothing learned so far: the audio loss is at chance"),
        ([*steps(7.6, 6.9), run_end(step=20)], "warning", "Nothing learned in 20 steps: the audio loss is at chance"),
        (steps(9.4, 8.0), "warning", "Nothing learned so far: the audio loss is above chance"),
        (steps(5.0, 2.0), "good", "The model is learning: the audio loss fell from 5.00 to 2.00"),
        ([*steps(5.0, 2.0), run_end(step=20)], "good", "The model learned: the audio loss fell from 5.00 to 2.00"),
        (steps(5.0, 4.99), "warning", "Not learning: the audio loss is flat"),
        (steps(3.0, 5.0), "warning", "Not learning: the audio loss rose"),
        ([*steps(5.0, 2.0), *evaluations(4.0, 4.5)], "warning", "Overfitting: the evaluation was best at step 10"),
        (
            [*steps(5.0, 2.0), *evaluations(7.1, 7.0)],
            "warning",
            "Learned by heart: the training audio loss fell, but the evaluation is at chance",
        ),
        (
            [*steps(5.0, 2.0), *evaluations(7.9, 7.8)],
            "warning",
            "Learned by heart: the training audio loss fell, but the evaluation is above chance",
        ),
        (
            [*steps(5.0, 2.0), diagnosis(step=7, code="slow", severity="warning")],
            "warning",
            "The model is learning, with 1 warning: slow from step 7",
        ),
        (
            [*steps(5.0, 2.0), diagnosis(step=9, code="bad", severity="error"), diagnosis(severity="warning")],
            "error",
            "Something is wrong: bad from step 9",
        ),
        (steps(nan, nan), "error", "Something is wrong: the audio loss is not a finite number since step 10"),
        (steps(5.0, 2.0, nan, inf), "error", "Something is wrong: the audio loss is not a finite number since step 30"),
        (steps(5.0, nan, 2.0), "good", "The model is learning: the audio loss fell from 5.00 to 2.00"),
        (
            [*steps(5.0, 2.0), train_step(step=30, text_loss=nan, audio_loss=1.0)],
            "error",
            "Something is wrong: the text loss is not a finite number since step 30",
        ),
        (
            [*steps(5.0, 2.0), *evaluations(4.0, nan)],
            "warning",
            "The audio loss of the evaluation is not a finite number since step 20",
        ),
    ],
)
def test_the_headline_names_the_most_alarming_fact(events, level, headline):
    """Errors, NaN, chance, an evaluation that rises or is at chance, a flat loss and warnings come before a success."""
    assessment = assess(log_of(run_start(), CHANCE, *events))
    assert (assessment.level, assessment.headline) == (level, headline)


def test_the_sentences_have_the_numbers():
    """Sentences hold the trend beside chance, the evaluation beside the training, the speech, and the findings."""
    log = log_of(
        run_start(),
        CHANCE,
        text_sample(logits_shape=(24, 512)),
        *steps(7.6, 2.0, text_loss=0.0021),
        *evaluations(3.5, 3.6),
        generation_sample(step=20),
        diagnosis(step=10, code="slow", severity="warning", message="Slow. Buy a card."),
        diagnosis(step=20, code="mask_audit", severity="note"),
    )
    assert assess(log).sentences == [
        "Slow. Buy a card.",
        (
            "The audio loss fell to 2.00 at step 20, from 7.60 at step 10, below chance (ln 1,026 = 6.93). "
            "33.1% of the predictions are correct."
        ),
        (
            "The text loss is 0.002 at step 20, from 0.002 at step 10, below chance (ln 512 = 6.24). "
            "81.2% of the predictions are correct."
        ),
        "The audio loss of the evaluation is 3.60 at step 20, 1.60 above the training. The best was 3.50 at step 10.",
        "Speech: at step 20 1 of 1 stopped by themselves, 50.0% of codebook 0 as recorded.",
        "Checks: 1 warning (slow from step 10); 1 note (mask_audit from step 20).",
    ]


def test_a_log_without_samples_has_chance():
    """The sizes of the vocabularies are in `run_start`, so `--log_samples 0` keeps the chance level."""
    log = log_of(run_start(vocab_size=512, codebook_size=1026), *steps(7.6, 6.9))
    assert assess(log).headline == "Nothing learned so far: the audio loss is at chance"
    assert log.chance("text").vocabulary == 512


def test_losses_that_are_not_finite_are_counted():
    """A log without diagnoses says how many losses are not finite, and an evaluation of NaN is an evaluation."""
    log = log_of(run_start(), *steps(5.0, nan, 2.0), *evaluations(nan))
    sentences = assess(log).sentences
    assert sentences[0] == "The audio loss is not a finite number at 1 logged step."
    assert sentences[1].startswith("The audio loss fell to 2.00")
    assert "No evaluation has a loss that is a finite number." in sentences
    assert not any(sentence.startswith("The log has no evaluation") for sentence in sentences)


def test_a_text_model_has_a_loss_without_a_surname():
    """The loss of a model without audio is "the loss"; an unknown vocabulary has no chance level."""
    events = [
        train_step(
            step=step, text_loss=loss, audio_targets=0, audio_accuracy_per_codebook=(), audio_loss_per_codebook=()
        )
        for step, loss in ((1, 4.0), (9, 1.0))
    ]
    assessment = assess(log_of(run_start(), *events))
    assert assessment.headline == "The model is learning: the loss fell from 4.00 to 1.00"
    assert assessment.sentences[0] == (
        "The loss fell to 1.00 at step 9, from 4.00 at step 1. 81.2% of the predictions are correct."
    )
    assert assessment.sentences[1].startswith("The log has no evaluation")
    assert assessment.sentences[-1] == "Checks: no errors or warnings."


def test_noise_is_no_trend():
    """A loss that jumps without a direction is flat, whatever its first and its last value are."""
    generator = random.Random(0)
    noisy = [generator.gauss(5.0, 1.0) for _ in range(400)]
    noisy[0], noisy[-1] = 7.0, 3.0
    assert assess(log_of(run_start(), *steps(*noisy))).headline == "Not learning: the audio loss is flat"
    falling = [loss - 0.01 * number for number, loss in enumerate(noisy)]
    assert assess(log_of(run_start(), *steps(*falling))).headline.startswith("The model is learning: ")


CONFIG = {
    "train_manifest": "my clips/train.jsonl",
    "output_dir": "out",
    "log_steps": 5,
    "lora_r": 16,
    "lora_alpha": 32,
    "lr": 0.0002,
    "batch_size": 4,
    "grad_accum": 2,
    "resume": "latest",
    "diagnose": "fail",
    "log_text": False,
    "base_ckpt": "tiny/model",
    "dtype": "bfloat16",
    "extra": {"bf16": True, "hub_token": "[redacted]"},
}


def test_the_command_gives_the_settings_back():
    """The command of a run has the settings that differ from their defaults, quoted, in a form that `train` reads."""
    made = command(log_of(run_start(config=TrainSettings(**{**CONFIG, "resume": None}).as_mapping())))
    program, name, *arguments = shlex.split(made)
    assert (program, name) == ("higgs-audio-trainer", "train")
    assert "--train_manifest 'my clips/train.jsonl'" in made
    assert "--warmup" not in made
    assert parse_train(arguments, "train").as_mapping() | {"resume": "latest"} == TrainSettings(**CONFIG).as_mapping()
    assert command(log_of(run_start(config=CONFIG, world_size=2))).startswith("torchrun --nproc_per_node=2 -m higgs_")
    assert command(log_of(run_start(config={"learning_rate": 1e-4}))) is None


def test_facts_of_a_resumed_run_are_those_of_the_run():
    """Steps are of the whole run, the duration of all attempts, and the settings of the last attempt."""
    first = run_start(config=CONFIG, total_steps=30, schedule="linear")
    last = run_start(config=CONFIG | {"lr": 0.0001}, total_steps=60, schedule="linear", resumed_from_step=20)
    events = [first, run_end(step=20, reason="SIGTERM"), last, run_end(step=60)]
    log = log_of(*events, attempts=(0, 0, 1, 1))
    facts = dict(key_facts(log))
    assert facts["state"] == "completed at step 60 of 60"
    assert facts["ran"].endswith(" in 2 attempts")
    assert facts["begun"] == "2026-01-02 03:04:05 UTC"
    assert facts["learning rate"] == "0.0001, linear"
    assert (facts["method"], facts["batch"]) == ("LoRA rank 16, alpha 32", "4 x 2")
    assert facts["device"] == "1 x cpu, bfloat16"
    assert ("extra.bf16", "true") in settings(log)
    assert versions(log)[0] == ("python", "3.11.7")
    stopped = dict(key_facts(log_of(first, run_end(step=20, reason="SIGTERM"))))
    assert stopped["state"] == "stopped by SIGTERM at step 20 of 30"
    running = dict(key_facts(log_of(first, train_step(step=5))))
    assert (running["state"], running["last event"]) == ("no end in the log, step 5 of 30", "2026-01-02 03:04:05 UTC")


def test_settings_that_differ_leave_paths_out():
    """Runs differ in settings of the training, not in their folders."""
    other = CONFIG | {"output_dir": "other", "lr": 0.1, "extra": {"bf16": False}}
    logs = [log_of(run_start(config=config)) for config in (CONFIG, other)]
    found = different_settings(logs)
    assert found == [
        ("lr", ["0.0002", "0.1"]),
        ("extra.bf16", ["true", "false"]),
        ("extra.hub_token", ["[redacted]", "-"]),
    ]
