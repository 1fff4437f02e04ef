"""The adapter of the best evaluation, kept in the folder `best` of the output directory."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from higgs_audio_trainer.atomic_file import replace_folder
from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EvalResult, GenerationSample

FOLDER = "best"
NONE = "none"
LOSSES = ("loss", "text_loss", "audio_loss")  # known without a log
_STATE = "best.json"
_HIGHER = {
    **dict.fromkeys(("text_accuracy", "audio_accuracy_per_codebook"), EvalResult),
    **dict.fromkeys(("agreement", "stopped", "speaker_similarity"), GenerationSample),
}
_LOWER = {
    **dict.fromkeys(("loss", "text_loss", "audio_loss", "audio_loss_per_codebook"), EvalResult),
    **dict.fromkeys(("cer", "wer", "silence_share", "repeat_share", "longest_run"), GenerationSample),
}
FIELDS: dict[str, type[Any]] = {**_LOWER, **_HIGHER}


def check_field(name: str) -> None:
    """Check the field of `--keep_best`.

    Raises:
        UserError: No evaluation is the best by this field.
    """
    if name not in FIELDS and name != NONE:
        raise UserError(
            f"--keep_best: expected one of {', '.join(FIELDS)} or none, got {name!r}.{suggestion(name, FIELDS)}"
        )


def _mean(value: Any) -> float | None:
    if isinstance(value, (tuple, list)):
        parts = [part for part in value if part is not None]
        return sum(parts) / len(parts) if parts else None
    return None if value is None else float(value)


class BestAdapter:
    """Folder with the adapter of the best evaluation so far. A resumed run goes on with it.

    Args:
        output_dir: Output directory of the run.
        field: Field that decides, one of `FIELDS`.
        done: Steps of the run so far. The best of later steps is of a part of the run that was given up.

    Attributes:
        folder: Folder of the adapter.
        kind: Class of the events with the field.
        step: Step of the adapter. None without one.
        value: Value of the field at this step.
    """

    def __init__(self, output_dir: Path, field: str, *, done: float = math.inf) -> None:
        self.folder = output_dir / FOLDER
        self.kind = FIELDS[field]
        self.step: int | None = None
        self.value = math.nan
        self._field = field
        with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or one by another field
            known = orjson.loads((self.folder / _STATE).read_bytes())
            if known["field"] == field and known["step"] <= done:
                self.step, self.value = int(known["step"]), float(known["value"])

    def better_value(self, events: Sequence[Any]) -> float | None:
        """Return the value of the field if it is better than the best so far: the mean over events and codebooks.

        Args:
            events: Events of an evaluation or of a generation.

        Returns:
            The value. None for a value that is no better, or is unknown in some event.
        """
        values = [_mean(getattr(event, self._field, None)) for event in events]
        known = [value for value in values if value is not None and not math.isnan(value)]
        if not known or len(known) < len(values):
            return None
        value = sum(known) / len(known)
        is_better = self.step is None or (value > self.value if self._field in _HIGHER else value < self.value)
        return value if is_better else None

    def keep(self, value: float, step: int, save: Callable[[Path], None], *, is_first: bool) -> None:
        """Replace the adapter, whose folder is complete at any time.

        Args:
            value: Value of the field.
            step: Optimizer steps done.
            save: Saves the adapter to a folder. Called on every rank.
            is_first: True on rank 0.

        Raises:
            OSError: A file cannot be written.
        """
        made = self.folder.with_name(f".{FOLDER}.new")  # the same on every rank
        if is_first:
            shutil.rmtree(made, ignore_errors=True)  # of a run that was killed
        try:
            save(made)
            if is_first:
                (made / _STATE).write_bytes(orjson.dumps({"field": self._field, "value": value, "step": step}))
                replace_folder(made, self.folder)
        except BaseException:
            if is_first:
                shutil.rmtree(made, ignore_errors=True)
            raise
        self.step, self.value = step, value
