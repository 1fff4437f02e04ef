"""The windows of a `prediction_sample`, as its types have them."""

from __future__ import annotations

from dataclasses import fields

from higgs_audio_trainer.events import PredictionSample, Window

WINDOWS = tuple(item.name for item in fields(PredictionSample) if item.type == "Window")
WINDOW_FIELDS = tuple(item.name for item in fields(Window))
#: Those that hold one value a slot, in the order in which a slot is told: its position first, its prediction last.
SLOT_LISTS = tuple(item.name for item in fields(Window) if str(item.type).startswith("tuple["))
