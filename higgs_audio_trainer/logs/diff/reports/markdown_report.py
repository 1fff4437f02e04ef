"""Report of a comparison as GitHub Markdown, for a job's summary or a comment. Strings from the logs are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from higgs_audio_trainer.logs.diff.comparison import KINDS, Comparison
from higgs_audio_trainer.logs.diff.reports import wording

_MOST_SETTINGS = 50
_MOST_FIELDS = 20
# Special characters of Markdown and HTML, replaced by character references.
_SPECIAL = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|`*_~[]\\#@$"})


def render(comparison: Comparison) -> str:
    """Render a comparison."""
    return "\n\n".join("\n".join(block) for block in _blocks(comparison) if block) + "\n"


def _blocks(comparison: Comparison) -> Iterator[list[str]]:
    yield [f"### {'✅' if comparison.same else '❌'} {_text(wording.verdict(comparison))}"]
    yield [f"- A: {_code(wording.side(comparison.expected))}", f"- B: {_code(wording.side(comparison.got))}"]
    yield from _settings(comparison)
    if comparison.first is not None:
        where, what = wording.divergence(comparison.first)
        remark = wording.remark(comparison.first)
        yield [f"**First divergence:** {_code(where)}: {_code(what)}" + (f". {_text(remark)}" if remark else "")]
    if comparison.counts:
        yield _table(("differences by kind", "number"), wording.kind_counts(comparison))
        yield [f"- {KINDS[kind]}: {_code(wording.missing_events(comparison, kind))}" for kind in comparison.lone]
    if comparison.worst:
        yield _table(wording.FIELD_TITLES, [wording.field_cells(field) for field in comparison.worst[:_MOST_FIELDS]])
        yield _more(len(comparison.worst) - _MOST_FIELDS)
    yield [f"- {_code(wording.drift(field))}" for field in comparison.drifts]
    yield [_text(fault) for fault in wording.faults(comparison)]


def _settings(comparison: Comparison) -> Iterator[list[str]]:
    if comparison.settings:
        shown = comparison.settings[:_MOST_SETTINGS]
        rows = [(wording.name(item.field), *wording.both(item.expected, item.got)) for item in shown]
        yield _table(("different settings", "expected", "got"), rows)
        yield _more(sum(comparison.counts.get(kind, 0) for kind in ("configuration", "versions")) - len(shown))
    note = wording.uncounted(comparison)
    yield [_text(note)] if note else []


def _more(number: int) -> list[str]:
    return [f"and {number:,} more"] if number > 0 else []


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---", *("---:" for _ in titles[1:])]
    return [_row(titles), _row(aligned), *(_row([_code(cell) for cell in row]) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>" if text else ""


def _text(text: str) -> str:
    return text.translate(_SPECIAL).replace("://", "&#58;//")  # keeps an address from becoming a link
