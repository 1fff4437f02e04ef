"""Generated speech of a run in a few numbers: the number of steps, and the speech of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from higgs_audio_trainer.events import GenerationSample
from sinks.terminal.words import count_of


@dataclass(slots=True)
class SpokenSteps:
    """Steps at which the model spoke the probes.

    Attributes:
        count: Number of steps.
        last_step: Last step. None without speech.
        probes: Whether each probe of the last step stopped by itself, by id.
        agreements: Share of the codes of codebook 0 as in the recording, of the probes of the last step with one.
    """

    count: int = 0
    last_step: int | None = None
    probes: dict[str, bool] = field(default_factory=dict)
    agreements: dict[str, float] = field(default_factory=dict)

    def add(self, event: GenerationSample) -> None:
        """Add an event."""
        if self.last_step is None or event.step > self.last_step:
            self.count += 1
            self.last_step, self.probes, self.agreements = event.step, {}, {}
        if event.step == self.last_step:
            self.probes[event.probe] = event.stopped
            if event.agreement:
                self.agreements[event.probe] = event.agreement[0]

    def facts(self) -> Iterator[str]:
        """Yield the facts for a line of text, no fact without speech."""
        if self.last_step is None:
            return
        yield f"{count_of(len(self.probes), 'probe')} spoken at {count_of(self.count, 'step')}"
        facts = [f"at step {self.last_step:,} {sum(self.probes.values())} of {len(self.probes)} stopped by themselves"]
        if self.agreements:
            mean = sum(self.agreements.values()) / len(self.agreements)
            facts.append(f"{mean:.1%} of codebook 0 as recorded")
        yield ", ".join(facts)
