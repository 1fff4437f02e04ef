"""Processes that prepare one manifest in one cache, and die at any moment."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import forks
from tests.samples import entry, write_manifest

CLIPS = 60

pytestmark = pytest.mark.faults


def slow_command(seconds: dict[str, float], *arguments: str) -> None:
    """Run a command with a codec that takes its time, as a real codec on a processor does.

    Args:
        seconds: Time of a clip, by rank.
        arguments: Arguments of the command.
    """
    from higgs_audio_trainer.data.codec import Codec

    encode = Codec.encode

    def slow(self: Codec, waveform: np.ndarray) -> np.ndarray:
        time.sleep(seconds[os.environ.get("RANK", "0")])
        return encode(self, waveform)

    Codec.encode = slow
    forks.command(*arguments)


def write_clips(folder, count):
    """Write a manifest of different clips."""
    noise = np.random.default_rng(0).normal(0, 0.1, (count, 4_800))
    for index, wave in enumerate(noise):
        soundfile.write(folder / f"{index}.wav", wave, 24_000)
    return write_manifest(folder / "m.jsonl", *(entry(str(i), f"{i}.wav") for i in range(count)))


@pytest.fixture
def start(tiny, tmp_path):
    """Return a function that starts `prepare`, and the files of its output."""
    manifest = write_clips(tmp_path, CLIPS)
    paths = ["--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--codes_dir", tmp_path / "codes"]
    started = []

    def call(seconds, *more):
        out, err = (tmp_path / f"{len(started)}.{stream}" for stream in ("out", "err"))
        arguments = map(str, ["prepare", "--train_manifest", manifest, *paths, *more])
        started.append(forks.start(slow_command, {"0": seconds}, *arguments, out=out, err=err))
        return started[-1], out, err

    yield call
    for process in started:
        forks.end(process)


def recordings(folder):
    """List the writer and the key of each recording that was encoded."""
    found = []
    for path in folder.glob("codes/codes/*/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found += [(path.name, row["key"]) for row in rows if row.keys() == {"key", "codes"}]
    return found


def wait_for(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + forks.PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def writers(folder):
    """Return the number of processes that have encoded."""
    return len({name for name, _ in recordings(folder)})


def test_two_commands_share_the_work_and_the_survivor_does_the_rest(start, tmp_path):
    """Both encode. After kill -9 of one, the other does its clips too, and nothing is encoded twice."""
    first, *_ = start(0.05, "--workers", "1")
    second, out, err = start(0.05, "--workers", "1")
    wait_for(lambda: writers(tmp_path) == 2)
    first.kill()
    assert forks.wait(second, err) == 0
    assert f"{CLIPS} samples ready" in out.read_text()
    found = recordings(tmp_path)
    assert len(found) == len({key for _, key in found}) == CLIPS


@pytest.mark.parametrize("received", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_command(start, tmp_path, received):
    """A killed command takes its workers along, and so does a stopped one, with the status of its signal."""
    command, _, err = start(0.3, "--workers", "2")
    wait_for(lambda: children(command.pid))
    (worker,) = children(command.pid)
    wait_for(lambda: writers(tmp_path) > 0)
    os.kill(command.pid, received)
    assert forks.wait(command, err) == 128 + received
    wait_for(lambda: not Path(f"/proc/{worker}").exists())


def children(pid):
    """Return the processes that a process started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def test_ranks_wait_for_each_other_without_a_collective(tiny, tmp_path):
    """With a codec that is slower than --ddp_timeout, two ranks prepare together and train."""
    manifest = write_clips(tmp_path, 8)
    arguments = ["--train_manifest", manifest, "--output_dir", tmp_path / "out", "--ddp_timeout", "2"]
    arguments += ["--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--codes_dir", tmp_path / "codes"]
    arguments += ["--max_steps", "2", "--log_steps", "1", "--batch_size", "1", "--use_cpu", "true"]
    ended = forks.ranks(tmp_path, slow_command, {"0": 0.01, "1": 3.0}, *map(str, arguments))
    assert [rank.status for rank in ended] == [0, 0], ended
    assert len(recordings(tmp_path)) == 8
    assert writers(tmp_path) == 2
