"""The decoder of a training: codes to WAV files, and measures of the waveforms, beside the training.

The decoder is a separate process (`audio_decoder`) on the CPU, with one thread and the lowest priority. It starts with
the first job. The training puts jobs into a queue and never waits. A thread passes the jobs to the process.

Shape suffixes: K codebooks, T frames of a clip.
"""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import IO, Any

import orjson

from higgs_audio_trainer.data.delay import Codes
from higgs_audio_trainer.own_packages import child_environment

FOLDER = "audio"  # in the output directory
_MOST_WAITING = 64  # jobs; more of them mean that decoding is slower than the training
_LOWEST_PRIORITY = 19
_MOST_SAID = 300  # characters of the decoder's last line on stderr, in the reason of its end
_TAIL = 4096  # bytes of stderr that are searched for the last line
_DECODER = (sys.executable, "-m", "higgs_audio_trainer.recording.audio_decoder")


class DecodingError(Exception):
    """A WAV file could not be written. The message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Job:
    """A WAV file to write.

    Attributes:
        path: Path of the file, relative to the output directory.
        clips: Codes of each clip of the file, int64 [K, T].
        more: Further fields of the job for the decoder process, such as the text to compare a transcript with.
        answered: Called with the fields of the decoder's answer, or with None for a file that is not written. Called in
            a thread.
    """

    path: str
    clips: tuple[Codes, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    answered: Callable[[Mapping[str, Any] | None], None] = lambda _answer: None


class DecoderProcess:
    """Process that decodes codes to WAV files.

    Args:
        arguments: Arguments of the process: the codec, a folder or a name, and the options of `audio_decoder`.
        output_dir: Output directory of the run.
        seconds: Time limit of one file, the start of the process included; seconds.
        fail: Called with the error of each file that is not written.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        output_dir: str | os.PathLike[str],
        *,
        seconds: float,
        fail: Callable[[DecodingError], None],
    ) -> None:
        self._command = (*_DECODER, *arguments)
        self._output_dir = Path(output_dir).absolute()
        self._seconds, self._fail = seconds, fail
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._errors: queue.SimpleQueue[DecodingError] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None  # stderr of the process
        self._niceness = _LOWEST_PRIORITY
        self._is_closing = False

    def put(self, job: Job, *, most: int = 0) -> None:
        """Queue a job. A job too many is lost, and counts as failed.

        Args:
            job: Job.
            most: Jobs that may wait, if more than usual.
        """
        self.report_errors()
        most = max(most, _MOST_WAITING)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="audio decoder", daemon=True)
            self._thread.start()
        if self._jobs.qsize() < most:
            self._jobs.put(job)
        else:
            self._lose(job, f"{most} files wait: decoding is too slow")

    def close(self, *, wait: bool) -> None:
        """End the process. A second call does nothing.

        Args:
            wait: Give the queued files, all together, the time limit of one file, and the process an ordinary priority
                where that is allowed: the training needs the processor no more.
        """
        if self._thread is not None:
            deadline = monotonic() + (self._seconds if wait else 0.0)
            self._jobs.put(None)
            if wait:
                self._niceness = 0
                if self._process is not None:
                    _set_priority(self._process.pid, self._niceness)
            self._thread.join(max(0.0, deadline - monotonic()))
            self._is_closing = True
            if self._process is not None:
                self._process.kill()  # the thread waits for the process
            self._thread.join()
            self._thread = None
        self.report_errors()

    def report_errors(self) -> None:
        """Report the files that were lost since the last call."""
        with suppress(queue.Empty):
            while True:
                self._fail(self._errors.get_nowait())

    def _lose(self, job: Job, why: object) -> None:
        self._errors.put(DecodingError(f"{job.path}: {why}"))
        job.answered(None)

    # In the thread

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                answer = self._make(job)
            except Exception as error:  # noqa: BLE001 - whatever a broken process answers, each job is answered
                self._kill()
                self._lose(job, "the run ended first" if self._is_closing else error)
            else:
                if answer.get("problem"):
                    self._errors.put(DecodingError(f"{job.path}: {answer['problem']}"))
                job.answered(answer)
        self._kill()

    def _next(self) -> Job | None:
        if not self._is_closing:
            return self._jobs.get()
        with suppress(queue.Empty):
            return self._jobs.get_nowait()
        return None

    def _make(self, job: Job) -> Mapping[str, Any]:
        deadline = monotonic() + self._seconds
        process = self._process or self._start()
        if self._is_closing:  # `close` may have looked for the process before its start
            raise DecodingError
        assert process.stdin is not None
        assert process.stdout is not None
        path = self._output_dir / job.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"path": str(path), "clips": [codes.tolist() for codes in job.clips], **job.more}
        with suppress(BrokenPipeError):  # the process has ended, as the end of its stdout tells too
            process.stdin.write(orjson.dumps(fields) + b"\n")
            process.stdin.flush()
        if not select.select([process.stdout], [], [], max(0.0, deadline - monotonic()))[0]:
            raise DecodingError(
                f"expected the file within {self._seconds:g} seconds, got none. See --log_audio_seconds"
            )
        line = process.stdout.readline()
        if not line:
            raise DecodingError(f"the decoder ended with status {process.wait()}{self._last_words()}")
        answer: Mapping[str, Any] = orjson.loads(line)
        if answer["error"]:
            raise DecodingError(answer["error"])
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=child_environment() | {"CUDA_VISIBLE_DEVICES": ""},  # the training needs the device
            start_new_session=True,  # Ctrl-C stops the training, which then ends the process
        )
        _set_priority(self._process.pid, _LOWEST_PRIORITY)
        if self._niceness != _LOWEST_PRIORITY:  # `close` may have come in between
            _set_priority(self._process.pid, self._niceness)
        return self._process

    def _last_words(self) -> str:
        """Return the last line that the process wrote to stderr, after a colon; "" without a line."""
        assert self._said is not None
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - _TAIL))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:_MOST_SAID]}" if lines else ""

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, self._said):
                with suppress(OSError):  # the rest of a job has no reader
                    if pipe is not None:
                        pipe.close()


def _set_priority(pid: int, niceness: int) -> None:
    """Set the priority of a process and, where Linux shares the processor among sessions first, of its session."""
    with suppress(OSError):  # the process has ended, or a higher priority is not allowed
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
