"""Facts of a run beside its curves: state, settings, versions, and a command that runs the training again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from higgs_audio_trainer.config import default_of, flags
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.logs.attempt_totals import duration_text, time_text
from higgs_audio_trainer.report.gather import GatheredLog
from sinks.terminal.words import count_of

_MOST_SETTINGS = 200
_LONGEST_VALUE = 300  # characters
_PROGRAM = "higgs-audio-trainer"
_OF_OUR_TRAINER = ("train_manifest", "output_dir", "log_steps", "lora_r")
_NOT_REPEATED = ("resume",)  # the command is that of a new run
_LIBRARIES = ("higgs_audio_trainer", "python", "torch", "transformers", "peft")
_Fact = tuple[str, str]


def key_facts(log: GatheredLog) -> list[_Fact]:
    """Return the names and values of the facts at the top of the page."""
    return [fact for fact in (*_state(log), *_model(log), *_machine(log)) if fact[1]]


def _state(log: GatheredLog) -> Iterator[_Fact]:
    attempts, start = log.attempts, log.start
    total = None if start is None else start.total_steps
    step = log.last_step if log.end is None else log.end.step
    place = f"step {step:,}" if total is None else f"step {step:,} of {total:,}"
    if log.end is None:
        yield "state", f"no end in the log, {place}"
    else:
        reason = log.end.reason
        yield "state", f"{f'stopped by {reason}' if reason.startswith('SIG') else reason} at {place}"
    scope = f" in {count_of(len(attempts.begun), 'attempt')}" if len(attempts.begun) > 1 else ""
    if attempts.duration_s is not None:
        yield "ran", duration_text(attempts.duration_s) + scope
    if attempts.first_ts is not None:
        yield "begun", time_text(attempts.first_ts)
    if log.end is None and attempts.last_ts is not None:
        yield "last event", time_text(attempts.last_ts)


def _model(log: GatheredLog) -> Iterator[_Fact]:
    if log.start is None:
        return
    config = log.start.config
    base = _first(config, "base_ckpt", "model_name_or_path", "model")
    yield "base model", "" if base is None else str(base)
    yield "method", _method(config)
    rate, schedule = _first(config, "lr", "learning_rate"), log.start.schedule or config.get("lr_scheduler_type")
    yield "learning rate", "" if rate is None else f"{_value(rate)}{f', {schedule}' if schedule else ''}"
    batch = _first(config, "batch_size", "per_device_train_batch_size")
    accumulated = _first(config, "grad_accum", "gradient_accumulation_steps")
    factors = [batch, accumulated, log.start.world_size if log.start.world_size > 1 else None]
    yield "batch", " x ".join(_value(item) for item in factors if item is not None) if batch is not None else ""
    train, evaluation = log.start.num_train_samples, log.start.num_eval_samples
    yield "data", f"{count_of(train, 'training sample')}, {evaluation:,} for evaluation"


def _method(config: Mapping[str, Any]) -> str:
    if config.get("full_finetune"):
        return "full fine-tuning"
    if config.get("lora_r") is None:
        return ""
    bits = 4 if config.get("load_in_4bit") else 8 if config.get("load_in_8bit") else None
    name = "DoRA" if config.get("use_dora") else "LoRA"
    return f"{name} rank {config['lora_r']}, alpha {config.get('lora_alpha')}{f', base in {bits} bits' if bits else ''}"


def _machine(log: GatheredLog) -> Iterator[_Fact]:
    if log.start is None:
        return
    start = log.start
    precision = start.config.get("dtype")
    yield "device", f"{start.world_size:,} x {start.device}{f', {precision}' if precision else ''}"
    named = {name: version for name, version in start.versions.items() if name in _LIBRARIES[2:]}
    yield "versions", ", ".join(f"{name} {version}" for name, version in named.items())


def settings(log: GatheredLog) -> list[_Fact]:
    """Return all settings of a run by name, with the fields of nested settings."""
    return [] if log.start is None else list(_flat(log.start.config))[:_MOST_SETTINGS]


def versions(log: GatheredLog) -> list[_Fact]:
    """Return the versions of the libraries, of this package first."""
    if log.start is None:
        return []
    order = {name: index for index, name in enumerate(_LIBRARIES)}
    return sorted(log.start.versions.items(), key=lambda item: order.get(item[0], len(order)))[:_MOST_SETTINGS]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[_Fact]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, _value(value)[:_LONGEST_VALUE]


def _value(value: Any) -> str:
    """Return a setting as on a command line.

    Example:
        >>> _value(True), _value(0.0001), _value(["q_proj", "v_proj"])
        ('true', '0.0001', 'q_proj,v_proj')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def command(log: GatheredLog) -> str | None:
    """Return a command line with the settings of a run. None for a run of another trainer.

    The log has the settings and no command line. Settings at their default are left out, and secrets are redacted.
    """
    if log.start is None or any(name not in log.start.config for name in _OF_OUR_TRAINER):
        return None
    config = log.start.config
    words = [_PROGRAM, "train"]
    if log.start.world_size > 1:
        words = ["torchrun", f"--nproc_per_node={log.start.world_size}", "-m", "higgs_audio_trainer", "train"]
    for item in flags():
        value = config.get(item.name)
        if value is not None and item.name not in _NOT_REPEATED and value != default_of(item):
            words += [f"--{item.name}", _value(value)]
    extra = config.get("extra")
    for name, value in extra.items() if isinstance(extra, Mapping) else ():
        words += [f"--{name}", _value(value)]
    return shlex.join(words)


def different_settings(logs: Sequence[GatheredLog]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ between runs, without paths, with the value of each run."""
    found = [dict(settings(log)) for log in logs]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [(name, [one.get(name, "-") for one in found]) for name in names if f"config.{name}" not in VOLATILE_FIELDS]
    return [row for row in rows if len(set(row[1])) > 1]
