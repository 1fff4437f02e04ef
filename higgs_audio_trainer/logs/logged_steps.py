"""Events of a log, grouped into logged steps and evaluations for the checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from higgs_audio_trainer.events import (
    EvalResult,
    GenerationSample,
    PredictionSample,
    RunStart,
    TokenCounts,
    TrainStep,
    Window,
)
from higgs_audio_trainer.logged_step import LoggedStep
from higgs_audio_trainer.logs.typed import Logged

_OF_A_STEP = (TrainStep, TokenCounts, PredictionSample, EvalResult, GenerationSample)
_OFFSETS = 5  # length of each list in `token_counts`


def logged_steps(events: Iterable[Logged]) -> Iterator[RunStart | LoggedStep]:
    """Group the events of a run: yield the first `run_start`, then each logged step, evaluation and generation.

    All ranks log the same figures, so only the events of the lowest rank of a step count. Memory holds the events of
    one step. Events unused by the checks, and events with lists of different lengths, are skipped. Generated speech may
    follow events of later steps, as in the training, and keeps its place.

    Args:
        events: Events in the order of `read`.

    Example:
        >>> list(logged_steps([]))
        []
    """
    looked_at: Iterator[Any] = (event for event in events if isinstance(event, (RunStart, *_OF_A_STEP)))
    has_start = False
    for (step, is_speech), group in groupby(looked_at, key=_group_of):
        if is_speech:
            yield from _of_speech(step, group)
        elif step is not None:
            yield from _of_step(step, group)
        elif not has_start:
            has_start = True
            yield next(group)


def _group_of(event: Any) -> tuple[Any, bool]:
    return getattr(event, "step", None), isinstance(event, GenerationSample)


def _of_speech(step: int, group: Iterable[Any]) -> Iterator[LoggedStep]:
    """Yield the generation of the probes at a step."""
    events = list(group)
    yield LoggedStep(step, generations=tuple(event for event in events if event.rank == events[0].rank))


def _of_step(step: int, group: Iterable[Any]) -> Iterator[LoggedStep]:
    """Yield the logged step and then the evaluation of a step."""
    rank: int | None = None
    train: TrainStep | None = None
    evaluation: EvalResult | None = None
    counts: list[TokenCounts] = []
    samples: dict[str, list[PredictionSample]] = {"train": [], "eval": [], "probe": []}
    for event in group:
        rank = event.rank if rank is None else rank
        if event.rank != rank or not _is_sound(event):
            continue
        if isinstance(event, TrainStep):
            train = event
        elif isinstance(event, EvalResult):
            evaluation = event
        elif isinstance(event, TokenCounts):
            counts.append(event)
        else:
            samples[event.split].append(event)
    if train is not None:
        yield LoggedStep(step, train, tuple(counts), tuple(samples["train"]))
    if evaluation is not None:
        yield LoggedStep(step, samples=tuple(samples["eval"]), evaluation=evaluation)


def _is_sound(event: Any) -> bool:
    """Return True if the lists of an event have the required lengths, unstated by the event's type."""
    if isinstance(event, PredictionSample):
        return all(map(_is_even, (event.first, event.last)))
    if isinstance(event, TokenCounts):
        lists = (event.label_matches, event.offset_contested, event.offset_matches, event.offset_correct)
        return all(len(items) == _OFFSETS for items in (*lists, event.offset_surplus))
    return len(event.audio_loss_per_codebook) == len(event.audio_accuracy_per_codebook)


def _is_even(window: Window) -> bool:
    lists = (window.positions, window.inputs, window.labels, window.predictions)
    ranks = (items for items in (window.label_ranks, window.label_probabilities) if items is not None)
    return len({len(items) for items in (*lists, *ranks)}) == 1
