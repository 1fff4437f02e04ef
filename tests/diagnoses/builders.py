"""Logged steps of a healthy run for the tests of the checks: text, and by default two codebooks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from higgs_audio_trainer.diagnoses.history import History, Run
from higgs_audio_trainer.events import (
    CodesEnd,
    EvalResult,
    GenerationSample,
    PredictionSample,
    TokenCounts,
    TrainStep,
    Window,
)
from higgs_audio_trainer.logged_step import LoggedStep
from tests.builders import audio_sample, text_sample, train_step, window

TARGETS = 400  # supervised slots of a series


def step(number: int = 20, *, num_codebooks: int = 2, **changes: Any) -> TrainStep:
    """Return the figures of a healthy step, with accuracies of 50 % for audio and 80 % for text."""
    losses = tuple(3.0 + 0.1 * codebook for codebook in range(num_codebooks))
    audio_loss = sum(losses) / max(1, num_codebooks)
    event = train_step(
        step=number,
        epoch=number / 4,
        loss=0.8 + audio_loss,
        text_loss=0.8,
        audio_loss=audio_loss,
        audio_loss_per_codebook=losses,
        text_accuracy=0.8,
        audio_accuracy_per_codebook=(0.5,) * num_codebooks,
        text_targets=TARGETS,
        audio_targets=TARGETS * num_codebooks,
        learning_rate=1e-4,
        grad_norm=1.2,
    )
    return replace(event, **changes)


def counts(codebook: int | None = None, *, number: int = 20, num_codebooks: int = 2, **changes: Any) -> TokenCounts:
    """Return the counts of text or of a codebook of a healthy step: 400 slots of 4 samples, all in place."""
    is_text = codebook is None
    supervised = {"response": TARGETS} if is_text else {"codes": TARGETS - 4, "stop": 4}
    masked = {"prompt": 120, "placeholder": 420, "padding": 16}
    if codebook is not None:
        prefix = {"delay_prefix": 4 * codebook, "eos_fill": 4 * (num_codebooks - 1 - codebook)}
        masked = {"stream_bos": 4} | {name: number for name, number in prefix.items() if number}
    event = TokenCounts(
        step=number,
        modality="text" if is_text else "audio",
        codebook=codebook,
        num_codebooks=None if is_text else num_codebooks,
        num_targets=TARGETS,
        num_correct=320 if is_text else 200,
        divisor=float(TARGETS),
        masked=masked,
        supervised=supervised,
        label_matches=(20, 24, TARGETS, 24, 20),
        offset_contested=(372, 372, 372, 372, 376),
        offset_matches=(6, 8, 8, 6, 8),
        offset_correct=(298, 296, 296, 298, 300) if is_text else (190, 186, 186, 190, 188),
        offset_surplus=(1.5, -2.0, 0.5, 1.0, -2.5),
        stop_targets=4,
        stop_correct=3,
        stop_rank=1.5,
        stop_probability=0.6,
        unigram_accuracy=0.05,
        unigram_loss=5.0,
        top_prediction=706,
        top_prediction_share=0.06,
        constant_samples=(),
        strip=None,
    )
    return replace(event, **changes)


def sample(
    codebook: int | None = None, *, number: int = 20, num_codebooks: int = 2, **changes: Any
) -> PredictionSample:
    """Return a sample of text or of a codebook, with ten different labels and eight correct predictions."""
    windows = {"first": shown([1234, 567, 901, 345, 789], [1234, 567, 901, 345, 12])}
    windows["last"] = shown([234, 678, 123, 456, 1025], [234, 678, 123, 99, 1025], start=17)
    if codebook is None:
        return text_sample(**({"step": number} | windows | changes))
    shape = {"logits_shape": (123, num_codebooks, 1026), "labels_shape": (num_codebooks, 123)}
    return audio_sample(
        **({"step": number, "codebook": codebook, "num_codebooks": num_codebooks} | shape | windows | changes)
    )


def shown(labels: list[int], predictions: list[int | None], inputs: list[int] | None = None, **more: Any) -> Window:
    """Return a window whose inputs are by default the labels of the slots before."""
    return replace(window(labels, predictions, **more), inputs=tuple(inputs or [1, *labels[:-1]]))


def logged_step(
    train: TrainStep | None = None,
    counted: tuple[TokenCounts, ...] | None = None,
    samples: tuple[PredictionSample, ...] | None = None,
    evaluation: EvalResult | None = None,
) -> LoggedStep:
    """Return a logged training step with figures, and with counts and a sample of each series.

    Args:
        train: Figures. By default those of `step()`.
        counted: Counts. By default healthy counts of each series.
        samples: Samples. By default a sample of each series.
        evaluation: Figures of an evaluation. The result is then an evaluation, without figures and counts of training.
    """
    if evaluation is not None:
        return LoggedStep(step=evaluation.step, evaluation=evaluation, samples=samples or ())
    train = train or step()
    series = (None, *range(len(train.audio_loss_per_codebook)))
    fixed = {"number": train.step, "num_codebooks": len(series) - 1}
    return LoggedStep(
        step=train.step,
        train=train,
        counts=tuple(counts(codebook, **fixed) for codebook in series) if counted is None else counted,
        samples=tuple(sample(codebook, **fixed) for codebook in series) if samples is None else samples,
    )


def generation(probe: str = "p-0", *, number: int = 40, **changes: Any) -> GenerationSample:
    """Return what a healthy voice says of a probe with a recording of 80 frames."""
    event = GenerationSample(
        step=number,
        probe=probe,
        fingerprint=f"print of {probe}",
        text="The kettle is on, and the tea is almost ready.",
        decoding={"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_frames": 145},
        seed=0,
        frames=76,
        frames_label=80,
        stopped=True,
        first=(CodesEnd(codebook=0, codes=(5, 9), labels=(5, 7)),),
        last=(CodesEnd(codebook=0, codes=(5, 9), labels=None),),
        agreement=(0.3, 0.1),
        longest_run=2,
        repeat_share=0.02,
        silence_share=0.2,
        peak=0.6,
        audio=f"audio/step-{number:06}-probe-{probe}.wav",
        cer=None,
        wer=None,
        speaker_similarity=None,
        duration_s=1.5,
    )
    return replace(event, **changes)


def spoken(number: int = 40, *, probes: int = 8, failing: int | None = None, **changes: Any) -> LoggedStep:
    """Return a generation of some probes, of which the first `failing` have the changes, by default all."""
    failing = probes if failing is None else failing
    said = tuple(
        generation(f"p-{index}", number=number, **(changes if index < failing else {})) for index in range(probes)
    )
    return LoggedStep(number, generations=said)


def history(*steps_before: LoggedStep, **run: Any) -> History:
    """Return the history of a run after these steps. `run` holds fields of `Run`, with K = 2 by default."""
    made = History(run=Run(**({"num_codebooks": 2} | run)))
    for one in steps_before:
        made.add(one)
    return made
