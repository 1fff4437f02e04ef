"""From event to sinks: the envelope, non-finite floats, and the effects of a failing sink."""

import copy
import io
import itertools
import json
import pickle
import sys
import time
from asyncio import CancelledError
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from tqdm import tqdm

from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.events import Checkpoint
from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline, utc_now
from sinks import JsonlSink, MemorySink
from tests.builders import (
    RUN_ID,
    Screen,
    all_events,
    checkpoint,
    fixed_clock,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
)


class Failing:
    """A sink that raises an error for chosen records, and keeps the other records."""

    def __init__(self, error=None, *, on=lambda _seq: True):
        self.error = error or OSError(28, "No space left on device")
        self.on = on
        self.seqs = []

    def __call__(self, record):
        """Fail, or keep the record's number."""
        if self.on(record["seq"]):
            raise self.error
        self.seqs.append(record["seq"])


def pipeline(*sinks, **settings):
    """Make a pipeline of sinks named a, b, ..."""
    return Pipeline(list(zip("abcd", sinks, strict=False)), run_id=RUN_ID, **settings)


class TestEnvelope:
    def test_comes_first(self):
        """Every record begins with the envelope and continues with the event's fields, each in the defined order."""
        memory = MemorySink()
        pipeline(memory, attempt=2, rank=3, clock=fixed_clock)(checkpoint(), level="warning")
        assert list(memory.records[0].items()) == [
            ("event", "checkpoint"),
            ("v", 1),
            ("ts", "2026-01-02T03:04:05.000060Z"),
            ("run_id", RUN_ID),
            ("attempt", 2),
            ("rank", 3),
            ("seq", 0),
            ("level", "warning"),
            ("step", 20),
            ("path", "checkpoint-20"),
        ]

    def test_seq_counts_events(self):
        """The sequence counts from 0 in each pipeline, over all kinds of events."""
        memory = MemorySink()
        for emit in (pipeline(memory), pipeline(memory)):
            for event in all_events():
                emit(event)
        count = len(all_events())
        assert [record["seq"] for record in memory.records] == [*range(count), *range(count)]

    @pytest.mark.parametrize("microseconds", [0, 1, 120_000, 999_999])
    def test_time_has_six_digits(self, microseconds):
        """Microseconds have six digits, also if the microseconds are zero."""
        memory = MemorySink()
        pipeline(memory, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=microseconds))(
            checkpoint()
        )
        assert memory.records[0]["ts"] == f"2026-01-02T00:00:00.{microseconds:06d}Z"

    def test_time_is_now(self):
        """Without an injected clock, a pipeline uses the present time in UTC."""
        memory = MemorySink()
        before = utc_now()
        pipeline(memory)(checkpoint())
        assert before <= datetime.fromisoformat(memory.records[0]["ts"]) <= utc_now()


class TestNonFinite:
    def test_becomes_null_and_is_named(self):
        """NaN and infinities become null. `nonfinite` names the paths, nested paths included."""
        nan, inf = float("nan"), float("inf")
        record = record_of(train_step(loss=nan, audio_loss_per_codebook=(1.0, -inf), grad_norm=inf))
        assert record["nonfinite"] == ["loss", "audio_loss_per_codebook[1]", "grad_norm"]
        assert (record["loss"], record["audio_loss_per_codebook"], record["grad_norm"]) == (None, [1.0, None], None)

    def test_in_nested_settings(self):
        """A non-finite setting is found at any depth."""
        record = record_of(run_start(config={"extra": {"limits": [1, {"top": float("inf")}], "lr": 0.1}}))
        assert record["config"] == {"extra": {"limits": [1, {"top": None}], "lr": 0.1}}
        assert record["nonfinite"] == ["config.extra.limits[1].top"]

    def test_finite_records_have_no_such_field(self):
        """A record with finite values has no `nonfinite` field."""
        record = record_of(text_sample(loss=0.0))
        assert "nonfinite" not in record
        assert record["first"]["labels"] == (1234, 5678, 9012, 3456, 7891)

    def test_event_is_untouched(self):
        """The event keeps the original values."""
        event = run_start(config={"nested": {"x": float("inf")}})
        record_of(event)
        assert event.config == {"nested": {"x": float("inf")}}


