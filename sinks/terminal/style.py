"""Escape sequences of styles, and the Unicode isolates of right-to-left text. No character here takes a column."""

from __future__ import annotations

RED, GREEN, YELLOW = "\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m"
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
#: Styles of tokens, which are many and so not bold. Readable on dark and on light backgrounds.
CORRECT, WRONG = "\x1b[32m", "\x1b[31m"
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"


def styled(text: str, code: str, color: bool) -> str:
    r"""Return a text between a style and a reset, or the bare text without colour.

    Example:
        >>> styled("error", RED, True), styled("error", RED, False)
        ('\x1b[1;31merror\x1b[0m', 'error')
    """
    return f"{code}{text}{RESET}" if color else text
