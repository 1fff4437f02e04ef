"""The console at a logged step: figures, losses with their changes, the trend, a bar for each codebook."""

import pytest

from sinks import render
from sinks.record_text import RecordText, TextOptions
from tests.builders import (
    audio_sample,
    checkpoint,
    dataset_audit,
    diagnosis,
    eval_result,
    generation_sample,
    record_of,
    run_start,
    text_sample,
    train_step,
    window,
)
from tests.test_render import golden

ACCURACIES = (0.05, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8, 1.0)
STEP = {"epoch": 20.0, "step_ms": 391.2, "samples_per_s": 11.52, "seconds_left": 27.4}
CONTROL_TOKENS = text_sample(
    first=window([264, -100], label_text="<|audio_out_bos|>"),
    last=window([266, 261], label_text="<|audio_eos|><|eot_id|>"),
    num_targets=3,
    num_correct=3,
)


def shown(*events, width=80, color=False, encoding="utf-8", **options):
    """Show events one after another, as the console does."""
    text_of = RecordText(color=color, encoding=encoding, options=TextOptions(**options))
    texts = [text_of(record_of(event), width) for event in events]
    return "\n".join(text for text in texts if text is not None)


def steps(*audio_losses, **changes):
    """Make logged steps with these losses of the audio."""
    return [
        train_step(step=10 * number, loss=loss + 0.5, text_loss=0.5, audio_loss=loss, **changes)
        for number, loss in enumerate(audio_losses, start=1)
    ]


class TestStep:
    def test_a_logged_step(self):
        """Four lines of at most 80 columns: where the training is, the losses, the trend, the accuracies."""
        step = train_step(
            **STEP, loss=3.5, audio_loss=2.669, audio_accuracy_per_codebook=ACCURACIES, peak_memory_bytes=33_500_000_000
        )
        assert shown(run_start(total_steps=60), train_step(step=10), step).split("\n", 5)[5] == golden("""
            step 20/60  epoch 20.0  0.39 s  11.5 clips/s  ETA 0:27  lr 1.0e-04  grad 1.2
              loss 3.500 (-0.632)  text 0.831 (0.000)  audio 2.669 (-0.632)
              learning: audio loss falls over 2 logged steps  GPU memory 31.2 GiB
              correct  text 81.2 %  audio 51.2 %  codebooks ▁▂▃▄▅▆▇█ 5 to 100 %
        """)

    def test_a_first_step_at_chance(self):
        """The vocabulary is in `run_start`, so that the first step, before any sample, tells chance."""
        text = shown(run_start(vocab_size=512, codebook_size=1026), train_step(audio_loss=6.9))
        assert "\n  at chance: guessing gives ln V = 6.93\n" in text

    def test_missing_figures(self):
        """What is unknown is left out, and a loss that is not finite is said."""
        step = train_step(
            loss=float("nan"), text_accuracy=None, audio_accuracy_per_codebook=(None, 0.5), grad_norm=None
        )
        assert shown(step) == golden("""
            step 20  epoch 5.00  0.21 s  lr 1.0e-04
              loss not finite  text 0.831  audio 3.301
              correct  audio 50.0 %  codebooks -▅ 50 to 50 %
              (not finite: loss)
        """)

    def test_speech_alone(self):
        """A training of speech alone has one loss."""
        speech = {"text_targets": 0, "text_loss": 0.0, "text_accuracy": None, "loss": 3.3, "audio_loss": 3.3}
        assert shown(train_step(**speech)) == golden("""
            step 20  epoch 5.00  0.21 s  lr 1.0e-04  grad 1.2
              loss 3.300
              correct  audio 33.1 %  codebooks ▄▃ 25 to 41 %
        """)

    def test_a_text_model(self):
        """A text model has samples, one loss and no codebooks."""
        text = {"audio_targets": 0, "audio_loss": 0.0, "audio_accuracy_per_codebook": (), "loss": 0.83121}
        assert shown(train_step(**text, samples_per_s=512.3)) == golden("""
            step 20  epoch 5.00  0.21 s  512 samples/s  lr 1.0e-04  grad 1.2
              loss 0.831
              correct  text 81.2 %
        """)

    def test_a_slow_rank(self):
        """A rank that the others wait for is named."""
        assert "  rank 3 took 2 times the median" in shown(
            train_step(step_ms_max=400.0, step_ms_median=200.0, slowest_rank=3)
        )
        assert "median" not in shown(train_step(step_ms_max=299.0, step_ms_median=200.0, slowest_rank=3))

    def test_control_tokens_are_no_text(self):
        """If all targets of the shown texts are control tokens, loss and accuracy are not called those of text."""
        text = shown(train_step(), CONTROL_TOKENS, train_step(step=30))
        before, _, after = text.partition("Sample 1")
        assert "text 0.831" in before
        assert "control tokens 0.831 (0.000)" in after
        assert "correct  control tokens 81.2 %" in after
        assert "  text " not in after
        spoken = shown(CONTROL_TOKENS, text_sample(), train_step())
        assert "  text 0.831" in spoken

    def test_chance(self):
        """The vocabulary of the samples gives the loss of guessing."""
        assert "at chance: guessing gives ln V = 6.93" in shown(audio_sample(), *steps(6.95))
        assert "chance" not in shown(*steps(6.95))

    def test_a_rise_in_color(self):
        """A rise is red, learning green, and what is neither yellow."""
        assert "\x1b[1;31mrising\x1b[0m: audio loss rises" in shown(*steps(3.0, 3.5, 4.0, 4.5), color=True)
        assert "\x1b[1;32mlearning\x1b[0m: audio loss falls" in shown(*steps(4.0, 3.0), color=True)
        assert "\x1b[1;33mflat\x1b[0m: no clear change" in shown(*steps(4.0, 3.0, 4.0, 3.0), color=True)

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
    def test_digits_for_bars(self, encoding):
        """An encoding without the signs of bars gets digits, which are tenths."""
        step = train_step(audio_accuracy_per_codebook=ACCURACIES)
        assert "codebooks 02346789 5 to 100 %" in shown(step, encoding=encoding)

    def test_attempts_and_ranks(self):
        """Each run, attempt and rank has a history, and a `run_start` begins a new one."""
        text_of = RecordText(color=False, encoding="utf-8")
        first, second = map(record_of, steps(5.0, 4.0))
        text_of(first)
        assert "(-" not in text_of(second | {"rank": 1})
        assert "(-" not in text_of(second | {"attempt": 1})
        assert "(-" not in text_of(second | {"run_id": "other"})
        assert "loss 4.500 (-1.00)" in text_of(second)
        text_of(record_of(run_start()))
        assert "(-" not in text_of(second)

    def test_a_record_alone(self):
        """A record alone is shown without its past, as trackers do."""
        assert render(record_of(train_step())).startswith("step 20  epoch 5.00")


