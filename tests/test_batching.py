"""Runs whose batches follow the length of the samples train like others, on any number of ranks, also resumed."""

import pytest
from safetensors.torch import load_file

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.run import run_training
from tests import forks
from tests.families import every_family
from tests.test_run import read_log, settings

GROUPED = {"train_sampling_strategy": "group_by_length"}


def steps(folder, attempt=0):
    """Read the losses, gradients and samples of each logged step."""
    logged = [event for event in read_log(folder, attempt) if event["event"] == "train_step"]
    return {event["step"]: (event["loss"], event["grad_norm"], event["samples"]) for event in logged}


def run_on_a_rank(given):
    """Train on one of several ranks."""
    run_training(given)


@every_family
def test_the_gradient_of_an_epoch_is_that_of_fixed_batches(tiny, clips, tmp_path):
    """Losses are divided by the targets of the step, so the batches decide nothing but the speed."""
    whole = {"max_steps": -1, "epochs": 1, "grad_accum": 100, "lora_dropout": 0.0, "lr": 0.1, "warmup": 0.0}
    ways = {"fixed": {}, "budget": {"max_batch_seconds": 6.0}, "grouped": {"extra": GROUPED}}
    for name, way in ways.items():
        options = whole | way
        options["extra"] = {"optim": "sgd", "max_grad_norm": 0.0, **options.get("extra", {})}
        run_training(settings(tiny, clips, tmp_path / name, **options))
    logged = {name: steps(tmp_path / name) for name in ways}
    adapters = {name: load_file(tmp_path / name / "adapter_model.safetensors") for name in ways}
    assert read_log(tmp_path / "budget")[0]["config"]["max_batch_seconds"] == 6.0
    assert "max_batch_seconds" not in read_log(tmp_path / "fixed")[0]["config"]
    for name in ("budget", "grouped"):
        assert list(logged[name]) == [1]
        assert logged[name][1][:2] == pytest.approx(logged["fixed"][1][:2], rel=1e-5)
        assert logged[name][1][2] == logged["fixed"][1][2]
        for key, value in adapters["fixed"].items():
            assert adapters[name][key].allclose(value, rtol=1e-4, atol=1e-7)


@every_family
@pytest.mark.parametrize("way", [{"max_batch_seconds": 6.0}, {"extra": GROUPED}])
def test_two_ranks_train_as_one(tiny, clips, tmp_path, way):
    """Steps, samples, losses and gradients are equal over two epochs, also where the last turn has no batch for all."""
    options = {"max_steps": -1, "epochs": 2, "lora_dropout": 0.0, "log_steps": 1, "batch_size": 1} | way
    options["extra"] = {"use_cpu": True, **options.get("extra", {})}
    run_training(settings(tiny, clips, tmp_path / "one", grad_accum=2, **options))
    both = settings(tiny, clips, tmp_path / "two", grad_accum=1, log_all_ranks=True, **options)
    ended = forks.ranks(tmp_path, run_on_a_rank, both)
    assert [rank.status for rank in ended] == [0, 0], ended[0].err
    one, two = steps(tmp_path / "one"), steps(tmp_path / "two")
    assert list(one) == list(two)
    for step, (loss, grad_norm, samples) in one.items():
        assert two[step][:2] == pytest.approx((loss, grad_norm), rel=1e-4)
        others = [event for event in read_log(tmp_path / "two", rank=1) if event["event"] == "train_step"]
        assert {**two[step][2], **others[step - 1]["samples"]} == samples


@every_family
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("way", [{"max_batch_seconds": 6.0}, {"extra": GROUPED}, {}])
def test_a_resumed_epoch_has_the_same_batches(tiny, clips, tmp_path, way, num_ranks):
    """Stopped within the second epoch and resumed, also on several ranks."""
    options = {"max_steps": -1, "epochs": 2, "log_steps": 1, "batch_size": 1, "grad_accum": 1, "save_steps": 1} | way
    options["extra"] = {"use_cpu": True, **options.get("extra", {})}
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run(settings(tiny, clips, whole, **options), tmp_path, num_ranks)
    last = max(steps(whole))
    checkpoint = whole / f"checkpoint-{last - 1}"
    run(settings(tiny, clips, rest, resume=str(checkpoint), **options), tmp_path, num_ranks)
    assert steps(rest) == {last: steps(whole)[last]}


