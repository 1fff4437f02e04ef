"""The output directory of a run: whether it holds a run, which attempt this one is, and that no other writes to it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from higgs_audio_trainer.config import RESUME_LATEST
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, damage_of, latest_checkpoint, step_of
from higgs_audio_trainer.output_dir.lock import DirectoryLock

_STATE_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        run_id: the same in all attempts.
        number: 0 at first, one more at each resume or elastic restart.
        checkpoint: what to resume from; None to begin at the beginning.
        damaged: newer checkpoints that were passed over, and what is wrong with each.
    """

    run_id: str
    number: int
    checkpoint: Path | None
    damaged: tuple[str, ...] = ()

    @property
    def resumed_from_step(self) -> int | None:
        """Optimizer step of the checkpoint."""
        if self.checkpoint is None:
            return None
        return step_of(self.checkpoint)


def plan_attempt(output_dir: str, resume: str | None, *, restarts: int = 0) -> Attempt:
    """Find out which attempt a run in this directory would be. Writes nothing.

    Args:
        output_dir: the directory; it need not be there.
        resume: None to refuse a directory that holds a run, `latest`, or the folder of a checkpoint.
        restarts: how often an elastic launcher has restarted the processes; any restart resumes.

    Raises:
        UserError: the directory holds a run that is not to be resumed, or is none.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir: expected a folder, got a file at {output_dir}. Choose another path.")
    DirectoryLock(folder).check()
    state = _read_state(folder)
    if state is None and not _holds_run(folder):
        return Attempt(uuid.uuid4().hex[:12], 0, _named_checkpoint(resume))
    if resume is None and restarts == 0:
        raise UserError(
            f"--output_dir: expected a folder without a run, got {output_dir}, which holds one. "
            "Go on with it: --resume. Or choose another folder."
        )
    run_id, number = state or (uuid.uuid4().hex[:12], 0)
    named = _named_checkpoint(resume)
    checkpoint, damaged = (named, ()) if named else latest_checkpoint(folder)
    return Attempt(run_id, number + 1, checkpoint, damaged)


@contextmanager
def claim(output_dir: str, attempt: Attempt) -> Iterator[None]:
    """Begin an attempt in this directory, and keep other runs out of it until it ends. The directory is made.

    Raises:
        UserError: the directory cannot be made or written, or another run took it since the attempt was planned.
    """
    folder = Path(output_dir)
    lock = DirectoryLock(folder)
    try:
        _begin(folder, lock, attempt)
        yield
    finally:
        lock.release()


def _begin(folder: Path, lock: DirectoryLock, attempt: Attempt) -> None:
    temporary = folder / f".{_STATE_FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        state = _read_state(folder)
        if state is not None and (attempt.number == 0 or state != (attempt.run_id, attempt.number - 1)):
            raise UserError(f"--output_dir: expected no other run to begin in {folder} meanwhile, got one. Try again.")
        temporary.write_text(json.dumps({"run_id": attempt.run_id, "attempt": attempt.number}) + "\n", encoding="utf-8")
        temporary.replace(folder / _STATE_FILE)
    except OSError as error:
        raise UserError(f"--output_dir: expected a writable folder, got {error.strerror} at {folder}") from error


def _holds_run(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).exists() or any(folder.glob("checkpoint-*"))


def _named_checkpoint(resume: str | None) -> Path | None:
    if resume is None or resume == RESUME_LATEST or resume.lower() == "true":
        return None
    path = Path(resume)
    damage = damage_of(path)
    if damage is not None:
        raise UserError(
            f"--resume: expected the folder of a whole checkpoint, got {resume}: {damage}. "
            "Name another one, or let --resume alone find the last whole one."
        )
    return path


def check_adapter_settings(checkpoint: Path, *, r: int, targets: Collection[str]) -> None:
    """Compare the adapter of a checkpoint with the settings that would go on with it.

    Raises:
        UserError: they are of different shapes.
    """
    try:
        saved = json.loads((checkpoint / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume: expected {ADAPTER_CONFIG} in {checkpoint}, got {error}. Name another one."
        ) from error
    for flag, ours, theirs in (("lora_r", r, saved["r"]), ("lora_targets", set(targets), set(saved["target_modules"]))):
        if ours != theirs:
            shown = theirs if isinstance(theirs, int) else ",".join(sorted(theirs))
            raise UserError(f"--{flag}: expected what {checkpoint.name} was trained with, {shown}, to go on with it")


def _read_state(folder: Path) -> tuple[str, int] | None:
    try:
        state = json.loads((folder / _STATE_FILE).read_bytes())
        return str(state["run_id"]), int(state["attempt"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _STATE_FILE}: expected the state of a run, got something else ({error}). "
            "Choose another --output_dir, or remove that file."
        ) from error
