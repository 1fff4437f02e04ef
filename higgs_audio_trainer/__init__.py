"""LoRA trainer for Higgs Audio v2 that logs predictions against labels, and a logger for any other training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from higgs_audio_trainer.prediction_logger import PredictionLogger

    __version__: str

__all__ = ["PredictionLogger"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name on first use, because reading the version and importing torch take long."""
        if name == "__version__":
            from importlib.metadata import version

            return version("higgs-audio-trainer")
        if name == "PredictionLogger":
            from higgs_audio_trainer.prediction_logger import PredictionLogger

            return PredictionLogger
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
