"""Work that ranks do together: on rank 0 for all, or on every rank with one outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments

from higgs_audio_trainer.errors import UserError

T = TypeVar("T")


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
        raise outcome[1]
    result: T = outcome[0]
    return result


def on_every_rank(arguments: TrainingArguments, work: Callable[[], T]) -> T:
    """Do some work on every rank and return the rank's own result.

    Raises:
        UserError: The work raised this error on some rank. Every rank raises the error, so that none waits.
    """
    result: Any = None
    errors: list[UserError | None] = [None]
    try:
        result = work()
    except UserError as error:
        errors = [error]
    if arguments.world_size > 1:
        errors = gather_object(errors)
    for failed in errors:
        if failed is not None:
            raise failed
    return cast("T", result)
