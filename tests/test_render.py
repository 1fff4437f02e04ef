"""What a person reads: whole outputs in the wording of the original feature, harmless to a terminal."""

import unicodedata
from textwrap import dedent

import pytest
from hypothesis import given, settings

from sinks import render
from sinks.rendering.renderers import RENDERERS
from sinks.terminal.escape import printable
from tests.builders import (
    all_events,
    audio_sample,
    cap_reached,
    checkpoint,
    diagnosis,
    random_events,
    record_of,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    token_counts,
    train_step,
    window,
)


def shown(event, *, color=False):
    """Render an event as the console does."""
    return render(record_of(event), color=color)


def golden(text):
    """Read an expected output: indented in the test, not on the console."""
    return dedent(text).strip("\n")


class TestPredictionSample:
    def test_text(self):
        """A text is shown in the original wording, in columns, with its mismatches marked."""
        assert shown(text_sample()) == golden("""
            Sample 1 Prediction vs Label Comparison:  en-1 at step 20, 10 of 12 correct
              First 5 - Predictions: [ 1234,  5678,  9012,  3456, *7890]
              First 5 - Labels:      [ 1234,  5678,  9012,  3456,  7891]
              Last 5  - Predictions: [ 2345,  6789,   123,  4567, *8901]
              Last 5  - Labels:      [ 2345,  6789,   123,  4567,  8902]
        """)

    def test_audio(self):
        """Audio is shown by codebook, with the shapes that the loss saw."""
        assert shown(audio_sample(codebook=3, first=window([7, 8, 9, 10, 11]), last=window([1024, 1025]))) == golden("""
            Audio Prediction vs Label Comparison (Codebook 3):  en-1 at step 20, 10 of 12 correct
              First 5 - Predictions: [   7,    8,    9,   10,   11]
              First 5 - Labels:      [   7,    8,    9,   10,   11]
              Last 2  - Predictions: [1024, 1025]
              Last 2  - Labels:      [1024, 1025]  control tokens: stream BOS, stop
              Logits shape: torch.Size([123, 8, 1026])
              Labels shape: torch.Size([8, 123])
        """)

    def test_color(self):
        """Correct tokens are green, wrong ones red and starred, masked slots dim, in the columns of a plain text."""
        red, green, bold, dim, reset = "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
        sample = text_sample(
            first=window([5, 60, -100], [4, 60, None], predicted_text="a", label_text="b"),
            last=window([]),
            num_correct=1,
        )
        assert shown(sample, color=True) == golden(f"""
            {bold}Sample 1 Prediction vs Label Comparison:{reset}  {dim}en-1 at step 20, 1 of 12 correct{reset}
              First 3 - Predictions: [{red}  *4{reset}, {green}  60{reset}, {dim}   -{reset}]  {dim}"a"{reset}
              First 3 - Labels:      [   5,   60, {dim}-100{reset}]  {dim}"b"{reset}
        """)

    def test_decoded_text(self):
        """Decoded text stands beside its ids, aligned over both windows."""
        sample = text_sample(
            first=window([10, 11], [10, 12], predicted_text=" hello\n", label_text=" hello there"),
            last=window([128009], [7], predicted_text="", label_text="<|eot_id|>"),
        )
        assert shown(sample) == golden(r"""
            Sample 1 Prediction vs Label Comparison:  en-1 at step 20, 10 of 12 correct
              First 2 - Predictions: [    10,    *12]  " hello\n"
              First 2 - Labels:      [    10,     11]  " hello there"
              Last 1  - Predictions: [    *7]  ""
              Last 1  - Labels:      [128009]  "<|eot_id|>"
        """)

    def test_wide_window(self):
        """The titles of windows of ten and of fewer slots are aligned with each other."""
        sample = text_sample(first=window(range(10)), last=window([7, 8]))
        assert shown(sample) == golden("""
            Sample 1 Prediction vs Label Comparison:  en-1 at step 20, 10 of 12 correct
              First 10 - Predictions: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
              First 10 - Labels:      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
              Last 2   - Predictions: [7, 8]
              Last 2   - Labels:      [7, 8]
        """)

    def test_masked_slots(self):
        """A masked slot has no prediction and is no mismatch."""
        sample = text_sample(first=window([4, -100, 6], [4, None, 5]), last=window([]), num_targets=2, num_correct=1)
        assert shown(sample) == golden("""
            Sample 1 Prediction vs Label Comparison:  en-1 at step 20, 1 of 2 correct
              First 3 - Predictions: [   4,    -,   *5]
              First 3 - Labels:      [   4, -100,    6]
        """)

    def test_nothing_supervised(self):
        """A sample without targets says so; its shapes still stand."""
        sample = audio_sample(first=window([]), last=window([]), num_targets=0, num_correct=0, accuracy=None, loss=None)
        assert shown(sample) == golden("""
            Audio Prediction vs Label Comparison (Codebook 0):  en-1 at step 20, 0 of 0 correct
              no slot of this sample is supervised
              Logits shape: torch.Size([123, 8, 1026])
              Labels shape: torch.Size([8, 123])
        """)

    @pytest.mark.parametrize(
        ("sample", "heading"),
        [
            (text_sample(split="eval", sample_index=1), "Sample 2 Prediction vs Label Comparison (eval):"),
            (audio_sample(split="eval"), "Audio Prediction vs Label Comparison (Codebook 0) (eval):"),
        ],
    )
    def test_evaluation(self, sample, heading):
        """Samples of an evaluation are told from those of the training, and counted from 1."""
        assert shown(sample).startswith(heading)