class TestEvaluation:
    def test_the_best_so_far(self):
        """An evaluation states its change and whether its loss is the lowest."""
        text = shown(eval_result(), eval_result(step=30, loss=4.25), eval_result(step=40, loss=4.75), width=None)
        heads = [line for line in text.splitlines() if line.startswith("evaluation")]
        assert heads == [
            "evaluation at step 20  3 samples",
            "evaluation at step 30  3 samples  lowest so far",
            "evaluation at step 40  3 samples  lowest 4.250 at step 30",
        ]
        assert "loss 4.750 (+0.500)" in text


class TestSamples:
    def test_below_its_step(self):
        """A sample below the line of its step does not repeat the step."""
        assert "Comparison:  en-1, 10 of 12 correct" in shown(train_step(), text_sample())
        assert "Comparison:  en-1 at step 20, 10 of 12 correct" in shown(train_step(step=10), text_sample())

    def test_all_correct(self):
        """A sample without a mistake is one line of at most 80 columns, and the shapes of audio."""
        audio = audio_sample(num_correct=12)
        assert shown(train_step(), CONTROL_TOKENS, audio).split("\n", 3)[3] == golden("""
            Sample 1 Prediction vs Label Comparison:  en-1, 3 of 3 correct (control tokens)
            Audio Prediction vs Label Comparison (Codebook 0):  en-1, 12 of 12 correct
              Logits shape: torch.Size([123, 8, 1026])
              Labels shape: torch.Size([8, 123])
        """)

    def test_hidden_targets(self):
        """Control tokens alone are claimed only where every target is in the log."""
        assert "(control tokens)" not in shown(text_sample(first=CONTROL_TOKENS.first, last=CONTROL_TOKENS.last))

    def test_shapes_that_change(self):
        """With `shapes=changes` shapes are shown at first, and where rank or vocabulary changes."""
        other = audio_sample(logits_shape=(99, 8, 1026), labels_shape=(8, 99))
        wider = audio_sample(logits_shape=(99, 8, 1030), labels_shape=(8, 99))
        samples = [audio_sample(), other, wider, wider, audio_sample(labels_shape=(1, 8, 123))]
        shapes = [line for line in shown(*samples, shapes="changes").splitlines() if "Logits" in line]
        assert shapes == [
            "  Logits shape: torch.Size([123, 8, 1026])",
            "  Logits shape: torch.Size([99, 8, 1030])",
            "  Logits shape: torch.Size([123, 8, 1026])",
        ]
        assert shown(*samples).count("Logits shape") == len(samples)

    def test_speech_is_not_red(self):
        """Codes of the speech that differ from the recording are marked and not red."""
        text = shown(generation_sample(), color=True)
        assert "*90" in text
        assert "\x1b[31m" not in text


