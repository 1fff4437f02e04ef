"""Work that ranks do together: on rank 0 for all, on every rank with one outcome, or on rank 0 while others wait."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed.distributed_c10d import _get_default_store
from transformers import TrainingArguments

from higgs_audio_trainer.errors import UserError

T = TypeVar("T")
_PATIENCE = timedelta(seconds=5)  # with torchrun's store
_POLL_S = 0.02  # between questions to the store


def on_rank_0(arguments: TrainingArguments, work: Callable[[], T]) -> T:
    """Do some work on rank 0 and return the result on every rank.

    Raises:
        UserError: The work raised this error on rank 0. Every rank raises the error.
    """
    outcome: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = error
    if arguments.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        outcome[1].is_shared = arguments.world_size > 1
        raise outcome[1]
    result: T = outcome[0]
    return result


def on_every_rank(arguments: TrainingArguments, work: Callable[[], T]) -> T:
    """Do some work on every rank and return the rank's own result.

    Raises:
        UserError: The work raised this error on some rank. Every rank raises the error, so that none waits. The error
            names the rank and the machine.
    """
    result: Any = None
    errors: list[UserError | None] = [None]
    try:
        result = work()
    except UserError as error:
        error.place = place_of(arguments.process_index)
        errors = [error]
    if arguments.world_size > 1:
        errors = gather_object(errors)
    for failed in errors:
        if failed is not None:
            failed.is_shared = arguments.world_size > 1
            raise failed
    return cast("T", result)


@contextmanager
def rank_0_alone(arguments: TrainingArguments, name: str) -> Iterator[bool]:
    """Let the other ranks wait until rank 0 leaves the block. They ask the store, and wait in no collective.

    A collective would end the run if the block took longer than the collective's timeout.

    Args:
        arguments: Arguments of the training.
        name: Name of the block, once in a run.

    Yields:
        True on rank 0.
    """
    is_first = arguments.process_index == 0
    store, key = (group_store() if arguments.world_size > 1 else None), attempt_key(name)
    try:
        yield is_first
    finally:
        if store is not None and is_first:
            store.set(key, "done")
    while store is not None and not is_first and not store.check([key]):
        time.sleep(_POLL_S)


def place_of(rank: int) -> str:
    """Return the name of a rank for messages; empty for rank 0, whose messages a person reads anyway.

    Example:
        >>> place_of(0)
        ''
    """
    return f"rank {rank} on {socket.gethostname()}" if rank else ""


def is_first_to_report(message: str) -> bool:
    """Return True for the first rank that asks about a message, so that ranks with the same error print one message.

    Ranks without a store in common print a message each, since one that meets an error alone is heard by no other.
    """
    digest = hashlib.sha256(message.encode("utf-8", "surrogateescape")).hexdigest()
    with suppress(RuntimeError, ValueError):  # the store is gone: better twice than never
        if (store := group_store()) is not None:
            return bool(store.add(attempt_key(digest), 1) == 1)
    return True


def attempt_key(name: str) -> str:
    """Return the key of a name in the store, which outlives an attempt of torchrun."""
    return f"higgs_audio_trainer/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


def group_store() -> Any:
    """Return the store of the group, or of torchrun before there is a group. None without torchrun."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return _get_default_store()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0")), is_master=False, timeout=_PATIENCE
    )
