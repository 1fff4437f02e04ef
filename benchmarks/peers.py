"""Other loggers in a virtual environment of their own, and a process for requests to the loggers."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "peers.txt"


def environment() -> Path:
    """Return the Python of the peers' environment, and build the environment if `peers.txt` has changed.

    The environment stays in the cache (`XDG_CACHE_HOME`), so that the packages are downloaded once.

    Raises:
        RuntimeError: The packages cannot be installed. The message has the output of pip.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "higgs-audio-trainer" / f"benchmark-peers-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = folder / "bin" / "python", folder / "peers.txt"
    wanted = _REQUIREMENTS.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-r", str(_REQUIREMENTS)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"expected to install the packages of {_REQUIREMENTS}, pip failed:\n{done.stderr}")
        stamp.write_text(wanted, encoding="utf-8")
    return python


class Peers:
    """Process in the peers' environment, where other loggers write or render a record.

    Args:
        folder: Folder for the files of the loggers. The constructor writes `record.json` there.
        record: Record for all loggers.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        (folder / "record.json").write_bytes(orjson.dumps(record))
        self._process = subprocess.Popen(
            [environment(), _HERE / "peer_loggers.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def seconds(self, name: str, calls: int) -> float | None:
        """Return the mean seconds of a call of a logger, or None if the logger is not installed.

        Args:
            name: Name of the logger, from `peer_loggers.PEERS`.
            calls: Number of calls.

        Raises:
            RuntimeError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, calls, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"expected seconds of {name!r}, but the process of the peers has ended")
        return None if answer == "-" else float(answer) / calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
