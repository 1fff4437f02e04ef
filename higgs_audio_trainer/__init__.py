"""A LoRA trainer for Higgs Audio v2 whose training can be read."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("higgs-audio-trainer")
