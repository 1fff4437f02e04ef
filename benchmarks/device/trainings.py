"""Whole trainings of the tiny model on the device: the demo with audio previews, the recorded prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.device.plan import Plan
from benchmarks.rows import ResultRow
from higgs_audio_trainer import cli
from higgs_audio_trainer.demo.run import CLIPS, run_demo
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.own_packages import child_environment

_EXAMPLE = Path(__file__).parents[2] / "examples" / "recorded_prompts.py"
_LOG = "events/rank00000-attempt000.jsonl"
_LOG_STEPS = 20
_OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}


def demo(plan: Plan) -> Iterator[ResultRow]:
    """Run the demo in bfloat16 with all sinks and audio previews, which are decoded beside the training."""
    with _workplace() as folder:
        began = time.perf_counter()
        more = [("sinks", _sinks(plan)), ("log_audio", 1), *_settings(plan).items()]
        run_demo(folder / "demo", max_steps=plan.demo_steps, seed=0, log_steps=_LOG_STEPS, more=more)
        seconds = time.perf_counter() - began
        yield from _training_rows(f"demo, sinks {_sinks(plan)},memory", folder / "demo/run", seconds)
        yield _files_row("demo, files of audio previews", folder / "demo/run")


def prompts(plan: Plan) -> Iterator[ResultRow]:
    """Train on the recorded prompts by command line, or on the demo's clips where no prompts are installed."""
    with _workplace() as folder:
        began = time.perf_counter()
        if plan.recordings.is_dir():
            name = "recorded prompts"
            flags = ["--samples", str(plan.prompts), "--max_steps", str(plan.demo_steps), "--dtype", "bfloat16"]
            flags += ["--sinks", _sinks(plan), *["--use_cpu", "true"] * (not plan.on_cuda)]
            command = [sys.executable, str(_EXAMPLE), str(folder / "out"), *flags]
            subprocess.run(command, check=True, stdout=sys.stderr, env=child_environment())
            output_dir = folder / "out/run"
        else:
            name = "the demo's clips by command line"
            yield ResultRow("recorded prompts", None, "not installed", against=name)
            output_dir = folder / "run"
            _train_clips(plan, folder / "base", output_dir)
        seconds = time.perf_counter() - began
        yield from _training_rows(name, output_dir, seconds)


def _train_clips(plan: Plan, base: Path, output_dir: Path) -> None:
    model, codec = write_tiny(base)
    settings = {
        "base_ckpt": model,
        "audio_tokenizer": codec,
        "codes_dir": base / "codes",
        "train_manifest": CLIPS / "manifest.jsonl",
        "output_dir": output_dir,
        "sinks": _sinks(plan),
        "max_steps": plan.demo_steps,
        "batch_size": 8,
        "grad_accum": 1,
        "lr": 1e-2,
        "lora_dropout": 0.0,
        "log_steps": _LOG_STEPS,
        "dtype": "bfloat16",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    status = cli.main(["train", *flags, *["--use_cpu", "true"] * (not plan.on_cuda)])
    if status:
        raise RuntimeError(f"higgs-audio-trainer train: expected exit status 0, got {status}")


def _sinks(plan: Plan) -> str:
    return ",".join(("console", "jsonl", *plan.trackers))


def _settings(plan: Plan) -> dict[str, Any]:
    return {"dtype": "bfloat16"} | ({} if plan.on_cuda else {"extra": {"use_cpu": True}})


@contextmanager
def _workplace() -> Iterator[Path]:
    """Make a folder the current folder, where trackers write too, and keep trackers and models off the network."""
    before = dict(os.environ)
    with TemporaryDirectory() as folder, chdir(folder):
        os.environ.update(
            _OFFLINE, TRACKIO_DIR=f"{folder}/trackio", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"
        )
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def _events(output_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output_dir / _LOG).read_bytes().splitlines()]


def _training_rows(name: str, output_dir: Path, seconds: float) -> Iterator[ResultRow]:
    events = _events(output_dir)
    steps = [event for event in events if event["event"] == "train_step"]
    first, last = steps[0], steps[-1]
    device = next(event["device"] for event in events if event["event"] == "run_start")
    yield ResultRow(f"{name}, on {device}", seconds, "s")
    yield ResultRow(f"{name}, step_ms of step {last['step']}", last["step_ms"], "ms")
    times = last["loss"] / first["loss"]
    against = f"loss of step {first['step']} ({first['loss']:.2f})"
    row = f"{name}, loss of step {last['step']}"
    yield ResultRow(row, last["loss"], "", against, times, "< 1", holds=times < 1)
    lost, reason = events[-1].get("events_lost"), events[-1].get("reason")
    yield ResultRow(f"{name}, lost events, run ended: {reason}", lost, "events", target="0", holds=lost == 0)
    status = cli.main(["validate", str(output_dir)])
    yield ResultRow(f"{name}, exit status of validate", status, "", target="0", holds=status == 0)


def _files_row(name: str, output_dir: Path) -> ResultRow:
    samples = [event for event in _events(output_dir) if event["event"] == "prediction_sample"]
    linked = {event[name] for event in samples for name in ("predicted_audio", "label_audio") if event.get(name)}
    written = sum((output_dir / path).is_file() for path in linked)
    every = bool(linked) and written == len(linked)
    return ResultRow(name, written, "files", f"{len(linked)} links", target="all", holds=every)
