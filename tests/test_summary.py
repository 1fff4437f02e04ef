"""A log on one screen: its figures are those of its events, whatever its length, and fit the terminal."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.logs.summary.bars import ASCII, BLOCKS, glyphs
from higgs_audio_trainer.logs.summary.curve import MOST_POINTS, Curve
from higgs_audio_trainer.logs.summary.figures import RunProblem, summaries
from higgs_audio_trainer.logs.summary.text import render_summary
from sinks.terminal.fold import columns
from tests.builders import (
    cap_reached,
    diagnosis,
    eval_result,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    train_step,
)
from tests.test_reader import attempt_of, dump, file_of, records_of
from tests.test_render import golden

CONFIG = {"lr": 1e-4, "batch_size": 4, "grad_accum": 2, "epochs": 3.0, "max_steps": -1, "lora_r": 16, "dtype": "bf16"}


def step_of(step, *, codebooks=2, last=20, **changes):
    """Make a step of a training that learns: its losses halve and its accuracies grow."""
    learned = step / last
    figures = {
        "step": step,
        "loss": 8 - 6 * learned,
        "text_loss": 1 - learned,
        "audio_loss": 7 - 5 * learned,
        "audio_loss_per_codebook": tuple(7 - 5 * learned + k for k in range(codebooks)),
        "text_accuracy": learned,
        "audio_accuracy_per_codebook": tuple(learned / (k + 1) for k in range(codebooks)),
        "step_ms": 200.0,
        "logging_ms": 1.0,
    }
    return train_step(**(figures | changes))


def summed(folder, events, **envelope):
    """Write a log and sum it up."""
    file_of(folder).write_bytes(dump(records_of(events, **envelope)))
    (summary,) = summaries(folder, on_problem=pytest.fail)
    return summary


def training(codebooks=2):
    """Make the events of a run with all that a summary tells of."""
    events = [run_start(config=CONFIG)]
    for step in range(2, 21, 2):
        events += [step_of(step, codebooks=codebooks), text_sample(step=step)]
        if step % 10 == 0:
            events.append(eval_result(step=step, loss=9 - step / 10))
    return [
        *events,
        diagnosis(step=4),
        diagnosis(step=8),
        diagnosis(step=8, code="codebook_collapsed", severity="error"),
        run_end(reason="SIGTERM", step=20),
    ]


class TestFigures:
    def test_first_last_best(self, tmp_path):
        """A figure has its first, last and best value, with the step of that; best is low in losses, high else."""
        figures = [(1, 5.0, 0.1), (2, 2.0, 0.7), (3, 2.0, 0.7), (4, 3.0, 0.2)]
        events = [train_step(step=s, loss=loss, text_accuracy=right) for s, loss, right in figures]
        made = summed(tmp_path, events).training
        loss, right = made.losses["total"], made.accuracies["text"]
        assert (loss.first, loss.last, loss.best, loss.best_step) == (5.0, 3.0, 2.0, 2)
        assert (right.first, right.last, right.best, right.best_step) == (0.1, 0.2, 0.7, 2)
        assert loss.trend == (5.0, 2.0, 2.0, 3.0)
        assert (made.count, made.first_step, made.last_step) == (4, 1, 4)

    def test_without_targets(self, tmp_path):
        """What has no target has no loss, though the event says 0; it is a problem."""
        nothing = train_step(
            step=1,
            text_loss=0.0,
            text_targets=0,
            text_accuracy=None,
            audio_loss_per_codebook=(0.0, 3.0),
            audio_accuracy_per_codebook=(None, 0.5),
        )
        summary = summed(tmp_path, [nothing, train_step(step=2, audio_targets=0)])
        assert summary.training.losses["text"].first is None
        assert summary.training.losses["codebook 0"].best == 3.0
        assert summary.training.accuracies["audio"].first == 0.5
        assert summary.problems == [
            RunProblem("no text targets", "warning", 1, 1),
            RunProblem("no audio targets", "warning", 1, 2),
        ]

    def test_not_finite(self, tmp_path):
        """A NaN is no best, stands in no trend, and is a problem."""
        events = [train_step(step=1, loss=math.nan), train_step(step=2, loss=3.0), train_step(step=3, loss=math.inf)]
        file_of(tmp_path).write_bytes(
            dump([r | {"nonfinite": ["loss"]} if r["loss"] is None else r for r in _cleaned(records_of(events))])
        )
        (summary,) = summaries(tmp_path, on_problem=pytest.fail)
        loss = summary.training.losses["total"]
        assert (loss.first, loss.last, loss.best, loss.trend) == (None, None, 3.0, (None, 3.0, None))
        assert summary.problems == [RunProblem("train_step with non-finite values", "warning", 2, 1)]

    def test_diagnoses(self, tmp_path):
        """A code is one problem, as severe as it became, with what it is about; its count is that of the run's end."""
        found = [diagnosis(code="collapsed", step=2, modality="audio", codebook=k, repeats=k) for k in range(5)]
        worse = diagnosis(code="collapsed", step=9, modality="audio", codebook=0, severity="error")
        note = diagnosis(code="mask_audit", severity="note")
        log = [run_start(), train_step(step=2), *found, note, train_step(step=9), worse]
        (problem,) = summed(tmp_path, log).problems
        assert (problem.name, problem.severity, problem.count, problem.first_step) == ("collapsed", "error", 16, 2)
        (problem,) = summed(tmp_path, [*log, run_end(diagnoses={"collapsed": 7, "unheard_of": 1})]).problems
        assert (problem.count, problem.about[:2]) == (7, ["audio codebook 0", "audio codebook 1"])
        text = render_summary(summed(tmp_path, log), width=120, encoding="utf-8")
        about = "audio codebook 0, audio codebook 1, audio codebook 2, ..."
        assert f"problems error: collapsed ({about}), 16 times, first at step 2" in text

    def test_problems(self, tmp_path):
        """Problems are counted by code and severity, the worst first; what a sink lost is among them."""
        made = summed(tmp_path, [*training(), sink_recovered(), cap_reached()]).problems
        assert made == [
            RunProblem("codebook_collapsed", "error", 1, 8),
            RunProblem("no_stop_label", "warning", 2, 4),
            RunProblem("sink jsonl failed temporarily", "warning", 1, None),
            RunProblem("sink jsonl reached its size limit", "warning", 1, None),
        ]

    def test_ranks(self, tmp_path):
        """All ranks log the same figures; they count once."""
        for rank in (0, 1):
            file_of(tmp_path, rank=rank).write_bytes(dump(records_of([step_of(2), step_of(4)], rank=rank)))
        (summary,) = summaries(tmp_path, on_problem=pytest.fail)
        assert summary.training.count == 2
        assert summary.cost.step_ms == 400.0

    def test_attempts(self, tmp_path):
        """Steps that a resume made anew count once; gaps are looked for in every attempt."""
        for attempt, events in enumerate([attempt_of(stopped_at=6), attempt_of(resumed=4)]):
            records = records_of(events, attempt=attempt)
            del records[2]
            file_of(tmp_path, attempt=attempt).write_bytes(dump(records))
        (summary,) = summaries(tmp_path, on_problem=pytest.fail)
        assert (summary.attempt, summary.start.resumed_from_step, summary.end.reason) == (1, 4, "completed")
        assert [(gap.attempt, gap.first_seq) for gap in summary.gaps] == [(0, 2), (1, 2)]
        assert summary.training.last_step == 12
        log = shown(summary, tmp_path, 80).split("\n")[1]
        assert log.endswith(" events of 2 attempts, the last resumed from step 4")

    def test_a_resumed_run_is_one_run(self, tmp_path):
        """The begin is that of the first attempt, the steps those of the whole run; pauses do not count."""
        for attempt, (hour, resumed, reason, step) in enumerate([(3, None, "SIGTERM", 6), (9, 4, "completed", 12)]):
            start = run_start(resumed_from_step=resumed, total_steps=12)
            records = records_of([start, train_step(step=step), run_end(reason=reason, step=step)], attempt=attempt)
            for minute, record in enumerate(records):
                record["ts"] = f"2026-01-02T{hour:02d}:{minute:02d}:00.000000Z"
            file_of(tmp_path, attempt=attempt).write_bytes(dump(records))
        log = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
        (tmp_path / "joined.jsonl").write_bytes(log)
        for path in (tmp_path, tmp_path / "joined.jsonl"):
            (summary,) = summaries(path, on_problem=pytest.fail)
            lines = shown(summary, tmp_path, 100).split("\n")
            assert lines[1].endswith("; 6 events of 2 attempts, the last resumed from step 4")
            assert "state    completed at step 12 of 12; begun 2026-01-02 03:00:00 UTC; ran 4 min 0 s" in lines

    def test_memory(self, tmp_path):
        """A log of ten times the length takes no more memory to sum up."""
        peaks = []
        for count in (500, 5_000):
            file_of(tmp_path).write_bytes(dump(records_of([step_of(s, last=count) for s in range(1, count)])))
            tracemalloc.start()
            list(summaries(tmp_path, on_problem=pytest.fail))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < peaks[0] * 1.2


