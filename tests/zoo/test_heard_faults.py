"""Fault zoo: mistakes that are heard in the speech of the trained model, and their diagnoses."""

import pytest

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.families.known import DEFAULT_FAMILY, FAMILIES
from tests.families import every_family_by_name
from tests.zoo.faults import ALSO, HEARD, ONLY_HEARD, SPEAKING, plant
from tests.zoo.runs import alarms


@every_family_by_name
@pytest.mark.parametrize("name", HEARD)
def test_a_fault_is_heard(tmp_path, family, name):
    """The model learns its clips by heart, and its speech is an error, at the second generation or later.

    Nothing else is found, except for what is found without speech, and consequences.
    """
    settings = SPEAKING | dict(FAMILIES[family].demo_settings)
    if family == DEFAULT_FAMILY:
        settings["lr"] = 1e-2  # the demo's needs more steps
    memory = plant(name, tmp_path, tmp_path / "codes", codebooks=2, family=family, spread=None, **settings)
    at = {event["code"]: event for event in alarms(memory)}
    expected = {FAULTS[name].found_by, FAULTS[name].heard_by}
    assert expected <= set(at) <= expected | ALSO.get(name, set())
    heard = at[FAULTS[name].heard_by]
    assert (heard["severity"], heard["modality"], heard["codebook"]) == ("error", "audio", None)
    assert 20 <= heard["step"] <= SPEAKING["max_steps"]
    assert 2 * heard["evidence"]["failing"] > heard["evidence"]["judged"]
    assert heard["code"] in memory.named("run_end")[0]["diagnoses"]
    assert (at[FAULTS[name].found_by]["step"] == 1) == (name not in ONLY_HEARD)


def test_each_check_of_the_voice_has_a_fault():
    """The four faults of a voice are planted, and `stop_masked` is also found without speech."""
    assert sorted(FAULTS[name].heard_by for name in HEARD) == ["never_stops", "silent_voice", "stuck", "too_short"]
    assert FAULTS["stop_masked"].heard_by == "never_stops"
    assert "stop_masked" not in ONLY_HEARD
