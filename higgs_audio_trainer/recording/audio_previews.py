"""Audio previews: the codes of shown samples, decoded to WAV files beside the training.

Shape suffixes: K codebooks, T frames of a clip, F frames of its audio stream, N supervised rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from higgs_audio_trainer.data.delay import Codes, only_codes, undo_delay
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample
from higgs_audio_trainer.extraction.extraction import AudioRows
from higgs_audio_trainer.recording.decoder_process import FOLDER, DecoderProcess, Job


class AudioPreviews:
    """Decodes the predictions and labels of shown samples to WAV files.

    Args:
        decoder: Decodes the files.
        is_previewed: Returns True for the logged steps with previews.
        num_codes: Codes of a codebook. The ids of stream BOS and EOS are higher.
    """

    def __init__(self, decoder: DecoderProcess, *, is_previewed: Callable[[int], bool], num_codes: int) -> None:
        self.is_previewed = is_previewed
        self._decoder = decoder
        self._num_codes = num_codes

    def request(
        self, step: int, samples: tuple[PredictionSample, ...], rows: AudioRows
    ) -> tuple[PredictionSample, ...]:
        """Queue the WAV files of a step's samples, and return the events with the paths of the files.

        Args:
            step: Optimizer step.
            samples: Events of the step.
            rows: Supervised audio rows of the step's first micro-batch.

        Returns:
            The events. An audio event of a sample with labels has the paths that its files will get.
        """
        self._decoder.report_errors()
        paths: dict[int, tuple[str, str]] = {}
        for index in {sample.sample_index for sample in samples if sample.modality == "audio"}:
            clips = list(clips_of(rows, index, self._num_codes))
            if not clips:
                continue
            stem = f"{FOLDER}/step-{step:06d}-sample-{index}"
            paths[index] = f"{stem}-predicted.wav", f"{stem}-label.wav"
            for path, codes in zip(paths[index], zip(*clips, strict=True), strict=True):
                self._decoder.put(Job(path, codes))
        return tuple(
            replace(sample, predicted_audio=paths[sample.sample_index][0], label_audio=paths[sample.sample_index][1])
            if sample.modality == "audio" and sample.sample_index in paths
            else sample
            for sample in samples
        )


def clips_of(rows: AudioRows, sample_index: int, num_codes: int) -> Iterator[tuple[Codes, Codes]]:
    """Yield the clips of a sample from its supervised rows, with the delay pattern undone.

    A clip has a row for each frame of its audio stream with a code or the EOS of a codebook. A codec cannot decode a
    predicted stream BOS or EOS: the preceding code of the codebook is repeated in its place.

    Args:
        rows: Supervised audio rows of a micro-batch.
        sample_index: Index of the sample in the micro-batch.
        num_codes: Codes of a codebook.

    Yields:
        Predicted codes and labels of each clip, int64 [K, T].
    """
    own = rows.batch_index == sample_index
    position_N, labels_KN, predictions_KN = rows.position[own], rows.labels[:, own], rows.predictions[:, own]
    for clip in np.split(np.arange(len(position_N)), np.flatnonzero(np.diff(position_N) > 1) + 1):
        labels_KF = labels_KN[:, clip]
        num_frames = int(((labels_KF[0] != IGNORE_INDEX) & (labels_KF[0] < num_codes)).sum())
        if num_frames:
            yield (
                only_codes(_undelayed(predictions_KN[:, clip], num_frames), num_codes),
                only_codes(_undelayed(labels_KF, num_frames), num_codes),
            )


def _undelayed(rows_KF: Codes, num_frames: int) -> Codes:
    K, num_rows = rows_KF.shape
    stream_FK = np.full((num_frames + K, K), IGNORE_INDEX, dtype=np.int64)
    length = min(num_rows, len(stream_FK))
    stream_FK[:length] = rows_KF.T[:length]  # no row has a frame of stream BOS alone as its label
    return undo_delay(stream_FK, bos_frames=0)
