"""Attempts of a run in an output directory: the number of the next attempt and the checkpoint to resume from."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.atomic_file import atomic_file, check_writable
from higgs_audio_trainer.config import RESUME_LATEST
from higgs_audio_trainer.documents import read_json, shown
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import (
    damage_of,
    is_finished,
    is_saved_to_the_end,
    latest_checkpoint,
    step_of,
)
from higgs_audio_trainer.output_dir.lock import DirectoryLock

_STATE_FILE = "run.json"
_MOST_ATTEMPTS = 10**6  # resumes of a run


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        run_id: Identifier of the run, equal in all attempts.
        number: 0 for the first attempt, one more at each resume or elastic restart.
        checkpoint: Checkpoint to resume from; None for a start from step 0.
        notes: Lines for the user: newer checkpoints that are passed over, or that nothing is resumed.
        makes_folder: True if the output directory did not exist.

    Example:
        >>> Attempt("3f2a90c1d4e5", 0, checkpoint=None).resumed_from_step is None
        True
    """

    run_id: str
    number: int
    checkpoint: Path | None
    notes: tuple[str, ...] = ()
    makes_folder: bool = False

    @property
    def resumed_from_step(self) -> int | None:
        """Optimizer step of the checkpoint; None without a checkpoint."""
        return None if self.checkpoint is None else step_of(self.checkpoint)


def plan_attempt(output_dir: str, resume: str | None, *, restarts: int = 0) -> Attempt:
    """Return the attempt that a run in this directory would be. Write nothing.

    Args:
        output_dir: Output directory. The directory may be missing.
        resume: None refuses a directory with a run; `latest`, or the folder of a checkpoint or of a run, resumes.
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
    try:
        check_writable(folder)
    except OSError as error:
        raise UserError(f"--output_dir: {error.filename}: {error.strerror}. Choose a writable folder") from error
    DirectoryLock(folder).check()
    state = _read_state(folder)
    is_trained = is_finished(folder) or any(folder.glob("checkpoint-*"))
    named = _named_checkpoint(resume)
    if not is_trained and (state is None or not state.is_trained):
        nothing = f"--resume: no checkpoint in {folder}; training starts from the beginning"
        notes = (nothing,) if resume is not None and named is None else ()
        run_id, number = (state.run_id, state.attempt + 1) if state else (uuid.uuid4().hex[:12], 0)
        return Attempt(run_id, number, named, notes, makes_folder=not folder.exists())
    if resume is None and restarts == 0:
        raise UserError(
            f"--output_dir: expected a folder without a run, got {output_dir}, which holds one. "
            "Continue that run with --resume, or choose another folder."
        )
    run_id, number = (state.run_id, state.attempt) if state else (uuid.uuid4().hex[:12], 0)
    if named is not None:
        return Attempt(run_id, number + 1, named)
    return Attempt(run_id, number + 1, *_latest(folder, restarts=restarts))


class Claim:
    """The output directory while a run holds the directory.

    Args:
        folder: Output directory.
        attempt: Attempt that the run makes.

    Attributes:
        is_logged: True if the attempt has a log. A start that fails without a log leaves the directory as it was.
    """

    def __init__(self, folder: Path, attempt: Attempt) -> None:
        self.is_logged = False
        self._folder = folder
        self._attempt = attempt
        self._has_begun = False
        self._before: bytes | None = None
        self._has_trained = False

    def begin(self, lock: DirectoryLock) -> None:
        """Create and lock the directory, and write the state of an attempt that has not trained.

        Raises:
            UserError: The directory cannot be written, or another run began since `plan_attempt`.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            state = _read_state(self._folder)
            if state is not None and (state.run_id, state.attempt + 1) != (self._attempt.run_id, self._attempt.number):
                raise UserError(
                    f"--output_dir: expected no other run to begin in {self._folder} meanwhile, got one. Try again."
                )
            self._before = self._path.read_bytes() if state is not None else None
            self._has_begun = True
            self._write(is_trained=state is not None and state.is_trained)
        except OSError as error:
            raise UserError(f"--output_dir: {self._folder}: {error.strerror}. Choose a writable folder") from error

    def train(self) -> None:
        """Record that the run made a step. From now on a start in the directory needs --resume.

        Raises:
            OSError: The directory cannot be written.
        """
        self._has_trained = True
        self._write(is_trained=True)

    def undo(self) -> None:
        """Restore the state of the directory after a start that failed without a log and before the first step."""
        if self.is_logged or self._has_trained or not self._has_begun:
            return
        with suppress(OSError):
            if self._before is None:
                self._path.unlink(missing_ok=True)
            else:
                with atomic_file(self._path) as file:
                    file.write(self._before)

    @property
    def _path(self) -> Path:
        return self._folder / _STATE_FILE

    def _write(self, *, is_trained: bool) -> None:
        state = {"run_id": self._attempt.run_id, "attempt": self._attempt.number}
        with atomic_file(self._path) as file:
            file.write(json.dumps(state if is_trained else state | {"trained": False}).encode() + b"\n")


