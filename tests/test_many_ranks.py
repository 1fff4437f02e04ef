"""Logs of many ranks are read as one run, in memory and open files that grow by the heads of the files alone."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from benchmarks.synthetic_log import EVENTS_A_STEP, write_log
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.parquet import ParquetFiles
from higgs_audio_trainer.logs.reader import read_lines
from tests.readme import PHASE_LINE, ROOT, commands, shell
from tests.test_tools import needs, table

RANKS, STEPS = 64, 8
EXPORT, SLOWEST, SHARES = commands((ROOT / "docs/design/reading.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the logs of 64 ranks, and return the folder of the folder `ranks`. Rank 5 is the slowest."""
    folder = tmp_path_factory.mktemp("many")
    for rank in range(RANKS):
        events = folder / "ranks" / "events"
        path = write_log(events, STEPS * EVENTS_A_STEP, seed=rank, rank=rank, world_size=RANKS)
        if rank == 5:
            path.write_bytes(path.read_bytes().replace(b'"step_ms":300.0', b'"step_ms":900.0'))
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """Export the logs as documented, and return the folder of the Parquet files."""
    assert "exported" in shell(EXPORT, folder)
    return folder / "ranks" / "exported" / "parquet"


def test_every_event_of_every_rank_is_exported(folder, exported):
    """A data set of an event has all its rows, the rank of each row, and types that Spark knows."""
    lines = [line.record for line in read_lines(folder / "ranks")]
    expected = Counter((record["event"], record["rank"]) for record in lines)
    found = Counter()
    for part in exported.iterdir():
        rows = ds.dataset(part, partitioning="hive").to_table()
        assert "event" not in rows.column_names, "Spark takes the name of the folder"
        assert rows.schema.field("ts").type == pa.timestamp("us", tz="UTC")
        assert not {"dictionary", "null", "uint"} & {str(field.type).split("<")[0] for field in rows.schema}
        found += Counter((part.name.removeprefix("event="), rank) for rank in rows["rank"].to_pylist())
    assert found == expected
    assert sum(found.values()) == RANKS * (STEPS * EVENTS_A_STEP + 2)
    assert not [path for path in exported.rglob("*") if path.is_file() and path.suffix != ".parquet"]


@needs("duckdb")
def test_the_slowest_rank_by_duckdb(folder, exported):
    """DuckDB takes the rank from the name of the folder."""
    out = shell(SLOWEST.replace("duckdb -c", "duckdb -json -c"), folder)
    expected = {"slowest_rank": 5, "longest_ms": 900.0, "median_ms": 300.0}
    assert json.loads(out) == [{"step": step} | expected for step in range(1, STEPS + 1)]


def test_the_share_of_logging_by_polars(folder, exported):
    """Polars takes the rank from the name of the folder."""
    rows = table(shell(SHARES, folder, POLARS_FMT_MAX_ROWS="100"))[1:]
    assert [rank for rank, _ in rows] == [*range(RANKS)]
    assert rows[5][1] == pytest.approx(1 / 900, rel=1e-3)


def open_files():
    """Count the open files of this process; 0 where the system does not tell."""
    return len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 0


def test_no_file_stays_open_and_few_lines_wait(folder, tmp_path):
    """With a small limit the fullest row group is written first, and each file is complete at the end."""
    lines = [*read_lines(folder / "ranks")]
    before = open_files()
    with ParquetFiles(tmp_path, waiting_bytes=100_000) as files:
        for line in lines:
            files.add("run", line)
            assert files._waiting < 200_000
        assert open_files() <= before
    assert ds.dataset(tmp_path, format="parquet").count_rows() == len(lines)


@pytest.mark.parametrize("command", ["merge", "show --summary", "validate", "report -o {}/r.html"])
def test_more_ranks_than_open_files(folder, tmp_path, command):
    """A reader raises a soft limit that is below the number of files."""
    line = f"ulimit -S -n 48; {sys.executable} -m higgs_audio_trainer {command.format(tmp_path)} ranks"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if not PHASE_LINE.fullmatch(line)]  # of a slow machine
    assert (done.returncode, said) == (0, [])


def test_the_way_out_of_too_few_open_files(folder):
    """A hard limit below the number of files ends in one line with the way out."""
    line = f"ulimit -n 48; {sys.executable} -m higgs_audio_trainer merge ranks"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "Too many open files: each rank and attempt is a file. Raise the limit: ulimit -n 65536" in done.stderr


def test_all_ranks_are_one_run(folder, capsys):
    """The lines are merged by step and rank."""
    assert main(["merge", str(folder / "ranks")]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = [(record["step"], record["rank"]) for record in records if record["event"] == "train_step"]
    assert steps == [(step, rank) for step in range(1, STEPS + 1) for rank in range(RANKS)]
