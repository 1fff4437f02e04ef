"""A handful of the healthy trainings; the others are a stage of CI: python -m tests.zoo.healthy."""

import pytest

from tests.zoo import healthy


def traits(seed):
    """Name what is special about a training."""
    plan = healthy.plan(seed)
    kind = "clips" if plan["clips"] else plan["form"]
    return {plan["codebooks"], kind, plan["settings"].get("dtype", "float32"), f"evaluates: {plan['evaluates']}"}


def handful():
    """Choose short trainings, each with a trait that those before it lack."""
    chosen, seen = [], set()
    for seed in range(100):
        if healthy.plan(seed)["settings"]["max_steps"] <= 20 and traits(seed) - seen:
            chosen.append(seed)
            seen |= traits(seed)
    return chosen


@pytest.mark.parametrize("seed", handful())
def test_nothing_is_found_in_a_healthy_training(seed):
    """No diagnosis at warning or above; and the training was checked."""
    outcome = healthy.run(seed)
    assert outcome["alarms"] == []
    assert outcome["dues"] >= 2


def test_the_handful_is_varied():
    """It has every number of codebooks and every form of sample."""
    all_traits = set().union(*map(traits, handful()))
    assert {*healthy.CODEBOOKS, "simple", "reference", "chatml", "clips", "bfloat16", "evaluates: True"} <= all_traits