def _cleaned(records):
    """Make null of what no line can hold, as the pipeline does."""
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in records]


AT = {
    60: """
        run      r; 1 process on cpu; seed 42
        log      LOG/rank00000-attempt000.jsonl; 27 events
        data     1,234 training samples, 0 for evaluation; 8
                   codebooks
        settings lr 0.0001; batch 4 x 2; 3 epochs; LoRA rank 16;
                   bf16
        state    stopped by SIGTERM at step 20; begun 0-0
        steps    10 logged, 2 to 20; 2 evaluations, 10 to 20

                    loss                  accuracy
                    first  last  best at  first   last   best last
        total       7.400 2.000 2.000 20
        text        0.900 0.000 0.000 20  10.0% 100.0% 100.0% ██████
        audio       6.500 2.000 2.000 20   7.5%  75.0%  75.0% █████░
        codebook 0  6.500 2.000 2.000 20  10.0% 100.0% 100.0% ██████
        codebook 1  7.500 3.000 3.000 20   5.0%  50.0%  50.0% ███░░░
        eval total  8.000 7.000 7.000 20
        eval text   1.000 1.000 1.000 10  75.0%  75.0%  75.0% █████░
        eval audio  3.500 3.500 3.500 10  37.5%  37.5%  37.5% ██░░░░

        problems error: codebook_collapsed, 1 time, first at step 8
                 warning: no_stop_label, 2 times, first at step 4
        gaps     none
        logging  10 ms of 2,000 ms in the logged steps (0.50%)
                 57 ms in all; 0 events lost
    """,
    80: """
        run      r; 1 process on cpu; seed 42
        log      LOG/rank00000-attempt000.jsonl; 27 events
        data     1,234 training samples, 0 for evaluation; 8 codebooks
        settings lr 0.0001; batch 4 x 2; 3 epochs; LoRA rank 16; bf16
        state    stopped by SIGTERM at step 20; begun 0-0
        steps    10 logged, 2 to 20; 2 evaluations, 10 to 20

                    loss                           accuracy
                    first  last  best at trend     first   last   best at trend   last
        total       7.400 2.000 2.000 20 ██▇▅▄▃▂▁
        text        0.900 0.000 0.000 20 ██▇▅▄▃▂▁  10.0% 100.0% 100.0% 20 ▁▁▃▄▆▇█ ██████
        audio       6.500 2.000 2.000 20 ██▇▅▄▃▂▁   7.5%  75.0%  75.0% 20 ▁▁▃▄▆▇█ █████░
        codebook 0  6.500 2.000 2.000 20 ██▇▅▄▃▂▁  10.0% 100.0% 100.0% 20 ▁▁▃▄▆▇█ ██████
        codebook 1  7.500 3.000 3.000 20 ██▇▅▄▃▂▁   5.0%  50.0%  50.0% 20 ▁▁▃▄▆▇█ ███░░░
        eval total  8.000 7.000 7.000 20 █▁
        eval text   1.000 1.000 1.000 10 ▅▅        75.0%  75.0%  75.0% 10 ▅▅      █████░
        eval audio  3.500 3.500 3.500 10 ▅▅        37.5%  37.5%  37.5% 10 ▅▅      ██░░░░

        problems error: codebook_collapsed, 1 time, first at step 8
                 warning: no_stop_label, 2 times, first at step 4
        gaps     none
        logging  10 ms of 2,000 ms in the logged steps (0.50%)
                 57 ms in all; 0 events lost
    """,
    100: """
        run      r; 1 process on cpu; seed 42
        log      LOG/rank00000-attempt000.jsonl; 27 events
        data     1,234 training samples, 0 for evaluation; 8 codebooks
        settings lr 0.0001; batch 4 x 2; 3 epochs; LoRA rank 16; bf16
        state    stopped by SIGTERM at step 20; begun 0-0
        steps    10 logged, 2 to 20; 2 evaluations, 10 to 20

                    loss                                  accuracy
                    first  last  best at trend            first   last   best at trend          last
        total       7.400 2.000 2.000 20 ██▇▆▅▄▃▂▁▁
        text        0.900 0.000 0.000 20 ██▇▆▅▄▃▂▁▁       10.0% 100.0% 100.0% 20 ▁▁▂▃▄▅▆▇██     ████████████
        audio       6.500 2.000 2.000 20 ██▇▆▅▄▃▂▁▁        7.5%  75.0%  75.0% 20 ▁▁▂▃▄▅▆▇██     █████████░░░
        codebook 0  6.500 2.000 2.000 20 ██▇▆▅▄▃▂▁▁       10.0% 100.0% 100.0% 20 ▁▁▂▃▄▅▆▇██     ████████████
        codebook 1  7.500 3.000 3.000 20 ██▇▆▅▄▃▂▁▁        5.0%  50.0%  50.0% 20 ▁▁▂▃▄▅▆▇██     ██████░░░░░░
        eval total  8.000 7.000 7.000 20 █▁
        eval text   1.000 1.000 1.000 10 ▅▅               75.0%  75.0%  75.0% 10 ▅▅             █████████░░░
        eval audio  3.500 3.500 3.500 10 ▅▅               37.5%  37.5%  37.5% 10 ▅▅             █████░░░░░░░

        problems error: codebook_collapsed, 1 time, first at step 8
                 warning: no_stop_label, 2 times, first at step 4
        gaps     none
        logging  10 ms of 2,000 ms in the logged steps (0.50%)
                 57 ms in all; 0 events lost
    """,
}

