"""structlog processors of the user: what a processor may do, and what no processor can do to the log."""

import pickle
import random
import sys
import threading
from datetime import datetime
from pathlib import Path

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.processors import CallsiteParameter, CallsiteParameterAdder, EventRenamer, JSONRenderer, TimeStamper

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.logs.validation.validate import validate
from higgs_audio_trainer.pipeline.emit import NullPipeline, Pipeline
from higgs_audio_trainer.pipeline.processing import PROTECTED_FIELDS, UNDROPPABLE_EVENTS
from higgs_audio_trainer.pipeline.processors import load_processors, named_processors
from higgs_audio_trainer.run import run_training
from sinks import JsonlSink, MemorySink
from tests import plausible
from tests.builders import (
    RUN_ID,
    all_events,
    audio_sample,
    checkpoint,
    fixed_clock,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
)

EXAMPLES = Path(__file__).parent.parent / "examples"


def pipeline(*processors, sink=None, said=None, **settings):
    """Make a pipeline with processors into one sink, and return the pipeline and the sink's records."""
    memory = MemorySink()
    announced = [] if said is None else said
    emit = Pipeline(
        [("memory", sink or memory)], run_id=RUN_ID, processors=processors, say=announced.append, **settings
    )
    return emit, memory.records


def processed(event, *processors, **settings):
    """Return the record of an event after processors, none of which failed."""
    emit, records = pipeline(*processors, clock=fixed_clock, **settings)
    emit(event)
    assert emit.failures == {}
    [record] = records
    return record


def drop(_logger, _level, _event_dict):
    """Drop every event."""
    raise structlog.DropEvent


def fail(_logger, _level, _event_dict):
    """Raise on every event."""
    raise ValueError("odd")


def without(name):
    """Return a processor that removes a field."""

    def remove(_logger, _level, event_dict):
        event_dict.pop(name, None)
        return event_dict

    return remove


def adding(**values):
    """Return a processor that sets fields."""
    return lambda _logger, _level, event_dict: {**event_dict, **values}


