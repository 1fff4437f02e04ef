"""Fields of the windows of a `prediction_sample`, derived from the types."""

from __future__ import annotations

from dataclasses import fields

from higgs_audio_trainer.events import PredictionSample, Window

WINDOWS = tuple(item.name for item in fields(PredictionSample) if item.type == "Window")
WINDOW_FIELDS = tuple(item.name for item in fields(Window))
#: Fields with one value for each slot, in the order of comparison.
SLOT_LISTS = tuple(item.name for item in fields(Window) if str(item.type).startswith("tuple["))
#: Fields with outputs of the model.
OF_THE_MODEL = frozenset({"predictions", "label_ranks", "label_probabilities"})
