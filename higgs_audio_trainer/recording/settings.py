"""Decisions and facts of a recording: the rule for logged steps, the settings of the recorder, facts about the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from higgs_audio_trainer.events import Modality
from higgs_audio_trainer.extraction.windows import WindowSettings

IsLoggedStep = Callable[[int], bool]


def every(log_steps: int) -> IsLoggedStep:
    """Return the rule for logged steps: step 1 and every multiple of `log_steps`.

    Example:
        >>> [step for step in range(1, 10) if every(4)(step)]
        [1, 4, 8]
    """
    return lambda step: step == 1 or step % log_steps == 0


def never(_step: int) -> bool:
    """Return False: no step is logged."""
    return False


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """Decisions about the record that are made once, before the training.

    Attributes:
        is_logged_step: Tells whether an optimizer step, counted from 1, is logged. The same on every rank.
        num_codebooks: Codebooks of the audio, K; 0 without audio.
        shown: Samples and slots to show. None on a rank that writes nothing and only adds its sums.
        evaluations: Log evaluations. The same on every rank.
        counts: Count tokens for the checks. The same on every rank.
        text_loss_weight: Weight of the text loss in the logged loss.
        strict: Let an error of logging end the training.
    """

    is_logged_step: IsLoggedStep
    num_codebooks: int
    shown: WindowSettings | None
    evaluations: bool = True
    counts: bool = False
    text_loss_weight: float = 1.0
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts about a training for `run_start`. `RunStart` describes each field."""

    config: Mapping[str, Any]
    world_size: int
    device: str
    seed: int
    resumed_from_step: int | None
    num_train_samples: int
    num_eval_samples: int
    trainable_parameters: int
    max_length: int | None
    modalities: tuple[Modality, ...]
    stops: tuple[Modality, ...]
    base_is_random: bool | None = None
    family: str | None = None
    resume_changes: Mapping[str, Any] | None = None
    total_steps: int | None = None
    schedule: str | None = None
    vocab_size: int | None = None
    codebook_size: int | None = None
