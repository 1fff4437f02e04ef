"""Samples over the steps of a run, in bounded memory. Frequent samples stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, Window
from higgs_audio_trainer.logs.bounded_series import EvenSample, NumberSeries

MOST_SAMPLES = 32  # samples of each split at a time
MOST_SERIES = 9  # series of a sample: text and codebooks
MOST_VIEWS = 12  # steps of a series
MOST_SLOTS = 10  # slots of a window
MOST_AUDIO = 6  # steps with audio of a sample
_MOST_POINTS = 160  # of a curve
LONGEST_TEXT = 200  # characters of a text
Key = tuple[str, int | None]  # modality and codebook


@dataclass(frozen=True, slots=True)
class WindowView:
    """First slots of a window of a sample at a step.

    Attributes:
        positions: Positions of at most `MOST_SLOTS` slots.
        labels: Label of each slot, `IGNORE_INDEX` for a masked slot.
        predictions: Predicted token of each slot. None for a masked slot.
        label_text: Decoded labels, cut after `LONGEST_TEXT` characters.
        predicted_text: Decoded predictions, cut after `LONGEST_TEXT` characters.
        left_out: Number of further slots of the window.
    """

    positions: tuple[int, ...]
    labels: tuple[int, ...]
    predictions: tuple[int | None, ...]
    label_text: str | None
    predicted_text: str | None
    left_out: int

    @classmethod
    def of(cls, window: Window) -> WindowView:
        """Return the view of a window."""
        return cls(
            window.positions[:MOST_SLOTS],
            window.labels[:MOST_SLOTS],
            window.predictions[:MOST_SLOTS],
            window.label_text and _cut(window.label_text),
            window.predicted_text and _cut(window.predicted_text),
            max(0, len(window.positions) - MOST_SLOTS),
        )

    @property
    def label_cells(self) -> list[str]:
        """Return the text of each label, and "-" for a masked slot."""
        return ["-" if label == IGNORE_INDEX else str(label) for label in self.labels]

    @property
    def predicted_cells(self) -> list[tuple[str, bool]]:
        """Return the text of each prediction, and True if the prediction differs from the label."""
        pairs = zip(self.labels, self.predictions, strict=False)
        return [("-", False) if token is None else (str(token), token != label) for label, token in pairs]


def sentence_of(spoken: str) -> str:
    r"""Return a spoken text on one line, cut after `LONGEST_TEXT` characters.

    Example:
        >>> sentence_of("Good morning.\nThe kettle is on.")
        'Good morning. The kettle is on.'
    """
    return _cut(spoken).replace("\n", " ")


def _cut(given: str) -> str:
    return given if len(given) <= LONGEST_TEXT else given[:LONGEST_TEXT] + "..."


@dataclass(frozen=True, slots=True)
class SampleView:
    """Text or one codebook of a sample at a step.

    Attributes:
        step: Logged step.
        num_targets: Number of training targets.
        num_correct: Number of correct predictions of training targets.
        loss: Mean loss in nats. None without training targets.
        first: First slots of the sample.
        last: Last slots of the sample.
    """

    step: int
    num_targets: int
    num_correct: int
    loss: float | None
    first: WindowView
    last: WindowView

    @property
    def targets(self) -> object:
        """Return positions and labels, usually the same at each step."""
        return self.first.positions, self.first.labels, self.last.positions, self.last.labels


class AudioLinks(NamedTuple):
    """Audio previews of a sample at a step.

    Attributes:
        step: Logged step.
        predicted: Path of the decoded predictions, relative to the output directory.
        label: Path of the decoded labels, relative to the output directory.
    """

    step: int
    predicted: str
    label: str


@dataclass(slots=True)
class FollowedSample:
    """Views of one sample at different steps.

    Attributes:
        split: `train`, `eval` or `probe`.
        fingerprint: Fingerprint that identifies the sample.
        sample_id: Name of the sample.
        text: Text that the sample speaks, cut after `LONGEST_TEXT` characters. None if unknown.
        series: Views by modality and codebook, for at most `MOST_SERIES` keys.
        accuracies: Accuracy of each series over the steps, of a probe.
        audio: Audio previews at different steps.
        left_out: Number of events of further codebooks.
        last_step: Step of the last event.
    """

    split: str
    fingerprint: str
    sample_id: str
    text: str | None = None
    series: dict[Key, EvenSample[SampleView]] = field(default_factory=dict)
    accuracies: dict[Key, NumberSeries] = field(default_factory=dict)
    audio: EvenSample[AudioLinks] = field(default_factory=lambda: EvenSample(MOST_AUDIO))
    left_out: int = 0
    last_step: int = 0

    @property
    def seen(self) -> int:
        """Return the number of logged steps with this sample."""
        return max((series.count for series in self.series.values()), default=0)

    def add(self, event: PredictionSample) -> None:
        """Add an event of this sample."""
        if self.text is None and event.text:
            self.text = sentence_of(event.text)
        if event.predicted_audio is not None and event.label_audio is not None:
            links = AudioLinks(event.step, event.predicted_audio, event.label_audio)
            if self.audio.latest is None or self.audio.latest.step != event.step:  # all codebooks have the same audio
                self.audio.append(links)
        key = event.modality, event.codebook
        if key not in self.series and len(self.series) == MOST_SERIES:
            self.left_out += 1
            return
        series = self.series.setdefault(key, EvenSample(MOST_VIEWS))
        if series.latest is None or series.latest.step < event.step:  # several ranks can have the same sample
            self.last_step = event.step
            first, last = WindowView.of(event.first), WindowView.of(event.last)
            series.append(SampleView(event.step, event.num_targets, event.num_correct, event.loss, first, last))
            if self.split == "probe":
                self.accuracies.setdefault(key, NumberSeries(_MOST_POINTS)).add(event.step, event.accuracy)


class SampleFollower:
    """Collects the samples with the most logged steps.

    Beyond `MOST_SAMPLES` samples of a split, a new sample displaces the sample with the fewest logged steps. Among
    equals, the sample with the earliest last step goes.

    Attributes:
        events: Number of events that were added.
        probe_events: Number of these events that are of probes.
    """

    def __init__(self) -> None:
        self.events = self.probe_events = 0
        self._samples: dict[str, dict[str, FollowedSample]] = {}

    def add(self, event: PredictionSample) -> None:
        """Add an event."""
        self.events += 1
        self.probe_events += event.split == "probe"
        samples = self._samples.setdefault(event.split, {})
        sample = samples.get(event.fingerprint)
        if sample is None:
            if len(samples) == MOST_SAMPLES:
                least = min(samples.values(), key=lambda known: (known.seen, known.last_step))
                del samples[least.fingerprint]
            sample = samples[event.fingerprint] = FollowedSample(event.split, event.fingerprint, event.sample_id)
        sample.add(event)

    @property
    def probes(self) -> list[FollowedSample]:
        """Return the collected samples of probes."""
        return list(self._samples.get("probe", {}).values())

    @property
    def samples(self) -> list[FollowedSample]:
        """Return the collected samples of all splits."""
        return [sample for samples in self._samples.values() for sample in samples.values()]
