"""Numbers with their nouns and durations, for lines that a person reads."""

from __future__ import annotations

_LONGEST_S = 1e9  # thirty years; a longer estimate of a damaged log is shown as this


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with a noun in the singular or the plural.

    Args:
        number: Number to print, with commas between thousands.
        noun: Noun in the singular.
        plural: Noun in the plural, if an "s" does not form the plural.

    Example:
        >>> count_of(1, "step"), count_of(2345, "step"), count_of(2, "entry", "entries")
        ('1 step', '2,345 steps', '2 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, from an hour on as hours, minutes and seconds.

    Example:
        >>> duration(27.4), duration(3727.4)
        ('0:27', '1:02:07')
    """
    minutes, rest = divmod(round(min(seconds, _LONGEST_S)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
