"""Rules between a line and the settings of our training in `run_start`, such as the logged steps and the shown slots.

A training that is not ours has other settings, and its lines fulfil every rule. Each rule takes a line and the
`run_start`, and yields the inconsistent fields of the line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.sample_rules import Rule

#: Processes of a training. A larger number is mutilated.
MOST_RANKS = 2**20
_CODEBOOKS = re.compile(r"\d{1,9}(,\d{1,9})*")
_Rules = tuple[tuple[tuple[str, ...], Rule], ...]  # each rule with its fields


def is_ours(start: Record) -> bool:
    """Return True if our trainer wrote a `run_start`, and not a `PredictionLogger` in another training.

    Example:
        >>> is_ours({"family": "higgs-audio-v2", "config": {"train_manifest": "train.jsonl"}}), is_ours({})
        (True, False)
    """
    return bool(settings_of(start))


def settings_of(start: Record) -> Record:
    """Return the settings of our training; empty for another training and without a `run_start`."""
    config = start.get("config")
    if not isinstance(config, dict) or config.get("train_manifest") is None or start.get("family") is None:
        return {}
    return config


def _due(record: Record, start: Record) -> Iterable[InvalidField]:
    """Check that a step is logged: step 1 and every multiple of `log_steps`, up to the last step."""
    step, settings = record["step"], settings_of(start)
    if not settings or record.get("split") == "eval":
        return ()
    every, total = settings.get("log_steps"), int_field(start, "total_steps")
    if isinstance(every, (int, float)) and every >= 1 and step != 1 and step % every:
        return [InvalidField("$.step", f"1 or a multiple of log_steps, {every:g}", str(step))]
    if total and step > total:
        return [InvalidField("$.step", f"at most total_steps of run_start, {total}", str(step))]
    return ()


def _of_sample(record: Record, start: Record) -> Iterable[InvalidField]:
    """Check a sample against the settings, in one rule for speed."""
    settings = settings_of(start)
    return [*_chosen(record, settings), *_shown(record, settings), *_vocabulary(record, start)] if settings else ()


def _chosen(record: Record, settings: Record) -> Iterable[InvalidField]:
    codebook, numbers = record["codebook"], settings.get("log_codebooks")
    name = "log_probes" if record["split"] == "probe" else "log_samples"
    most = int_field(settings, name)
    if most is not None and record["sample_index"] >= most:
        return [InvalidField("$.sample_index", f"less than {name}, {most}", str(record["sample_index"]))]
    chosen = _codebooks(numbers) if codebook is not None and isinstance(numbers, str) else None
    if chosen is not None and codebook not in chosen:
        return [InvalidField("$.codebook", f"one of log_codebooks, {numbers}", str(codebook))]
    return ()


@lru_cache(maxsize=8)
def _codebooks(setting: str) -> Collection[int] | None:
    """Return the numbers in `log_codebooks`; None for all, and for a text that is no such setting.

    Example:
        >>> _codebooks("07,0") == {0, 7}, _codebooks("all")
        (True, None)
    """
    return frozenset(map(int, setting.split(","))) if _CODEBOOKS.fullmatch(setting) else None


def _shown(record: Record, settings: Record) -> Iterable[InvalidField]:
    """Check the size of the windows: `first` is full before `last` begins."""
    size = int_field(settings, "log_window")
    first, last = len(record["first"]["positions"]), len(record["last"]["positions"])
    if size is None or first == size or (first < size and not last):
        return ()
    expected = f"{size} slots, as log_window says" if last else f"at most {size} slots, as log_window says"
    return [InvalidField("$.first.positions", expected, str(first))]


def _vocabulary(record: Record, start: Record) -> Iterable[InvalidField]:
    name = "vocab_size" if record["modality"] == "text" else "codebook_size"
    size, shape = int_field(start, name), record["logits_shape"]
    if size is None or not shape or shape[-1] == size:
        return ()
    return [InvalidField(f"$.logits_shape[{len(shape) - 1}]", f"{size}, {name} of run_start", str(shape[-1]))]


def _last_step(record: Record, start: Record) -> Iterator[InvalidField]:
    total = int_field(start, "total_steps")
    if is_ours(start) and total and record["reason"] == "completed" and record["step"] < total:
        expected = f"at least {total}, total_steps of run_start, because the run is completed"
        yield InvalidField("$.step", expected, str(record["step"]))


def _written(record: Record, start: Record) -> Iterator[InvalidField]:
    """Check that every event was written if none was lost (`pipeline/deliveries`).

    A run that a signal ends may still write an event of another thread meanwhile.
    """
    written, seq = record["events_written"], record["seq"]
    if is_ours(start) and record["reason"] == "completed" and not record["events_lost"] and written < seq:
        yield InvalidField("$.events_written", f"the line's own seq, {seq}, because events_lost is 0", str(written))


def _interval(record: Record, _start: Record) -> Iterator[InvalidField]:
    every = settings_of(record).get("log_steps", 1)
    if not isinstance(every, (int, float)) or every <= 0:
        yield InvalidField("$.config.log_steps", "more than 0", repr(every))


def _size(record: Record, _start: Record) -> Iterator[InvalidField]:
    if record["world_size"] > MOST_RANKS:
        yield InvalidField("$.world_size", f"at most {MOST_RANKS:,} processes", str(record["world_size"]))


_DUE = ("step",), _due
#: Rules of each event, each with its fields.
TRAINING_RULES: dict[str, _Rules] = {
    "run_start": ((("config",), _interval), (("world_size",), _size)),
    "train_step": (_DUE,),
    "prediction_sample": (
        (("step", "split"), _due),
        (("sample_index", "codebook", "split", "first", "last", "logits_shape", "modality"), _of_sample),
    ),
    "run_end": ((("step", "reason"), _last_step), (("events_written", "events_lost", "reason", "seq"), _written)),
}
