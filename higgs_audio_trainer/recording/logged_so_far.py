"""What a logger has logged until now, as a line and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from higgs_audio_trainer.events import EvalResult, TrainStep
from higgs_audio_trainer.pipeline.emit import Emit
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.milestones import MilestoneKeeper, mean_accuracy


@dataclass(frozen=True, slots=True)
class LoggedSoFar:
    """Place, figures and findings of a log.

    Attributes:
        place: File of the log, or the names of the sinks.
        emit: Counts written and lost events.
        keeper: Keeps the first and last figures.
        checks: Checks of the logged steps; None without checks.
    """

    place: str
    emit: Emit
    keeper: MilestoneKeeper
    checks: LiveChecks | None

    def __str__(self) -> str:
        last = self.keeper.milestones.last_step
        logged = "no step yet" if last is None else f"step {last.step:,}, loss {last.loss:.3f}"
        return f"{logged}, in {self.place!r}"

    def html(self) -> str:
        """Return the facts and the figures as tables. Every text is escaped."""
        from higgs_audio_trainer.logs.summary.html import facts_html, table_html

        milestones = self.keeper.milestones
        known = {
            "first": milestones.first_step,
            "last": milestones.last_step,
            "last evaluation": milestones.last_evaluation,
        }
        rows = [(name, *_cells(event)) for name, event in known.items() if event is not None]
        figures = table_html(_HEADINGS, rows) if rows else ""
        return facts_html(self._facts()) + figures

    def _facts(self) -> Iterator[tuple[str, str]]:
        from higgs_audio_trainer.logs.summary.html import visible

        last = self.keeper.milestones.last_step
        yield "log", visible(self.place)
        yield "last step", "none yet" if last is None else f"{last.step:,}"
        lost = f", {self.emit.lost:,} lost" if self.emit.lost else ""
        yield "events", f"{self.emit.written:,} written{lost}"
        if self.checks is not None:
            counted = self.checks.counted.items()
            yield "findings", ", ".join(f"{code} (at {count:,} steps)" for code, count in counted) or "none"


_HEADINGS = ("", "step", "loss", "text loss", "text accuracy", "audio loss", "audio accuracy")


def _cells(event: TrainStep | EvalResult) -> tuple[str, ...]:
    from higgs_audio_trainer.logs.summary.table import accuracy_text, loss_text

    return (
        f"{event.step:,}",
        loss_text(event.loss),
        loss_text(event.text_loss if event.text_targets else None),
        accuracy_text(event.text_accuracy),
        loss_text(event.audio_loss if event.audio_targets else None),
        accuracy_text(mean_accuracy(event)),
    )
