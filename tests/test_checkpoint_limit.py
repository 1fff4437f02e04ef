"""The number of checkpoints that stay: three, unless the user says otherwise."""

import pytest

from higgs_audio_trainer.run import run_training
from tests.test_run import settings


def kept(tiny, clips, folder, *, say=None, **changes):
    """Train with a checkpoint at each of five steps, and return the steps of those that stay."""
    options = {"max_steps": 5, "save_steps": 1, "batch_size": 8, "grad_accum": 1, "sinks": "none"}
    run_training(settings(tiny, clips, folder, **(options | changes)), say=say)
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("extra", "steps"),
    [
        ({}, [3, 4, 5]),
        ({"save_total_limit": 1}, [5]),
        ({"save_total_limit": 0}, [1, 2, 3, 4, 5]),
        ({"save_total_limit": None}, [1, 2, 3, 4, 5]),
    ],
    ids=str,
)
def test_the_last_checkpoints_stay(tiny, clips, tmp_path, extra, steps):
    """Three by default. 0 on the command line, and null in a file of settings, keep all."""
    assert kept(tiny, clips, tmp_path / "out", extra=extra) == steps


def test_the_best_checkpoint_stays(tiny, clips, tmp_path):
    """With --load_best_model_at_end, besides the last two."""
    more = {"eval_manifest": str(clips), "val_steps": 1, "lr": 0.0, "extra": {"load_best_model_at_end": True}}
    assert kept(tiny, clips, tmp_path / "out", **more) == [1, 4, 5]


def test_a_run_that_kept_all_loses_none_when_it_is_resumed(tiny, clips, tmp_path):
    """Without the flag at the resume: one line says so. A new limit is obeyed."""
    out, said = tmp_path / "out", []
    kept(tiny, clips, out, extra={"save_total_limit": 0})
    resume = {"resume": "latest", "max_steps": 6}
    assert kept(tiny, clips, out, say=said.append, **resume) == [1, 2, 3, 4, 5, 6]
    assert any(line.startswith(f"--save_total_limit: all checkpoints in {out} are kept") for line in said)
    limit = {"save_total_limit": 2}
    assert kept(tiny, clips, out, say=said.append, extra=limit, **(resume | {"max_steps": 7})) == [6, 7]


def test_a_run_that_was_killed_while_it_removed_keeps_its_limit(tiny, clips, tmp_path):
    """Four checkpoints are one more than the limit, and no sign of another one."""
    out, said = tmp_path / "out", []
    kept(tiny, clips, out, max_steps=4, extra={"save_total_limit": 0})
    assert kept(tiny, clips, out, say=said.append, resume="latest") == [3, 4, 5]
    assert not any("save_total_limit" in line for line in said)