class TestDetail:
    EVENTS = (
        run_start(total_steps=60),
        dataset_audit(),
        *steps(4.0, 3.0, audio_accuracy_per_codebook=ACCURACIES, seconds_left=27.4),
        CONTROL_TOKENS,
        audio_sample(),
        eval_result(),
        generation_sample(),
        diagnosis(evidence={"sample": "en-1", "strip": {"text": "3p 2#"}}),
        checkpoint(),
    )

    def test_compact(self):
        """A sample is one line, with its first mistake."""
        text = shown(train_step(), CONTROL_TOKENS, audio_sample(), detail="compact").split("\n", 3)[3]
        assert text == golden("""
            text  en-1, 3 of 3 correct (control tokens)
            codebook 0  en-1, 10 of 12 correct  first wrong at 14: 7890, label 7891
        """).replace("text", "  text").replace("codebook 0", "  codebook 0")

    def test_compact_mistakes(self):
        """A mistake of the last slots may not be the first, since the slots between are not logged."""
        fine = window([1, 2])
        late = audio_sample(first=fine, last=window([3, 4], [3, 5], start=90))
        assert shown(late, detail="compact").endswith("10 of 12 correct  wrong at 91: 5, label 4")
        assert shown(audio_sample(first=fine, last=fine), detail="compact").endswith("10 of 12 correct")
        assert "\x1b[31mwrong at 91" in shown(late, detail="compact", color=True)

    def test_line(self):
        """Each step, evaluation, finding and speech is one line. Samples are not shown."""
        assert shown(*self.EVENTS, detail="line", width=None) == golden("""
            run 20260102-030405-abcd: 1,234 training samples, 0 for evaluation  8 codebooks  5,678,901 trainable parameters  1 process on cpu  seed 42
            data: 1 error, 1 warning  train 4 samples, 0.1 min, 2 speakers  eval 1 sample, 0.1 min
            step 10/60  loss 4.500  text 0.500 81.2 %  audio 4.000 51.2 %  ETA 0:27  lr 1.0e-04  grad 1.2  0.21 s  epoch 5.00
            step 20/60  loss 3.500 (-1.00)  text 0.500 81.2 %  audio 3.000 51.2 %  learning  ETA 0:27  lr 1.0e-04  grad 1.2  0.21 s  epoch 5.00
            evaluation at step 20  loss 4.500  audio 3.500 37.5 %  3 samples
            Generated p-1: 3.2 s of 3.4 s, stopped by itself, 12 % silent, 50 % as recorded
            warning (no_stop_label): No stop token is supervised.
            saved checkpoint-20
        """)  # noqa: E501

    def test_line_at_80_columns(self):
        """On a terminal a step has as many figures as fit, and the losses and the trend in any case."""
        assert shown(*self.EVENTS[2:4], detail="line") == golden("""
            step 10  loss 4.500  text 0.500 81.2 %  audio 4.000 51.2 %  ETA 0:27  lr 1.0e-04
            step 20  loss 3.500 (-1.00)  text 0.500 81.2 %  audio 3.000 51.2 %  learning
        """)
