"""HTML and SVG out of Python. Every text is escaped where it is put in, so nothing from a log can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from sinks.terminal.escape import printable

LONGEST = 1_000  # characters of one text
_ISOLATES = str.maketrans("", "", "\u2068\u2069")  # of `printable`; an element with `dir` does the same
_VOID = frozenset({"br", "meta", "rect", "path", "line", "circle", "use"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(given: object, *, longest: int = LONGEST) -> Markup:
    """Write a text so that a page shows it and does nothing else with it.

    What a reader could not see, or what turns a line around, is shown as an escape, as on the console.
    """
    if isinstance(given, Markup):
        return given
    return Markup(html.escape(printable(str(given), longest=longest).translate(_ISOLATES)))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Make an element.

    Args:
        name: of the element.
        children: what is in it; `Markup` goes in as it is, all else as text; None is left out.
        attributes: `class_` is `class`, `aria_label` is `aria-label`. False and None are left out, True has no value.
    """
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{opening}>" if name in {"br", "meta"} else f"<{opening}/>")
    return Markup(f"<{opening}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Put parts one after the other."""
    return Markup("".join(text(part) for part in parts if part is not None))


def foreign(given: str, *, longest: int = LONGEST) -> Markup:
    """Write what somebody said in some script: it has its own direction, and turns nothing around it."""
    return tag("bdi", text(given, longest=longest), dir="auto")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'
