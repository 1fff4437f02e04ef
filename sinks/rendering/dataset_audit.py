"""The text of a `dataset_audit`: a line of statistics, and a line for each finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sinks.protocol import Record
from sinks.terminal.style import BOLD, DIM, RED, YELLOW, styled
from sinks.terminal.words import count_of

SEVERITIES = {"error": RED, "warning": YELLOW, "note": DIM}  # the most severe first
_MOST_SAMPLES = 3


def render_audit(record: Record, *, color: bool) -> str:
    """Return the text of a `dataset_audit`, errors first.

    Example:
        >>> train = {"samples": 3, "audio_hours": 2.5, "speakers": None}
        >>> print(render_audit({"splits": {"train": train}, "findings": []}, color=False))
        data: no findings  train 3 samples, 2.5 h
    """
    findings = record["findings"]
    counts = Counter(finding["severity"] for finding in findings)
    kinds = [*SEVERITIES, *(kind for kind in counts if kind not in SEVERITIES)]  # a newer version may have more
    verdict = ", ".join(count_of(counts[kind], kind) for kind in kinds if counts[kind]) or "no findings"
    splits = (f"  {split} {_facts(facts)}" for split, facts in record["splits"].items())
    head = f"{styled(f'data: {verdict}', BOLD, color)}{''.join(splits)}"
    in_order = sorted(findings, key=lambda finding: kinds.index(finding["severity"]))
    return "\n".join([head, *(_line(finding, color=color) for finding in in_order)])


def _facts(split: Mapping[str, Any]) -> str:
    facts = [count_of(split["samples"], "sample")]
    if split.get("audio_hours") is not None:
        facts.append(_duration(split["audio_hours"]))
    if split.get("speakers") is not None:
        facts.append(count_of(split["speakers"], "speaker"))
    return ", ".join(facts)


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _line(finding: Mapping[str, Any], *, color: bool) -> str:
    head = styled(f"{finding['severity']} ({finding['code']})", SEVERITIES.get(finding["severity"], BOLD), color)
    shown = [_name(sample) for sample in finding["samples"][:_MOST_SAMPLES]]
    more = finding["count"] - len(shown)
    names = "; ".join(shown) + (f"; and {more:,} more" if more > 0 and shown else "")
    return f"  {head}: {count_of(finding['count'], 'sample')}: {finding['message']}{f': {names}' if names else ''}"


def _name(sample: Mapping[str, Any]) -> str:
    where, sample_id, detail = sample.get("where"), sample["id"], sample["detail"]
    name = f"{where} ({sample_id})" if where and sample_id else where or sample_id
    return f"{name}, {detail}" if detail else name
