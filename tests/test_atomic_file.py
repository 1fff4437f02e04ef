"""Files appear whole or not at all."""

import os
import stat

import pytest

from higgs_audio_trainer.atomic_file import atomic_file


def test_an_error_leaves_the_target_as_it_was(tmp_path):
    """A failed write keeps the earlier content and leaves no temporary file."""
    target = tmp_path / "state"
    target.write_bytes(b"before")
    with pytest.raises(TypeError), atomic_file(target) as file:
        file.write("no bytes")
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_target_appears_when_the_block_ends(tmp_path):
    """Within the block the target has the old content. After the block the target has the new content."""
    target = tmp_path / "state"
    target.write_bytes(b"before")
    with atomic_file(target, sync=True) as file:
        file.write(b"after")
        file.flush()
        assert target.read_bytes() == b"before"
    assert target.read_bytes() == b"after"


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
def test_mode_of_a_new_file(tmp_path, umask, expected):
    """A new file has the mode that the umask gives to any file."""
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "new") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == expected


def test_mode_of_a_replaced_file(tmp_path):
    """A replaced file keeps the old mode, unless `mode` is given."""
    target = tmp_path / "state"
    target.write_bytes(b"x")
    target.chmod(0o640)
    with atomic_file(target) as file:
        file.write(b"y")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with atomic_file(target, mode=0o600) as file:
        file.write(b"z")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