IN_ASCII = """
                loss                           accuracy
                first  last  best at trend     first   last   best at trend   last
    total       7.400 2.000 2.000 20 ##%+=-._
    text        0.900 0.000 0.000 20 ##%+=-._  10.0% 100.0% 100.0% 20 __-=*%# ######
    audio       6.500 2.000 2.000 20 ##%+=-._   2.1%  21.1%  21.1% 20 __-=*%# #.....
    eval total  8.000 7.000 7.000 20 #_
    eval text   1.000 1.000 1.000 10 ++        75.0%  75.0%  75.0% 10 ++      #####.
    eval audio  3.500 3.500 3.500 10 ++        37.5%  37.5%  37.5% 10 ++      ##....
    codebooks: loss, then accuracy
       first  last  best first last best
     0  6.50  2.00  2.00   10% 100% 100% ###
     1  7.50  3.00  3.00    5%  50%  50% ##.
     2  8.50  4.00  4.00    3%  33%  33% #..
     3  9.50  5.00  5.00    2%  25%  25% #..
"""


class TestText:
    @pytest.mark.parametrize("width", [60, 80, 100])
    def test_a_run(self, tmp_path, width):
        """A whole summary, with bars and trends for which there is room."""
        assert shown(summed(tmp_path, training()), tmp_path, width) == golden(AT[width])

    def test_many_codebooks_in_ascii(self, tmp_path):
        """Many codebooks have shorter lines; bars are drawn with what the encoding has."""
        lines = shown(summed(tmp_path, training(16)), tmp_path, 80, "ascii").split("\n")
        assert lines[7:21] == golden(IN_ASCII).split("\n")

    def test_an_empty_log(self, tmp_path):
        """Where nothing is known it says so."""
        assert shown(summed(tmp_path, []), tmp_path, 80) == golden("""
            log      LOG/rank00000-attempt000.jsonl; 0 events; no run_start
            state    no run_end: killed, or still running
            steps    0 logged

            problems none
            gaps     n/a: the events have no seq
            logging  n/a: the log has no times
        """)

    def test_gaps_and_states(self, tmp_path):
        """What is missing is said with its reason; a run without an end was killed or still runs."""
        records = records_of([run_start(resumed_from_step=7), *[step_of(s) for s in range(1, 19)]], attempt=3)
        records += records_of([sink_recovered(first_seq=2, last_seq=4)] * 20, attempt=3)[19:]
        file_of(tmp_path, attempt=3).write_bytes(dump([r for r in records if r["seq"] not in {2, 3, 4, 8, 10, 11, 14}]))
        (summary,) = summaries(tmp_path, on_problem=pytest.fail)
        lines = shown(summary, tmp_path, 200).split("\n")
        assert lines[0] == "run      r; 1 process on cpu; seed 42"
        assert lines[1].endswith("; 13 events of attempt 3, resumed from step 7")
        # The times of these records are `attempt-seq`, and compare as text.
        assert "state    no run_end: killed, or still running; begun 3-0; last event at 3-9" in lines
        assert lines[-3:] == [
            "gaps     3 missing events, explained by sink_recovered",
            (
                "         4 missing events without an explanation: seq 8 of rank 0, attempt 3, "
                "seq 10 to 11 of rank 0, attempt 3 and 1 more gap"
            ),
            "logging  11 ms of 2,200 ms in the logged steps (0.50%)",
        ]

    def test_a_golden(self, tmp_path):
        """A log without times and numbers has no cost and no gaps."""
        records = [{k: v for k, v in r.items() if k not in VOLATILE_FIELDS} for r in records_of(training())]
        (tmp_path / "golden.jsonl").write_bytes(dump(records))
        (summary,) = summaries(tmp_path / "golden.jsonl", on_problem=pytest.fail)
        lines = shown(summary, tmp_path, 80).split("\n")
        assert lines[0] == "run      1 process on cpu; seed 42"
        assert lines[-2:] == ["gaps     n/a: the events have no seq", "logging  n/a: the log has no times"]

    @pytest.mark.parametrize("codebooks", [1, 8, 12, 13, 16, 32, 200])
    @pytest.mark.parametrize("width", [60, 80, 100, 200])
    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_one_screen(self, tmp_path, codebooks, width, encoding):
        """With any number of codebooks it fits 40 lines, in its width and encoding."""
        summary = summed(tmp_path, training(codebooks))
        lines = shown(summary, tmp_path, width, encoding).encode(encoding).decode(encoding).split("\n")
        assert len(lines) <= 40
        assert max(map(columns, lines)) <= width


