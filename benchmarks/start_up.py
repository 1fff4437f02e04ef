"""Start-up times of commands that need no torch, beside a bare interpreter.

    python -m benchmarks.start_up

Each command runs in a process of its own. Bytecode is written and read as after an installation, in a folder of the
benchmark, whatever the environment variables request. The logs have 47 lines, so imports take nearly all of the time.
One row has only the third-party imports that `diff` requires.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio

_GOLDEN = Path(__file__).parent.parent / "examples" / "ci" / "golden.jsonl"
_BARE, _JQ = "python -c pass", "jq --version"
_MAIN = "from higgs_audio_trainer.cli import main; raise SystemExit(main())"  # same as the console script
_AIMED = {
    "show --help": (_MAIN, "show", "--help"),
    "diff of two small logs": (_MAIN, "diff", "a.jsonl", "b.jsonl"),
    "import sinks": ("import sinks",),
}
_MOST = 3.0
_OTHERS = {
    "show of a small log": (_MAIN, "show", "a.jsonl"),
    "validate of a small log": (_MAIN, "validate", "a.jsonl"),
    "diagnose of a small log": (_MAIN, "diagnose", "a.jsonl"),
    "merge of a small log": (_MAIN, "merge", "a.jsonl"),
    "schema train_step": (_MAIN, "schema", "train_step"),
    "import sinks; sinks.build": ("import sinks; sinks.build",),
    "import argparse, pathlib, orjson, msgspec": ("import argparse, pathlib, orjson, msgspec",),
}
_HEAVY = ("torch", "numpy", "transformers")
_COUNTING = f"""
import atexit, sys
atexit.register(lambda: print(len({set(_HEAVY)} & sys.modules.keys()), file=sys.stderr))
"""


def rows(quick: bool = False) -> list[ResultRow]:
    """Time the commands in turns, then count heavy imports of the commands with a target."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "b.jsonl"):
            shutil.copy(_GOLDEN, Path(folder, name))
        commands = {name: _python(*given) for name, given in {_BARE: ("pass",), **_AIMED, **_OTHERS}.items()}
        if shutil.which("jq"):
            commands[_JQ] = ["jq", "--version"]
        calls = {name: partial(_run, command, folder) for name, command in commands.items()}
        seconds = interleaved(calls, rounds=3 if quick else 25)
        imported = {
            name: int(_run(_python(_COUNTING + code, *given), folder)) for name, (code, *given) in _AIMED.items()
        }
    bare = seconds[_BARE]
    return [
        ResultRow(_BARE, 1e3 * median(bare), "ms"),
        *(_timed(name, seconds[name], bare, aimed=name in _AIMED) for name in calls if name != _BARE),
        *(
            ResultRow(f"{name}, imports of {', '.join(_HEAVY)}", count, "packages", target="0", holds=count == 0)
            for name, count in imported.items()
        ),
    ]


def _timed(name: str, seconds: list[float], bare: list[float], *, aimed: bool) -> ResultRow:
    times = ratio(seconds, bare)
    target = (f"< {_MOST:g}", times < _MOST) if aimed else ("", None)
    return ResultRow(name, 1e3 * median(seconds), "ms", _BARE, times, *target)


def _python(code: str, *given: str) -> list[str]:
    return [sys.executable, "-c", code, *given]


def _run(command: list[str], folder: str) -> str:
    """Run a command to the end and return the text on stderr."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode"))}
    done = subprocess.run(command, cwd=folder, env=os.environ | bytecode, capture_output=True, text=True, check=True)
    return done.stderr


if __name__ == "__main__":
    run_alone(rows, __doc__)
