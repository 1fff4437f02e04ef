"""Generated speech of the probes over the steps of a run, in bounded memory, and as a table with sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.events import GenerationSample
from higgs_audio_trainer.logs.bounded_series import EvenSample
from higgs_audio_trainer.report.follower import sentence_of
from higgs_audio_trainer.report.sounds import AudioEmbedder, EmbeddedAudio
from sinks.rendering.generation import FRAME_RATE_HZ

MOST_PROBES = 16
MOST_STEPS = 8  # columns of a probe
_MOST_LABELS = 256  # samples with a decoded recording
_RECORDING = -1  # column of the recording


class SpeechView(NamedTuple):
    """Speech of a probe at a step.

    Attributes:
        step: Step at which the model spoke.
        length: Length of the speech and, with a recording, of the recording.
        stopped: True if the model ended the speech.
        agreement: Share of the codes of codebook 0 as in the recording. None without a recording.
        silence: Share of silence. None without a waveform.
        cer: Character error rate of the transcript. None without a transcript.
        audio: Path of the WAV file, relative to the output directory. None without a file.
    """

    step: int
    length: str
    stopped: bool
    agreement: float | None
    silence: float | None
    cer: float | None
    audio: str | None

    @classmethod
    def of(cls, event: GenerationSample) -> SpeechView:
        """Return the view of an event."""
        label = "" if event.frames_label is None else f" of {event.frames_label / FRAME_RATE_HZ:.1f} s"
        agreement = event.agreement[0] if event.agreement else None
        length = f"{event.frames / FRAME_RATE_HZ:.1f} s{label}"
        return cls(event.step, length, event.stopped, agreement, event.silence_share, event.cer, event.audio)


@dataclass(frozen=True, slots=True)
class SpokenProbe:
    """Views of a probe at different steps.

    Attributes:
        probe: Id of the probe.
        text: Text that the model speaks.
        views: First, last and evenly spaced views.
    """

    probe: str
    text: str
    views: EvenSample[SpeechView] = field(default_factory=lambda: EvenSample(MOST_STEPS))


class VoiceFollower:
    """Collects the speech of the first `MOST_PROBES` probes.

    Attributes:
        probes: Probes by id.
        left_out: Number of events of further probes.
    """

    def __init__(self) -> None:
        self.probes: dict[str, SpokenProbe] = {}
        self.left_out = 0
        self._labels: dict[str, str] = {}

    def add(self, event: GenerationSample) -> None:
        """Add an event."""
        if event.probe not in self.probes and len(self.probes) == MOST_PROBES:
            self.left_out += 1
            return
        probe = self.probes.setdefault(event.probe, SpokenProbe(event.probe, event.text))
        if probe.views.latest is None or probe.views.latest.step < event.step:  # several ranks can log the same probe
            probe.views.append(SpeechView.of(event))

    def add_label(self, sample_id: str, link: str | None) -> None:
        """Add the decoded recording of a sample, which may be a probe."""
        if link is not None and len(self._labels) < _MOST_LABELS:
            self._labels.setdefault(sample_id, link)

    @property
    def texts(self) -> dict[str, str]:
        """Return the sentence of each probe, by id."""
        return {name: sentence_of(probe.text) for name, probe in self.probes.items()}

    def label_of(self, probe: str) -> str | None:
        """Return the path of a probe's decoded recording. None if unknown."""
        return self._labels.get(probe)


class VoiceTable(NamedTuple):
    """Speech of a log, with a row for each probe and a column for each step.

    Attributes:
        letter: Prefix of titles, such as "A: ". Empty for a single log.
        steps: Steps of the columns.
        rows: Each probe, the sound of its recording, and its view and sound at each step.
        has_labels: True if a recording has a sound.
        left_out: Number of steps that the columns do not show.
        seen: Number of steps at which the probes spoke.
        probes_left_out: Number of events of further probes.
        problems: Number of sounds that the page does not contain, by reason.
    """

    letter: str
    steps: Sequence[int]
    rows: Sequence[tuple[SpokenProbe, EmbeddedAudio | None, Sequence[tuple[SpeechView | None, EmbeddedAudio | None]]]]
    has_labels: bool
    left_out: int
    seen: int
    probes_left_out: int
    problems: Sequence[tuple[str, int]]


def voice_table(letter: str, voice: VoiceFollower, folder: Path | None, embedder: AudioEmbedder) -> VoiceTable | None:
    """Return the table of a log. None without generated speech.

    The last step of all probes is embedded first, then the recordings, the first step, and the steps between, so that
    a page without room for all sounds has the sounds that matter most.

    Args:
        letter: Prefix of titles.
        voice: Speech of the log.
        folder: Output directory of the run. None if the directory is unknown.
        embedder: Makes the sounds of the page.
    """
    if not voice.probes:
        return None
    probes = list(voice.probes.values())
    views = {(probe.probe, view.step): view for probe in probes for view in probe.views.items}
    steps = sorted({step for _, step in views})
    sounds: dict[tuple[str, int], EmbeddedAudio] = {}
    for step in _by_importance(steps):
        for name in voice.probes:
            view = views.get((name, step))
            link = voice.label_of(name) if step == _RECORDING else None if view is None else view.audio
            if link is not None:
                sounds[name, step] = embedder.embed(folder, link)
    rows = [
        (
            probe,
            sounds.get((probe.probe, _RECORDING)),
            [(views.get((probe.probe, step)), sounds.get((probe.probe, step))) for step in steps],
        )
        for probe in probes
    ]
    longest = max(probes, key=lambda probe: probe.views.count).views
    return VoiceTable(
        letter=letter,
        steps=steps,
        rows=rows,
        has_labels=any(step == _RECORDING for _, step in sounds),
        left_out=longest.count - len(longest.items),
        seen=longest.count,
        probes_left_out=voice.left_out,
        problems=Counter(sound.problem for sound in sounds.values() if sound.source is None).most_common(),
    )


def _by_importance(steps: Sequence[int]) -> list[int]:
    """Return the columns in the order of their importance: the last step, the recording, the first step, then halves.

    Example:
        >>> _by_importance([10, 20, 30, 40, 50])
        [50, -1, 10, 30, 20, 40]
    """
    last = len(steps) - 1
    between = sorted(range(1, last), key=lambda index: (-(index & -index), index))
    return [steps[last], _RECORDING, *(steps[index] for index in ([0] if last else []) + between)]
