"""Diagnoses on the axis of steps, and each in words."""

from __future__ import annotations

from collections.abc import Sequence

from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.report.chart import Plot, Size, sign
from higgs_audio_trainer.report.markup import Markup, joined, tag
from higgs_audio_trainer.report.scale import Axis, number

_MOST_ROWS = 12
_WIDTH, _ROW, _TOP, _BOTTOM, _LEFT = 440, 22, 6, 24, 145
_LONGEST_CODE = 22  # characters beside the axis


def timeline(diagnoses: Sequence[Diagnosis], steps: Axis) -> Markup:
    """Draw a row a code, and a sign at each step at which it was said."""
    codes = list(dict.fromkeys(item.code for item in diagnoses))[:_MOST_ROWS]
    height = _TOP + _ROW * len(codes) + _BOTTOM
    plot = Plot(Size(_WIDTH, height, left=_LEFT, right=16, top=_TOP, bottom=_BOTTOM), steps, Axis(0, 1))
    rows = {code: _TOP + _ROW * index + _ROW / 2 for index, code in enumerate(codes)}
    names = (
        joined(
            [
                tag("text", code[:_LONGEST_CODE], x=_LEFT - 12, y=y + 4, class_="end"),
                tag("path", d=f"M{_LEFT} {y}H{plot.size.width - plot.size.right}", class_="grid"),
            ]
        )
        for code, y in rows.items()
    )
    signs = (
        sign(item.severity, plot.x(item.step), rows[item.code], f"step {item.step:,}: {item.severity} {item.code}")
        for item in diagnoses
        if item.code in rows
    )
    return tag(
        "svg",
        *names,
        *plot.step_labels(6),
        *signs,
        viewBox=f"0 0 {plot.size.width} {height}",
        role="img",
        aria_label=f"{number(len(diagnoses))} diagnoses by step and code; the list below says them in words.",
    )


def listed(diagnoses: Sequence[Diagnosis]) -> Markup:
    """Write diagnoses in the order of steps."""
    items = (
        tag(
            "li",
            tag("svg", sign(item.severity, 8, 8, item.severity), viewBox="0 0 16 16", aria_hidden="true"),
            tag("p", tag("strong", f"{item.severity} at step {item.step:,}: {item.code}"), _about(item)),
            tag("p", item.message),
            class_=item.severity,
        )
        for item in sorted(diagnoses, key=lambda item: item.step)
    )
    return tag("ol", *items, class_="diagnoses")


def _about(item: Diagnosis) -> str:
    about = [item.modality or "", "" if item.codebook is None else f"codebook {item.codebook}"]
    words = ", ".join(part for part in about if part)
    return f" ({words})" if words else ""
