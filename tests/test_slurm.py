"""The example of a Slurm job: saved before the time limit, requeued, resumed. Slurm's commands are fakes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.faults.runs import lines, training

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "srun": 'shift\nexec "$@"',
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> "$REQUEUED"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


def start_job(folder, *arguments):
    """Start the job's script as Slurm does."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, script in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "REQUEUED": str(folder / "requeued"),
        "SLURM_JOB_ID": str(port - 10000 + 50000),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    with (folder / "job.log").open("a") as log:
        return subprocess.Popen(
            [shutil.which("bash"), ROOT / "examples" / "slurm" / "train.sbatch", *map(str, arguments)],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            cwd=folder,
        )


def test_a_job_is_requeued_before_its_limit_and_resumes(tiny, clips, tmp_path):
    """SIGUSR1 for the script saves on both ranks and requeues the job, whose next start goes on to the end."""
    out, fifo = tmp_path / "out", tmp_path / "fifo"
    os.mkfifo(fifo)
    line = training(tiny, clips, out, use_cpu="true", max_steps=8, grad_accum=1)
    place = line.index("--sinks") + 1
    first = [*line]
    first[place] = f"jsonl,tests.faults.runs:awaits_a_signal:path={fifo}"
    line[place] = "jsonl"
    place = line.index("--output_dir")
    line[place : place + 2] = [f"--output_dir={out}"]

    job = start_job(tmp_path, *first)
    try:
        assert fifo.read_text() == "waiting"
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 0, (tmp_path / "job.log").read_text()
    finally:
        job.kill()
    assert (tmp_path / "requeued").read_text().split()[0] == "requeue"
    end = lines(out)[-1]
    assert (end["event"], end["reason"], end["step"]) == ("run_end", "SIGUSR1", 5)

    job = start_job(tmp_path, *line)
    try:
        assert job.wait(60) == 0, (tmp_path / "job.log").read_text()
    finally:
        job.kill()
    start, *_, end = lines(out, attempt=1)
    assert (start["resumed_from_step"], end["reason"], end["step"]) == (5, "completed", 8)
    assert (tmp_path / "requeued").read_text().count("requeue") == 1, "a completed job is not requeued"