class TestFailingSink:
    def test_others_get_the_event(self, capsys):
        """A sink that raises loses only the sink's own delivery."""
        before, after = MemorySink(), MemorySink()
        emit = pipeline(before, Failing(), after)
        emit(checkpoint())
        assert [len(before.records), len(after.records)] == [1, 1]
        assert (emit.written, emit.lost, emit.failures) == (0, 1, {"b": 1})

    def test_is_announced_once(self, capsys):
        """The first failure of each sink is reported on stderr in one line, and all failures are counted."""
        emit = pipeline(Failing(), Failing(ValueError("bad\nvalue \x1b[2J")))
        for _ in range(3):
            emit(checkpoint())
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            "higgs-audio-trainer: logging to a failed: No space left on device (ENOSPC); training continues; "
            "run_end has the number of lost events.\n"
            r"higgs-audio-trainer: logging to b failed: ValueError('bad\nvalue \x1b[2J'); training continues; "
            "run_end has the number of lost events.\n"
        )
        assert (emit.written, emit.lost, emit.failures) == (0, 6, {"a": 3, "b": 3})

    def test_counts_go_on_after_recovery(self, capsys):
        """A recovered sink gets events again, and the count of lost events stays."""
        sink = Failing(on=lambda seq: seq in (1, 2))
        emit = pipeline(sink)
        for _ in range(5):
            emit(checkpoint())
        assert sink.seqs == [0, 3, 4, 5]  # 4 is the sink_recovered
        assert (emit.written, emit.lost) == (4, 2)

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (
                OSError(30, "Read-only file system", "a\x1b[2J.jsonl"),
                r"Read-only file system (EROFS): 'a\x1b[2J.jsonl'",
            ),
            (OSError(28, "No space\nleft"), r"No space\nleft (ENOSPC)"),
            (OSError(99999, "Odd"), "Odd (99999)"),
            (OSError("without a number"), "OSError('without a number')"),
            (OSError("x", "y"), "OSError('x', 'y')"),
            (ValueError("\udcff \u202e"), r"ValueError('\udcff \u202e')"),
        ],
        ids=str,
    )
    def test_description(self, error, words):
        """A failure message has the operating system's text, or the repr of any other error, without controls."""
        said = []
        pipeline(Failing(error), say=said.append)(checkpoint())
        (line,) = said
        assert line == (
            f"higgs-audio-trainer: logging to a failed: {words}; training continues; "
            "run_end has the number of lost events."
        )

    def test_long_description_is_cut(self):
        """However long an error's description is, the announcement stays readable."""
        said = []
        pipeline(Failing(ValueError("x" * 10**6)), say=said.append)(checkpoint())
        assert len(said[0]) < 500

    def test_say_that_fails(self):
        """A failure to report is not counted again, and does not reach the training."""
        emit = pipeline(Failing(), say=lambda _text: 1 / 0)
        emit(checkpoint())
        emit.fail("extraction", ValueError())
        assert emit.lost == 2

    @pytest.mark.parametrize("stderr", [None, io.StringIO()])
    def test_nowhere_to_say_it(self, monkeypatch, capsys, stderr):
        """Where stderr is closed or gone, the failure is counted all the same and nothing is raised."""
        if stderr is not None:
            stderr.close()
        monkeypatch.setattr(sys, "stderr", stderr)
        emit = pipeline(Failing())
        emit(checkpoint())
        assert emit.lost == 1

    def test_bar_steps_aside(self, monkeypatch):
        """The announcement does not tear a progress bar on the same terminal."""
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        with tqdm(total=3, bar_format="{n_fmt} of {total_fmt}"):
            pipeline(Failing())(checkpoint())
            said, bar = screen.lines()
        assert said.startswith("higgs-audio-trainer: logging to a failed: No space left on device (ENOSPC);")
        assert bar == "0 of 3"

    def test_error_that_cannot_be_described(self, capsys):
        """An exception whose own description raises is counted like any other."""

        class MuteError(Exception):
            def __repr__(self):
                raise RuntimeError

        emit = pipeline(Failing(MuteError()))
        emit(checkpoint())
        assert emit.lost == 1

    def test_recovery_comes_before_the_last_line(self, capsys):
        """`recover` makes failed sinks report before the last event. A sink that still fails loses no further event."""
        works, broken = Failing(on=lambda seq: seq == 1), Failing(on=lambda seq: seq > 0)
        memory = MemorySink()
        emit = pipeline(works, broken, memory)
        emit(checkpoint())
        emit(checkpoint())
        emit.recover()
        emit.recover()
        assert (works.seqs, broken.seqs, emit.lost) == ([0, 2], [0], 3)
        [report] = memory.named("sink_recovered")
        assert [report[name] for name in ("seq", "sink", "lost", "first_seq", "last_seq", "errno")] == [
            2,
            "a",
            1,
            1,
            1,
            28,
        ]
        emit(run_end())
        assert (works.seqs, memory.records[-1]["event"], memory.records[-1]["seq"]) == ([0, 2, 3], "run_end", 3)

    def test_nothing_follows_the_last_line(self, tmp_path, capsys):
        """A sink that reached the size limit takes `run_end`, and is not reported as recovered."""
        memory = MemorySink()
        sink = JsonlSink(tmp_path / "log.jsonl", max_total_bytes=8192)
        emit = pipeline(sink, memory)
        for _ in range(100):
            emit(checkpoint())
        emit.recover()
        emit(run_end())
        sink.close()
        assert memory.records[-1]["event"] == "run_end"
        assert memory.named("sink_recovered") == []
        events = [json.loads(line)["event"] for line in sink.path.read_bytes().splitlines()]
        assert events[-2:] == ["cap_reached", "run_end"]

    def test_strict(self, capsys):
        """A strict pipeline ends the run with an error that explains what to do and keeps the cause."""
        error = OSError(28, "No space left on device")
        emit = pipeline(Failing(error), strict=True)
        with pytest.raises(LoggingError) as caught:
            emit(checkpoint())
        assert isinstance(caught.value, UserError)
        assert caught.value.__cause__ is error
        assert str(caught.value) == (
            "--strict_logging: expected every event to be logged, got OSError(28, 'No space left on device') from sink "
            "a. Fix the cause, or train without --strict_logging."
        )
        assert (emit.written, emit.lost, emit.seconds > 0, capsys.readouterr().err) == (0, 1, True, "")

    def test_strict_with_an_error_that_cannot_be_described(self):
        """The run ends with this package's error, not with the error of the description."""

        class MuteError(Exception):
            def __repr__(self):
                raise RuntimeError

        with pytest.raises(LoggingError, match="MuteError"):
            pipeline(Failing(MuteError()), strict=True)(checkpoint())

    def test_strict_goes_on_if_told_to(self):
        """A caller that catches the error may emit again, and the lost events stay counted and claimed."""
        sink, memory = Failing(on=lambda seq: seq == 0), MemorySink()
        emit = pipeline(sink, memory, strict=True)
        with pytest.raises(LoggingError):
            emit(checkpoint())
        emit(checkpoint())
        assert (sink.seqs, [record["seq"] for record in memory.records]) == ([1, 2], [0, 1, 2])
        claims = [(claim["sink"], claim["lost"], claim["first_seq"]) for claim in memory.named("sink_recovered")]
        assert claims == [("a", 1, 0)]
        assert (emit.written, emit.lost) == (2, 1)

    @pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), CancelledError()], ids=repr)
    def test_a_sink_cannot_end_the_training(self, error, capsys):
        """An error that would end a process, a generator or a task is an ordinary failure of the sink."""
        memory = MemorySink()
        emit = pipeline(Failing(error), memory)
        emit(checkpoint())
        assert (len(memory.records), emit.lost) == (1, 1)

    def test_interruption_passes(self):
        """Ctrl-C during a write is no failure of the sink and reaches the training."""
        with pytest.raises(KeyboardInterrupt):
            pipeline(Failing(KeyboardInterrupt()))(checkpoint())

    def test_other_failures_of_logging(self, capsys):
        """A failure outside the sinks is counted and reported in the same way, also by a null pipeline."""
        for emit in (pipeline(), NullPipeline()):
            emit.fail("extraction", ValueError("x"))
            emit.fail("extraction", ValueError("x"))
            assert (emit.lost, emit.failures) == (2, {"extraction": 2})
        assert capsys.readouterr().err.count("logging to extraction failed: ValueError('x');") == 2


