"""Claims of work by processes that share a folder."""

import errno
import fcntl
import signal
import socket
import subprocess
import sys
import threading

import pytest

from higgs_audio_trainer.data.preparation.claims import Claims
from higgs_audio_trainer.data.preparation.sharing import share

HOLDER = """
import sys, time
from pathlib import Path
from higgs_audio_trainer.data.preparation.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take("a"), flush=True)
time.sleep(600)
"""


def test_a_claim_is_taken_once_and_given_back(tmp_path):
    """The second process gets the claim after the first has given it back, or has ended in order."""
    with Claims(tmp_path / "c") as first, Claims(tmp_path / "c") as second:
        assert first.take("a")
        assert not first.take("a")
        assert not second.take("a")
        first.release(["a"])
        assert second.take("a")
        assert first.take("b")
        first.close()
        assert second.take("b")
    assert list((tmp_path / "c").iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path):
    """A living process keeps its claim. After kill -9 another process has the claim at once."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with Claims(tmp_path) as ours:
            assert not ours.take("a")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert ours.take("a")
    assert list(tmp_path.iterdir()) == []


def test_without_locks_the_claim_of_a_process_of_this_machine_that_is_gone_is_taken_over(tmp_path, monkeypatch):
    """Whether a process of this machine lives is seen without locks. A process of another machine keeps its claim."""

    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Claims(tmp_path) as living, Claims(tmp_path) as ours:
        living.take("a")
        for key, owner in (("b", f"{socket.gethostname()}-{2**22 + 1}-0123abcd"), ("c", "elsewhere-1-0123abcd")):
            (tmp_path / key).symlink_to(owner)
            (tmp_path / f"{owner}.alive").touch()
        assert [ours.take(key) for key in "abc"] == [False, True, False]


def test_a_claim_that_another_process_took_over_meanwhile_stays(tmp_path):
    """Of two processes that see a dead process's claim, the slower leaves the claim of the faster."""
    dead, faster, slower = (Claims(tmp_path) for _ in range(3))
    dead.take("a")
    (tmp_path / f"{dead.name}.alive").unlink()
    assert faster.take("a")
    slower.take("b")
    slower._remove(tmp_path / "a", dead.name)
    assert str((tmp_path / "a").readlink()) == faster.name


def test_a_claim_that_was_put_back_after_its_release_is_taken_again(tmp_path):
    """A slower process may put a claim back just after its owner has done the work and released the claim."""
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        ours.take("a")
        ours.release(["a"])
        (tmp_path / "a").symlink_to(ours.name)
        assert not theirs.take("a")
        assert ours.take("a")
        assert not ours.take("a")
        ours.release(["a"])
        assert theirs.take("a")


def test_units_are_done_once_by_threads_with_claims_of_their_own(tmp_path):
    """Every unit is done, and no unit twice."""
    done: list[str] = []

    def work(unit: str) -> None:
        done.append(unit)

    def run() -> None:
        with Claims(tmp_path) as claims:
            share([f"u{n}" for n in range(200)], claims, is_done=lambda unit: unit in done, work=work)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(f"u{n}" for n in range(200))


def test_a_unit_that_fails_can_be_taken_by_others(tmp_path):
    """An error gives the claim back."""
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        with pytest.raises(ZeroDivisionError):
            share(["u"], ours, is_done=lambda _: False, work=lambda _: 1 / 0)
        assert theirs.take("u")
