"""Check of the arguments that a person types for `PredictionLogger`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from higgs_audio_trainer.adapters import Adapter
from higgs_audio_trainer.errors import UserError


def check_logger_arguments(
    log_steps: Any, sinks: Any, tokenizer: Any, adapter: Any, samples: Any, window: Any, codebooks: Any
) -> None:
    """Raise an error about a wrong argument of `PredictionLogger`, which has the same names.

    Raises:
        UserError: An argument is wrong.

    Example:
        >>> check_logger_arguments(0, "jsonl", None, None, samples=2, window=5, codebooks=(0,))
        Traceback (most recent call last):
        higgs_audio_trainer.errors.UserError: PredictionLogger: log_steps: expected a whole number, at least 1, got 0
    """
    for name, number, least in (("log_steps", log_steps, 1), ("samples", samples, 0), ("window", window, 1)):
        if not (_is_number(number, least) or (name == "log_steps" and number is None)):
            raise UserError(f"PredictionLogger: {name}: expected a whole number, at least {least}, got {number!r}")
    is_list = isinstance(codebooks, Sequence) and len(codebooks) > 0
    if not is_list or not all(_is_number(codebook, 0) for codebook in codebooks):
        raise UserError(f"PredictionLogger: codebooks: expected numbers from 0, such as (0, 7), got {codebooks!r}")
    if not isinstance(sinks, str):
        raise UserError(f"PredictionLogger: sinks: expected a text such as 'console,jsonl', got {sinks!r}")
    if not isinstance(adapter, Adapter | None):
        raise UserError(f"PredictionLogger: adapter: expected an Adapter, got {adapter!r}")
    if not (tokenizer is None or callable(getattr(tokenizer, "decode", None))):
        raise UserError(f"PredictionLogger: tokenizer: expected a tokenizer with `decode`, got {tokenizer!r}")


def _is_number(value: object, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least
