"""Pipelines whose console output nobody sees, and recorders of benchmarked trainings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sinks
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.pipeline.emit import Emit, Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import IsLoggedStep, RecorderSettings
from sinks.terminal.screen import Screen

_SHOWN = WindowSettings(2, 5, (0,), None)


@contextmanager
def hidden_screen() -> Iterator[Screen]:
    """Open a screen on the null device."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = Screen(nowhere, nowhere)
        try:
            yield screen
        finally:
            screen.close()


@contextmanager
def hidden_pipeline(folder: Path | str, specification: str = "console,jsonl") -> Iterator[Pipeline]:
    """Open a pipeline whose console is a hidden screen.

    Args:
        folder: Output directory of the run.
        specification: Sinks, as for `--sinks`.

    Yields:
        Pipeline of rank 0, first attempt.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from benchmarks.typical_event import typical_event
        >>> with TemporaryDirectory() as folder, hidden_pipeline(folder) as emit:
        ...     emit(typical_event())
        ...     [path.name for path in Path(folder).rglob("*.jsonl")]
        ['rank00000-attempt000.jsonl']
    """
    with hidden_screen() as screen:
        context = sinks.SinkContext(str(folder), "r", 0, 0, screen, screen.note)
        yield Pipeline(sinks.build(specification, context), run_id="0" * 26)


def recorder_of(
    emit: Emit,
    is_logged_step: IsLoggedStep,
    *,
    num_codebooks: int = 8,
    shown: WindowSettings | None = _SHOWN,
    counts: bool = True,
    kind: type[Recorder] = Recorder,
) -> Recorder:
    """Return a recorder of the training steps, without evaluations.

    Args:
        emit: Receives the events.
        is_logged_step: Rule for logged steps.
        num_codebooks: Codebooks of the audio, K.
        shown: Shown samples and slots. None for a rank that writes nothing.
        counts: Count tokens. A rank that writes checks the counts too.
        kind: Class of the recorder.
    """
    settings = RecorderSettings(is_logged_step, num_codebooks, shown, evaluations=False, counts=counts)
    return kind(emit, settings, checks=LiveChecks(emit, fails=False) if counts and shown is not None else None)
