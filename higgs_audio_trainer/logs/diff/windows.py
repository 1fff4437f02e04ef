"""Fields of the windows of a `prediction_sample` and of a `generation_sample`, derived from the types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from higgs_audio_trainer.events import PredictionSample, Window

WINDOWS = tuple(item.name for item in fields(PredictionSample) if item.type == "Window")
WINDOW_FIELDS = tuple(item.name for item in fields(Window))
#: Fields with one value for each slot, in the order of comparison.
SLOT_LISTS = tuple(item.name for item in fields(Window) if str(item.type).startswith("tuple["))
#: Fields with outputs of the model.
OF_THE_MODEL = frozenset({"predictions", "label_ranks", "label_probabilities"})
_CODES = ("codes", "labels")


def is_of_codes(path: Sequence[str | int]) -> bool:
    """Return True for the path of a code at an end of generated speech.

    Example:
        >>> is_of_codes(("first", 0, "codes", 3)), is_of_codes(("first", "labels", 3))
        (True, False)
    """
    return len(path) > 2 and path[0] in WINDOWS and isinstance(path[1], int) and path[2] in _CODES  # noqa: PLR2004
