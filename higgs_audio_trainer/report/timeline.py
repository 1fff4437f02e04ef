"""Geometry of the diagnoses of a log on the axis of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from higgs_audio_trainer.events import Diagnosis
from higgs_audio_trainer.report.chart import DrawingSize, Plot
from higgs_audio_trainer.report.scale import Axis

_MOST_ROWS = 12
_ROW, _TOP, _BOTTOM = 22, 6, 24


@dataclass(frozen=True, slots=True)
class Timeline:
    """Diagnoses by step, a row for each code.

    Attributes:
        diagnoses: Diagnoses in the order of their steps.
        steps: Axis of steps.
        left_out: Number of further diagnoses.
    """

    diagnoses: Sequence[Diagnosis]
    steps: Axis
    left_out: int

    @property
    def rows(self) -> dict[str, float]:
        """Return the vertical coordinate of each code, for the first codes."""
        codes = list(dict.fromkeys(item.code for item in self.diagnoses))[:_MOST_ROWS]
        return {code: _TOP + _ROW * index + _ROW / 2 for index, code in enumerate(codes)}

    @property
    def plot(self) -> Plot:
        """Return the coordinates of the drawing."""
        height = _TOP + _ROW * len(self.rows) + _BOTTOM
        return Plot(DrawingSize(440, height, left=145, right=16, top=_TOP, bottom=_BOTTOM), self.steps, Axis(0, 1))
