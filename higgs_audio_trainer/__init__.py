"""A LoRA trainer for Higgs Audio v2 whose training can be read, and a logger for any other training.

The names below are the public face, and are imported when they are first used. Everything else in the package is
implementation and may change without notice.

- Training: `run_training`, `TrainSettings`, `RunResult`.
- Logging of other trainings: `PredictionLogger`; `Adapter`, `Reading`, `adapter_for`, `check_adapter` for other models.
- Logs: `read`, `diff`, `validate`, `diagnose`, and the events. `no_limits` for logs beyond the bounds of reading.
- Events of your own program: `Pipeline`, which delivers events to sinks through processors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from higgs_audio_trainer.adapters import (
        Adapter,
        MisalignedError,
        Reading,
        UnreadableError,
        adapter_for,
        check_adapter,
    )
    from higgs_audio_trainer.bounds import no_limits
    from higgs_audio_trainer.config import TrainSettings
    from higgs_audio_trainer.diagnosed_log import DiagnosedLog, diagnose
    from higgs_audio_trainer.errors import UserError
    from higgs_audio_trainer.events import (
        EVENTS,
        CapReached,
        Checkpoint,
        DatasetAudit,
        DatasetFinding,
        Diagnosis,
        EvalResult,
        Event,
        FoundSample,
        GenerationSample,
        PredictionSample,
        PrepareProgress,
        RunEnd,
        RunStart,
        SinkRecovered,
        SplitStatistics,
        TokenCounts,
        TrainStep,
        Window,
    )
    from higgs_audio_trainer.logs.diff.compare import DiffOptions, diff
    from higgs_audio_trainer.logs.diff.comparison import Comparison
    from higgs_audio_trainer.logs.reader import read
    from higgs_audio_trainer.logs.validation.validate import Validation, validate
    from higgs_audio_trainer.pipeline.emit import Pipeline
    from higgs_audio_trainer.prediction_logger import PredictionLogger
    from higgs_audio_trainer.run import RunResult, run_training

    __version__: str

_MODULES = {
    "adapters": ("Adapter", "MisalignedError", "Reading", "UnreadableError", "adapter_for", "check_adapter"),
    "bounds": ("no_limits",),
    "config": ("TrainSettings",),
    "diagnosed_log": ("DiagnosedLog", "diagnose"),
    "errors": ("UserError",),
    "events": (
        "EVENTS",
        "CapReached",
        "Checkpoint",
        "DatasetAudit",
        "DatasetFinding",
        "Diagnosis",
        "EvalResult",
        "Event",
        "FoundSample",
        "GenerationSample",
        "PredictionSample",
        "PrepareProgress",
        "RunEnd",
        "RunStart",
        "SinkRecovered",
        "SplitStatistics",
        "TokenCounts",
        "TrainStep",
        "Window",
    ),
    "logs.diff.compare": ("DiffOptions", "diff"),
    "logs.diff.comparison": ("Comparison",),
    "logs.reader": ("read",),
    "logs.validation.validate": ("Validation", "validate"),
    "pipeline.emit": ("Pipeline",),
    "prediction_logger": ("PredictionLogger",),
    "run": ("RunResult", "run_training"),
}
_WITH_TRANSFORMERS = {"model", *_MODULES["adapters"], *_MODULES["prediction_logger"], *_MODULES["run"]}

__all__ = [
    "EVENTS",
    "Adapter",
    "CapReached",
    "Checkpoint",
    "Comparison",
    "DatasetAudit",
    "DatasetFinding",
    "DiagnosedLog",
    "Diagnosis",
    "DiffOptions",
    "EvalResult",
    "Event",
    "FoundSample",
    "GenerationSample",
    "MisalignedError",
    "Pipeline",
    "PredictionLogger",
    "PredictionSample",
    "PrepareProgress",
    "Reading",
    "RunEnd",
    "RunResult",
    "RunStart",
    "SinkRecovered",
    "SplitStatistics",
    "TokenCounts",
    "TrainSettings",
    "TrainStep",
    "UnreadableError",
    "UserError",
    "Validation",
    "Window",
    "adapter_for",
    "check_adapter",
    "diagnose",
    "diff",
    "no_limits",
    "read",
    "run_training",
    "validate",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name, or look up the version, at first use."""
        if name == "__version__":
            from importlib.metadata import version

            return version("higgs-audio-trainer")
        if name in _WITH_TRANSFORMERS:
            import_module(f"{__name__}.third_party_imports").prepare_imports()
        if name == "model":  # where scripts that patch `HiggsAudioForTraining` look for it
            return import_module(f"{__name__}.families.v2.model")
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Return the public names, which are not loaded yet."""
        return sorted({*globals(), *__all__})