class TestOtherEvents:
    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            (
                run_start(),
                (
                    "run 20260102-030405-abcd: 1,234 training samples, 0 for evaluation  8 codebooks  "
                    "5,678,901 trainable parameters  1 process on cpu  seed 42"
                ),
            ),
            (
                run_start(resumed_from_step=20, num_train_samples=1, num_codebooks=1, world_size=8, device="cuda:0"),
                (
                    "run 20260102-030405-abcd, resumed from step 20: 1 training sample, 0 for evaluation  1 codebook  "
                    "5,678,901 trainable parameters  8 processes on cuda:0  seed 42"
                ),
            ),
            (checkpoint(), "saved checkpoint-20"),
            (diagnosis(), "warning (no_stop_label): No stop token is supervised."),
            (
                diagnosis(modality="audio", codebook=3, repeats=2),
                "warning (no_stop_label): No stop token is supervised.  (2 more times before)",
            ),
            (
                diagnosis(modality="text", repeats=1),
                "warning (no_stop_label): No stop token is supervised.  (1 more time before)",
            ),
            (
                token_counts(codebook=0),
                (
                    "token counts of step 20, audio codebook 0: 13 of 16 correct  labels in the sequence at -2 to +2: "
                    "[1, 2, 16, 2, 1]  the most frequent label alone 12.5%  stop token 1 of 1 correct, rank 1.0"
                ),
            ),
            (
                token_counts(num_targets=0, num_correct=0, unigram_accuracy=None, stop_targets=0, stop_rank=None),
                "token counts of step 20, text: 0 of 0 correct  labels in the sequence at -2 to +2: [1, 2, 16, 2, 1]",
            ),
            (
                run_end(reason="diagnosis", diagnoses={"no_stop_target": 1, "plateau": 12}),
                (
                    "run ended: diagnosis at step 30  1,234 events written, 0 lost  "
                    "diagnoses: no_stop_target 1 time, plateau 12 times  logging took 57 ms"
                ),
            ),
            (sink_recovered(), "sink jsonl works again; 3 events lost, seq 4 to 6"),
            (
                run_end(events_lost=1200),
                "run ended: completed at step 30  1,234 events written, 1,200 lost  logging took 57 ms",
            ),
            (
                cap_reached(),
                ("sink jsonl stops: its files reached max_total_bytes, 1,000,000 bytes; later events are not written"),
            ),
            (
                run_end(values_replaced=1),
                ("run ended: completed at step 30  1,234 events written, 0 lost  1 value replaced  logging took 57 ms"),
            ),
            (
                run_end(reason="error", lost_ranks=(1, 3)),
                "run ended: error at step 30  lost: rank 1, 3  1,234 events written, 0 lost  logging took 57 ms",
            ),
            (run_end(events_written=1), "run ended: completed at step 30  1 event written, 0 lost  logging took 57 ms"),
        ],
        ids=lambda value: getattr(value, "name", ""),
    )
    def test_is_one_line(self, event, expected):
        """Every other event is one line of plain text."""
        assert shown(event) == expected

    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            (checkpoint(), "saved checkpoint-20"),
            (diagnosis(severity="error"), "\x1b[1;31merror (no_stop_label)\x1b[0m: No stop token is supervised."),
            (diagnosis(), "\x1b[1;33mwarning (no_stop_label)\x1b[0m: No stop token is supervised."),
            (diagnosis(severity="note"), "\x1b[2mnote (no_stop_label)\x1b[0m: No stop token is supervised."),
        ],
    )
    def test_color(self, event, expected):
        """Colour sets off what needs the eye and nothing else."""
        assert shown(event, color=True) == expected

    def test_unknown_event(self):
        """An event that this version does not know is shown field by field."""
        assert render({"event": "new_thing", "v": 1, "figures": [1, 2]}) == "event=new_thing  v=1  figures=[1, 2]"