class TestWhatAProcessorMayDo:
    def test_sees_the_envelope_the_payload_and_the_time(self):
        """A processor gets all fields of the event before the values are made encodable, and the level as method."""
        seen = []

        def look(logger, level, event_dict):
            seen.append((level, dict(event_dict)))
            return event_dict

        emit, records = pipeline(look, attempt=2, rank=3, clock=fixed_clock)
        emit(train_step(loss=float("inf")), level="warning")
        [(level, event_dict)] = seen
        assert level == "warning"
        assert event_dict["loss"] == float("inf")
        assert list(event_dict) == [name for name in records[0] if name != "nonfinite"]
        assert [event_dict[name] for name in (*PROTECTED_FIELDS, "ts", "level")] == [
            "train_step",
            1,
            RUN_ID,
            2,
            3,
            0,
            "2026-01-02T03:04:05.000060Z",
            "warning",
        ]

    def test_adds_changes_and_removes_fields_in_order(self):
        """Processors run in their order, each on what the one before returned."""
        record = processed(checkpoint(), adding(path="a", host="b"), adding(host="c"), without("step"))
        assert list(record)[-2:] == ["path", "host"]
        assert (record["path"], record["host"], "step" in record) == ("a", "c", False)

    @pytest.mark.parametrize("change", [adding(ts="2026-01-02T00:00:00.000000Z"), adding(level="error")])
    def test_time_and_level_may_change(self, change):
        """`ts` and `level` are no numbers of the log: a processor may set both."""
        assert processed(checkpoint(), change)["event"] == "checkpoint"

    def test_values_are_made_encodable_afterwards(self):
        """What a processor adds and no line can hold becomes null, and is marked and counted."""
        emit, records = pipeline(adding(path=Path("a"), share=float("nan")))
        emit(checkpoint())
        assert (records[0]["path"], records[0]["share"], emit.replaced) == (None, None, 2)
        assert records[0]["nonfinite"] == ["share"]
        assert list(records[0]["replaced"]) == ["path"]

    def test_drops_events_without_a_gap(self):
        """A dropped event uses no `seq`, is not lost and is not counted; later processors do not see the event."""
        later = []

        def drop_odd_steps(_logger, _level, event_dict):
            if event_dict["step"] % 2:
                raise structlog.DropEvent
            return event_dict

        def look(_logger, _level, event_dict):
            later.append(event_dict["step"])
            return event_dict

        emit, records = pipeline(drop_odd_steps, look)
        for step in range(6):
            emit(checkpoint(step=step))
        assert later == [record["step"] for record in records] == [0, 2, 4]
        assert [record["seq"] for record in records] == [0, 1, 2]
        assert (emit.written, emit.lost, emit.failures) == (3, 0, {})

    @pytest.mark.parametrize("event", [run_start(), run_end()], ids=lambda event: event.name)
    def test_first_and_last_line_cannot_be_dropped(self, event):
        """A drop of the first or the last line of a file has no effect, and is no failure."""
        record = processed(event, adding(host="a"), drop, adding(commit="b"))
        assert (record["event"], record["host"], record["commit"]) == (event.name, "a", "b")

    def test_the_account_of_lost_lines_cannot_be_dropped_or_changed(self):
        """`sink_recovered` reaches the file with its own numbers, whatever a processor does."""
        taken = []

        def sink(record):
            if len(taken) == 1 and not record.get("lost"):
                taken.append(None)
                raise OSError(28, "No space left on device")
            taken.append(record)

        def forge(_logger, _level, event_dict):
            if event_dict["event"] == "sink_recovered":
                event_dict |= {"lost": 0, "sink": "b", "note": "c"}
                del event_dict["first_seq"]
            return event_dict

        def drop_reports(_logger, _level, event_dict):
            if event_dict["event"] in UNDROPPABLE_EVENTS:
                raise structlog.DropEvent
            return event_dict

        emit, _ = pipeline(forge, drop_reports, sink=sink)
        for _ in range(3):
            emit(checkpoint())
        [report] = [record for record in taken if record and record["event"] == "sink_recovered"]
        assert {name: report[name] for name in ("sink", "lost", "first_seq", "last_seq", "errno", "note", "seq")} == {
            "sink": "memory",
            "lost": 1,
            "first_seq": 1,
            "last_seq": 1,
            "errno": 28,
            "note": "c",
            "seq": 3,
        }
        assert emit.lost == 1
        assert sum(emit.failures.values()) == 2

    def test_any_mapping_will_do(self):
        """A processor may return a mapping of another type; the line begins with the envelope all the same."""

        class Event(dict):
            pass

        def backwards(_logger, _level, event_dict):
            return Event(reversed(event_dict.items()))

        assert list(processed(checkpoint(), backwards)) == [*list(record_of(checkpoint()))[:8], "path", "step"]

    def test_what_a_processor_keeps_is_not_the_record(self):
        """A processor that keeps its event and changes it later changes no record."""
        kept = []

        def keep(_logger, _level, event_dict):
            for earlier in kept:
                earlier.clear()
            kept.append(event_dict)
            return event_dict

        emit, records = pipeline(keep, keep)
        emit(checkpoint())
        emit(checkpoint())
        assert [record["step"] for record in records] == [20, 20]


