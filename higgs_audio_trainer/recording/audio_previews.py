"""What predictions sound like: codes of shown samples, decoded to WAV files off the training's path.

A process of its own (`audio_decoder`) has the codec. It is started at the first need, on the CPU, with one thread and
the lowest priority. The training hands codes to a thread that waits for the process, and never waits itself.

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
_MOST_WAITING = 64  # jobs; more means that decoding is slower than the training asks for it
_DECODER = (sys.executable, "-m", "higgs_audio_trainer.recording.audio_decoder")


class AudioPreviewError(Exception):
    """A file could not be made; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to make.

    Attributes:
        path: of the file, relative to the run's folder.
        clips: codes of each clip of the sample, int64 [K, T].
    """

    path: str
    clips: tuple[Codes, ...]


class AudioPreviews:
    """Makes the shown samples' predictions and labels audible.

    Args:
        codec: folder or name of the codec.
        output_dir: of the run.
        is_due: whether a due step is one to be heard.
        seconds: that one file may take, the decoder's own start included.
        num_codes: codes of a codebook; stream BOS and EOS lie above them.
        fail: is told of each file that did not come.
    """

    def __init__(
        self,
        codec: str,
        output_dir: str | os.PathLike[str],
        *,
        is_due: Callable[[int], bool],
        seconds: float,
        num_codes: int,
        fail: Callable[[AudioPreviewError], None],
    ) -> None:
        self.is_due = is_due
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
        """Ask for the files of a step's samples, and link them from their events.

        Args:
            step: optimizer step.
            samples: events of it.
            rows: supervised audio rows of its first micro-batch.

        Returns:
            the events; of the audio of a sample that has labels, with the paths that its files will have.
        """
        self._report()
        paths: dict[int, tuple[str, str]] = {}
        for index in {sample.sample_index for sample in samples if sample.modality == "audio"}:
            clips = list(clips_of(rows, index, self._num_codes))
            if not clips:
                continue
            stem = f"{FOLDER}/step-{step:06d}-sample-{index}"
            paths[index] = f"{stem}-predicted.wav", f"{stem}-label.wav"
            for path, codes in zip(paths[index], zip(*clips, strict=True), strict=True):
                self._ask(Job(path, codes))
        return tuple(
            replace(sample, predicted_audio=paths[sample.sample_index][0], label_audio=paths[sample.sample_index][1])
            if sample.modality == "audio" and sample.sample_index in paths
            else sample
            for sample in samples
        )

    def close(self, *, wait: bool) -> None:
        """End the decoder; a second time does nothing.

        Args:
            wait: give what was asked for its time, all files together that of one.
        """
        if self._thread is not None:
            deadline = monotonic() + (self._seconds if wait else 0.0)
            with suppress(queue.Full):
                self._jobs.put(None, timeout=max(0.0, deadline - monotonic()))
            self._thread.join(max(0.0, deadline - monotonic()))
            self._is_closing = True
            if self._decoder is not None:
                self._decoder.kill()  # what the thread waits for
            self._thread.join()
            self._thread = None
        self._report()

    def _report(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._fail(self._errors.get_nowait())

    def _ask(self, job: Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="audio previews", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._errors.put(AudioPreviewError(f"{job.path}: {_MOST_WAITING} files wait already: decoding is too slow"))

    # In the thread

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._make(job)
            except (AudioPreviewError, OSError) as error:
                self._kill()
                why = "the run ended before" if self._is_closing else error
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
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # the device is the training's
            self._decoder = subprocess.Popen(  # noqa: S603 - ourselves
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the training
            )
        decoder = self._decoder
        if self._is_closing:  # asked after it is there to be killed
            raise AudioPreviewError
        assert decoder.stdin is not None
        assert decoder.stdout is not None
        path = self._output_dir / job.path
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = {"path": str(path), "clips": [codes.tolist() for codes in job.clips]}
        decoder.stdin.write(orjson.dumps(asked) + b"\n")
        decoder.stdin.flush()
        if not select.select([decoder.stdout], [], [], max(0.0, deadline - monotonic()))[0]:
            raise AudioPreviewError(
                f"expected it within {self._seconds:g} seconds, got nothing. See --log_audio_seconds"
            )
        answer = decoder.stdout.readline()
        if not answer:
            raise AudioPreviewError(f"the decoder ended with status {decoder.wait()}")
        said = orjson.loads(answer)["error"]
        if said:
            raise AudioPreviewError(said)

    def _kill(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.kill()
            decoder.wait()
            for pipe in (decoder.stdin, decoder.stdout):
                with suppress(OSError):  # what was not written goes nowhere
                    if pipe is not None:
                        pipe.close()


def clips_of(rows: AudioRows, sample_index: int, num_codes: int) -> Iterator[tuple[Codes, Codes]]:
    """Take the clips of a sample out of its supervised rows, their delay undone.

    A clip of T frames has a row for each frame of its audio stream but the first. Where a prediction is no code but
    stream BOS or EOS, which no codec can decode, the code before it in its codebook is repeated.

    Args:
        rows: of a micro-batch.
        sample_index: the sample.
        num_codes: codes of a codebook.

    Yields:
        predicted codes and labels of each clip, int64 [K, T].
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
    stream_FK[1 : 1 + length] = rows_KF.T[:length]  # nothing predicts the first frame
    return undo_delay(stream_FK)


def _only_codes(tokens_KT: Codes, num_codes: int) -> Codes:
    is_code_KT = (tokens_KT >= 0) & (tokens_KT < num_codes)
    index_T = np.arange(tokens_KT.shape[1])
    last_KT: npt.NDArray[np.int64] = np.maximum.accumulate(np.where(is_code_KT, index_T, -1), axis=1)
    codes: Codes = np.where(last_KT < 0, 0, np.take_along_axis(tokens_KT, last_KT.clip(min=0), axis=1))
    return codes
