"""Two agents of torchrun, as on two machines, with a shared output folder and with a folder each."""

import csv
import os
import shutil
import socket
import subprocess

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.validation.validate import validate
from tests import forks
from tests.faults.runs import lines, training
from tests.test_tools import needs


def agent(*arguments):
    """Start the ranks of one machine, as work for a process."""
    from torch.distributed.run import main as torchrun

    torchrun(["--nnodes=2", "--nproc_per_node=1", "--master_addr=localhost", *map(str, arguments)])


@needs("duckdb")
@pytest.mark.parametrize("folders", [("out", "out"), ("one", "two")], ids=["shared", "separate"])
def test_two_machines_train_one_run(tiny, clips, tmp_path, folders, capfdbinary):
    """Rank 0 writes adapter and checkpoints, each rank writes its log, and gathered logs are read as one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = {"max_steps": 2, "save_steps": 2, "grad_accum": 1, "use_cpu": "true", "log_all_ranks": "true"}
    options |= {"sinks": "jsonl", "codes_dir": tmp_path / "codes"}
    agents = []
    try:
        for node, name in enumerate(folders):
            launch = (f"--node_rank={node}", f"--master_port={port}", "-m", "higgs_audio_trainer")
            line = training(tiny, clips, tmp_path / name, **options)
            out, err = (tmp_path / f"agent{node}.{stream}" for stream in ("out", "err"))
            agents.append((forks.start(agent, *launch, *line, out=out, err=err), err))
        assert [forks.wait(started, err) for started, err in agents] == [0, 0]
    finally:
        for started, _ in agents:
            forks.end(started)

    first, second = (tmp_path / name for name in folders)
    assert (first / "adapter_model.safetensors").exists()
    if first != second:
        assert {path.name for path in second.iterdir()} == {"checkpoint-2", "events"}
        assert [path.name for path in (second / "checkpoint-2").iterdir()] == ["rng_state_1.pth"]
        for file in (second / "events").iterdir():
            os.link(file, first / "events" / file.name)
    assert lines(first)[0]["run_id"] == lines(first, rank=1)[0]["run_id"]
    assert list(validate(first)) == []
    assert main(["show", str(first), "--summary"]) == 0
    capfdbinary.readouterr()
    assert main(["merge", str(first)]) == 0
    merged = tmp_path / "merged.jsonl"
    merged.write_bytes(capfdbinary.readouterr().out)
    expected = [["rank", "step"], ["0", "1"], ["0", "2"], ["1", "1"], ["1", "2"]]
    assert steps_by_duckdb(merged) == expected
    assert steps_by_duckdb(first / "events" / "*.jsonl") == expected


def steps_by_duckdb(files):
    """Return ranks and steps of the logged steps, as rows of text."""
    query = f"SELECT rank, step FROM read_ndjson('{files}') WHERE event = 'train_step' ORDER BY ALL"
    table = subprocess.run([shutil.which("duckdb"), "-csv", "-c", query], check=True, capture_output=True, text=True)
    return list(csv.reader(table.stdout.splitlines()))