class TestFailures:
    def test_the_event_goes_on_as_it_was(self):
        """A processor that raises is counted and announced once; the event is delivered and nothing is lost."""
        said = []
        emit, records = pipeline(adding(host="a"), fail, adding(commit="b"), said=said)
        for _ in range(3):
            emit(checkpoint())
        assert [(record["seq"], record["host"], record["commit"]) for record in records] == [
            (0, "a", "b"),
            (1, "a", "b"),
            (2, "a", "b"),
        ]
        assert (emit.written, emit.lost, emit.failures) == (3, 0, {"processor tests.test_processors.fail": 3})
        [line] = said
        assert line == (
            "higgs-audio-trainer: processor tests.test_processors.fail failed: ValueError('odd'); "
            "training continues and no event is lost."
        )

    @pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, RecursionError, MemoryError])
    def test_traces_of_a_failed_processor_are_gone(self, error):
        """What a processor changed before an exception, at whatever depth, is undone; the event object is untouched."""
        settings = {"lr": 0.1, "nested": {"list": [1, {"a": 2}], "pair": ([3], {"b": 4})}}
        settings["nested"]["cycle"] = settings["nested"]
        event = run_start(config=settings)

        def spoil(_logger, _level, event_dict):
            nested = event_dict["config"].pop("nested")
            nested["list"][1]["a"] = nested["pair"][0][0] = nested["pair"][1]["b"] = nested["cycle"]["list"][0] = None
            event_dict["versions"].clear()
            del event_dict["host"], event_dict["event"]
            raise error

        emit, records = pipeline(spoil, clock=fixed_clock)
        emit(event)
        assert records[0] == record_of(run_start(config=settings))
        assert event.config["nested"]["list"] == [1, {"a": 2}]
        assert event.versions != {}

    def test_a_processor_that_succeeds_does_not_change_the_event_object(self):
        """The checks read the same event objects that the pipeline takes: a processor changes a copy."""

        def spoil(_logger, _level, event_dict):
            event_dict["first"].clear()
            event_dict["samples"]["id"] = "x"
            return event_dict

        event = train_step(samples={"a": "b"})
        emit, _ = pipeline(spoil, adding(first=1))
        emit(text_sample())
        emit(event)
        assert event.samples == {"a": "b"}

    def test_deep_and_wide_settings(self):
        """Settings nested without end, or lists that share lists, cost neither the stack nor the memory."""
        deep, wide = {}, []
        for _ in range(100_000):
            deep = {"in": deep}
        for _ in range(100):
            wide = [wide, wide]
        emit, records = pipeline(adding(host="a"))
        emit(run_start(config={"deep": deep, "wide": wide}))
        assert (records[0]["host"], emit.failures) == ("a", {})

    @pytest.mark.parametrize(
        ("returned", "got"),
        [
            (None, "None. Is `return event_dict` missing?"),
            ("{}", "<str>"),
            (b"{}", "<bytes>"),
            (((), {}), "<tuple>"),
        ],
    )
    def test_no_mapping(self, returned, got):
        """A processor that returns no mapping has failed: the event goes on without that processor."""
        said = []
        emit, records = pipeline(lambda *_args: returned, said=said)
        emit(checkpoint())
        assert (records[0]["step"], emit.lost, sum(emit.failures.values())) == (20, 0, 1)
        assert f"TypeError('expected a mapping from the processor, got {got}')" in said[0]

    @pytest.mark.parametrize("name", [*PROTECTED_FIELDS, "ts", "level"])
    def test_the_envelope_is_restored_where_removed(self, name):
        """A removed field of the envelope comes back at its place; the processor's other changes stay."""
        said = []
        remove = without(name)
        emit, records = pipeline(lambda *args: {**remove(*args), "host": "a"}, said=said, clock=fixed_clock)
        for _ in range(2):
            emit(checkpoint())
        assert [record["seq"] for record in records] == [0, 1]
        expected = {**record_of(checkpoint()), "host": "a"}
        assert list(records[0].items()) == list(expected.items())
        assert (emit.written, emit.lost, sum(emit.failures.values()), len(said)) == (2, 0, 2, 1)
        assert f"expected {name} to " in said[0]

    @pytest.mark.parametrize(
        ("processor", "message"),
        [
            (TimeStamper(key="ts"), "expected ts to be a time like 2026-01-02T03:04:05.000060Z, got 1"),
            (TimeStamper(fmt="%H:%M", key="ts"), "expected ts to be a time like"),
            (
                lambda _logger, _level, event_dict: event_dict | {"level": None},
                "expected level to be one of debug, info",
            ),
            (lambda _logger, _level, event_dict: event_dict | {"level": "critical"}, "got 'critical'"),
            (lambda _logger, _level, event_dict: event_dict | {"level": ["info"]}, "got <list"),
        ],
    )
    def test_no_processor_makes_a_line_unreadable(self, processor, message):
        """A time or a level that no reader understands is restored and counted; protected fields are checked too."""
        said = []
        emit, records = pipeline(processor, adding(seq=9), said=said, clock=fixed_clock)
        emit(checkpoint())
        assert records == [record_of(checkpoint())]
        assert sum(emit.failures.values()) == 2
        assert message in said[0]

    def test_time_and_level_may_change(self):
        """A processor may write another valid time and another level."""
        changed = {"ts": "2027-01-02T03:04:05.000060Z", "level": "warning"}
        record = processed(checkpoint(), adding(**changed))
        assert {name: record[name] for name in changed} == changed

    @pytest.mark.parametrize("value", [None, True, 7, "x", 1.0, [1], object()], ids=lambda value: type(value).__name__)
    @pytest.mark.parametrize("name", PROTECTED_FIELDS)
    def test_the_envelope_is_restored_where_changed(self, name, value):
        """A changed field of the envelope gets its value back, and the next processor sees the restored value."""
        seen = []

        def look(_logger, _level, event_dict):
            seen.append(dict(event_dict))
            return event_dict

        said = []
        emit, records = pipeline(adding(**{name: value}), look, said=said, clock=fixed_clock)
        emit(checkpoint())
        assert records == [record_of(checkpoint())]
        assert type(records[0][name]) is type(record_of(checkpoint())[name])
        assert seen == records
        assert sum(emit.failures.values()) == len(said) == 1

    def test_the_message_names_the_change(self):
        """The announcement says which field, what was expected and what the processor made of the field."""
        said = []
        emit, _ = pipeline(adding(seq=7, rank=1), said=said)
        emit(checkpoint())
        assert "ValueError('expected rank to stay 0, got 1')" in said[0]

    def test_two_processors_of_one_name(self):
        """Failures of two processors with the same name are counted and announced apart."""
        said = []
        emit, _ = pipeline(fail, fail, said=said)
        emit(checkpoint())
        name = "processor tests.test_processors.fail"
        assert emit.failures == {name: 1, f"{name} (2)": 1}
        assert len(said) == 2

    @pytest.mark.parametrize("processor", [fail, adding(seq=7), lambda *_args: None])
    def test_strict(self, processor):
        """A strict pipeline delivers the event as it was, and ends the run with an error that names the processor."""
        said = []
        emit, records = pipeline(processor, strict=True, said=said)
        with pytest.raises(LoggingError, match=r"from processor tests\.test_processors\.") as caught:
            emit(checkpoint())
        assert caught.value.__cause__ is not None
        assert (emit.written, emit.lost, sum(emit.failures.values()), said) == (1, 0, 1, [])
        assert records[0]["seq"] == 0

    def test_strict_where_a_later_processor_drops_the_event(self):
        """A drop does not hide that an earlier processor failed."""
        emit, records = pipeline(fail, drop, strict=True)
        with pytest.raises(LoggingError):
            emit(checkpoint())
        assert (records, emit.lost) == ([], 0)

    def test_strict_recovery_is_counted_once(self):
        """A failure while sinks are asked for recovery is counted by its source alone."""

        def fail_on_reports(_logger, _level, event_dict):
            if event_dict["event"] == "sink_recovered":
                raise ValueError
            return event_dict

        broken = [OSError(28, "No space left on device")]

        def sink(_record):
            if broken:
                raise broken.pop()

        emit, _ = pipeline(fail_on_reports, sink=sink, strict=True)
        with pytest.raises(LoggingError):
            emit(checkpoint())
        emit.recover()
        assert (emit.lost, sum(emit.failures.values())) == (1, 2)

    def test_interruption_passes(self):
        """Ctrl-C during a processor reaches the training; the event uses no `seq`."""

        def interrupt(_logger, _level, event_dict):
            if event_dict["path"] == "interrupt":
                raise KeyboardInterrupt
            return event_dict

        emit, records = pipeline(interrupt)
        with pytest.raises(KeyboardInterrupt):
            emit(checkpoint(path="interrupt"))
        emit(checkpoint())
        assert ([record["seq"] for record in records], emit.lost) == ([0], 0)

    def test_a_processor_that_emits_is_turned_away(self):
        """An event from within a processor is dropped, counted and announced once, as from within a sink."""
        said = []

        def emitting(_logger, _level, event_dict):
            emit(checkpoint(path="inside"))
            return event_dict

        emit, records = pipeline(emitting, said=said)
        for _ in range(3):
            emit(checkpoint())
        assert [record["seq"] for record in records] == [0, 1, 2]
        assert (emit.failures, emit.lost, len(said)) == ({"re-entrant emit": 3}, 3, 1)

    def test_threads(self):
        """Processors of sixteen threads run one at a time, and the numbers stay exact."""
        inside = []

        def alone(_logger, _level, event_dict):
            inside.append(None)
            assert len(inside) == 1
            inside.pop()
            if event_dict["step"] % 5 == 0:
                raise structlog.DropEvent
            return event_dict

        emit, records = pipeline(alone, fail)

        def work():
            for step in range(100):
                emit(checkpoint(step=step))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [record["seq"] for record in records] == list(range(16 * 80))
        assert (emit.failures, emit.lost) == ({"processor tests.test_processors.fail": 16 * 80}, 0)

    def test_pickled(self):
        """A pickled pipeline is a null pipeline, with processors that no pickle can hold too."""
        emit, _ = pipeline(lambda *_args: None)
        assert type(pickle.loads(pickle.dumps(emit))) is NullPipeline

    def test_no_processor_costs_nothing(self):
        """Without processors the chain has its four links."""
        emit, _ = pipeline()
        assert len(emit._log._processors) == 4
        emit, _ = pipeline(fail)
        assert len(emit._log._processors) == 5


