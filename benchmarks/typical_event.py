"""The most frequent event of a log, an audio `prediction_sample` with both windows full."""

from __future__ import annotations

from higgs_audio_trainer.events import PredictionSample, Window

_LABELS = (1234, 5678, 9012, 3456, 7891)


def typical_event() -> PredictionSample:
    """Return the event. The line of the event in a log has about 900 bytes.

    Example:
        >>> event = typical_event()
        >>> event.modality, event.first.labels
        ('audio', (1234, 5678, 9012, 3456, 7891))
    """
    return PredictionSample(
        step=1200,
        epoch=3.25,
        split="train",
        modality="audio",
        sample_index=0,
        sample_id="speaker-07/clip-000123",
        fingerprint="0123456789abcdef",
        codebook=0,
        num_codebooks=8,
        shift=1,
        logits_shape=(1200, 8, 1026),
        labels_shape=(8, 1200),
        num_targets=599,
        num_correct=391,
        accuracy=391 / 599,
        loss=2.718281828459045,
        stop_targets=1,
        first=_window(start=61),
        last=_window(start=655),
        stop_rank=3,
        stop_probability=0.125,
    )


def _window(start: int) -> Window:
    return Window(
        positions=tuple(range(start, start + len(_LABELS))),
        inputs=(1024, *_LABELS[:-1]),
        labels=_LABELS,
        predictions=(*_LABELS[:-1], 7890),
        predicted_text=None,
        label_text=None,
    )
