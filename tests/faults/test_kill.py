"""Death of the process at any time."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.writer import read_log, segments

ROOT = Path(__file__).parents[2]
KILLS = 200


def test_kill_at_random_times(tmp_path):
    """Fault: kill -9 at 200 random times, with and without rotation and syncs.

    Expected: the log holds every event of a completed call of emit, in order. At most a single line is torn, and this
    line is the last line of the last file and has no newline.
    """
    command = [sys.executable, "-m", "tests.faults.writer_killed", tmp_path, str(KILLS), "20260102"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not result["torch"]
    assert len(result["acknowledged"]) == KILLS
    torn = 0
    for number, acknowledged in enumerate(result["acknowledged"]):
        files = segments(tmp_path / str(number))
        found = read_log(*files)
        assert found.seqs == list(range(len(found.seqs)))
        assert acknowledged <= len(found.seqs) <= acknowledged + 1  # the kill may precede the last acknowledgement
        assert len(found.torn) <= 1
        assert found.torn in ([], [path.read_bytes().split(b"\n")[-1] for path in files[-1:]])
        torn += len(found.torn)
    print(f"{KILLS} kills, {sum(result['acknowledged'])} events acknowledged, {torn} torn tails")  # noqa: T201 - for -s
