"""The windows of a `prediction_sample`, as its types have them."""

from __future__ import annotations

from dataclasses import fields

from higgs_audio_trainer.events import PredictionSample, Window

WINDOWS = tuple(item.name for item in fields(PredictionSample) if item.type == "Window")
WINDOW_FIELDS = tuple(item.name for item in fields(Window))
#: Those that hold one value a slot, in the order in which a slot is told: its position first, then what is predicted.
SLOT_LISTS = tuple(item.name for item in fields(Window) if str(item.type).startswith("tuple["))
#: Those that say what the model makes of a slot.
OF_THE_MODEL = frozenset({"predictions", "label_ranks", "label_probabilities"})
