"""Real training on two ranks under torchrun, with a killed rank and a stop signal for both ranks."""

import os
import time
from signal import Signals
from types import SimpleNamespace

from higgs_audio_trainer.output_dir.checkpoints import latest_checkpoint
from tests import forks
from tests.faults.runs import lines, training
from tests.faults.test_stopping import ADAPTER, read_stable


def test_a_killed_rank_is_named(tiny, clips, tmp_path):
    """After kill -9 of rank 1 the others end, and the log of rank 0 names rank 1, as does a single line."""
    out = tmp_path / "out"
    sinks = f"jsonl,tests.faults.runs:dies_once:path={tmp_path}/died"
    options = {"use_cpu": "true", "log_all_ranks": "true", "batch_size": 1, "sinks": sinks}
    ended = forks.ranks(tmp_path, forks.command, *training(tiny, clips, out, **options), count=3)
    assert [rank.status for rank in ended] == [2, 137, 2]
    end = lines(out)[-1]
    assert (end["event"], end["reason"], end["lost_ranks"]) == ("run_end", "error", [1])
    assert sum(rank.err.count("rank 1 on") for rank in ended) == 1
    assert not any("Traceback" in rank.err for rank in ended)


def test_a_slow_rank_is_named(tiny, clips, tmp_path):
    """A logged step names the rank whose clock runs a thousand times as fast, and so does the console."""
    out = tmp_path / "out"
    options = {"use_cpu": "true", "batch_size": 1, "max_steps": 2, "log_steps": 1, "sinks": "jsonl,console"}
    ended = forks.ranks(tmp_path, slow_second_rank, *training(tiny, clips, out, **options), count=3)
    assert [rank.status for rank in ended] == [0, 0, 0]
    steps = [line for line in lines(out) if line["event"] == "train_step"]
    assert [step["slowest_rank"] for step in steps] == [1, 1]
    assert all(step["step_ms_max"] > 10 * step["step_ms_median"] for step in steps)
    assert ended[0].out.count("rank 1") == len(steps)


def slow_second_rank(*arguments):
    """Train with a clock on rank 1 that runs fast."""
    from higgs_audio_trainer.training import trainer

    if os.environ["RANK"] == "1":
        trainer.time = SimpleNamespace(perf_counter=lambda: 1000 * time.perf_counter())
    forks.command(*arguments)


def test_a_dead_rank_is_restarted_and_a_signal_stops_all(tiny, clips, tmp_path):
    """A killed rank is restarted, a signal stops both ranks, and the resumed training equals an undisturbed training.

    A single training covers both faults, as a start under torchrun is slow.

    After kill -9 of rank 1, torchrun restarts both ranks, and attempt 1 continues from the checkpoint. After SIGTERM to
    torchrun, both ranks stop at the same step, save, log the reason and end well within torchrun's 30 seconds.
    """
    out, whole, fifo, err = (tmp_path / name for name in ("out", "whole", "fifo", "torchrun.err"))
    os.mkfifo(fifo)
    options = {"max_steps": 6, "save_steps": 2, "use_cpu": "true", "log_all_ranks": "true", "sinks": "jsonl"}
    faults = f"jsonl,tests.faults.runs:dies_once:path={tmp_path}/died,tests.faults.runs:awaits_a_signal:path={fifo}"
    launcher = forks.start(
        forks.torchrun,
        *("--max_restarts=1", "-m", "higgs_audio_trainer"),
        *training(tiny, clips, out, **(options | {"sinks": faults})),
        out=tmp_path / "torchrun.out",
        err=err,
        # A separate store for each start: https://github.com/pytorch/pytorch/issues/135712
        environment=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    try:
        assert fifo.read_text() == "waiting"
        of_the_death = err.read_text()
        started = time.monotonic()
        os.kill(launcher.pid, Signals.SIGTERM)
        forks.wait(launcher, err)
        assert time.monotonic() - started < 25
        said = err.read_text().removeprefix(of_the_death)
        assert "higgs_audio_trainer/" not in said, "a traceback is torchrun's own"
    finally:
        forks.end(launcher)

    assert (tmp_path / "died").exists()
    one, other = lines(out, attempt=1), lines(out, attempt=1, rank=1)
    assert (one[0]["attempt"], one[0]["resumed_from_step"]) == (1, 2)
    assert one[0]["run_id"] == lines(out)[0]["run_id"]
    assert one[-1]["reason"] == other[-1]["reason"] == "SIGTERM"
    assert one[-1]["step"] == other[-1]["step"] < 6
    assert latest_checkpoint(out)[0] == out / f"checkpoint-{one[-1]['step']}"

    for arguments in (training(tiny, clips, out, **options, resume="latest"), training(tiny, clips, whole, **options)):
        assert [ended.status for ended in forks.ranks(tmp_path, forks.command, *arguments)] == [0, 0]
    assert lines(out, attempt=2)[0]["resumed_from_step"] == one[-1]["step"]
    assert read_stable(out) == read_stable(whole)
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
