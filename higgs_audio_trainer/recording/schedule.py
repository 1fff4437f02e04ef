"""Name of a schedule of the learning rate, for the check of its length."""

from __future__ import annotations

from typing import Any

#: Schedules that fall to 0 at the end of the training, by the function that transformers makes them of.
_NAMES = {
    "_get_linear_schedule_with_warmup_lr_lambda": "linear",
    "_get_cosine_schedule_with_warmup_lr_lambda": "cosine",
}
_HALF = 0.5  # cycles of a cosine that falls once


def schedule_name(scheduler: Any) -> str | None:
    """Return linear or cosine for a scheduler that transformers made, from the peak to 0. None for any other.

    The arguments of a Trainer do not tell, since a script may pass a scheduler of its own.

    Example:
        >>> from torch import nn, optim
        >>> from transformers import get_linear_schedule_with_warmup
        >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        >>> schedule_name(get_linear_schedule_with_warmup(optimizer, 2, 10))
        'linear'
        >>> schedule_name(optim.lr_scheduler.StepLR(optimizer, 5)) is None
        True
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    for part in getattr(scheduler, "lr_lambdas", ()):
        name = _NAMES.get(getattr(getattr(part, "func", None), "__name__", ""))
        return None if name == "cosine" and part.keywords.get("num_cycles") != _HALF else name
    return None
