"""A user's own `sinks.py`, `sinks/` or `schemas.py` beside ours: every command and every training goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import higgs_audio_trainer
from higgs_audio_trainer.own_packages import child_environment, import_path

GOLDEN = Path(__file__).parent.parent / "examples" / "ci" / "golden.jsonl"

MINE = """
from sinks import SinkContext

def make(context: SinkContext):
    return lambda record: print("mine", record["event"])
"""


def python(folder, *arguments):
    """Run Python in a folder, which comes first on its path."""
    command, path = [sys.executable, *arguments], {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=path, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(params=["sinks.py", "sinks/__init__.py"])
def folder(request, tmp_path):
    """A folder with the user's own modules."""
    (tmp_path / request.param).parent.mkdir(exist_ok=True)
    (tmp_path / request.param).write_text(MINE)
    (tmp_path / "schemas.py").write_text("class User: ...\n")
    return tmp_path


def test_commands_use_our_packages(folder):
    """A command finds our schemas and sinks in a folder with modules of the same names."""
    assert '"$schema"' in python(folder, "-m", "higgs_audio_trainer", "schema", "run_end")
    assert "Logits shape" in python(folder, "-m", "higgs_audio_trainer", "show", str(GOLDEN))


def test_a_sink_of_the_users_module(folder):
    """`--sinks sinks:make` makes the user's sink, whose module imports the contract from our package."""
    script = """
import higgs_audio_trainer.own_packages
import sinks
[(name, sink)] = sinks.build("sinks:make", sinks.SinkContext("out", "run", 0, 0))
sink({"event": "checkpoint"})
"""
    assert python(folder, "-c", script) == "mine checkpoint\n"


def test_a_name_that_neither_has(folder):
    """A wrong name is one sentence."""
    script = """
import higgs_audio_trainer.own_packages
import sinks
try:
    sinks.build("sinks:makes", None)
except sinks.SinkError as error:
    print(error)
"""
    assert "expected to load 'sinks:makes'" in python(folder, "-c", script)


@pytest.mark.parametrize("first", ["own_packages", "errors"])
def test_a_script_that_imports_its_own_module(tmp_path, first):
    """A training script gets its own names, before and after ours are imported, and its `schemas` are left alone."""
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / "__init__.py").write_text("def make(): ...\n")
    (tmp_path / "sinks" / "extra.py").write_text("NUMBER = 7\n")
    (tmp_path / "schemas.py").write_text("class User: ...\n")
    script = f"""
import higgs_audio_trainer.{first}
import sinks
before = sinks.make
import higgs_audio_trainer.own_packages
import schemas
from sinks import MemorySink, make
from sinks.extra import NUMBER
from sinks.terminal.escape import printable
assert make is before
print(MemorySink().records, NUMBER, schemas.User.__name__)
"""
    assert python(tmp_path, "-c", script) == "[] 7 User\n"


def test_tools_do_not_run_the_users_module(tmp_path):
    """A look for a special name, as by `inspect`, leaves the user's module alone."""
    (tmp_path / "sinks.py").write_text("print('run')\n")
    script = "import higgs_audio_trainer.own_packages, sinks; print(hasattr(sinks, '__wrapped__'))"
    assert python(tmp_path, "-c", script) == "False\n"


def test_a_child_process_finds_what_its_parent_imported(folder, monkeypatch):
    """A checkout that is not installed is found from another folder, before and instead of the modules there."""
    home = str(Path(higgs_audio_trainer.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", *(place for place in sys.path if Path(place) != Path(home))])
    assert import_path()[:2] == [home, ""]
    monkeypatch.chdir(folder)
    script = "import higgs_audio_trainer.own_packages, sinks; print(sinks.MemorySink().records)"
    command = [sys.executable, "-S", "-c", script]  # -S: nothing is installed
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_path_of_an_installed_package_stays(monkeypatch):
    """Where the path has our folder, a child has the same path in the same order."""
    home = str(Path(higgs_audio_trainer.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["/lib", home, "/more"])
    assert child_environment()["PYTHONPATH"] == os.pathsep.join(["/lib", home, "/more"])
