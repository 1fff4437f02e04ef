"""Field cases: scripts that reproduce public bug reports, run in parallel; `python -m tests.field_cases FOLDER`.

A case prints `right: ...` or `WRONG: ...` as its last line and exits with 0, 1, or 99 if it cannot be tried here.

Most of a case's time is the import of torch and transformers, by each `train` and `prepare`. A command named
`higgs-audio-trainer` in front of the real one asks a server, which has imported them, to fork. A command in another
namespace, with a locale or a Python path of its own starts the real one, since a fork cannot take these over.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 240
NOT_HERE = 99
_CLIENT = """#!{python} -SE
import array, json, os, signal, socket, sys
spaces = [os.readlink(f"/proc/self/ns/{{name}}") for name in ("user", "mnt")]
own = [name for name in os.environ if name.startswith("LC_") or name == "PYTHONPATH"]
if sys.argv[1:2] not in (["train"], ["prepare"]) or spaces != {spaces} or own:
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
streams = array.array("i", (0, 1, 2)).tobytes()
server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
file = server.makefile("rw")
print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]), file=file, flush=True)
process = int(file.readline())
signal.signal(signal.SIGTERM, lambda *_: os.kill(process, signal.SIGTERM))
sys.exit(int(file.readline() or 1))
"""


def serve(address: str) -> None:
    """Import the trainer, print a line, and fork a process for each connection until killed."""
    import tests.preloaded  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that answer
    print("ready", flush=True)  # noqa: T201 - for the process that waits
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _answer(connection)
            os._exit(0)
        connection.close()


def _answer(connection: socket.socket) -> None:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i", ancillary[0][2])
    file = connection.makefile("rw")
    arguments, folder, environment = json.loads(file.readline())
    process = os.fork()
    if process == 0:
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os._exit(_run(arguments))
    print(process, file=file, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(BrokenPipeError):  # the case has ended its command
        print(status if status >= 0 else 128 - status, file=file, flush=True)


def _run(arguments: list[str]) -> int:
    from higgs_audio_trainer.cli import main

    sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in enumerate("rww"))  # noqa: SIM115
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def run_case(script: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a case and return its exit status and its last line."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            command = ["bash", str(script)]
            status = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = 1
        output.seek(0)
        lines = output.read().splitlines() or ["no output"]
    return status, lines[-1]


def main(folder: Path) -> int:
    """Run all cases of a folder, print a line for each, and return 1 if one is wrong."""
    real = Path(sys.executable).with_name("higgs-audio-trainer")
    with tempfile.TemporaryDirectory() as work:
        tiny, bin_dir, address = Path(work, "tiny"), Path(work, "bin"), str(Path(work, "server"))
        subprocess.run([real, "tiny", tiny], check=True, stdout=subprocess.DEVNULL)
        (tiny / "done").touch()
        bin_dir.mkdir()
        spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt")]  # noqa: PTH115 - no path
        client = _CLIENT.format(python=sys.executable, spaces=spaces, real=str(real), address=address)
        (bin_dir / "higgs-audio-trainer").write_text(client)
        (bin_dir / "higgs-audio-trainer").chmod(0o755)
        path = os.pathsep.join([str(bin_dir), str(real.parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "HIGGS_CASES_TINY": str(tiny)}
        serving = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "tests.field_cases", "--serve", address]
        with subprocess.Popen(command, env=serving, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            scripts = sorted(folder.glob("[0-9]*.sh"))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                results = list(pool.map(lambda script: run_case(script, environment), scripts))
            server.kill()
    for script, (status, line) in zip(scripts, results, strict=True):
        print(f"{script.stem}: {line if status != NOT_HERE else f'cannot be tried here: {line}'}")  # noqa: T201 - a command
    return int(not scripts or any(status not in (0, NOT_HERE) for status, _ in results))


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    sys.exit(main(Path(sys.argv[1])))
