"""Report of a comparison as JUnit XML, shown as tests by CI systems: a test for each kind of difference."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET  # used for writing only

from higgs_audio_trainer.logs.diff.comparison import KINDS, Comparison
from higgs_audio_trainer.logs.diff.reports import wording

_SUITE = "higgs-audio-trainer diff"
_MOST_LINES = 50
# Characters forbidden in XML 1.0, even as references. Source: https://www.w3.org/TR/xml/#charsets
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(comparison: Comparison) -> str:
    """Render a comparison."""
    failures = str(len(comparison.counts))
    numbers = {"tests": str(len(KINDS)), "failures": failures, "errors": "0", "time": "0"}
    root = ET.Element("testsuites", {"name": _SUITE, **numbers})
    suite = ET.SubElement(root, "testsuite", {"name": _SUITE, "skipped": "0", **numbers})
    properties = ET.SubElement(suite, "properties")
    for key, side in (("A", comparison.expected), ("B", comparison.got)):
        ET.SubElement(properties, "property", {"name": key, "value": _clean(wording.side(side))})
        if side.faults:
            ET.SubElement(properties, "property", {"name": f"invalid lines of {key}", "value": str(side.faults)})
    for kind, words in KINDS.items():
        case = ET.SubElement(suite, "testcase", {"classname": "higgs_audio_trainer.diff", "name": words, "time": "0"})
        if kind in comparison.counts:
            message = f"{comparison.counts[kind]:,}: {words}"
            failure = ET.SubElement(case, "failure", {"type": kind, "message": message})
            failure.text = _clean("\n".join(_lines(comparison, kind)))
    output = ET.SubElement(suite, "system-out")
    output.text = _clean("\n".join([*wording.faults(comparison), wording.verdict(comparison)]))
    ET.indent(root)
    # ASCII is valid UTF-8, whatever encoding the file is written with.
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, "us-ascii", xml_declaration=False).decode()}\n'


def _lines(comparison: Comparison, kind: str) -> list[str]:
    lines = [wording.setting(item) for item in comparison.settings if item.kind == kind]
    if comparison.first is not None and comparison.first.kind == kind:
        lines.append(f"First divergence: {': '.join(wording.divergence(comparison.first))}")
    lines += [text] if (text := wording.missing_events(comparison, kind)) else []
    lines += [_field(wording.field_cells(field)) for field in comparison.worst if field.kind == kind]
    if kind == "drift":
        lines += [wording.drift(field) for field in comparison.drifts]
    more = len(lines) - _MOST_LINES
    if not lines:
        return [wording.NO_DETAILS]
    return [*lines[:_MOST_LINES], *([f"and {more:,} more"] if more > 0 else [])]


def _field(cells: tuple[str, ...]) -> str:
    path, differing, step, expected, got, off, mean = cells
    where = f" at step {step}" if step else ""
    tolerances = f" ({off} tolerances, on average {mean or '0'})" if off else ""
    return f"{path}: {differing} differ{where}: expected {expected}, got {got}{tolerances}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
