"""Check of the settings that a resumed run changed."""

from higgs_audio_trainer.diagnosed_log import diagnose
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import JsonlSink
from tests.builders import run_start
from tests.diagnoses.builders import logged_step, step


def resumed(*attempts):
    """Return the findings of a run whose attempts have a start, changes and the last step."""
    diagnoser, found = Diagnoser(), []
    for start, changes, end in attempts:
        diagnoser.start(run_start(resumed_from_step=start, resume_changes=changes))
        for number in range((start or 0) + 1, end + 1):
            found += diagnoser.check(logged_step(step(number)))
        restored = Diagnoser()
        restored.restore(diagnoser.save())
        diagnoser = restored
    return [event for event in found if event.code == "resume_changed"]


def test_changes_are_named_at_the_first_step():
    """One finding a resume, with the values then and now; a later finding names the earlier changes too."""
    first, second = resumed(
        (None, None, 4), (4, {"lr": [1e-4, 1e-5], "seed": [0, 1]}, 8), (8, {"lora_dropout": [0.0, 0.1]}, 10)
    )
    assert (first.step, first.severity, second.step) == (5, "warning", 9)
    assert first.message.startswith(
        "changed since the checkpoint of step 4: --lr: 0.0001, now 1e-05; --seed: 0, now 1. Samples of the epoch"
    )
    assert first.evidence == {"changes": {"4": {"lr": [1e-4, 1e-5], "seed": [0, 1]}}}
    assert "; changed since the checkpoint of step 8: --lora_dropout: 0.0, now 0.1." in second.message
    assert second.evidence["changes"].keys() == {"4", "8"}


def test_more_steps_are_a_note():
    """To train longer is the usual reason of a resume."""
    (found,) = resumed((None, None, 4), (4, {"max_steps": [4, 8]}, 8))
    assert found.severity == "note"


def test_equal_settings_are_no_finding():
    """Neither a resume without changes nor an older log without them is a finding."""
    assert resumed((None, None, 4), (4, {}, 8), (8, None, 10)) == []


def test_changes_of_an_abandoned_attempt_do_not_count():
    """A later attempt that resumed from an earlier checkpoint replaces the attempt and its changes."""
    (found,) = resumed((None, None, 2), (4, {"lr": [1, 2]}, 4), (2, {"seed": [0, 1]}, 6))
    assert found.evidence == {"changes": {"2": {"seed": [0, 1]}}}


def test_the_changes_of_every_resume_are_in_a_finished_log(tmp_path):
    """`diagnose` knows the attempts before the last, whose `run_start` does not count for other readers."""
    attempts = [(None, None, 4), (4, {"lr": [1, 2]}, 8), (8, {"seed": [0, 1]}, 10)]
    for number, (start, changes, end) in enumerate(attempts):
        sink = JsonlSink(tmp_path / f"rank00000-attempt{number:03}.jsonl")
        emit = Pipeline([("jsonl", sink)], run_id="run", attempt=number)
        emit(run_start(resumed_from_step=start, resume_changes=changes))
        for one in range((start or 0) + 1, end + 1):
            emit(step(one))
        sink.close()
    (found,) = [event for event, _ in diagnose(tmp_path).findings if event.code == "resume_changed"]
    assert found.evidence == {"changes": {"4": {"lr": [1, 2]}, "8": {"seed": [0, 1]}}}
