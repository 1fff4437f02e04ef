"""Samples to show on the page, with labels and predictions at each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.logs.bounded_series import EvenSample
from higgs_audio_trainer.report.follower import FollowedSample, Key, SampleFollower, SampleView
from higgs_audio_trainer.report.sounds import AudioEmbedder, EmbeddedAudio

MOST_SHOWN = 6  # samples of each split


class LogSamples(NamedTuple):
    """Samples of a log.

    Attributes:
        letter: Prefix of titles, such as "A: ". Empty for a single log.
        follower: Samples with the most logged steps.
        folder: Output directory of the run. None if the directory is unknown.
        texts: Sentence of each generated speech, by id, for samples without a text of their own.
    """

    letter: str
    follower: SampleFollower
    folder: Path | None
    texts: Mapping[str, str]


class SampleTable(NamedTuple):
    """Labels and predictions of text or of one codebook.

    Attributes:
        name: Heading of the table.
        seen: Number of logged steps.
        left_out: Number of logged steps that the table does not show.
        has_text: True if the table shows decoded texts.
        groups: Views of neighbouring steps with the same labels.
    """

    name: str
    seen: int
    left_out: int
    has_text: bool
    groups: list[list[SampleView]]

    @classmethod
    def of(cls, letter: str, key: Key, series: EvenSample[SampleView]) -> SampleTable:
        """Return the table of a series of views."""
        views = series.items
        return cls(
            name=letter + ("text" if key[0] == "text" else f"codebook {key[1]}"),
            seen=series.count,
            left_out=series.count - len(views),
            has_text=any(end.predicted_text is not None for view in views for end in (view.first, view.last)),
            groups=[list(group) for _, group in groupby(views, key=attrgetter("targets"))],
        )


class ShownSample(NamedTuple):
    """Sample on the page.

    Attributes:
        sample: Sample in the first log that has the sample.
        sentence: Sentence that is spoken. None if the log does not have the sentence.
        seen: Number of logged steps with the sample, in all logs.
        events: Number of events that the tables are made of.
        left_out: Number of events of further codebooks.
        tables: Tables of text and codebooks. Tables of the same codebook in two logs are neighbours.
        audio: Heading, and the name and the audio of each player, for each log with audio.
    """

    sample: FollowedSample
    sentence: str | None
    seen: int
    events: int
    left_out: int
    tables: list[SampleTable]
    audio: list[tuple[str, list[tuple[str, EmbeddedAudio]]]]


def shown_samples(logs: Sequence[LogSamples], splits: Sequence[str], embedder: AudioEmbedder) -> list[ShownSample]:
    """Return the samples to show, ordered by the number of logs with the sample, then by the number of logged steps.

    Args:
        logs: Samples of each log.
        splits: Splits of the samples, in the order of the page.
        embedder: Makes the sounds of the page.
    """
    found: dict[tuple[str, str], list[tuple[LogSamples, FollowedSample]]] = defaultdict(list)
    for log in logs:
        for sample in log.follower.samples:
            found[sample.split, sample.fingerprint].append((log, sample))
    ranked = sorted(found.values(), key=lambda same: (-len(same), -sum(sample.seen for _, sample in same)))
    return [
        _shown(same, embedder)
        for split in splits
        for same in [same for same in ranked if same[0][1].split == split][:MOST_SHOWN]
    ]


def _shown(same: Sequence[tuple[LogSamples, FollowedSample]], embedder: AudioEmbedder) -> ShownSample:
    keys = dict.fromkeys(key for _, sample in same for key in sample.series)
    series = [(log, key, sample.series[key]) for key in keys for log, sample in same if key in sample.series]
    return ShownSample(
        sample=same[0][1],
        sentence=next(filter(None, (one.text or log.texts.get(one.sample_id) for log, one in same)), None),
        seen=sum(sample.seen for _, sample in same),
        events=sum(one.count for _, _, one in series),
        left_out=sum(sample.left_out for _, sample in same),
        tables=[SampleTable.of(log.letter, key, one) for log, key, one in series],
        audio=[(log.letter, _players(log, sample, embedder)) for log, sample in same if sample.audio.items],
    )


def _players(log: LogSamples, sample: FollowedSample, embedder: AudioEmbedder) -> list[tuple[str, EmbeddedAudio]]:
    """Return the audio of the labels, and of the predictions at each step."""
    previews = sample.audio.items
    links = [("labels", previews[-1].label)]
    links += [(f"predicted at step {preview.step:,}", preview.predicted) for preview in previews]
    return [(name, embedder.embed(log.folder, link)) for name, link in links]
