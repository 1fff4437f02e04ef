"""The index of encoded clips: rows and codes of many processes."""

import subprocess
import sys

import numpy as np
import pytest

from higgs_audio_trainer.data.preparation import clip_index
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex

KEYS = [f"{number:032x}" for number in range(10)]
CODES = np.arange(24, dtype=np.int16).reshape(3, 8)


def test_rows_are_seen_by_others_after_a_flush(tmp_path):
    """A row is in the index at once for its writer, and for others when it is complete."""
    with ClipIndex(tmp_path, "a") as ours, ClipIndex(tmp_path, "b") as theirs:
        ours.add(KEYS[0], {"frames": 3})
        assert ours.get(KEYS[0]) == {"key": KEYS[0], "frames": 3}
        theirs.refresh()
        assert KEYS[0] not in theirs
        ours.flush()
        theirs.refresh()
        assert theirs.get(KEYS[0]) == {"key": KEYS[0], "frames": 3}
        assert theirs.drain().tolist() == ours.drain().tolist() == [[0, 0]]
        assert len(theirs.drain()) == 0


def test_codes_lie_in_files_of_bounded_size(tmp_path, monkeypatch):
    """A file that is full is followed by another, and all codes are found."""
    monkeypatch.setattr(clip_index, "_SHARD_BYTES", 100)
    with ClipIndex(tmp_path, "a") as ours:
        places = [ours.add_codes(CODES + number) for number in range(5)]
        ours.flush()
        with ClipIndex(tmp_path, "b") as theirs:
            for number, place in enumerate(places):
                assert np.array_equal(theirs.codes(place), CODES + number)
    assert len(list(tmp_path.glob("*.i16"))) == 3


def test_damaged_codes_are_none(tmp_path):
    """After a power failure a row may be there without its codes."""
    with ClipIndex(tmp_path, "a") as ours:
        place = ours.add_codes(CODES)
        ours.add(KEYS[0], {"codes": place})
    (file,) = tmp_path.glob("*.i16")
    file.write_bytes(bytes(48))
    with ClipIndex(tmp_path, "b") as theirs:
        assert theirs.codes(place) is None
        file.unlink()
    with ClipIndex(tmp_path, "c") as theirs:
        assert theirs.codes(place) is None
        assert theirs.codes(["../a", *place[1:]]) is None


@pytest.mark.parametrize(
    "torn", [b'{"key":"', b'{"key":"%s","frames":' % KEYS[1].encode(), b"garbage", b"{}\n", b"\0" * 99]
)
def test_a_torn_last_line_is_no_row(tmp_path, torn):
    """A killed writer may leave half of a line. Its other rows count."""
    with ClipIndex(tmp_path, "a") as ours:
        ours.add(KEYS[0], {"frames": 3})
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes() + torn)
    with ClipIndex(tmp_path, "b") as theirs:
        theirs.refresh()
        theirs.refresh()
        assert KEYS[0] in theirs
        assert len(theirs) == 1


def test_a_long_index_is_read_in_pieces(tmp_path, monkeypatch):
    """The border of a piece may lie within a row."""
    with ClipIndex(tmp_path, "a") as ours:
        for key in KEYS:
            ours.add(key, {"text": "x" * 50})
    monkeypatch.setattr(clip_index, "_READ_BYTES", 131)
    with ClipIndex(tmp_path, "b") as theirs:
        theirs.refresh()
        assert [theirs.get(key) for key in KEYS] == [{"key": key, "text": "x" * 50} for key in KEYS]


def test_faults_are_forgotten_on_request(tmp_path):
    """A clip that could not be read is tried again at the next start."""
    with ClipIndex(tmp_path, "a") as ours:
        ours.add(KEYS[0], {"fault": ["x", "y"]})
        ours.add(KEYS[1], {"frames": 3})
    with ClipIndex(tmp_path, "b") as theirs:
        theirs.refresh()
        assert theirs.faults().tolist() == [[0, 0]]
        theirs.forget_faults()
        assert [key in theirs for key in KEYS[:2]] == [False, True]
        theirs.add(KEYS[0], {"frames": 3})
        theirs.flush()
        assert len(theirs.faults()) == 0


WRITER = """
import sys
import numpy as np
from pathlib import Path
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
with ClipIndex(Path(sys.argv[1]), sys.argv[2]) as index:
    for number in range(300):
        key = f"{sys.argv[2]:0>16}{number:016x}"
        index.add(key, {"codes": index.add_codes(np.full((2, 4), number))})
        if number % 7 == 0:
            index.flush()
"""


def test_many_processes_write_at_once(tmp_path):
    """No process waits for another, and no row is lost."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with ClipIndex(tmp_path, "reader") as index:
        index.refresh()
        assert len(index) == 900
        assert index.num_writers == 3
        row = index.get(f"{2:0>16}{299:016x}")
        assert row is not None
        assert index.codes(row["codes"]).tolist() == [[299] * 4] * 2
