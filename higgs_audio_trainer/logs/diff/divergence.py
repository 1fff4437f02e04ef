"""Order and place of differences: the first difference within an event, its event and its position."""

from __future__ import annotations

from functools import lru_cache

from higgs_audio_trainer.logs.diff.comparison import Place
from higgs_audio_trainer.logs.diff.windows import SLOT_LISTS, WINDOWS, is_of_codes
from higgs_audio_trainer.logs.typed import Record

Path = tuple[str | int, ...]

_OTHER = (1,)


def place_of(record: Record) -> Place:
    """Return the identity of a record."""
    return Place(
        event=record["event"],
        step=record.get("step"),
        rank=record.get("rank"),
        split=record.get("split"),
        modality=record.get("modality"),
        sample_id=record.get("sample_id", record.get("probe")),
        fingerprint=record.get("fingerprint"),
        codebook=record.get("codebook"),
    )


@lru_cache(maxsize=4096)
def rank_of(path: Path) -> tuple[int, ...]:
    """Return the sort key of a path within an event: slots in order, then other fields in their order.

    Example:
        >>> rank_of(("first", "labels", 0)) < rank_of(("first", "predictions", 0)) < rank_of(("loss",))
        True
    """
    if len(path) == 3 and path[0] in WINDOWS and path[1] in SLOT_LISTS:  # noqa: PLR2004
        window, name, index = path
        return 0, WINDOWS.index(str(window)), int(index), SLOT_LISTS.index(str(name))
    if len(path) == 4 and is_of_codes(path):  # noqa: PLR2004
        window, codebook, _, index = path
        return 0, WINDOWS.index(str(window)), int(index), int(codebook)
    return _OTHER


def position_of(path: Path, *records: Record) -> int | None:
    """Return the position of a slot in the token sequence, from the first record with the slot; None outside the slots.

    Example:
        >>> position_of(("first", "labels", 1), {"event": "prediction_sample", "first": {"positions": [10, 11]}})
        11
    """
    if rank_of(path) == _OTHER or is_of_codes(path):
        return None
    window, _, index = path
    for record in records:
        try:
            position = record[str(window)]["positions"][int(index)]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(position, int):
            return position
    return None
