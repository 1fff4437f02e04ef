"""Events of one logged optimizer step or of one evaluation, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_audio_trainer.events import EvalResult, PredictionSample, TokenCounts, TrainStep


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """Events of a logged step or of an evaluation. Fields without an event are None or empty.

    Attributes:
        step: Optimizer step.
        train: Losses and accuracies of the step; None for an evaluation.
        counts: Token counts of the text and of each codebook; empty in logs of versions without token counts.
        samples: Samples of the step or of the evaluation.
        evaluation: Losses and accuracies of the evaluation; None for a training step.
    """

    step: int
    train: TrainStep | None = None
    counts: tuple[TokenCounts, ...] = ()
    samples: tuple[PredictionSample, ...] = ()
    evaluation: EvalResult | None = None
