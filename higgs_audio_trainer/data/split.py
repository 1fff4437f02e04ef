"""Division of samples into training and evaluation, by recording. Torch-free."""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import UserError

_END = 2**13  # bytes at each end of a file that identify a recording of a size


class RecordingGroups:
    """Groups of samples with a recording in common, under whatever names.

    Two files are the same recording if they have the same size, the same beginning and the same end.
    """

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._keys = array("Q")
        self._last: tuple[Path, int] | None = None

    def add(self, sample: Sample) -> None:
        """Add a sample to the group of its supervised recordings.

        Raises:
            UserError: A recording cannot be read.
        """
        files = [
            part.path for turn in sample.turns if turn.supervised for part in turn.parts if not isinstance(part, str)
        ]
        first, *others = map(self._key, files) if files else [_digest(sample.id.encode())]
        for other in others:
            self._parents[self._root(other)] = self._root(first)
        self._keys.append(first)

    def groups(self) -> list[int]:
        """Return the group of each sample."""
        return [self._root(key) for key in self._keys]

    def _key(self, path: Path) -> int:
        if self._last is None or self._last[0] != path:  # stretches of one file follow each other
            self._last = path, _recording_key(path)
        return self._last[1]

    def _root(self, key: int) -> int:
        while (parent := self._parents.get(key, key)) != key:
            key = parent
        return key


def _recording_key(path: Path) -> int:
    """Return a number that is the same for the same recording under another name.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_END)
            size = file.seek(0, 2)
            file.seek(max(0, size - _END))
            return _digest(b"%d %b %b" % (size, start, file.read(_END)))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Recordings are compared for the evaluation.") from error


def _digest(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def evaluated(groups: Sequence[int], count: int, seed: int) -> set[int]:
    """Return the groups of the evaluation, drawn at random.

    Args:
        groups: Group of each sample.
        count: Number of samples of the evaluation.
        seed: Seed of the random generator.

    Returns:
        Groups with at most `count` samples in total. At least one group is left for the training.

    Raises:
        UserError: No group has so few samples, or there is a single group.

    Example:
        >>> sorted(evaluated([1, 1, 1, 2, 3], 2, seed=0))
        [2, 3]
    """
    sizes = Counter(groups)
    order = list(sizes)
    random.Random(seed).shuffle(order)  # noqa: S311 - a division, no secret
    chosen: set[int] = set()
    left = count
    for group in order:
        if sizes[group] <= left and len(chosen) < len(sizes) - 1:
            chosen.add(group)
            left -= sizes[group]
    if not chosen:
        raise UserError(
            f"--eval: expected recordings for {count:,} of {len(groups):,} samples, each in one part alone, got "
            f"{len(sizes):,} recording{'' if len(sizes) == 1 else 's'} with at least {min(sizes.values()):,} samples. "
            "Name a larger number, or a manifest of its own with --eval_manifest."
        )
    return chosen


def check_size(text: str) -> tuple[float, bool]:
    """Return the number of a size, and True for a share in percent.

    Raises:
        UserError: The text is no share and no number, or not above zero.

    Example:
        >>> check_size("5%"), check_size("200")
        ((5.0, True), (200, False))
    """
    is_share = text.endswith("%")
    try:
        number = float(text[:-1]) if is_share else int(text)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise UserError(f"--eval: expected a share such as 5%, or a number of samples such as 200, got {text!r}")
    return number, is_share


def eval_count(text: str, num_samples: int) -> int:
    """Return the number of samples of an evaluation.

    Args:
        text: A share such as `5%`, or a number of samples.
        num_samples: Number of all samples.

    Raises:
        UserError: The text is no share and no number, or nothing would be left to train on.

    Example:
        >>> eval_count("5%", 1_000), eval_count("1%", 10), eval_count("200", 1_000)
        (50, 1, 200)
    """
    number, is_share = check_size(text)
    count = max(1, round(num_samples * number / 100)) if is_share else int(number)
    if count >= num_samples:
        raise UserError(f"--eval: expected fewer than all {num_samples:,} samples, got {text}")
    return count
