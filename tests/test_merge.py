"""`merge` writes a log as one file: every line as it is, in order, fit for every other command."""

import gzip
import os
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.logs.validation.validate import validate
from tests.builders import run_end, run_start, train_step
from tests.test_reader import dump, file_of, interrupted_runs, records_of, write
from tests.test_validate import FIXTURES, a_run

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
COMMAND = [sys.executable, "-m", "higgs_audio_trainer", "merge"]


def merged(capfdbinary, *arguments):
    """Run the command and return what it wrote."""
    assert main(["merge", *map(str, arguments)]) == 0
    return capfdbinary.readouterr()


def test_lines_are_written_byte_by_byte_in_order(tmp_path, capfdbinary):
    """Steps first, then ranks; spaces and escapes stay; a newline that is owed is paid."""
    lines = {}
    for rank, step in product(range(2), (1, 2)):
        lines[step, rank] = b'{"event": "x",  "step":%d, "rank": %d, "t":"\\u00e9"}' % (step, rank)
    for rank in range(2):
        file_of(tmp_path, rank).write_bytes(lines[1, rank] + b"\n" + lines[2, rank])
    out, err = merged(capfdbinary, tmp_path)
    assert out == b"".join(lines[key] + b"\n" for key in sorted(lines))
    assert err == b""


def test_faults_are_said_apart(tmp_path, capfdbinary):
    """What holds no event is left out and said on standard error."""
    file_of(tmp_path).write_bytes(dump(a_run()) + b"torn\n")
    out, err = merged(capfdbinary, tmp_path)
    assert out == dump(a_run())
    assert b"jsonl:7 (byte " in err


def test_attempts(capfdbinary):
    """By default each event once, as `read` shows it; on request those of every attempt."""
    for flags, options in ((), {}), (("--all-attempts",), {"all_attempts": True}):
        out, _ = merged(capfdbinary, *flags, FIXTURES / "trust")
        assert out == b"".join(line.raw for line in read_lines(FIXTURES / "trust", **options))


@settings(max_examples=60, deadline=None)
@given(interrupted_runs())
def test_a_merged_log_is_as_clean(attempts):
    """Of an interrupted run, merged in either way, `validate` says nothing that it does not say of its files."""
    with TemporaryDirectory() as folder:
        for attempt, events in enumerate(attempts):
            write(folder, records_of(events, attempt=attempt), attempt=attempt)
        kinds = {finding.kind for finding in validate(folder) if finding.severity == "error"}
        for flag in (False, True):
            path = Path(folder) / f"{flag}.jsonl"
            path.write_bytes(b"".join(line.raw for line in read_lines(folder, all_attempts=flag)))
            assert {finding.kind for finding in validate(path) if finding.severity == "error"} <= kinds


def test_several_ranks_merged_are_clean(tmp_path):
    """Each rank and attempt in it is held against itself."""
    for rank in range(3):
        events = [run_start(world_size=3, num_codebooks=2), train_step(step=1), run_end(step=1, events_written=2)]
        write(tmp_path, a_run(*events, rank=rank), rank)
    path = tmp_path / "merged.jsonl"
    path.write_bytes(b"".join(line.raw for line in read_lines(tmp_path)))
    found = validate(path)
    assert list(found) == []
    assert found.ranks == {0, 1, 2}


def test_a_reader_that_goes_away(tmp_path):
    """`| head -1` ends it without a word."""
    write(tmp_path, a_run(run_start(), *[train_step(step=step) for step in range(1, 3000)]))
    process = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_a_damaged_compressed_log(tmp_path, capfdbinary):
    """All lines before the damage are written, and what is said of the rest is true."""
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(dump(a_run()), mtime=0)[:-9])
    out, err = merged(capfdbinary, path)
    assert out.splitlines() == dump(a_run()).splitlines()
    fault, total = err.decode().splitlines()
    assert "compressed bytes that are whole" in fault
    assert total == "1 problem. All other lines were read. Run `validate` for details."


def test_more_files_than_may_be_open_at_first(tmp_path):
    """The limit that the system sets for a process is raised as far as it lets us."""
    for rank in range(150):
        write(tmp_path, a_run(rank=rank), rank)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, {HARD_LIMIT}))\n"
    command = f"import sys\n{limit}from higgs_audio_trainer.cli import main\nsys.exit(main(['merge', sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", command, tmp_path], capture_output=True, check=True)
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 150 * len(a_run())