class TestStructlogsOwn:
    def test_merge_contextvars(self):
        """Bound context variables are fields of every event, after the payload; the envelope wins."""
        with structlog.contextvars.bound_contextvars(experiment="a", seq=99):
            record = processed(checkpoint(), structlog.contextvars.merge_contextvars)
        assert list(record)[7:] == ["level", "step", "path", "experiment"]
        assert (record["experiment"], record["seq"]) == ("a", 0)

    @pytest.mark.parametrize("ignores", [None, ["structlog"]])
    def test_callsite_is_the_caller_of_emit(self, ignores):
        """The call site is the code that emitted the event, and no line of the pipeline."""
        adder = CallsiteParameterAdder(additional_ignores=ignores)
        before = list(adder._additional_ignores)
        record = processed(checkpoint(), adder)
        assert (record["func_name"], record["filename"]) == ("processed", "test_processors.py")
        assert record["thread_name"] == threading.current_thread().name
        assert set(map(str, record)) >= {parameter.value for parameter in CallsiteParameter}
        assert adder._additional_ignores == before, "the user's own object is not changed"

    def test_callsite_with_own_ignores(self):
        """Modules that the user ignores are skipped as well."""
        assert processed(checkpoint(), CallsiteParameterAdder(additional_ignores=["tests"]))["module"] != "emit"

    def test_time_stamper(self):
        """A time under a name of its own stands beside `ts`."""
        record = processed(checkpoint(), TimeStamper(fmt="iso", utc=False, key="local_time"))
        assert datetime.fromisoformat(record["local_time"])
        assert record["ts"] == "2026-01-02T03:04:05.000060Z"

    @pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
    def test_add_log_level(self, level):
        """The method name that structlog takes the level from is the level."""
        emit, records = pipeline(structlog.processors.add_log_level)
        emit(checkpoint(), level=level)
        assert (records[0]["level"], emit.failures) == (level, {})

    @pytest.mark.parametrize(
        ("processor", "reason"),
        [
            (
                EventRenamer("msg"),
                (
                    "expected a processor that keeps the field `event`, got EventRenamer. `event` names the schema of "
                    "the line, and no reader finds a renamed event. Add a field of another name"
                ),
            ),
            (
                JSONRenderer(),
                (
                    "expected a processor that returns the event as a mapping, got a renderer. Sinks render events: "
                    "name a sink with --sinks"
                ),
            ),
            (
                structlog.dev.ConsoleRenderer(),
                "expected a processor that returns the event as a mapping, got a renderer",
            ),
            (structlog.stdlib.render_to_log_kwargs, "expected a processor that returns the event as a mapping"),
            (TimeStamper, "expected a processor, got the class TimeStamper. Make an instance: TimeStamper()"),
            ("a:b", "expected a processor (logger, method_name, event_dict), got 'a:b'"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_refused(self, processor, reason):
        """A processor that cannot work in this log is refused when the pipeline is made, with the reason."""
        with pytest.raises(UserError) as caught:
            pipeline(processor)
        assert str(caught.value).startswith("processors: ")
        assert reason in str(caught.value)


class Source:
    """Modules on the path of imports, removed afterwards."""

    def __init__(self, folder):
        self.folder, self.names = folder, []

    def write(self, name, text):
        """Write a module."""
        (self.folder / f"{name}.py").write_text(text)
        self.names.append(name)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Put a folder of modules on the path of imports."""
    monkeypatch.syspath_prepend(tmp_path)
    made = Source(tmp_path)
    yield made
    for name in made.names:
        sys.modules.pop(name, None)


def refused(specification):
    """Return the message about a specification that cannot be loaded."""
    with pytest.raises(UserError) as caught:
        load_processors(specification)
    return str(caught.value)


class TestSpecification:
    @pytest.mark.parametrize("specification", ["", "none"])
    def test_none(self, specification):
        """Nothing named, no processor."""
        assert load_processors(specification) == []

    def test_order_and_options(self, source):
        """Factories are called with their options, in order."""
        source.write(
            "own", "def make(*, name='a'):\n    return lambda logger, level, event_dict: {**event_dict, name: 1}"
        )
        processors = load_processors("structlog.processors:TimeStamper:key=when, own:make:name=host")
        assert [name for name, _ in processors] == ["structlog.processors:TimeStamper", "own:make"]
        assert list(processed(checkpoint(), *processors))[-2:] == ["when", "host"]

    def test_the_name_in_messages_is_the_one_of_the_command_line(self, source):
        """A failure is announced under the name that the user wrote."""
        source.write("own", "def make():\n    return lambda *_: 1 / 0")
        emit, _ = pipeline(*load_processors("own:make"))
        emit(checkpoint())
        assert emit.failures == {"processor own:make": 1}

    @pytest.mark.parametrize("specification", [" ", "a:b,", ",", "a:b,a:b", "a:b,none"])
    def test_malformed(self, specification):
        """An empty name, a name given twice and `none` among others are refused."""
        assert refused(specification) == (
            f"--processors: expected names separated by commas, each once, or 'none' alone, got {specification!r}"
        )

    @pytest.mark.parametrize(
        ("specification", "message"),
        [
            ("own", "expected package.module:factory or an installed name, got 'own'. No processor is installed"),
            ("own.make", "No processor is installed under a name. A colon stands before the factory's name"),
            ("own:make:a=1:a=2", "own:make: expected each option once, got 'a=1:a=2'"),
            ("own:make:b=1", "own:make: expected options: a; got an unexpected keyword argument 'b'"),
            ("own:gone", "expected to load 'own:gone', got AttributeError: "),
            ("no_such:make", "expected to load 'no_such:make', got ModuleNotFoundError: "),
            ("broken:make", "expected to load 'broken:make', got ZeroDivisionError: division by zero. Is its package"),
            ("own:number", "expected 'own:number' to be a function that returns a processor, got int"),
            ("own:fails", "own:fails cannot be set up: KeyError: 'a'"),
            ("own:refuses", "its own words"),
            ("own:empty", "own:empty: expected a processor (logger, method_name, event_dict), got None"),
            ("own:renderer", "own:renderer: expected a processor that returns the event as a mapping, got a renderer"),
            (
                "structlog.contextvars:merge_contextvars",
                (
                    "structlog.contextvars:merge_contextvars: expected a factory that takes no arguments and returns a "
                    "processor, got parameters (logger, method_name, event_dict). For a processor itself, write a "
                    "function that returns the processor"
                ),
            ),
            ("structlog.processors:EventRenamer:to=msg", "expected a processor that keeps the field `event`"),
        ],
    )
    def test_wrong(self, source, specification, message):
        """Whatever is wrong is one message: what was expected, what there is, where, and what to do."""
        source.write(
            "own",
            "import structlog\n"
            "from higgs_audio_trainer.errors import UserError\n"
            "number = 3\n"
            "def make(a=''): ...\n"
            "def empty(): ...\n"
            "def fails(): raise KeyError('a')\n"
            "def refuses(): raise UserError('its own words')\n"
            "def renderer(): return structlog.processors.LogfmtRenderer()\n",
        )
        source.write("broken", "1 / 0")
        assert message in refused(specification)

    def test_entry_points(self, source, tmp_path):
        """An installed package brings a processor under a name of its own; an unknown name is answered with it."""
        source.write(
            "fancy_package", "def make():\n    return lambda logger, level, event_dict: {**event_dict, 'a': 1}"
        )
        info = tmp_path / "fancy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[higgs_audio_trainer.processors]\nfancy = fancy_package:make\n")
        assert processed(checkpoint(), *load_processors("fancy"))["a"] == 1
        assert refused("fance") == (
            "--processors: expected package.module:factory or an installed name, got 'fance'. "
            "Installed names: fancy. Did you mean fancy?"
        )

    def test_a_wrong_name_is_refused_before_anything_is_loaded(self, tmp_path):
        """A run with a wrong processor says so first: neither the checkpoint nor the manifest need exist."""
        settings = TrainSettings(
            base_ckpt="none", train_manifest="none", output_dir=str(tmp_path / "out"), processors="no_such:make"
        )
        with pytest.raises(UserError, match=r"^--processors: expected to load 'no_such:make'"):
            run_training(settings)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("processors", "listed"), [("none", False), ("", False), ("a:b", True)])
    def test_settings_list_processors_where_there_are_some(self, processors, listed):
        """Logs without processors stay equal to logs from before the setting."""
        settings = TrainSettings(train_manifest="a", output_dir="b", processors=processors).as_mapping()
        assert ("processors" in settings) is listed


class Mixture:
    """A processor that does what chance says: nothing, a change, a drop, an exception, a wrong return value."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def __call__(self, _logger, _level, event_dict):
        event_dict["note"] = self.random.choice([1, "a", [float("nan")], object()])
        actions = ["keep", "keep", "drop", "raise", "exit", "envelope", "remove", "nothing", "text", "nested", "odd"]
        action = self.random.choice(actions)
        if action == "drop":
            raise structlog.DropEvent
        if action in ("raise", "exit"):
            event_dict.clear()
            raise ValueError if action == "raise" else SystemExit
        if action == "envelope":
            event_dict[self.random.choice(PROTECTED_FIELDS)] = self.random.choice([0, 1, None, "x", 10**30])
        if action == "odd":
            event_dict[self.random.choice(["ts", "level"])] = self.random.choice([0, 1.5, None, "x", [1], {}])
        if action == "remove":
            del event_dict[self.random.choice([*PROTECTED_FIELDS, "ts", "level"])]
        if action == "nested":
            for value in event_dict.values():
                if type(value) is dict:
                    value.clear()
            raise ValueError
        return {"nothing": None, "text": "{}"}.get(action, event_dict)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 4))
def test_any_mixture_leaves_a_log_without_a_finding(tmp_path_factory, seed, count):
    """Whatever processors do, `seq` is 0 to n - 1, `validate` finds nothing, and the counters are those of the file."""
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("mixture") / "rank00000-attempt000.jsonl"
    flaky_seqs = set()

    def flaky(record):
        if chance.random() < 0.2:
            raise OSError(28, "No space left on device")
        flaky_seqs.add(record["seq"])

    sink = JsonlSink(path)
    emit = Pipeline(
        [("jsonl", sink), ("flaky", flaky)],
        run_id=RUN_ID,
        processors=[Mixture(seed + index) for index in range(count)],
        say=lambda _text: None,
    )
    events = plausible.run(chance)
    for event in events:
        emit(event)
    emit.recover()
    emit(plausible.end_of(events, emit))
    sink.close()
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [record["seq"] for record in records] == list(range(len(records)))
    findings = [finding for finding in validate(path) if finding.path != "$.note"]
    assert findings == [], "fields that the schema does not name are notes"
    assert (records[0]["event"], records[-1]["event"]) == ("run_start", "run_end")
    assert emit.written == len(flaky_seqs)
    assert emit.lost == len(records) - len(flaky_seqs)


class TestExample:
    """The third party's processor in `examples/git_revision.py`."""

    @pytest.fixture(autouse=True)
    def on_path(self, monkeypatch):
        """Put the examples on the path of imports, as PYTHONPATH does."""
        monkeypatch.syspath_prepend(EXAMPLES)
        yield
        sys.modules.pop("git_revision", None)

    def test_adds_the_revision_and_drops_text_samples(self):
        """Every event has the revision; samples of text are not there, and leave no gap."""
        emit, records = pipeline(*load_processors("git_revision:make"))
        for event in (run_start(), text_sample(), audio_sample(), train_step()):
            emit(event)
        assert [record["event"] for record in records] == ["run_start", "prediction_sample", "train_step"]
        assert [record["seq"] for record in records] == [0, 1, 2]
        assert len({record["git_revision"] for record in records}) == 1
        assert all(record.keys() >= {"git_revision"} for record in records)

    def test_without_git(self, monkeypatch, tmp_path):
        """Outside of a repository, and without git, the revision is null."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert processed(checkpoint(), *load_processors("git_revision:make"))["git_revision"] is None
        monkeypatch.setenv("PATH", str(tmp_path))
        assert processed(checkpoint(), *load_processors("git_revision:make"))["git_revision"] is None

    def test_a_training_with_it(self, tiny, clips, tmp_path, capsys):
        """The flag reaches the log of a run; `validate` accepts the log, and notes the unknown field of each event."""
        paths = ("--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", clips)
        line = [*paths, "--output_dir", tmp_path, "--max_steps", 2, "--log_steps", 1, "--sinks", "jsonl"]
        assert main([*map(str, line), "--use_cpu", "true", "--processors", "git_revision:make"]) == 0
        [path] = (tmp_path / "events").glob("rank*")
        records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        assert records[0]["config"]["processors"] == "git_revision:make"
        assert {record["modality"] for record in records if record["event"] == "prediction_sample"} == {"audio"}
        assert all("git_revision" in record for record in records)
        capsys.readouterr()
        assert main(["validate", str(path)]) == 0
        printed = capsys.readouterr().out
        assert f"clean and {len({record['event'] for record in records})} notes: {len(records)} events" in printed
        assert all("$.git_revision" in line for line in printed.splitlines()[:-1])

    def test_is_short(self):
        """It has under 40 lines."""
        assert len((EXAMPLES / "git_revision.py").read_text().splitlines()) < 40


def test_names_are_kept():
    """Naming named processors changes nothing: the loggers and the pipeline may both do it."""
    once = named_processors([fail, fail])
    assert named_processors(once) == once


def test_all_events_pass():
    """Every event of the schema passes a processor that copies the event."""
    for event in all_events():
        expected = record_of(event)
        assert processed(event, lambda _logger, _level, event_dict: event_dict) == expected