def shown(summary, folder, width, encoding="utf-8"):
    """Render a summary, without the name of the folder that a test runs in."""
    named = replace(summary, path=Path("LOG") / summary.path.relative_to(folder))
    return render_summary(named, width=width, encoding=encoding)


class TestCommand:
    def test_several_logs(self, tmp_path, capsys):
        """Each log has its summary; `--width` folds it, and narrower than its tables it cannot be."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            file_of(tmp_path / name).write_bytes(dump(records_of(training())))
        paths = [str(tmp_path / "one"), str(tmp_path / "two")]
        assert main(["show", "--summary", *paths, "--width", "60"]) == 0
        assert capsys.readouterr().out.count("state    stopped by SIGTERM at step 20; begun 0-0\n") == 2
        assert main(["show", "--summary", *paths, "--width", "39"]) == 2
        assert "--width: expected at least 40 columns with --summary, got 39" in capsys.readouterr().err

    def test_a_lost_rank(self, tmp_path, capsys):
        """A rank that ended in the middle of the training is named beside the reason."""
        file_of(tmp_path).write_bytes(dump(records_of([run_start(), run_end(reason="error", lost_ranks=(1,))])))
        assert main(["show", "--summary", str(tmp_path)]) == 0
        assert ": error; lost: rank 1; begun 0-0\n" in capsys.readouterr().out

    def test_hostile(self, tmp_path, capsys):
        """Nothing that a log says controls the terminal or floods it."""
        config = CONFIG | {"lr": "\x1b[2J", "dtype": "x" * 5_000, "lora_r": {}}
        events = [run_start(config=config, device="\u202e" * 100), run_end(reason="\x07", step=10**15)]
        events += [diagnosis(code=f"\x1b{index}", step=10**12) for index in range(500)]
        file_of(tmp_path).write_bytes(dump(records_of(events)))
        assert main(["show", "--summary", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert not set("\x1b\x07\u202e") & set(out)
        assert len(out.split("\n")) <= 45
        assert "... and 96 more kinds" in out


class TestCurve:
    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.none() | st.floats(), max_size=500))
    def test_any_values(self, values):
        """A trend is short, and holds means of neighbours; the best is the best of all."""
        curve = Curve(min)
        for step, value in enumerate(values):
            curve.add(step, value)
        series = curve.summary()
        finite = [value for value in values if value is not None and math.isfinite(value)]
        assert series.best == (min(finite) if finite else None)
        assert len(series.trend) <= MOST_POINTS
        assert len(series.trend) >= min(len(values), MOST_POINTS // 2)
        if finite and max(map(abs, finite)) < 1e300:
            known = [point for point in series.trend if point is not None]
            assert min(finite) - 1e-6 * abs(min(finite)) <= min(known)
            assert max(known) <= max(finite) + 1e-6 * abs(max(finite))

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=60), st.integers(0, 30), st.floats(-2, 2) | st.none())
    def test_drawing(self, values, width, share):
        """A drawing is as wide as it may be, and made of its glyphs alone."""
        for drawn in (BLOCKS, ASCII):
            assert len(drawn.trend(values, width)) == width
            assert len(drawn.bar(share, width)) == width
            assert set(drawn.bar(share, width)) <= set(drawn.full + drawn.rest + " ")

    def test_what_an_encoding_has(self):
        """Blocks are drawn where they can be."""
        assert (glyphs("utf-8"), glyphs("ascii"), glyphs("latin-1"), glyphs("cp437")) == (BLOCKS, ASCII, ASCII, ASCII)
        assert BLOCKS.trend([3.0, 2.0, None, 1.0], 6) == "█▅ ▁  "
        assert BLOCKS.bar(0.5, 4) == "██░░"