class TestRecovery:
    def test_is_an_event(self):
        """A recovered sink is reported to all sinks, after the first delivered record, with exact numbers."""
        error = OSError(28, "No space left on device")
        broken, memory = Failing(error, on=lambda seq: seq in (1, 2)), MemorySink()
        emit = pipeline(broken, memory, say=lambda _text: None)
        for _ in range(4):
            emit(checkpoint())
        assert [record["event"] for record in memory.records] == [*["checkpoint"] * 4, "sink_recovered"]
        assert list(memory.records[4].items())[6:] == [
            ("seq", 4),
            ("level", "warning"),
            ("sink", "a"),
            ("lost", 2),
            ("first_seq", 1),
            ("last_seq", 2),
            ("errno", 28),
        ]
        assert broken.seqs == [0, 3, 4]

    def test_errno_is_the_last_ones(self):
        """`errno` belongs to the last error of the outage, and is null if the error is not of the operating system."""
        errors = iter([OSError(28, "full"), OSError(5, "broken"), OSError(28, "full"), ValueError()])
        memory = MemorySink()

        def sink(record):
            if record["seq"] in (0, 1, 4, 5):
                raise next(errors)

        emit = pipeline(sink, memory, say=lambda _text: None)
        for _ in range(6):
            emit(checkpoint())
        assert [claim["errno"] for claim in memory.named("sink_recovered")] == [5, None]

    def test_an_interruption_has_no_errno(self):
        """A record that Ctrl-C lost is part of the outage, but the error before Ctrl-C is not the cause."""
        errors = iter([OSError(28, "full"), KeyboardInterrupt()])
        memory = MemorySink()

        def sink(record):
            if record["seq"] < 2:
                raise next(errors)

        emit = pipeline(sink, memory, say=lambda _text: None)
        emit(checkpoint())
        with pytest.raises(KeyboardInterrupt):
            emit(checkpoint())
        emit(checkpoint())
        claims = memory.named("sink_recovered")
        assert [(claim["sink"], claim["lost"], claim["errno"]) for claim in claims] == [("a", 2, None), ("b", 1, None)]
        assert (emit.written, emit.lost) == (3, 3)

    def test_a_lost_report_is_made_again(self):
        """An outage ends only when the recovered sink takes the report. A lost report is part of the outage."""
        broken, memory = Failing(on=lambda seq: seq in (0, 2)), MemorySink()
        emit = pipeline(broken, memory, say=lambda _text: None)
        for _ in range(3):
            emit(checkpoint())
        claims = memory.named("sink_recovered")
        assert [(claim["seq"], claim["lost"], claim["first_seq"], claim["last_seq"]) for claim in claims] == [
            (2, 1, 0, 0),
            (4, 2, 0, 2),
        ]
        assert broken.seqs == [1, 3, 4]

    def test_sinks_that_fail_by_turns(self):
        """Two sinks that lose each other's reports get one report for each event, without an endless chain."""
        even, odd = Failing(on=lambda seq: seq % 2 == 0), Failing(on=lambda seq: seq % 2)
        emit = pipeline(even, odd, say=lambda _text: None)
        for _ in range(10):
            emit(checkpoint())
        assert len(even.seqs) + len(odd.seqs) <= 30


