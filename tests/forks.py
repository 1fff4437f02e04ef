"""Processes that are forked from a server which has imported torch and the trainer: each saves some four seconds.

This is safe, for the server only imports: it starts no thread, computes nothing and joins no group of ranks before it
forks. A child is a process like any other: it has an exit status, streams, and can be signalled and killed. How the
interpreter starts it cannot show: the README's lines do.
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
    """What is left of a process: its exit status as a shell gives it, and what it said."""

    status: int
    out: str
    err: str


def start(
    work: Callable[..., None], *arguments: Any, out: Path, err: Path, environment: Mapping[str, str] = os.environ
) -> BaseProcess:
    """Start a function of a module in a process whose streams are files, and whose environment is this one's.

    Args:
        work: what to do.
        arguments: what it is given.
        out: file, or terminal, of standard output.
        err: the same of standard error.
        environment: all of it.
    """
    process = _SERVER.Process(target=_work, args=(work, arguments, str(out), str(err), dict(environment)), daemon=False)
    process.start()
    return process


def wait(process: BaseProcess, err: Path) -> int:
    """Wait for the end; return the exit status as a shell gives it."""
    process.join(PATIENCE_S)
    assert process.exitcode is not None, f"still running: {err.read_text()}"
    return process.exitcode if process.exitcode >= 0 else 128 - process.exitcode


def end(process: BaseProcess) -> None:
    """Leave nothing behind."""
    if process.is_alive():
        process.kill()
    process.join(PATIENCE_S)


def ranks(folder: Path, work: Callable[..., None], *arguments: Any, count: int = 2) -> list[Ended]:
    """Do something in processes that find each other as torchrun's do, and wait for them.

    Args:
        folder: of their streams.
        work: what each does.
        arguments: what each is given.
        count: of ranks.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here: no rank looks for a port that is free
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
