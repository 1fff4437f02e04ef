"""Attempts of a run in an output directory: the number of the next attempt and the checkpoint to resume from."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.config import RESUME_LATEST
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, damage_of, latest_checkpoint, step_of
from higgs_audio_trainer.output_dir.lock import DirectoryLock

_STATE_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        run_id: Identifier of the run, equal in all attempts.
        number: 0 for the first attempt, one more at each resume or elastic restart.
        checkpoint: Checkpoint to resume from; None for a start from step 0.
        damaged: One line of text for each newer checkpoint that is damaged and skipped.

    Example:
        >>> Attempt("3f2a90c1d4e5", 0, checkpoint=None).resumed_from_step is None
        True
    """

    run_id: str
    number: int
    checkpoint: Path | None
    damaged: tuple[str, ...] = ()

    @property
    def resumed_from_step(self) -> int | None:
        """Optimizer step of the checkpoint; None without a checkpoint."""
        return None if self.checkpoint is None else step_of(self.checkpoint)


def plan_attempt(output_dir: str, resume: str | None, *, restarts: int = 0) -> Attempt:
    """Return the attempt that a run in this directory would be. Write nothing.

    Args:
        output_dir: Output directory. The directory may be missing.
        resume: None refuses a directory with a run; `latest`, or the folder of a checkpoint, resumes the run.
        restarts: Restarts by an elastic launcher so far. A restarted run resumes.

    Raises:
        UserError: The directory holds a run and `resume` is None, or the path is a file, or a checkpoint is damaged.

    Example:
        >>> plan_attempt("no-such-folder", None).number
        0
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir: expected a folder, got a file at {output_dir}. Choose another path.")
    DirectoryLock(folder).check()
    state = _read_state(folder)
    holds_run = state is not None or (folder / ADAPTER_CONFIG).exists() or any(folder.glob("checkpoint-*"))
    if not holds_run:
        return Attempt(uuid.uuid4().hex[:12], 0, _named_checkpoint(resume))
    if resume is None and restarts == 0:
        raise UserError(
            f"--output_dir: expected a folder without a run, got {output_dir}, which holds one. "
            "Continue that run with --resume, or choose another folder."
        )
    run_id, number = state or (uuid.uuid4().hex[:12], 0)
    named = _named_checkpoint(resume)
    checkpoint, damaged = (named, ()) if named else latest_checkpoint(folder)
    return Attempt(run_id, number + 1, checkpoint, damaged)


@contextmanager
def claim(output_dir: str, attempt: Attempt) -> Iterator[None]:
    """Create the output directory, begin an attempt and lock the directory until the block ends.

    Args:
        output_dir: Output directory.
        attempt: Attempt from `plan_attempt`.

    Raises:
        UserError: The directory cannot be created or written, or another run began since `plan_attempt`.
    """
    folder = Path(output_dir)
    lock = DirectoryLock(folder)
    try:
        _begin(folder, lock, attempt)
        yield
    finally:
        lock.release()


def _begin(folder: Path, lock: DirectoryLock, attempt: Attempt) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        state = _read_state(folder)
        if state is not None and (attempt.number == 0 or state != (attempt.run_id, attempt.number - 1)):
            raise UserError(f"--output_dir: expected no other run to begin in {folder} meanwhile, got one. Try again.")
        with atomic_file(folder / _STATE_FILE) as file:
            file.write(json.dumps({"run_id": attempt.run_id, "attempt": attempt.number}).encode() + b"\n")
    except OSError as error:
        raise UserError(f"--output_dir: {folder}: {error.strerror}. Choose a writable folder") from error


def _named_checkpoint(resume: str | None) -> Path | None:
    if resume is None or resume == RESUME_LATEST or resume.lower() == "true":
        return None
    path = Path(resume)
    damage = damage_of(path)
    if damage is not None:
        raise UserError(
            f"--resume: expected the folder of a complete checkpoint, got {resume}: {damage}. "
            "Name another checkpoint, or pass --resume alone to use the last complete checkpoint."
        )
    return path


def check_adapter_settings(checkpoint: Path, *, r: int, targets: Collection[str]) -> None:
    """Raise an error if the adapter of a checkpoint does not fit the settings of the run that resumes.

    Args:
        checkpoint: Folder of the checkpoint.
        r: LoRA rank of the run.
        targets: Names of the modules with an adapter.

    Raises:
        UserError: The checkpoint has another rank or other modules.
    """
    try:
        saved = json.loads((checkpoint / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume: expected {ADAPTER_CONFIG} in {checkpoint}, got {error}. Name another checkpoint."
        ) from error
    for flag, ours, theirs in (("lora_r", r, saved["r"]), ("lora_targets", set(targets), set(saved["target_modules"]))):
        if ours != theirs:
            saved_value = theirs if isinstance(theirs, int) else ",".join(sorted(theirs))
            raise UserError(f"--{flag}: expected {saved_value}, the value of {checkpoint.name}, to resume from it")


def _read_state(folder: Path) -> tuple[str, int] | None:
    try:
        state = json.loads((folder / _STATE_FILE).read_bytes())
        return str(state["run_id"]), int(state["attempt"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _STATE_FILE}: expected run_id and attempt of a run, got something else ({error}). "
            "Choose another --output_dir, or remove that file."
        ) from error
