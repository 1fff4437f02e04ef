"""Selection of the events to show, by flag, and refusal of invalid flags."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs.filter import (
    Filter,
    Steps,
    choice_of,
    events_of,
    numbers_of,
    steps_of,
    unknown_events,
)
from tests.builders import all_events, audio_sample, checkpoint, random_events, record_of, text_sample, train_step


class TestMatches:
    @pytest.mark.parametrize(
        ("asked", "names"),
        [
            ({}, list(EVENTS)),
            ({"events": frozenset({"train_step", "run_end"})}, ["train_step", "run_end"]),
            ({"steps": Steps(30, None)}, ["run_end"]),
            ({"modality": "audio"}, ["prediction_sample", "token_counts"]),
            ({"split": "train"}, ["prediction_sample"]),
            ({"samples": frozenset({"en-1"})}, ["prediction_sample"]),
            ({"mismatches_only": True}, ["prediction_sample"]),
            ({"codebooks": frozenset({0})}, ["prediction_sample", "token_counts"]),
            ({"ranks": frozenset({1})}, []),
        ],
    )
    def test_events_without_the_field(self, asked, names):
        """An event without the requested field is left out."""
        records = map(record_of, all_events())
        assert list(dict.fromkeys(r["event"] for r in records if Filter(**asked).matches(r))) == names

    @pytest.mark.parametrize(
        ("asked", "matches"),
        [
            ({"steps": Steps(20, 20)}, True),
            ({"steps": Steps(21, None)}, False),
            ({"steps": Steps(None, 19)}, False),
            ({"ranks": frozenset({0, 3})}, True),
            ({"ranks": frozenset({3})}, False),
            ({"codebooks": frozenset({0, 7})}, True),
            ({"codebooks": frozenset({7})}, False),
            ({"modality": "audio"}, True),
            ({"modality": "text"}, False),
            ({"split": "eval"}, False),
            ({"samples": frozenset({"en-1", "other"})}, True),
            ({"samples": frozenset({"0123456789abcdef"})}, True),
            ({"samples": frozenset({"en"})}, False),
            ({"mismatches_only": True}, True),
            ({"modality": "audio", "codebooks": frozenset({7})}, False),
        ],
    )
    def test_a_sample(self, asked, matches):
        """A sample must match all conditions."""
        assert Filter(**asked).matches(record_of(audio_sample())) is matches

    @pytest.mark.parametrize(("correct", "matches"), [(12, False), (11, True), (0, True)])
    def test_mismatches(self, correct, matches):
        """Only a sample with a wrong prediction of a target has a mismatch."""
        record = record_of(text_sample(num_correct=correct))
        assert Filter(mismatches_only=True).matches(record) is matches

    def test_a_text_has_no_codebook(self):
        """The samples of a codebook are of audio."""
        assert not Filter(codebooks=frozenset({0})).matches(record_of(text_sample()))

    @pytest.mark.parametrize("odd", [None, "20", 20.0, True, [20], {}])
    def test_odd_fields(self, odd):
        """A field of an unexpected type matches nothing, and is no error."""
        record = dict.fromkeys(("step", "rank", "codebook", "modality", "sample_id", "num_correct", "num_targets"), odd)
        record["event"] = "new"
        for asked in (
            {"steps": Steps(0, None)},
            {"ranks": frozenset({20, 1})},
            {"codebooks": frozenset({20, 1})},
            {"modality": "text"},
            {"samples": frozenset({"x"})},
            {"mismatches_only": True},
        ):
            assert not Filter(**asked).matches(record)

    @settings(deadline=None, max_examples=100)
    @given(random_events(), st.integers(0, 100), st.integers(0, 100))
    def test_a_range_is_its_two_halves(self, event, first, last):
        """The steps of A:B are in both A: and :B."""
        record = record_of(event)
        both = steps_of(f"{first}:{last}") if first <= last else None
        halves = [Filter(steps=steps_of(text)).matches(record) for text in (f"{first}:", f":{last}")]
        if both:
            assert Filter(steps=both).matches(record) == all(halves)

    def test_takes_all(self):
        """A filter without conditions takes all events."""
        assert Filter().takes_all
        assert not Filter(mismatches_only=True).takes_all
        assert not Filter(ranks=frozenset({0})).takes_all


class TestReading:
    @pytest.mark.parametrize(
        ("text", "steps"),
        [
            ("100:200", Steps(100, 200)),
            ("100:", Steps(100, None)),
            (":200", Steps(None, 200)),
            ("7", Steps(7, 7)),
            (" 1 : 2 ", Steps(1, 2)),
            ("0:0", Steps(0, 0)),
        ],
    )
    def test_steps(self, text, steps):
        """Steps are a closed range, a range with one open end, or one step."""
        assert steps_of(text) == steps

    @pytest.mark.parametrize("text", ["", ":", "a", "1:b", "-1", "1:2:3", "1.5", "٣", "9" * 5000])
    def test_bad_steps(self, text):
        """An invalid range of steps is refused."""
        with pytest.raises(
            UserError, match="--step: expected FIRST:LAST, FIRST:, :LAST or one step, as in 100:200, got"
        ):
            steps_of(text)

    def test_steps_the_wrong_way_round(self):
        """An empty range is refused as a mistake."""
        with pytest.raises(UserError, match="--step: expected the first step before the last, got '200:100'"):
            steps_of("200:100")

    def test_numbers(self):
        """Whole numbers may be given apart by commas, or again."""
        assert numbers_of("--rank", ["0,3", "5", "1,"]) == {0, 1, 3, 5}

    @pytest.mark.parametrize("text", ["-1", "a", "0-3", "1.0", "٣"])
    def test_bad_numbers(self, text):
        """A value that is no whole number is refused with the name of the flag."""
        with pytest.raises(UserError, match=f"--rank: expected integers of at least 0, as in 0,3, got '{text}'"):
            numbers_of("--rank", [text])

    @pytest.mark.parametrize("text", ["", ",", " , "])
    def test_nothing_given(self, text):
        """An empty value of a flag is refused as a mistake."""
        with pytest.raises(UserError, match="--event: expected a value, got"):
            events_of([text])

    def test_events(self):
        """Event names may be separated by commas or given by a repeated flag.

        Unknown names of newer versions are accepted.
        """
        assert events_of(["train_step, run_end", "new_thing"]) == {"train_step", "run_end", "new_thing"}

    def test_unknown_events(self):
        """A probable typing mistake is refused with the nearest known name."""
        assert unknown_events({"train_step"}) == []
        assert unknown_events({"zzz", "train_steps"}) == [
            "--event: this version knows no event train_steps. Did you mean train_step?",
            "--event: this version knows no event zzz.",
        ]

    def test_no_name(self):
        """An impossible event name is refused with the nearest known name."""
        with pytest.raises(UserError, match=r"got 'train-step'\. Did you mean train_step\?"):
            events_of(["train-step"])

    def test_choices(self):
        """A value must be one of the choices."""
        assert choice_of("--modality", "text", ("text", "audio")) == "text"
        assert choice_of("--modality", None, ("text", "audio")) is None
        with pytest.raises(UserError, match="--modality: expected text or audio, got 'video'"):
            choice_of("--modality", "video", ("text", "audio"))


def test_an_event_with_a_step():
    """A condition on steps applies to every event with a step."""
    chosen = Filter(steps=Steps(20, 20))
    assert [chosen.matches(record_of(event)) for event in (train_step(), checkpoint(step=21))] == [True, False]
