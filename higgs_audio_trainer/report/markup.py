"""Templates of the page. The environment escapes every value from a log."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from higgs_audio_trainer.report.scale import number, share, step_range
from sinks.terminal.escape import printable
from sinks.terminal.words import count_of

LONGEST = 1_000  # characters of one text
_ISOLATES = str.maketrans("", "", "\u2068\u2069")  # `printable` adds isolates; `<bdi>` does the same in HTML


def text(given: object, longest: int = LONGEST) -> Markup:
    r"""Return the HTML that shows a text, where control characters and bidirectional marks are visible escapes.

    Args:
        given: Text, or an object with a `str`. `Markup` is returned unchanged.
        longest: Largest number of characters to show.

    Example:
        >>> text("<b>\x1b[2J")
        Markup('&lt;b&gt;\\x1b[2J')
    """
    if isinstance(given, Markup):
        return given
    return escape(printable(str(given), longest=longest).translate(_ISOLATES))


@cache
def environment() -> Environment:
    r"""Return the environment of the templates.

    `text` runs on each printed value before Jinja's autoescaping. A template must therefore print values one by one.
    The operator `~` and filters such as `join` make markup of several values, and `text` does not see these values.

    Example:
        >>> environment().from_string('<p title="{{ it }}">{{ it }}</p>').render(it="&\u202e")
        '<p title="&amp;\\u202e">&amp;\\u202e</p>'
    """
    made = Environment(
        loader=PackageLoader("higgs_audio_trainer.report"),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"text": text, "number": number, "share": share}
    made.globals |= {"count_of": count_of, "step_range": step_range}
    return made
