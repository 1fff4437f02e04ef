"""Events of one logged optimizer step, of one evaluation or of one generation of the probes, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_audio_trainer.events import EvalResult, GenerationSample, PredictionSample, TokenCounts, TrainStep


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """Events of a logged step, of an evaluation or of a generation of the probes.

    Fields without an event are None or empty.

    Attributes:
        step: Optimizer step.
        train: Losses and accuracies of the step; None for an evaluation.
        counts: Token counts of the text and of each codebook; empty in logs of versions without token counts.
        samples: Samples of the step or of the evaluation.
        evaluation: Losses and accuracies of the evaluation; None for a training step.
        generations: What the model said of each probe.
    """

    step: int
    train: TrainStep | None = None
    counts: tuple[TokenCounts, ...] = ()
    samples: tuple[PredictionSample, ...] = ()
    evaluation: EvalResult | None = None
    generations: tuple[GenerationSample, ...] = ()
