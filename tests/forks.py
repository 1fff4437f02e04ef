"""Processes that are forked from a server with torch and the trainer imported. Each fork saves about four seconds.

Forking is safe because the server only imports. Before a fork the server starts no thread, computes nothing and joins
no process group. A child is an ordinary process with an exit status and streams, and can be signalled and killed. A
fork cannot test how the interpreter starts the process. The tests of the README's lines cover the start.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.preloaded"])
PATIENCE_S = 60


class Ended(NamedTuple):
    """The exit status of an ended process, as a shell reports the status, and the output of the process."""

    status: int
    out: str
    err: str


def start(
    work: Callable[..., None], *arguments: Any, out: Path, err: Path, environment: Mapping[str, str] = os.environ
) -> BaseProcess:
    """Start a function of a module in a process whose streams are files.

    Args:
        work: Function to call.
        arguments: Arguments of the function.
        out: File or terminal of standard output.
        err: File or terminal of standard error.
        environment: Complete environment of the process, by default that of this process.
    """
    process = _SERVER.Process(target=_work, args=(work, arguments, str(out), str(err), dict(environment)), daemon=False)
    process.start()
    return process


def wait(process: BaseProcess, err: Path) -> int:
    """Wait for the end of the process and return the exit status as a shell reports the status."""
    process.join(PATIENCE_S)
    assert process.exitcode is not None, f"still running: {err.read_text()}"
    return process.exitcode if process.exitcode >= 0 else 128 - process.exitcode


def end(process: BaseProcess) -> None:
    """Leave nothing behind."""
    if process.is_alive():
        process.kill()
    process.join(PATIENCE_S)


def ranks(folder: Path, work: Callable[..., None], *arguments: Any, count: int = 2) -> list[Ended]:
    """Run a function in processes that find each other like torchrun's processes, and wait for the end of all.

    Args:
        folder: Folder of the ranks' streams.
        work: Function that each rank calls.
        arguments: Arguments of the function.
        count: Number of ranks.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is in this process, so that no rank looks for a free port
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    number = len(list(folder.glob("ranks-*-0.err")))
    started = []
    try:
        for rank in range(count):
            out, err = (folder / f"ranks-{number}-{rank}.{stream}" for stream in ("out", "err"))
            environment = os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append((start(work, *arguments, out=out, err=err, environment=environment), out, err))
        for process, *_ in started:
            process.join(PATIENCE_S)
        errors = {err.name: err.read_text() for _, _, err in started}
        assert all(process.exitcode is not None for process, *_ in started), f"still running: {errors}"
        return [Ended(wait(process, err), out.read_text(), err.read_text()) for process, out, err in started]
    finally:
        for process, *_ in started:
            end(process)


def torchrun(*arguments: object) -> None:
    """Start ranks, in processes of their own, on this machine; as work for a process."""
    from torch.distributed.run import main

    main(["--standalone", "--nproc_per_node=2", *map(str, arguments)])


def command(*arguments: object) -> None:
    """Run the command line, as work for a process."""
    from higgs_audio_trainer.cli import main

    sys.exit(main(list(map(str, arguments))))


def _work(
    work: Callable[..., None], arguments: tuple[Any, ...], out: str, err: str, environment: Mapping[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
    multiprocessing.set_start_method("fork", force=True)  # this process's is the server's
    work(*arguments)