class TestLost:
    @pytest.mark.parametrize(("dropped", "counted"), [(3, 3), (-1, 0), ("3", 0), (None, 0), (True, 0), (2.5, 0)])
    def test_what_sinks_dropped(self, dropped, counted):
        """The pipeline counts the records that a sink took and lost later, by the sink's count.

        An invalid count is ignored.
        """
        sink = MemorySink()
        sink.dropped = dropped
        assert pipeline(sink, MemorySink()).lost == counted

    def test_a_count_that_raises(self):
        """A count that cannot be read is 0."""

        class Sink:
            def __call__(self, record):
                pass

            @property
            def dropped(self):
                raise OSError

        assert pipeline(Sink()).lost == 0

    @pytest.mark.parametrize("event", [None, 3, object(), Checkpoint, "checkpoint"])
    @pytest.mark.parametrize("strict", [False, True])
    def test_no_event(self, event, strict):
        """An object that is no event is counted and takes no seq. A strict pipeline raises an error."""
        memory = MemorySink()
        emit = pipeline(memory, strict=strict, say=lambda _text: None)
        if strict:
            with pytest.raises(LoggingError, match="from emit"):
                emit(event)
        else:
            emit(event)
        emit(checkpoint())
        assert [record["seq"] for record in memory.records] == [0]
        assert (emit.written, emit.lost, emit.failures) == (1, 1, {"emit": 1})

    def test_odd_level(self):
        """An unknown level is stored as data, selects no method, and does not lose the event."""
        memory = MemorySink()
        pipeline(memory)(checkpoint(), level="bind")
        assert memory.records[0]["level"] == "bind"

    def test_out_of_stack(self):
        """With hardly any stack left, a pipeline counts the loss, raises no further error, and recovers afterwards."""
        emit = pipeline(memory := MemorySink(), say=lambda _text: None)

        def deeper():
            try:
                deeper()
            except RecursionError:
                return
            with suppress(RecursionError):  # of the call itself
                emit(checkpoint())

        deeper()
        before = len(memory.records)
        emit(checkpoint())
        after = [record["event"] for record in memory.records[before:]]
        # The second list applies if the stack was too deep to report the recovery earlier.
        assert after in (["checkpoint"], ["checkpoint", "sink_recovered"])
        seqs = {record["seq"] for record in memory.records}
        claimed = sum(claim["lost"] for claim in memory.named("sink_recovered"))
        assert len(seqs) + claimed == max(seqs) + 1
        assert emit.lost > 0


