"""Pipelines whose console output nobody sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sinks
from higgs_audio_trainer.pipeline.emit import Pipeline


@contextmanager
def hidden_screen() -> Iterator[sinks.Screen]:
    """Open a screen on the null device."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = sinks.Screen(nowhere, nowhere)
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
