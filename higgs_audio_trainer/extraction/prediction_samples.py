"""`prediction_sample` events from the windows of a logged step, on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.batch import SampleRef
from higgs_audio_trainer.events import IGNORE_INDEX, Modality, PredictionSample, Split, Window
from higgs_audio_trainer.extraction.loss_sums import ratio
from higgs_audio_trainer.extraction.streams import ABSENT
from higgs_audio_trainer.extraction.windows import (
    NUM_HEAD_VALUES,
    NUM_SLOT_LISTS,
    Decode,
    WindowSettings,
    WindowTensors,
)


def prediction_samples(
    windows: Mapping[Modality, WindowTensors],
    ints: Sequence[npt.NDArray[Any]],
    floats: Sequence[npt.NDArray[Any]],
    refs: Sequence[SampleRef],
    settings: WindowSettings,
    *,
    step: int,
    epoch: float,
    split: Split,
) -> Iterator[PredictionSample]:
    """Yield the events of all shown samples, by sample, then modality, then codebook.

    Args:
        windows: Windows of each modality.
        ints: `WindowTensors.ints_QX` of each modality, on the host.
        floats: `WindowTensors.floats_QY` of each modality, on the host.
        refs: Names of the shown samples.
        settings: Selection of slots and codebooks.
        step: Optimizer step.
        epoch: Epochs done.
        split: Train or eval.
    """
    for index, ref in enumerate(refs):
        for (modality, tensors), own_ints, own_floats in zip(windows.items(), ints, floats, strict=True):
            is_text = modality == "text"
            for number, codebook in enumerate(tensors.codebooks, start=index * len(tensors.codebooks)):
                if is_text and not settings.empty_texts and not own_ints[number][0]:  # has no targets
                    continue
                yield PredictionSample(
                    step=step,
                    epoch=epoch,
                    split=split,
                    modality=modality,
                    sample_index=index,
                    sample_id=ref.id,
                    fingerprint=ref.fingerprint,
                    codebook=codebook,
                    num_codebooks=None if is_text else tensors.logits_shape[1],
                    logits_shape=tensors.logits_shape,
                    labels_shape=tensors.labels_shape,
                    text=ref.text if settings.decode is not None else None,
                    **_series_fields(
                        own_ints[number], own_floats[number], settings, settings.decode if is_text else None
                    ),
                )


def _series_fields(
    ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], settings: WindowSettings, decode: Decode | None
) -> dict[str, Any]:
    num_targets, num_correct, stop_targets, length, shift, stop_rank = map(int, ints[:NUM_HEAD_VALUES])
    nll, stop_probability, *probabilities = map(float, floats)
    slots = ints[NUM_HEAD_VALUES:].reshape(NUM_SLOT_LISTS, 2 * settings.window)
    first = min(settings.window, length)
    last = min(settings.window, length - first)
    begin = 2 * settings.window - last
    return {
        "shift": shift,
        "num_targets": num_targets,
        "num_correct": num_correct,
        "accuracy": ratio(num_correct, num_targets),
        "loss": nll / num_targets if num_targets else None,
        "stop_targets": stop_targets,
        "first": _window(slots[:, :first], probabilities[:first], decode, ranks=settings.ranks),
        "last": _window(slots[:, begin:], probabilities[begin:], decode, ranks=settings.ranks),
        "stop_rank": stop_rank or None,
        "stop_probability": stop_probability if stop_rank else None,
    }


def _window(
    slots: npt.NDArray[np.int32], probabilities: Sequence[float], decode: Decode | None, *, ranks: bool
) -> Window:
    positions, inputs, labels, predictions, label_ranks = (tuple(map(int, row)) for row in slots)
    supervised = [label != IGNORE_INDEX for label in labels]

    def at_targets(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value if is_target else None for value, is_target in zip(values, supervised, strict=True))

    def text(tokens: Sequence[int]) -> str | None:
        return decode([token for token in at_targets(tokens) if token is not None]) if decode else None

    return Window(
        positions=positions,
        inputs=tuple(None if token == ABSENT else token for token in inputs),
        labels=labels,
        predictions=at_targets(predictions),
        predicted_text=text(predictions),
        label_text=text(labels),
        label_ranks=at_targets(label_ranks) if ranks else None,
        label_probabilities=at_targets(probabilities) if ranks else None,
    )
