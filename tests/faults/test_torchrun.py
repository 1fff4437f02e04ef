"""Real training on two ranks under torchrun, with a killed rank and a stop signal for both ranks."""

import os
import time
from signal import Signals

from higgs_audio_trainer.output_dir.checkpoints import latest_checkpoint
from tests import forks
from tests.faults.runs import lines, training
from tests.faults.test_stopping import ADAPTER, read_stable


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
