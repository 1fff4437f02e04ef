"""A LoRA trainer for Higgs Audio v2 whose training can be read, and a logger that makes any training readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from higgs_audio_trainer.prediction_logger import PredictionLogger

    __version__: str

__all__ = ["PredictionLogger"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Look up what takes long to import when it is asked for: the version, and what needs torch."""
        if name == "__version__":
            from importlib.metadata import version

            return version("higgs-audio-trainer")
        if name == "PredictionLogger":
            from higgs_audio_trainer.prediction_logger import PredictionLogger

            return PredictionLogger
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