class TestDelivery:
    def test_order(self):
        """Sinks get an event one after the other, in the order of the names."""
        calls = []
        emit = pipeline(*(lambda record, name=name: calls.append((name, record["seq"])) for name in "xyz"))
        emit(checkpoint())
        emit(checkpoint())
        assert calls == list(itertools.product("xyz", [0])) + list(itertools.product("xyz", [1]))

    def test_a_sink_may_change_its_record(self):
        """A change that one sink makes to a record does not reach the next sink."""
        memory = MemorySink()
        pipeline(lambda record: record.clear(), memory)(checkpoint())
        assert memory.records[0]["event"] == "checkpoint"

    def test_token_counts(self):
        """`written` counts the events that every sink took, and `seconds` is the time of the deliveries."""
        emit = pipeline(lambda _record: time.sleep(0.01), MemorySink())
        assert (emit.written, emit.lost, emit.seconds) == (0, 0, 0.0)
        emit(checkpoint())
        emit(checkpoint())
        assert (emit.written, emit.lost) == (2, 0)
        assert emit.seconds >= 0.02

    def test_null_pipeline(self):
        """The null pipeline takes every event and does nothing."""
        emit = NullPipeline()
        for event in all_events():
            emit(event, level="error")
        assert (emit.written, emit.lost, emit.seconds) == (0, 0, 0.0)

    def test_null_pipeline_says_it_if_it_can(self, monkeypatch):
        """A null pipeline does not raise either."""
        monkeypatch.setattr(sys, "stderr", None)
        emit = NullPipeline()
        emit.fail("extraction", ValueError())
        assert emit.lost == 1

    def test_replaced(self):
        """`replaced` counts the values that no line can represent, and the record names the values."""
        memory = MemorySink()
        emit = pipeline(memory)
        emit(train_step(loss=float("nan"), audio_loss_per_codebook=(2**70, b"", 1.0)))
        assert emit.replaced == 3
        assert memory.records[0]["audio_loss_per_codebook"] == [2**64 - 1, None, 1.0]
        assert memory.records[0]["nonfinite"] == ["loss"]
        assert memory.records[0]["replaced"] == {
            "audio_loss_per_codebook[0]": "<int of 71 bits>",
            "audio_loss_per_codebook[1]": "<bytes>",
        }

    def test_copy_is_null(self):
        """A copy, by pickle or otherwise, is a null pipeline, because only one process writes a file."""
        emit = pipeline(lambda _record: None)
        for made in (pickle.loads(pickle.dumps(emit)), copy.copy(emit), copy.deepcopy(emit)):
            assert type(made) is NullPipeline


class TestStructlog:
    @pytest.fixture
    def configured(self):
        """Configure structlog as a user's program might, and clean up."""

        def refuse(*_args):
            raise AssertionError("the user's configuration is not ours")

        structlog.configure(logger_factory=refuse, processors=[refuse], context_class=refuse, wrapper_class=refuse)
        yield structlog.get_config()
        structlog.reset_defaults()

    def test_global_configuration_is_neither_changed_nor_used(self, configured):
        """A pipeline works with any global configuration of structlog, and leaves the configuration unchanged."""
        before = dict(configured)
        assert record_of(checkpoint())["path"] == "checkpoint-20"
        assert structlog.get_config() == before

    def test_does_not_configure(self):
        """Making and using a pipeline does not count as configuring structlog."""
        structlog.reset_defaults()
        record_of(checkpoint())
        assert not structlog.is_configured()
