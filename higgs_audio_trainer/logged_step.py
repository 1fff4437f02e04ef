"""A logged optimizer step or evaluation, as the events that describe it."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_audio_trainer.events import EvalResult, PredictionSample, TokenCounts, TrainStep


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """What was logged of one due step, or of one evaluation; what a log lacks is None or empty.

    Attributes:
        step: optimizer step.
        train: figures of the step; None at an evaluation.
        counts: of text and of each codebook; empty in logs of versions that had none.
        samples: the samples shown, of training or of the evaluation.
        evaluation: figures of an evaluation; None at a training step.
    """

    step: int
    train: TrainStep | None = None
    counts: tuple[TokenCounts, ...] = ()
    samples: tuple[PredictionSample, ...] = ()
    evaluation: EvalResult | None = None