def run(given, folder, num_ranks):
    """Train on one or several ranks."""
    if num_ranks == 1:
        run_training(given)
    else:
        ended = forks.ranks(folder, run_on_a_rank, given, count=num_ranks)
        assert [rank.status for rank in ended] == [0] * num_ranks, ended[0].err


def test_a_logged_step_has_its_speed(tiny, clips, tmp_path):
    """Padding and samples are those of all ranks, and the time left ends at 0."""
    options = {"max_steps": 2, "log_steps": 1, "batch_size": 2, "grad_accum": 1, "extra": {"use_cpu": True}}
    run(settings(tiny, clips, tmp_path / "two", **options), tmp_path, 2)
    run(settings(tiny, clips, tmp_path / "one", **options | {"grad_accum": 2}), tmp_path, 1)
    logged = {
        name: [event for event in read_log(tmp_path / name) if event["event"] == "train_step"]
        for name in ("one", "two")
    }
    for events in logged.values():
        for event in events:
            seconds = event["step_ms"] / 1000
            assert event["samples_per_s"] * seconds == pytest.approx(4)
            assert 0 < event["padding_share"] < 1
            assert 0 < event["data_wait_ms"] < event["step_ms"]
            assert event["peak_memory_bytes"] is None
        assert [event["seconds_left"] > 0 for event in events] == [True, False]
    for one, two in zip(logged["one"], logged["two"], strict=True):
        assert one["padding_share"] == pytest.approx(two["padding_share"])
        for name in ("tokens_per_s", "audio_seconds_per_s"):
            assert one[name] * one["step_ms"] == pytest.approx(two[name] * two["step_ms"])


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_workers_stay_for_the_next_epoch(tiny, clips, tmp_path, num_ranks):
    """A run that is resumed with workers equals one that was not interrupted, with dropout and at the end of epochs."""
    options = {"max_steps": -1, "epochs": 3, "log_steps": 1, "batch_size": 1, "grad_accum": 4, "save_steps": 1}
    options["extra"] = {"use_cpu": True, "dataloader_num_workers": 1, "save_total_limit": 0}
    whole, rest, plain = tmp_path / "whole", tmp_path / "rest", tmp_path / "plain"
    run(settings(tiny, clips, whole, **options), tmp_path, num_ranks)
    per_epoch = max(steps(whole)) // 3
    checkpoint = whole / f"checkpoint-{per_epoch}"
    run(settings(tiny, clips, rest, resume=str(checkpoint), **options), tmp_path, num_ranks)
    assert steps(rest) == {step: found for step, found in steps(whole).items() if step > per_epoch}
    run(settings(tiny, clips, plain, **options | {"extra": {"use_cpu": True}}), tmp_path, num_ranks)
    assert steps(plain) == steps(whole)


def test_another_budget_is_said_on_resume(tiny, clips, tmp_path, capsys):
    """A changed order of the samples is printed and recorded."""
    options = {"save_steps": 1, "max_batch_seconds": 6.0}
    run_training(settings(tiny, clips, tmp_path, max_steps=1, **options))
    run_training(settings(tiny, clips, tmp_path, max_steps=2, resume="latest", **options | {"max_batch_seconds": 5.0}))
    said = capsys.readouterr().out
    assert "--max_batch_seconds: 6.0, now 5.0" in said
    assert "Samples of the epoch in progress may come twice or not at all" in said
    assert read_log(tmp_path, attempt=1)[0]["resume_changes"]["max_batch_seconds"] == [6.0, 5.0]


def test_samples_above_the_budget_are_said(tiny, clips, tmp_path, capsys):
    """Every sample is trained on."""
    run_training(settings(tiny, clips, tmp_path, max_steps=-1, epochs=1, grad_accum=100, max_batch_seconds=0.5))
    assert "--max_batch_seconds: 8 of 8 samples are longer than 0.5 s, up to " in capsys.readouterr().out
    assert len(steps(tmp_path)[1][2]) == 8


@pytest.mark.parametrize(
    ("extra", "got"),
    [
        ({"auto_find_batch_size": True}, "expected no --auto_find_batch_size"),
        ({"accelerator_config": {"split_batches": True}}, "expected no split_batches"),
    ],
)
def test_settings_that_need_batches_of_one_size_are_refused(tiny, clips, tmp_path, extra, got):
    """A budget excludes them, and nothing is left behind."""
    with pytest.raises(UserError, match=got):
        run_training(settings(tiny, clips, tmp_path / "out", max_batch_seconds=6.0, extra=extra))
    assert not (tmp_path / "out").exists()
