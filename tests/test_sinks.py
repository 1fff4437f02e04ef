"""Sinks by name: the specification's grammar, where factories come from, and what is said when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sinks
from sinks import SinkError
from sinks.console import ConsoleSink
from sinks.null import discard
from sinks.specification import ENTRY_POINT_GROUP, SinkSpec, load, parse, resolve
from tests.builders import context, record_of, run_start, text_sample, train_step

EXAMPLES = Path(__file__).parent.parent / "examples"


def refused(specification, output_dir="out"):
    """Return what is said of a specification that cannot be built."""
    with pytest.raises(SinkError) as caught:
        sinks.build(specification, context(output_dir))
    return str(caught.value)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write modules into a folder on the path of imports; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


class TestReporting:
    def test_default(self, capsys):
        """Without a reporter of the run, a sink reports on stderr."""
        context().say("a é \udc80")
        assert capsys.readouterr().err.startswith("a é ")

    def test_closed_standard_error(self, monkeypatch):
        """A closed stderr costs the line."""
        monkeypatch.setattr("sys.stderr", None)
        context().say("a")

    def test_broken_standard_error(self):
        """Fault: nobody reads stderr. Expected: exit code 0, because no line is left for the flush at exit."""
        reader, writer = os.pipe()
        os.close(reader)
        script = "from sinks.protocol import print_on_stderr; print_on_stderr('a')"
        done = subprocess.run([sys.executable, "-c", script], check=False, stderr=writer)
        os.close(writer)
        assert done.returncode == 0


class TestParse:
    @pytest.mark.parametrize(
        ("specification", "expected"),
        [
            ("none", []),
            (" none ", []),
            ("console", [SinkSpec("console", {})]),
            ("console, jsonl", [SinkSpec("console", {}), SinkSpec("jsonl", {})]),
            ("jsonl:dir=logs", [SinkSpec("jsonl", {"dir": "logs"})]),
            ("jsonl:dir=/a:b/c=d", [SinkSpec("jsonl", {"dir": "/a:b/c=d"})]),
            ("pkg.mod:make", [SinkSpec("pkg.mod:make", {})]),
            ("pkg.mod:make:a=1:b=2,null", [SinkSpec("pkg.mod:make", {"a": "1", "b": "2"}), SinkSpec("null", {})]),
        ],
    )
    def test_grammar(self, specification, expected):
        """A specification is names with options, in order; `none` alone is no sink."""
        assert parse(specification) == expected

    @pytest.mark.parametrize(
        "specification", ["", " ", "console,", ",", "console,console", "console,none", "jsonl:dir=a,jsonl:dir=b"]
    )
    def test_malformed(self, specification):
        """An empty name, a sink named twice and `none` among others are refused with what was expected."""
        assert refused(specification) == (
            f"--sinks: expected names separated by commas, each once, or 'none' alone, got {specification!r}"
        )

    def test_option_twice(self):
        """An option given twice is refused, not overwritten."""
        assert refused("jsonl:dir=a:dir=b") == "--sinks: jsonl: expected each option once, got 'jsonl:dir=a:dir=b'"


class TestResolve:
    def test_unknown_name(self):
        """An unknown name is answered with the known ones and the nearest of them."""
        assert refused("json") == (
            "--sinks: expected one of console, jsonl, mlflow, none, null, tensorboard, trackio, wandb or "
            "package.module:factory, got 'json'."
            " Did you mean jsonl?"
        )

    def test_unlike_any(self):
        """A name that is like no other gets no suggestion."""
        assert refused("quartz").endswith("got 'quartz'.")

    def test_option_without_its_name(self):
        """A value that follows a known sink's name without `option=` is not taken for a dotted path."""
        assert refused("jsonl:/var/log") == "--sinks: expected options of jsonl as jsonl:option=value, got '/var/log'"

    def test_dotted_path(self, module):
        """A factory is found by its module and its name within it, however deep."""
        module("own_sink", "class Nested:\n    @staticmethod\n    def make(context):\n        return [].append\n")
        assert resolve("own_sink:Nested.make")(context()).__name__ == "append"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("own_sink:build", "AttributeError: module 'own_sink' has no attribute 'build'"),
            (":make", "ValueError: "),
            (".own_sink:make", "ValueError: "),
            ("broken_sink:make", "ZeroDivisionError: division by zero"),
        ],
    )
    def test_cannot_be_loaded(self, module, name, reason):
        """Whatever keeps a factory from being loaded is said in one message, with the way out."""
        module("own_sink", "")
        module("broken_sink", "1 / 0")
        said = refused(name)
        assert said.startswith(f"--sinks: expected to load {name!r}, got {reason}")
        assert said.endswith(" Is its package installed or on PYTHONPATH?")

    def test_not_a_function(self, module):
        """Something that cannot be called is refused before the run."""
        module("own_sink", "make = 3")
        assert refused("own_sink:make") == (
            "--sinks: expected 'own_sink:make' to be a function (context, **options), got int"
        )


class TestEntryPoints:
    @pytest.fixture(autouse=True)
    def distribution(self, tmp_path, module):
        """Install a distribution that brings a sink."""
        module("fancy_package", "received = []\ndef make(context, *, color='red'):\n    return received.append\n")
        info = tmp_path / "fancy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nfancy = fancy_package:make\n")

    def test_is_found(self):
        """An installed entry point is a sink by its name, with options like any other."""
        [(name, sink)] = sinks.build("fancy:color=blue", context())
        sink({"event": "x"})
        assert (name, sys.modules["fancy_package"].received) == ("fancy", [{"event": "x"}])

    def test_is_listed(self):
        """An installed entry point is among the names that an error lists."""
        assert "console, fancy, jsonl, mlflow, none," in refused("quartz")

    def test_stray_option(self):
        """A value without `option=` after an entry point's name is said as such."""
        assert refused("fancy:blue") == "--sinks: expected options of fancy as fancy:option=value, got 'blue'"


