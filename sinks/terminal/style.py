"""The few styles of the console: what needs the eye, headings, what is said aside."""

from __future__ import annotations

RED, YELLOW, BOLD, DIM, RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


def styled(text: str, code: str, color: bool) -> str:
    """Set a text off, where there is colour."""
    return f"{code}{text}{RESET}" if color else text
