"""Notes on a prepared data set for the user, about left-out samples and clips used in part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.errors import listed

_MOST_NAMES = 5  # of files in a line
_DECISIONS = {
    "stretch": "offset and duration: only a stretch is taken of",
    "shortened": "duration without an offset: only the beginning is taken of",
    "single_channel": "channels cancel each other out: only the loudest channel is taken of",
}


def notes_on(dataset: PreparedDataset) -> Iterator[str]:
    """Yield the notes on a data set, each a line or the lines of its problems."""
    if dataset.problems:
        skipped = len({problem.where for problem in dataset.problems})
        yield "\n".join(listed(dataset.problems))
        yield f"{dataset.name}: skipped {skipped} of {skipped + len(dataset)} samples, listed above"
    for decision, text in _DECISIONS.items():
        if names := dataset.decisions.get(decision):
            yield f"{text} {_shortened(names)}"


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more files" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