class TestBuild:
    def test_default(self, tmp_path):
        """`console,jsonl` makes both, in that order, by their names."""
        built = sinks.build("console,jsonl", context(tmp_path))
        assert [(name, type(sink)) for name, sink in built] == [
            ("console", ConsoleSink),
            ("jsonl", sinks.JsonlSink),
        ]
        built[1][1].close()

    def test_none(self):
        """`none` makes nothing."""
        assert sinks.build("none", context()) == []

    def test_null(self):
        """`null` takes every record and keeps nothing."""
        [(name, sink)] = sinks.build("null", context())
        assert (name, sink, sink({"event": "x"})) == ("null", discard, None)

    @pytest.mark.parametrize(
        ("specification", "said"),
        [
            (
                "jsonl:folder=x",
                (
                    "--sinks: jsonl: expected options: dir, durability, max_bytes, keep, max_total_bytes; "
                    "got an unexpected keyword argument 'folder'"
                ),
            ),
            (
                "console:dir=x",
                "--sinks: console: expected options: detail, shapes; got an unexpected keyword argument 'dir'",
            ),
            ("console:detail=all", "--sinks: console: detail: expected full, compact, line, got 'all'"),
            ("console:shapes=never", "--sinks: console: shapes: expected always, changes, got 'never'"),
            ("own_sink:needs", "--sinks: own_sink:needs: expected options: url; missing a required argument: 'url'"),
        ],
    )
    def test_wrong_options(self, module, specification, said):
        """Options that a factory does not take, or does without, are said with those that it takes."""
        module("own_sink", "def needs(context, *, url): ...")
        assert refused(specification) == said

    def test_nothing_is_made_before_all_is_checked(self, tmp_path):
        """A fault of the last sink is found before the first has opened its file."""
        refused("jsonl,console:dir=x", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_factory_fails(self, module):
        """A factory's error is one clear message, whatever its type, also where it looks like a wrong option."""
        module("own_sink", "def make(context):\n    return len(5)\n")
        assert refused("own_sink:make") == (
            "--sinks: own_sink:make cannot be set up: TypeError: object of type 'int' has no len()"
        )

    def test_factory_says_it_itself(self, module):
        """A factory's own SinkError is passed on as it is."""
        module("own_sink", "from sinks import SinkError\ndef make(context):\n    raise SinkError('buy a disk')\n")
        assert refused("own_sink:make") == "buy a disk"

    def test_factory_without_return(self, module):
        """A factory that forgets to return its sink is found before the run."""
        module("own_sink", "def make(context): ...")
        assert refused("own_sink:make") == (
            "--sinks: own_sink:make: expected its factory to return a callable, got None"
        )

    def test_load_makes_nothing(self, tmp_path):
        """Loading checks a specification, options included, without making a sink."""
        [(spec, factory)] = load(f"jsonl:dir={tmp_path / 'logs'}")
        assert (spec.name, factory.__name__, list(tmp_path.iterdir())) == ("jsonl", "jsonl_sink", [])


class TestExample:
    """The third party's sink in `examples/csv_sink.py`."""

    @pytest.fixture(autouse=True)
    def on_path(self, monkeypatch):
        """Put the examples on the path of imports, as PYTHONPATH does."""
        monkeypatch.syspath_prepend(EXAMPLES)
        yield
        sys.modules.pop("csv_sink", None)

    def feed(self, specification, output_dir):
        """Run three events through the sink that a specification names."""
        [(_, sink)] = sinks.build(specification, context(output_dir, attempt=1))
        for event in (run_start(num_codebooks=2), text_sample(), train_step(), train_step(step=40, grad_norm=None)):
            sink(record_of(event))
        sink.close()

    @pytest.mark.parametrize("option", ["", ":folder={}/curves"])
    def test_writes_curves(self, tmp_path, option):
        """It plugs in by its dotted path, with or without its option, and writes one row a step."""
        self.feed("csv_sink:make" + option.format(tmp_path), tmp_path)
        folder = tmp_path / "curves" if option else tmp_path
        assert (folder / "rank00000-attempt001.csv").read_text() == (
            "step,epoch,loss,text_loss,audio_loss,text_accuracy,learning_rate,grad_norm,"
            "codebook_0_accuracy,codebook_1_accuracy\n"
            "20,5.0,4.13217,0.83121,3.30096,0.8125,0.0001,1.23456,0.4123,0.25\n"
            "40,5.0,4.13217,0.83121,3.30096,0.8125,0.0001,,0.4123,0.25\n"
        )

    def test_is_short(self):
        """It has under 40 lines."""
        assert len((EXAMPLES / "csv_sink.py").read_text().splitlines()) < 40


def test_memory_sink():
    """The memory sink keeps a copy of every record and finds those of one event."""
    memory = sinks.MemorySink()
    record = record_of(train_step())
    memory(record)
    record.clear()
    memory({"event": "other"})
    assert [kept["step"] for kept in memory.named("train_step")] == [20]


def test_options_after_a_comma_are_explained():
    """The comma is between sinks; who puts it between options is told."""
    with pytest.raises(SinkError, match="Write a colon before each option"):
        load("jsonl:max_bytes=1M,keep=3")
