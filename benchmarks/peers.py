"""The peers in an environment of their own, and a process in it that answers requests."""

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
    """Make the environment where it is not there yet, or was made from another list; return its Python.

    It stays in the cache (`XDG_CACHE_HOME`), so that it is downloaded once.

    Raises:
        RuntimeError: the packages cannot be had; with what pip said.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "higgs-audio-trainer" / f"benchmark-peers-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = folder / "bin" / "python", folder / "peers.txt"
    wanted = _REQUIREMENTS.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", _REQUIREMENTS]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"expected to install the peers of {_REQUIREMENTS.name}, pip said:\n{done.stderr}")
        stamp.write_text(wanted, encoding="utf-8")
    return python


class Peers:
    """A process of the peers' environment in which they write or show one record.

    Args:
        folder: for its files; it gets `record.json`.
        record: what they are given.
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
        """Have a peer do it some times; return the seconds of one, or None where that peer is not there.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, calls, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the process of the peers ended, asked for {name}")
        return None if answer == "-" else float(answer) / calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
