"""Checks of the stop tokens."""

import pytest

from higgs_audio_trainer.diagnoses import stop_tokens
from tests.builders import eval_result
from tests.diagnoses.builders import counts, history, logged_step, sample, step

MASKED = {"stop_targets": 0, "stop_correct": 0, "stop_rank": None, "stop_probability": None}


def found(checked, before=None):
    return [finding for check in stop_tokens.CHECKS for finding in check(checked, before or history())]


def test_a_healthy_step_raises_nothing():
    """Stop tokens with some correct predictions raise nothing, nor do old logs and evaluations."""
    assert found(logged_step(), history(logged_step(step(10)))) == []
    assert found(logged_step(counted=()), history()) == []
    assert found(logged_step(evaluation=eval_result(), samples=(sample(0, stop_targets=0),))) == []


def test_a_codebook_without_a_stop_token_is_an_error():
    """A codebook with masked stop tokens is named with the consequence."""
    (one,) = found(logged_step(counted=(counts(), counts(0), counts(1, **MASKED, masked={"stop": 4}))))
    assert (one.code, one.severity, one.modality, one.codebook) == ("no_stop_target", "error", "audio", 1)
    assert "the voice never ends" in one.message
    assert "4 stop tokens are masked" in one.message


def test_all_codebooks_without_a_stop_token_are_said_once():
    """All codebooks without stop tokens are a single finding, and text is another finding."""
    audio, text = found(logged_step(counted=(counts(0, **MASKED), counts(1, **MASKED), counts(**MASKED))))
    assert (audio.codebook, audio.evidence["codebooks"]) == (None, [0, 1])
    assert (text.modality, text.codebook) == ("text", None)
    assert "voice" not in text.message


@pytest.mark.parametrize(
    ("lengths", "targets", "faults"), [((101, 101), 400, 0), ((101, 90), 400, 1), ((101, 101), 380, 1)]
)
def test_pieces_of_a_stream_need_no_stop_token(lengths, targets, faults):
    """Text of another training, in pieces of one length without a masked label, ends anywhere."""
    names = {f"s{index}": "0" for index in range(4)}
    first, second = (
        logged_step(
            step(number, samples=names, sequence_length=length, text_targets=targets),
            counted=(counts(**MASKED, masked={}, supervised={}, num_targets=targets),),
            samples=(),
        )
        for number, length in zip((10, 20), lengths, strict=True)
    )
    assert len(found(second, history(first))) == faults


def test_a_series_without_targets_lacks_no_stop_token():
    """A series without targets is left to `masked_out`."""
    assert found(logged_step(counted=(counts(0, **MASKED, num_targets=0, num_correct=0),))) == []


def test_logs_without_counts_are_judged_by_their_samples():
    """Without counts, all shown samples of a series are checked together."""
    bare, ended = sample(0, stop_targets=0), sample(0)
    assert [(one.code, one.codebook) for one in found(logged_step(counted=(), samples=(bare, bare)))] == [
        ("no_stop_target", 0)
    ]
    assert found(logged_step(counted=(), samples=(bare, ended))) == []
    assert found(logged_step(counted=(), samples=(sample(0, stop_targets=0, num_targets=0),))) == []
    assert found(logged_step(samples=(bare,))) == []


def missed(number=60, codebook=0, **changes):
    figures = {"num_correct": 300, "stop_targets": 8, "stop_correct": 0, "stop_rank": 41.5, "stop_probability": 0.002}
    return logged_step(step(number), counted=(counts(codebook, number=number, **(figures | changes)),))


def test_a_stop_token_that_is_never_predicted_is_a_warning():
    """A series that learned all but the stop token is a note and later a warning, with rank and probability."""
    assert found(missed()) == []
    (one,) = found(missed(), history(missed(10)))
    assert (one.code, one.severity, one.codebook) == ("stop_never_predicted", "note", 0)
    assert {one.severity for one in found(missed(310), history(missed(10)))} == {"note", "warning"}
    assert "At the true end the stop token has a mean rank of 41.5" in one.message
    assert "0.2%" in one.message
    assert [one.modality for one in found(missed(codebook=None), history(missed(10, None)))] == ["text"]


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_correct": 1},
        {"stop_targets": 1},
        {"num_correct": 100},  # the other tokens are not learned
        {"num_correct": 160},  # by chance, eight of eight are missed once in 60 cases
        {"stop_probability": 0.2},
        {"stop_probability": None},
        {"stop_rank": 2.0},
        {"stop_rank": None},
        {"unigram_accuracy": 0.75},
        {"unigram_accuracy": None},
    ],
)
def test_stops_that_may_yet_be_learned_raise_nothing(changes):
    """Each condition is necessary: enough stop tokens, all missed, in a series that predicts the rest."""
    assert found(missed(**changes), history(missed(10, **changes))) == []


def test_few_stops_a_step_add_up():
    """With a stop token a step and 25 % accuracy, two logged steps are too few and fifty are enough."""
    steps = [missed(number, stop_targets=1, num_correct=100) for number in range(10, 520, 10)]
    assert found(steps[1], history(steps[0])) == []
    assert found(steps[-1], history(*steps[:-1]))


def test_stops_may_be_learned_later_than_the_rest():
    """A series that learned the other tokens by step 100 has until step 300 to learn the stop tokens."""
    steps = [missed(number) for number in range(100, 310, 10)]
    assert found(steps[10], history(*steps[:10])) == []
    assert len(found(steps[20], history(*steps[:20]))) == 1


def test_one_step_without_is_not_enough():
    """A stop token that the previous logged step predicted raises nothing."""
    assert found(missed(), history(missed(10, stop_correct=1))) == []
