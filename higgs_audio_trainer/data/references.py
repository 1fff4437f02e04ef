"""References for samples without one: another recording of the same speaker. Torch-free."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

NONE = -1
_NOTHING = array("q")


def paired(
    speakers: Sequence[int], parts: Sequence[int], groups: Sequence[int], usable: Sequence[int], seed: int
) -> Sequence[int]:
    """Return the reference of each sample, drawn at random.

    Args:
        speakers: Speaker of each sample, -1 for an unknown speaker.
        parts: Part of each sample, training or evaluation. A reference is in the same part.
        groups: Recording of each sample. A reference is another recording.
        usable: 1 for a sample that may be a reference.
        seed: Seed of the random generator.

    Returns:
        Index of a sample for each sample, or -1 where there is no other recording of the speaker.

    Example:
        >>> list(paired([0, 0, 1, 1, -1], [0, 0, 0, 1, 0], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1], seed=0))
        [1, 0, -1, -1, -1]
    """
    random_numbers = random.Random(seed)  # noqa: S311 - references, no secrets
    candidates: dict[tuple[int, int], array[int]] = {}
    for index, (speaker, part) in enumerate(zip(speakers, parts, strict=True)):
        if speaker != NONE and usable[index]:
            candidates.setdefault((speaker, part), array("q")).append(index)
    candidates = {key: _one_of_each(among, groups) for key, among in candidates.items()}
    chosen = array("q")
    for index, (speaker, part) in enumerate(zip(speakers, parts, strict=True)):
        among = candidates.get((speaker, part), _NOTHING)
        chosen.append(_another(among, groups, groups[index], random_numbers))
    return chosen


def _one_of_each(among: Sequence[int], groups: Sequence[int]) -> array[int]:
    """Return the first index of each group."""
    firsts = {groups[index]: index for index in reversed(among)}
    return array("q", sorted(firsts.values()))


def _another(among: Sequence[int], groups: Sequence[int], group: int, random_numbers: random.Random) -> int:
    """Return an index of another group, or -1. All indices have different groups."""
    if not among:
        return NONE
    place = random_numbers.randrange(len(among))
    if groups[among[place]] == group:
        place = (place + 1) % len(among)
    return among[place] if groups[among[place]] != group else NONE
