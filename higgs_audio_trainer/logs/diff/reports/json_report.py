"""Report of a comparison as one JSON object with the attributes of `Comparison` as keys.

`same`, `exact`; `expected` and `got` (`name`, `run_id`, `events`, `faults`, `first_step`, `last_step`); `joined` and
`differing` events; `settings` (`kind`, `rank`, `field`, `expected`, `got`); `uncounted` names; `first` or null (`kind`,
`place`, `field`, `position`, `expected`, `got`, `rtol`, `atol`, `only_predictions`); `counts` by kind; `lone` events by
kind and name; `worst` and `drifts` (`event`, `name`, `kind`, `differing`, `values`, `step`, `expected`, `got`,
`residual`, `mean_residual`, `rms_residual`, `drifts`). If a field or an event is missing in a log, the key `expected`
or `got` is missing. An infinite residual, without a tolerance, is null.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

from higgs_audio_trainer.logs.diff.comparison import MISSING, Comparison


def render(comparison: Comparison) -> str:
    """Render a comparison in ASCII, safe for terminals and for every encoding."""
    return json.dumps(_plain(comparison), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        named = ((item.name, getattr(value, item.name)) for item in fields(value))
        return {name: _plain(item) for name, item in named if item is not MISSING}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
