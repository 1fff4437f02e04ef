"""Whole trainings under faults of the log: the trained adapter stays the same, and no secret leaks."""

import errno
import os

import pytest
import torch
from transformers import SchedulerType, TrainingArguments

from higgs_audio_trainer.run import run_training
from tests.faults.runs import lines, running, training
from tests.test_run import settings

ADAPTER = "adapter_model.safetensors"
# Few and quick writes, as a training runs for each write.
SHORT = {"max_steps": 2, "log_steps": 1, "log_samples": 1, "diagnose": "off", "batch_size": 1, "grad_accum": 1}


class FailingWrites:
    """Replacement of `os` in the log's writer. Write `first` fails, and with `for_ever` all later writes fail."""

    def __init__(self, first, *, for_ever):
        self.first, self.for_ever, self.count = first, for_ever, 0

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        number, self.count = self.count, self.count + 1
        if number == self.first or (self.for_ever and number > self.first):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.write(descriptor, data)


def train_with(monkeypatch, writes, *given):
    with monkeypatch.context() as patch:
        patch.setattr("sinks.segment.os", writes)
        return run_training(settings(*given, **SHORT))


@pytest.fixture(scope="module")
def undisturbed(tiny, clips, tmp_path_factory):
    """Train without a fault, and return the folder and the number of writes to the log."""
    folder, writes = tmp_path_factory.mktemp("undisturbed"), FailingWrites(-1, for_ever=False)
    with pytest.MonkeyPatch.context() as patch:
        train_with(patch, writes, tiny, clips, folder)
    return folder, writes.count


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_whichever_write_fails_the_training_is_the_same(
    undisturbed, monkeypatch, tiny, clips, tmp_path, capsys, for_ever
):
    """The N-th write fails, once or for ever, for every N. Steps and adapter stay the same, with a single message."""
    folder, writes = undisturbed
    assert writes == len(lines(folder)) == 10
    for number in range(writes):
        out = tmp_path / str(number)
        result = train_with(monkeypatch, FailingWrites(number, for_ever=for_ever), tiny, clips, out)
        assert (result.step, result.stopped_by) == (2, None)
        assert (out / ADAPTER).read_bytes() == (folder / ADAPTER).read_bytes()
        assert capsys.readouterr().err.count("logging to jsonl failed") == 1
        seen = {event["seq"] for path in (out / "events").glob("rank*") for event in _events(path)}
        if for_ever:
            assert seen == set(range(number))
        elif number < writes - 1:
            assert number not in seen
            assert seen | {number} == set(range(writes + 1)), "one event more: sink_recovered"


def _events(path):
    import orjson

    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


CANARIES = {
    "token": "hf_CanaryInTheConfigurationXxxxxxxxxx",
    "password": "canary-in-a-url-8c1f",
    "option": "canary-option-of-a-sink-77aa",
    "environment": "canary-in-the-environment-91be",
}


def leaky(context, *, api_key):
    """Return a sink whose error quotes all known secrets."""
    known = [*CANARIES.values(), api_key, f"https://user:{CANARIES['password']}@host/x?token={CANARIES['token']}"]

    def sink(_record):
        raise RuntimeError(f"401 for {known}")

    return sink


@pytest.mark.parametrize("strict", [False, True], ids=["tolerant", "strict"])
def test_secrets_get_nowhere(tiny, clips, tmp_path, strict):
    """Secrets of the configuration, the environment and exceptions are in no log, file or stream."""
    out = tmp_path / "out"
    arguments = training(
        tiny,
        clips,
        out,
        max_steps=2,
        save_steps=1,
        hub_token=CANARIES["token"],
        run_name=f"https://user:{CANARIES['password']}@host/run",
        strict_logging=str(strict).lower(),
        sinks=f"console,jsonl,tests.faults.test_training:leaky:api_key={CANARIES['option']}",
    )
    with running(tmp_path, *arguments, WANDB_API_KEY=CANARIES["environment"]) as run:
        assert run.wait() == (2 if strict else 0)
        said = run.err.read_text()
    assert "401 for" in said
    assert "Traceback" not in said
    outputs = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(outputs) > (3 if strict else 20)
    for path in outputs:
        content = path.read_bytes()
        for name, canary in CANARIES.items():
            assert canary.encode() not in content, f"{name} in {path}"
    if not strict:
        saved = torch.load(out / "training_args.bin", weights_only=False)
        given = TrainingArguments(output_dir="x", use_cpu=True)
        assert (saved.hub_token, saved.optim, saved.save_strategy) == ("[redacted]", given.optim, given.save_strategy)
        assert isinstance(saved.lr_scheduler_type, SchedulerType)
    config = lines(out)[0]["config"]
    assert (config["extra"]["hub_token"], config["seed"]) == ("[redacted]", 0)


def test_an_unexpected_error_quotes_no_secret(tiny, clips, tmp_path):
    """A traceback shows the place without the message's secret and without local variables, and the status is 1."""
    out = tmp_path / "out"
    arguments = training(tiny, clips, out, sinks="jsonl")
    with running(tmp_path, *arguments, before=break_the_step, HF_TOKEN=CANARIES["environment"]) as run:
        assert run.wait() == 1
        said = run.err.read_text()
    assert said.startswith("Traceback")
    assert "RuntimeError: device lost" in said
    assert not any(canary in said for canary in CANARIES.values())
    assert lines(out)[-1]["reason"] == "error"


def break_the_step():
    """Let the backward pass fail as with a lost device."""
    import torch

    def backward(*_args, **_kwargs):
        local = CANARIES["option"]
        raise RuntimeError(f"device lost: {CANARIES['environment']}{local[:0]}")

    torch.Tensor.backward = backward
