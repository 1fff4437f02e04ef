"""Audio previews: the codes of shown samples, decoded to WAV files beside the training.

The decoder is a separate process (`audio_decoder`) on the CPU, with one thread and the lowest priority. It starts with
the first preview. The training puts codes into a queue and never waits. A thread passes the codes to the decoder.

Shape suffixes: K codebooks, T frames of a clip, F frames of its audio stream, N supervised rows.
"""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt
import orjson

from higgs_audio_trainer.data.delay import Codes, undo_delay
from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample
from higgs_audio_trainer.extraction.extraction import AudioRows

FOLDER = "audio"
_MOST_WAITING = 64  # previews; more of them mean that decoding is slower than the training
_DECODER = (sys.executable, "-m", "higgs_audio_trainer.recording.audio_decoder")


class AudioPreviewError(Exception):
    """A WAV file could not be written. The message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Job:
    """A WAV file to write.

    Attributes:
        path: Path of the file, relative to the output directory.
        clips: Codes of each clip of the sample, int64 [K, T].
    """

    path: str
    clips: tuple[Codes, ...]


class AudioPreviews:
    """Decodes the predictions and labels of shown samples to WAV files.

    Args:
        codec: Folder or name of the codec.
        output_dir: Output directory of the run.
        is_previewed: Returns True for the logged steps with previews.
        seconds: Time limit of one file, the start of the decoder included; seconds.
        num_codes: Codes of a codebook. The ids of stream BOS and EOS are higher.
        fail: Called with the error of each file that is not written.
    """

    def __init__(
        self,
        codec: str,
        output_dir: str | os.PathLike[str],
        *,
        is_previewed: Callable[[int], bool],
        seconds: float,
        num_codes: int,
        fail: Callable[[AudioPreviewError], None],
    ) -> None:
        self.is_previewed = is_previewed
        self._command = (*_DECODER, codec)
        self._output_dir = Path(output_dir).absolute()
        self._seconds, self._num_codes, self._fail = seconds, num_codes, fail
        self._jobs: queue.Queue[Job | None] = queue.Queue(_MOST_WAITING)
        self._errors: queue.SimpleQueue[AudioPreviewError] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._decoder: subprocess.Popen[bytes] | None = None
        self._is_closing = False

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
        self._report_errors()
        paths: dict[int, tuple[str, str]] = {}
        for index in {sample.sample_index for sample in samples if sample.modality == "audio"}:
            clips = list(clips_of(rows, index, self._num_codes))
            if not clips:
                continue
            stem = f"{FOLDER}/step-{step:06d}-sample-{index}"
            paths[index] = f"{stem}-predicted.wav", f"{stem}-label.wav"
            for path, codes in zip(paths[index], zip(*clips, strict=True), strict=True):
                self._queue(Job(path, codes))
        return tuple(
            replace(sample, predicted_audio=paths[sample.sample_index][0], label_audio=paths[sample.sample_index][1])
            if sample.modality == "audio" and sample.sample_index in paths
            else sample
            for sample in samples
        )

    def close(self, *, wait: bool) -> None:
        """End the decoder. A second call does nothing.

        Args:
            wait: Give the queued files, all together, the time limit of one file.
        """
        if self._thread is not None:
            deadline = monotonic() + (self._seconds if wait else 0.0)
            with suppress(queue.Full):
                self._jobs.put(None, timeout=max(0.0, deadline - monotonic()))
            self._thread.join(max(0.0, deadline - monotonic()))
            self._is_closing = True
            if self._decoder is not None:
                self._decoder.kill()  # the thread waits for the decoder
            self._thread.join()
            self._thread = None
        self._report_errors()

    def _report_errors(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._fail(self._errors.get_nowait())

    def _queue(self, job: Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="audio previews", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._errors.put(AudioPreviewError(f"{job.path}: {_MOST_WAITING} files wait: decoding is too slow"))

    # In the thread

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._make(job)
            except (AudioPreviewError, OSError) as error:
                self._kill()
                why = "the run ended first" if self._is_closing else error
                self._errors.put(AudioPreviewError(f"{job.path}: {why}"))
        self._kill()

    def _next(self) -> Job | None:
        if not self._is_closing:
            return self._jobs.get()
        with suppress(queue.Empty):
            return self._jobs.get_nowait()
        return None

    def _make(self, job: Job) -> None:
        deadline = monotonic() + self._seconds
        if self._decoder is None:
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # the training needs the device
            self._decoder = subprocess.Popen(  # noqa: S603 - our own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C stops the training, which then ends the decoder
            )
        decoder = self._decoder
        if self._is_closing:  # `close` may have looked for the decoder before its start
            raise AudioPreviewError
        assert decoder.stdin is not None
        assert decoder.stdout is not None
        path = self._output_dir / job.path
        path.parent.mkdir(parents=True, exist_ok=True)
        job_line = {"path": str(path), "clips": [codes.tolist() for codes in job.clips]}
        decoder.stdin.write(orjson.dumps(job_line) + b"\n")
        decoder.stdin.flush()
        if not select.select([decoder.stdout], [], [], max(0.0, deadline - monotonic()))[0]:
            raise AudioPreviewError(
                f"expected the file within {self._seconds:g} seconds, got none. See --log_audio_seconds"
            )
        answer = decoder.stdout.readline()
        if not answer:
            raise AudioPreviewError(f"the decoder ended with status {decoder.wait()}")
        error = orjson.loads(answer)["error"]
        if error:
            raise AudioPreviewError(error)

    def _kill(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.kill()
            decoder.wait()
            for pipe in (decoder.stdin, decoder.stdout):
                with suppress(OSError):  # the rest of a job has no reader
                    if pipe is not None:
                        pipe.close()


def clips_of(rows: AudioRows, sample_index: int, num_codes: int) -> Iterator[tuple[Codes, Codes]]:
    """Yield the clips of a sample from its supervised rows, with the delay pattern undone.

    A clip of T frames has a row for each frame of its audio stream except the first. A codec cannot decode a predicted
    stream BOS or EOS: the preceding code of the codebook is repeated in its place.

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
                _only_codes(_undelayed(predictions_KN[:, clip], num_frames), num_codes),
                _only_codes(_undelayed(labels_KF, num_frames), num_codes),
            )


def _undelayed(rows_KF: Codes, num_frames: int) -> Codes:
    K, num_rows = rows_KF.shape
    stream_FK = np.full((num_frames + K + 1, K), IGNORE_INDEX, dtype=np.int64)
    length = min(num_rows, len(stream_FK) - 1)
    stream_FK[1 : 1 + length] = rows_KF.T[:length]  # no row predicts the first frame
    return undo_delay(stream_FK)


def _only_codes(tokens_KT: Codes, num_codes: int) -> Codes:
    is_code_KT = (tokens_KT >= 0) & (tokens_KT < num_codes)
    index_T = np.arange(tokens_KT.shape[1])
    last_KT: npt.NDArray[np.int64] = np.maximum.accumulate(np.where(is_code_KT, index_T, -1), axis=1)
    codes: Codes = np.where(last_KT < 0, 0, np.take_along_axis(tokens_KT, last_KT.clip(min=0), axis=1))
    return codes
