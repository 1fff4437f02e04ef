"""A few of the healthy trainings. CI runs the others: python -m tests.zoo.healthy."""

import pytest
import torch

from higgs_audio_trainer import PredictionLogger, read
from higgs_audio_trainer.families.known import FAMILIES
from tests.zoo import foreign, healthy


def traits(seed):
    """Return the traits of a training."""
    plan = healthy.plan(seed)
    kind = "clips" if plan["clips"] else plan["form"]
    return {
        plan["family"],
        plan["codebooks"],
        kind,
        plan["settings"].get("dtype", "float32"),
        f"evaluates: {plan['evaluates']}",
    }


def handful():
    """Return seeds of short trainings, each with a new trait."""
    chosen, seen = [], set()
    for seed in range(100):
        if healthy.plan(seed)["settings"]["max_steps"] <= 20 and traits(seed) - seen:
            chosen.append(seed)
            seen |= traits(seed)
    return chosen


@pytest.mark.parametrize("seed", handful())
def test_nothing_is_found_in_a_healthy_training(seed):
    """No diagnosis is worse than a note, and the training was checked."""
    outcome = healthy.run(seed)
    assert outcome["alarms"] == []
    assert outcome["logged_steps"] >= 2


def test_the_handful_is_varied():
    """The seeds cover both families, every number of codebooks and every form of sample."""
    all_traits = set().union(*map(traits, handful()))
    assert {
        *FAMILIES,
        *healthy.CODEBOOKS,
        "simple",
        "reference",
        "chatml",
        "clips",
        "bfloat16",
        "evaluates: True",
    } <= all_traits


@pytest.mark.parametrize("seed", range(len(foreign.KINDS)))
def test_nothing_is_found_in_a_training_that_is_not_ours(seed):
    """No diagnosis of a short sequence is worse than a note, in any kind of training."""
    outcome = foreign.run(seed)
    assert outcome["alarms"] == []
    assert outcome["logged_steps"] >= 2


def test_foreign_trainings_are_varied():
    """The stage of CI has every kind with every length, from scratch and not."""
    plans = [foreign.plan(seed) for seed in range(30)]
    assert len({(plan["kind"], plan["length"]) for plan in plans}) == 30
    assert {plan["pretrained"] for plan in plans} == {True, False}


@pytest.mark.parametrize("length", [8, 64])
@pytest.mark.parametrize(
    ("kind", "shift", "offset"), [("shifted data", 1, 1), ("chunks", 1, 1), ("shifted data", -1, -1)]
)
def test_shifted_labels_are_named_in_a_training_that_is_not_ours(tmp_path, kind, shift, offset, length):
    """Labels that are shifted once too often, or not at all, are an error at step 1, also in short sequences."""
    drawn = foreign.plan(0) | {"kind": kind, "length": length, "batch": 4, "steps": 1, "choices": 10, "repeats": 0.0}
    name = "targets" if kind == "shifted data" else "labels"
    batch = next(foreign.batches(drawn))
    batch[name] = torch.cat([batch[name], batch[name][:, :1]], dim=1).roll(-shift, dims=1)[:, :length]
    adapter = foreign.SHIFTED_DATA if kind == "shifted data" else None
    logger = PredictionLogger(tmp_path, sinks="jsonl", adapter=adapter, pretrained=False)
    foreign.train_in_a_loop(drawn, foreign.model_of(drawn), iter([batch]), logger)
    [found] = [event for event in read(tmp_path) if event.event == "diagnosis" and event.code == "shifted_alignment"]
    assert (found.step, found.evidence["offset"]) == (1, offset)
