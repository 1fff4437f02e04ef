"""Lines are folded to the available columns without a loss of content."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import render
from sinks.terminal.fold import columns, folded
from tests.builders import audio_sample, random_events, record_of, run_start, text_sample, train_step, window
from tests.test_render import golden

RED, DIM, RESET = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        ("\u2068مرحبا\u2069", 5),
        (f"{RED}12{RESET}", 2),
        ("👩\u200d🚀", 4),
        ("\u1112\u1161\u11ab", 2),
        ("\u0600", 1),
    ],
)
def test_columns(text, expected):
    """Wide letters count twice; marks, joiners, isolates and styles do not count."""
    assert columns(text) == expected


class TestFolded:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("short", ["short"]),
            ("step 20  epoch 5.00  loss 4.132", ["step 20  epoch 5.00", "  loss 4.132"]),
            ("one two three four five six", ["one two three four", "  five six"]),
            ("  indented words that go on", ["  indented words", "    that go on"]),
            ("a  a phrase that is too long", ["a  a phrase that is", "  too long"]),
            ("x" * 30, ["x" * 30]),
            (f"a {'x' * 30} b", ["a", "  " + "x" * 30, "  b"]),
            (" " * 30, [""]),
            ("日本 日本 日本 日本 日本", ["日本 日本 日本 日本", "  日本"]),
        ],
    )
    def test_at_20_columns(self, line, expected):
        """A line is folded at two blanks, or else between words. Continuation lines are indented."""
        assert [row.rstrip() for row in folded(line, 20).split("\n")] == expected

    def test_styles_go_on(self):
        """A style continues on the next line, and every line resets the style at the end."""
        assert folded(f"{RED}one two three{RESET} four five", 14) == (f"{RED}one two three{RESET}\n  four five")
        assert folded(f"{RED}one two three four{RESET}", 14) == f"{RED}one two three{RESET}\n  {RED}four{RESET}"

    def test_right_to_left_text_goes_on(self):
        """Each part of an Arabic text is isolated, so that the text cannot reorder the line."""
        assert folded("say \u2068مرحبا بالعالم\u2069 now", 14) == ("say \u2068مرحبا\u2069\n  \u2068بالعالم\u2069 now")

    @settings(deadline=None, max_examples=300)
    @given(st.text(st.sampled_from("ab 日\u0301م\u2068\u2069"), max_size=80), st.integers(8, 30))
    def test_any_line(self, line, width):
        """Folding loses no word, and no line is too long unless one word is too long."""
        rows = folded(line, width).split("\n")
        isolates = re.compile("[\u2068\u2069]")
        assert isolates.sub("", " ".join(rows)).split() == isolates.sub("", line).split()
        for row in rows:
            assert columns(row) <= width or len(row.strip(" ").split(" ")) == 1


class TestRendered:
    def test_blocks_of_slots(self):
        """Token ids that do not fit are split into blocks, with predictions above labels in the same columns."""
        labels = [1024, 1, 22, 333, 4444, 55555]
        sample = audio_sample(first=window(labels, [*labels[:3], 7, *labels[4:]]), last=window([5]))
        assert render(record_of(sample), width=52) == golden("""
            Audio Prediction vs Label Comparison (Codebook 0):
              en-1 at step 20, 10 of 12 correct
              First 6 - Predictions: [ 1024,     1,    22,
              First 6 - Labels:      [ 1024,     1,    22,
                      - Predictions:     *7,  4444, 55555]
                      - Labels:         333,  4444, 55555]
              First 6 - control token: stream BOS
              Last 1  - Predictions: [    5]
              Last 1  - Labels:      [    5]
              Logits shape: torch.Size([123, 8, 1026])
              Labels shape: torch.Size([8, 123])
        """)

    def test_decoded_text(self):
        """Decoded texts that do not fit are below the ids, and are folded there."""
        sample = text_sample(
            first=window([1, 2], [1, 3], predicted_text="the quick brown dog", label_text="the quick brown fox jumps"),
            last=window([]),
        )
        assert render(record_of(sample), width=48) == golden("""
            Sample 1 Prediction vs Label Comparison:
              en-1 at step 20, 10 of 12 correct
              First 2 - Predictions: [ 1, *3]
                "the quick brown dog"
              First 2 - Labels:      [ 1,  2]
                "the quick brown fox jumps"
        """)

    def test_hardly_any_room(self):
        """If the words leave no room for ids, a legend explains the words once."""
        sample = text_sample(first=window([1024, 1, 22, 333]), last=window([]))
        assert render(record_of(sample), width=24) == golden("""
            Sample 1 Prediction vs
              Label Comparison:
              en-1 at step 20, 10 of
              12 correct
              First 4 - P:
                Predictions, L:
                Labels
              P: [1024,    1,   22,
              L: [1024,    1,   22,
              P:   333]
              L:   333]
        """)

    def test_one_line_events(self):
        """Other events are folded between their figures."""
        assert render(record_of(train_step()), width=50) == golden("""
            step 20  epoch 5.00  0.21 s  lr 1.0e-04  grad 1.2
              loss 4.132  text 0.831  audio 3.301
              correct  text 81.2 %  audio 33.1 %
                codebooks ▄▃ 25 to 41 %
        """)
        assert render(record_of(run_start()), width=40) == golden("""
            run 20260102-030405-abcd: 1,234 training
              samples, 0 for evaluation  8 codebooks
              5,678,901 trainable parameters
              1 process on cpu  seed 42
        """)

    @settings(deadline=None, max_examples=100)
    @given(random_events(), st.integers(20, 120), st.booleans())
    def test_any_event(self, event, width, color):
        """No line of any event is too long, unless one word is too long. With enough columns the event is unchanged."""
        record = record_of(event)
        for row in render(record, width=width, color=color).split("\n"):
            assert columns(row) <= width or len(row.strip(" ").split(" ")) == 1
        assert render(record, width=100_000, color=color) == render(record, color=color)
