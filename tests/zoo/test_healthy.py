"""A few of the healthy trainings. CI runs the others: python -m tests.zoo.healthy."""

import pytest

from tests.zoo import healthy


def traits(seed):
    """Return the traits of a training."""
    plan = healthy.plan(seed)
    kind = "clips" if plan["clips"] else plan["form"]
    return {plan["codebooks"], kind, plan["settings"].get("dtype", "float32"), f"evaluates: {plan['evaluates']}"}


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
    """The seeds cover every number of codebooks and every form of sample."""
    all_traits = set().union(*map(traits, handful()))
    assert {*healthy.CODEBOOKS, "simple", "reference", "chatml", "clips", "bfloat16", "evaluates: True"} <= all_traits
