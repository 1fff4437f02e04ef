"""Recorder that emits logged steps in a thread, to compare with the synchronous recorder of the product."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from higgs_audio_trainer.recording.recorder import Recorder


class AsynchronousRecorder(Recorder):
    """Recorder whose logged steps are copied and emitted by a thread while the training goes on.

    Only for the comparison. The events may have the number of a later step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def end_step(self, sums: Tensor, **facts: Any) -> None:
        """Let the thread end and record the step."""
        current = self._open.pop("train")
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()
            ready.record()

        def work() -> None:
            if self._stream is None or ready is None:
                self.record(self._finish_step(current, sums, **facts))
                return
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                self.record(self._finish_step(current, sums, **facts))

        self._pending.append(self._thread.submit(work))

    def wait(self) -> None:
        """Wait until the thread has emitted all steps, and raise the first error of the thread."""
        for pending in self._pending:
            pending.result()
        self._thread.shutdown()


def through_pinned_memory(packed: Tensor) -> Tensor:
    """Copy a tensor to the host through pinned memory, and wait for the current stream only."""
    host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=packed.is_cuda)
    host.copy_(packed, non_blocking=True)
    if packed.is_cuda:
        torch.cuda.current_stream().synchronize()
    return host
