"""Signs of life of the ranks. After a broken collective the other ranks can name the rank that ended."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from transformers import TrainingArguments

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.training.collective import attempt_key, group_store

_PERIOD_S = 0.5
_SILENCE_S = 2.0  # without a sign of life: the rank ended


class LostRankError(UserError):
    """A rank ended in the middle of the training, and the collective that waited for the rank failed.

    Attributes:
        ranks: Ranks that ended; empty if unknown.
    """

    def __init__(self, ranks: dict[int, str]) -> None:
        self.ranks = tuple(ranks)
        names = [f"rank {rank} on {host}" for rank, host in ranks.items()]
        super().__init__(
            f"{', '.join(names) or 'another rank'} ended in the middle of the training. Its own message says why; "
            "without a message the process was killed, for example for want of memory"
        )


class Heartbeat:
    """A context in which a thread counts up this rank's entry in the store, also while the rank waits in a collective.

    Does nothing with one rank.

    Args:
        arguments: Arguments of the run.
    """

    def __init__(self, arguments: TrainingArguments) -> None:
        self._rank, self._num_ranks = arguments.process_index, arguments.world_size
        self._ended = threading.Event()
        self._store: Any = None

    def __enter__(self) -> Self:
        if self._num_ranks > 1:
            self._store = group_store().clone()  # a connection of its own, that no collective blocks
            self._store.set(attempt_key(f"host/{self._rank}"), socket.gethostname())
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and with it the run
            while not self._ended.is_set():
                self._store.add(attempt_key(f"alive/{self._rank}"), 1)
                self._ended.wait(_PERIOD_S)

    def lost_rank(self) -> LostRankError:
        """Return the error that names the ranks without a sign of life. Takes two seconds."""
        try:
            self._store.set(attempt_key(f"survived/{self._rank}"), "")
            before = self._counts()
            time.sleep(_SILENCE_S)
            after = self._counts()
            silent = [rank for rank in after if after[rank] == before[rank] and not self._survives(rank)]
            return LostRankError({rank: self._store.get(attempt_key(f"host/{rank}")).decode() for rank in silent})
        except RuntimeError:
            return LostRankError({})

    def _counts(self) -> dict[int, int]:
        others = (rank for rank in range(self._num_ranks) if rank != self._rank)
        return {rank: self._store.add(attempt_key(f"alive/{rank}"), 0) for rank in others}

    def _survives(self, rank: int) -> bool:
        return bool(self._store.check([attempt_key(f"survived/{rank}")]))