class TestMarks:
    @pytest.mark.parametrize(
        ("marks", "said"),
        [
            ({"nonfinite": ["loss", "grad_norm"]}, "(not finite: loss, grad_norm)"),
            ({"replaced": {"path": "a tensor"}}, "(replaced: path)"),
            ({"shortened": {"first.labels": 10_000_000}}, "(shortened: first.labels (10,000,000 long))"),
            ({"nonfinite": list("abcdefgh")}, "(not finite: a, b, c, d, e and 3 more)"),
            ({"nonfinite": ["a"], "replaced": {"b": "c"}}, "(not finite: a; replaced: b)"),
            ({"nonfinite": "odd", "replaced": 7}, "(not finite: odd; replaced: 7)"),
        ],
    )
    def test_are_said_behind_the_line(self, marks, said):
        """What a line could not hold is said briefly behind it."""
        assert render(record_of(checkpoint()) | marks) == f"saved checkpoint-20  {said}"

    def test_are_said_below_many_lines(self):
        """Below a sample it is a line of its own, dim where there is colour."""
        marks = {"nonfinite": ["loss"]}
        assert render(record_of(text_sample()) | marks).endswith("8902]\n  (not finite: loss)")
        assert render(record_of(text_sample()) | marks, color=True).endswith("\n  \x1b[2m(not finite: loss)\x1b[0m")

    def test_nothing_to_say(self):
        """Empty marks are not said."""
        assert render(record_of(checkpoint()) | {"nonfinite": [], "replaced": {}}) == "saved checkpoint-20"


class TestFailures:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch):
        """Break the renderer of checkpoints."""

        def broken(record, text_format):
            raise ZeroDivisionError("division by \x1b zero")

        monkeypatch.setitem(RENDERERS, "checkpoint", broken)

    def test_warning(self):
        """A renderer that raises costs the layout of the record, not a field of it, and it is a warning."""
        with pytest.warns(RuntimeWarning, match=r"^cannot render checkpoint \(Zero.*: division by \\x1b zero\)"):
            text = render({"event": "checkpoint", "path": "a"})
        assert text == "event=checkpoint  path=a"

    def test_callback(self):
        """A caller may take each failure with the name of the event; an unknown event is no failure."""
        failures = []
        for event in ("checkpoint", "new", "checkpoint"):
            render({"event": event}, on_failure=lambda *failure: failures.append(failure))
        assert [(event, type(error)) for event, error in failures] == [("checkpoint", ZeroDivisionError)] * 2


@pytest.mark.filterwarnings("ignore:cannot render:RuntimeWarning")
class TestOddRecords:
    @pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
    def test_a_field_is_missing_or_odd(self, event):
        """A record of another version or a third party is rendered, if not in its own way then field by field."""
        whole = record_of(event)
        for name in whole:
            assert render({key: value for key, value in whole.items() if key != name})
            for odd in (None, [], {}, "x", [{"a": [1.5]}], True, -1, 10**5000, float("nan"), b"\x1b", object()):
                assert "\x1b" not in render(whole | {name: odd})

    def test_windows_of_unequal_lists(self):
        """Lists that do not belong together are shown as they are."""
        record = record_of(text_sample())
        record["first"] = record["first"] | {"labels": [1]}
        assert "'labels': [1]" in render(record)

    def test_no_field_at_all(self):
        """An empty record is an empty line."""
        assert render({}) == ""

    def test_an_object_that_cannot_be_described(self):
        """A value whose own description raises is named by its type."""

        class Mute:
            def __repr__(self):
                raise RuntimeError

        assert render({"event": "new", "value": Mute(), (1, "\x1b"): 2}) == r"event=new  value=<Mute>  (1, '\x1b')=2"

    def test_endless_nesting(self):
        """A record that holds itself is cut."""
        record = {"event": "new"}
        record["self"] = [record]
        assert render(record).count("event") <= 21

    def test_keys_that_look_alike(self):
        """Two keys that differ only in what is escaped are both shown."""
        assert render({"\x1b": 1, r"\x1b": 2}) == r"\x1b=1  \x1b'=2"


