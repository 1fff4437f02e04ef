"""Real trainings on two ranks under torchrun, one of which is killed, or both asked to stop."""

import os
import time
from signal import Signals

from higgs_audio_trainer.saved import latest_checkpoint
from tests import forks
from tests.faults.runs import lines, training
from tests.faults.test_stopping import ADAPTER, FOREVER, read_stable


def torchrun(folder, *arguments):
    """Start the trainer on two ranks under torchrun, restarted once if one dies."""
    return forks.start(
        forks.torchrun,
        *("--max_restarts=1", "-m", "higgs_audio_trainer", *arguments),
        out=folder / "torchrun.out",
        err=folder / "torchrun.err",
        # A store of its own for each start: https://github.com/pytorch/pytorch/issues/135712
        environment=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )


def test_torchrun_hands_a_signal_to_all_ranks(tiny, clips, tmp_path):
    """SIGTERM to torchrun: both ranks stop at one step, save, say why and end, well within torchrun's 30 seconds."""
    out, fifo, err = tmp_path / "out", tmp_path / "fifo", tmp_path / "torchrun.err"
    os.mkfifo(fifo)
    sinks = f"jsonl,tests.faults.runs:beacon_of_rank_0:path={fifo}"
    arguments = training(tiny, clips, out, max_steps=FOREVER, use_cpu="true", log_all_ranks="true", sinks=sinks)
    launcher = torchrun(tmp_path, *arguments)
    try:
        with fifo.open(encoding="utf-8") as events:
            assert any(line.startswith("train_step 3") for line in events)
            started = time.monotonic()
            os.kill(launcher.pid, Signals.SIGTERM)
            forks.wait(launcher, err)
    finally:
        forks.end(launcher)
    assert time.monotonic() - started < 25
    one, other = lines(out), lines(out, rank=1)
    assert one[-1]["reason"] == other[-1]["reason"] == "SIGTERM"
    assert one[-1]["step"] == other[-1]["step"]
    assert latest_checkpoint(out)[0] == out / f"checkpoint-{one[-1]['step']}"
    assert "higgs_audio_trainer/" not in err.read_text(), "a traceback is torchrun's own"


def test_a_rank_that_dies_is_restarted(tiny, clips, tmp_path):
    """Kill -9 of rank 1: torchrun starts both anew; attempt 1 goes on from the checkpoint, and the log reads as one."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = {"max_steps": 4, "save_steps": 2, "use_cpu": "true", "log_all_ranks": "true"}
    sinks = f"jsonl,tests.faults.runs:dies_once:path={tmp_path}/died"
    launcher = torchrun(tmp_path, *training(tiny, clips, out, **options, sinks=sinks))
    try:
        assert forks.wait(launcher, tmp_path / "torchrun.err") == 0
    finally:
        forks.end(launcher)
    assert (tmp_path / "died").exists()
    start = lines(out, attempt=1)[0]
    assert (start["attempt"], start["resumed_from_step"]) == (1, 2)
    assert start["run_id"] == lines(out)[0]["run_id"]
    arguments = training(tiny, clips, whole, **options, sinks="jsonl")
    assert [ended.status for ended in forks.ranks(tmp_path, forks.command, *arguments)] == [0, 0]
    assert read_stable(out) == read_stable(whole)
    assert (out / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
