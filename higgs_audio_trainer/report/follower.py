"""Samples followed through a training, in bounded memory: who is seen most stays."""

from __future__ import annotations

from dataclasses import dataclass, field

from higgs_audio_trainer.events import IGNORE_INDEX, PredictionSample, Window

MOST_SAMPLES = 32  # that are followed at a time, of each split
MOST_SERIES = 9  # text and codebooks of a sample
MOST_LOOKS = 12  # steps at which a series is shown
MOST_SLOTS = 10  # of a window
MOST_SOUNDS = 6  # steps at which a sample is heard
LONGEST_TEXT = 200  # characters
Key = tuple[str, int | None]  # modality and codebook


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a sample as it was at a step: positions, labels and predictions, and the decoded text of both."""

    positions: tuple[int, ...]
    labels: tuple[int, ...]
    predictions: tuple[int | None, ...]
    label_text: str | None
    predicted_text: str | None
    left_out: int

    @classmethod
    def of(cls, window: Window) -> Side:
        """Take what is shown of a window."""
        return cls(
            window.positions[:MOST_SLOTS],
            window.labels[:MOST_SLOTS],
            window.predictions[:MOST_SLOTS],
            _cut(window.label_text),
            _cut(window.predicted_text),
            max(0, len(window.positions) - MOST_SLOTS),
        )

    @property
    def right(self) -> tuple[bool | None, ...]:
        """Tell which slots were predicted right; None where a slot is masked."""
        pairs = zip(self.labels, self.predictions, strict=False)
        return tuple(None if label == IGNORE_INDEX else label == token for label, token in pairs)


def _cut(given: str | None) -> str | None:
    return given if given is None or len(given) <= LONGEST_TEXT else given[:LONGEST_TEXT] + "..."


@dataclass(frozen=True, slots=True)
class Look:
    """A series of a sample at a step."""

    step: int
    num_targets: int
    num_correct: int
    loss: float | None
    first: Side
    last: Side


@dataclass(slots=True)
class Series:
    """The looks at a sample's text or at one of its codebooks: evenly thinned, with the first and the last.

    Attributes:
        seen: looks there were.
        latest: the last of them.
    """

    seen: int = 0
    latest: Look | None = None
    _kept: list[Look] = field(default_factory=list)
    _stride: int = 1

    def add(self, look: Look) -> None:
        """Take a look at a later step."""
        if self.seen % self._stride == 0:
            if len(self._kept) == MOST_LOOKS - 1:
                del self._kept[1::2]
                self._stride *= 2
            if self.seen % self._stride == 0:
                self._kept.append(look)
        self.seen += 1
        self.latest = look

    @property
    def looks(self) -> list[Look]:
        """Those that are shown."""
        latest = [] if self.latest is None or self.latest in self._kept[-1:] else [self.latest]
        return [*self._kept, *latest]


@dataclass(frozen=True, slots=True)
class Sound:
    """What a sample sounded like at a step: files of its predictions and of its labels."""

    step: int
    predicted: str
    label: str


@dataclass(slots=True)
class Sample:
    """A sample and its series.

    Attributes:
        split: train or eval.
        fingerprint: by which it is known again.
        sample_id: its name.
        series: by modality and codebook, at most `MOST_SERIES`.
        sounds: at most `MOST_SOUNDS`, the first and the last among them.
        left_out: events of other series.
        last_step: when it was seen last.
    """

    split: str
    fingerprint: str
    sample_id: str
    series: dict[Key, Series] = field(default_factory=dict)
    sounds: list[Sound] = field(default_factory=list)
    left_out: int = 0
    last_step: int = 0

    @property
    def seen(self) -> int:
        """How often it was seen."""
        return max((series.seen for series in self.series.values()), default=0)

    def add(self, event: PredictionSample) -> None:
        """Take what an event says of it."""
        if event.predicted_audio is not None and event.label_audio is not None:
            self._hear(Sound(event.step, event.predicted_audio, event.label_audio))
        key = event.modality, event.codebook
        if key not in self.series and len(self.series) == MOST_SERIES:
            self.left_out += 1
            return
        first, last = Side.of(event.first), Side.of(event.last)
        look = Look(event.step, event.num_targets, event.num_correct, event.loss, first, last)
        series = self.series.setdefault(key, Series())
        if series.latest is None or series.latest.step < event.step:  # another rank may have had it too
            self.last_step = event.step
            series.add(look)

    def _hear(self, sound: Sound) -> None:
        if self.sounds and self.sounds[-1].step == sound.step:
            return  # another codebook of the same audio
        if len(self.sounds) == MOST_SOUNDS:
            del self.sounds[1::2]
        self.sounds.append(sound)


class Follower:
    """Follows samples. When there is one too many of a split, the one seen least, and least lately, is let go.

    Attributes:
        events: that it was given.
    """

    def __init__(self) -> None:
        self.events = 0
        self._samples: dict[str, dict[str, Sample]] = {}

    def add(self, event: PredictionSample) -> None:
        """Take an event."""
        self.events += 1
        samples = self._samples.setdefault(event.split, {})
        sample = samples.get(event.fingerprint)
        if sample is None:
            if len(samples) == MOST_SAMPLES:
                least = min(samples.values(), key=lambda known: (known.seen, known.last_step))
                del samples[least.fingerprint]
            sample = samples[event.fingerprint] = Sample(event.split, event.fingerprint, event.sample_id)
        sample.add(event)

    @property
    def samples(self) -> list[Sample]:
        """Those that are followed now."""
        return [sample for samples in self._samples.values() for sample in samples.values()]
