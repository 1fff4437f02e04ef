"""Numbers with their nouns, for lines that a person reads."""

from __future__ import annotations


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