class TestEscapes:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("plain", "plain"),
            ("\x1b[2Jgone", r"\x1b[2Jgone"),
            ("a\r\nb\tc\x00\x07", r"a\r\nb\tc\x00\x07"),
            ("\x7f\x9b31m\x85", r"\x7f\x9b31m\x85"),
            ("safe\u202efdp.exe", r"safe\u202efdp.exe"),
            ("\u2066\u2069\u200f\u200b\ufeff", r"\u2066\u2069\u200f\u200b\ufeff"),
            ("one\u2028two\u2029", r"one\u2028two\u2029"),
            ("\udc80", r"\udc80"),
            ("\U000e0041", r"\U000e0041"),
            ("ad\u200cmi\u200dn", r"ad\u200cmi\u200dn"),
            ("\u3164\u115f\u1160\uffa0\u034f\xad", r"\u3164\u115f\u1160\uffa0\u034f\xad"),
            ("\ue000\ufffe\u0378", r"\ue000\ufffe\u0378"),
            ("\u0301a", r"\u0301a"),
            ("a\u0301b", "a\u0301b"),
            ("❤\ufe0f\ufe0f", "❤\ufe0f\\ufe0f"),
            ("é\ufffd\xa0\u3000", "é\ufffd\xa0\u3000"),
            ("日本語 हिन्दी Ελληνικά 🎧", "日本語 हिन्दी Ελληνικά 🎧"),
        ],
    )
    def test_printable(self, text, expected):
        """Controls, bidi overrides and invisible format characters are escaped; scripts pass."""
        assert printable(text) == expected

    @pytest.mark.parametrize("text", ["مرحبا بالعالم", "שלום", "می\u200cخواهم", "آية \u06dd ١٢", "abc مرحبا"])
    def test_right_to_left(self, text):
        """Right-to-left text passes whole, isolated, so that it cannot reorder its line."""
        assert printable(text) == f"\u2068{text}\u2069"

    def test_endless(self):
        """A text that would flood the terminal is cut, and says what is missing; an Arabic one stays isolated."""
        assert printable("a" * 1_000) == "a" * 1_000
        assert printable("a" * 3_000) == "a" * 1_000 + "... (2,000 more characters)"
        assert printable("م" * 3_000) == f"\u2068{'م' * 1_000}\u2069... (2,000 more characters)"

    def test_a_mountain_of_marks(self):
        """The marks that climb over the lines above are escaped."""
        assert printable("z" + "\u0300" * 10) == "z" + "\u0300" * 8 + r"\u0300" * 2

    @pytest.mark.parametrize("text", ["क्\u200dष", "👩\u200d🚀"])
    def test_joiners(self, text):
        """The joiners that a script or an emoji is spelt with pass."""
        assert printable(text) == text

    def test_sample(self):
        """An id and texts with escapes and Arabic reach the console harmless and whole."""
        sample = text_sample(
            sample_id="\x1b]0;owned\x07",
            first=window([1, 2], predicted_text="\x1b[31m\u202e", label_text="مرحبا"),
            last=window([]),
        )
        assert (
            shown(sample)
            == golden(r"""
            Sample 1 Prediction vs Label Comparison:  \x1b]0;owned\x07 at step 20, 10 of 12 correct
              First 2 - Predictions: [1, 2]  "\x1b[31m\u202e"
              First 2 - Labels:      [1, 2]  "%s"
        """)
            % "\u2068مرحبا\u2069"
        )

    def test_wherever_it_stands(self):
        """A control character is escaped in a name, in a key and in a field that should hold a number."""
        assert render({"event": "\x1bx", "k\x1b": {"\x1b": ["\x1b"]}, "n": 1}) == (
            r"event=\x1bx  k\x1b={'\x1b': ['\x1b']}  n=1"
        )
        assert render({"event": "checkpoint", "path": "a\nb"}) == r"saved a\nb"
        assert r"step \x1b[2J" in render(record_of(train_step()) | {"step": "\x1b[2J"})

    @given(random_events())
    @settings(deadline=None, derandomize=True, max_examples=60)
    def test_no_event_controls_the_terminal(self, event):
        """Whatever an event holds, rendering it succeeds, and no control character but the newline comes out."""
        text = shown(event)
        assert {c for c in text if unicodedata.category(c) in ("Cc", "Cs")} <= {"\n"}
        assert "\u202e" not in text