@contextmanager
def claim(output_dir: str, attempt: Attempt) -> Iterator[Claim]:
    """Create the output directory, begin an attempt and lock the directory until the block ends.

    After an error, a directory that did not exist is removed again if nothing was written to it.

    Args:
        output_dir: Output directory.
        attempt: Attempt from `plan_attempt`.

    Raises:
        UserError: The directory cannot be created or written, or another run began since `plan_attempt`.
    """
    folder = Path(output_dir)
    lock = DirectoryLock(folder)
    claimed = Claim(folder, attempt)
    try:
        claimed.begin(lock)
        yield claimed
    except BaseException:
        claimed.undo()
        if attempt.makes_folder:
            lock.remove_empty_folder()
        raise
    finally:
        lock.release()


def _named_checkpoint(resume: str | None) -> Path | None:
    """Return the checkpoint that `--resume` names. The folder of a run stands for its newest complete checkpoint."""
    if resume is None or resume == RESUME_LATEST or resume.lower() == "true":
        return None
    path = Path(resume)
    damage = damage_of(path)
    if damage is not None and not is_saved_to_the_end(path) and any(path.glob("checkpoint-*")):
        newest, damaged = latest_checkpoint(path)
        if newest is not None:
            return newest
        damage = "; ".join(damaged) or "no checkpoint"
    if damage is not None:
        raise UserError(
            f"--resume: expected the folder of a complete checkpoint or of a run, got {resume}: {damage}. "
            "Name another checkpoint, or pass --resume alone to use the last complete checkpoint."
        )
    return path


def _latest(folder: Path, *, restarts: int) -> tuple[Path | None, tuple[str, ...]]:
    """Return the newest complete checkpoint, for `--resume` alone, and a line about each newer, damaged checkpoint."""
    checkpoint, damaged = latest_checkpoint(folder)
    if checkpoint is not None:
        return checkpoint, tuple(f"--resume: passed over {damage}" for damage in damaged)
    # A save that was interrupted leaves nothing to resume from. A file that went missing later can be brought back.
    lossy = [damage for damage in damaged if is_saved_to_the_end(folder / damage.partition(":")[0])]
    if lossy and restarts == 0:
        raise UserError(
            f"--resume: expected a complete checkpoint in {folder}, got {'; '.join(lossy)}. Bring the files back, or "
            "start anew in another --output_dir."
        )
    if is_finished(folder):
        raise UserError(
            f"--resume: expected a checkpoint in {folder}, got a finished adapter without one, which a new training "
            "would overwrite. Start anew in another --output_dir."
        )
    nothing = f"--resume: no checkpoint in {folder}; training starts from the beginning"
    return None, (*(f"--resume: passed over {damage}" for damage in damaged), nothing)


class _State(NamedTuple):
    """State of an output directory: the last attempt, and whether any attempt made a step."""

    run_id: str
    attempt: int
    is_trained: bool


def _read_state(folder: Path) -> _State | None:
    try:
        state = read_json(folder / _STATE_FILE)
        run_id, attempt = state["run_id"], state["attempt"]
        if not isinstance(run_id, str) or type(attempt) is not int or not 0 <= attempt < _MOST_ATTEMPTS:
            raise ValueError(f"run_id {shown(run_id)}, attempt {shown(attempt)}")  # noqa: TRY301 - joins the errors below
        return _State(run_id, attempt, state.get("trained") is not False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"--output_dir: {folder / _STATE_FILE}: {error.strerror}. Choose another path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / _STATE_FILE}: expected run_id and attempt of a run, got something else ({error}). "
            "Choose another --output_dir, or remove that file."
        ) from error
