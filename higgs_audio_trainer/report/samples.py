"""The sample follower: one sample through the training, its labels beside what was predicted at each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.report.follower import Follower, Key, Look, Sample, Series, Side
from higgs_audio_trainer.report.markup import Markup, foreign, joined, tag, text
from higgs_audio_trainer.report.scale import number
from higgs_audio_trainer.report.sounds import Sounds

MOST_SHOWN = 6  # samples of each split
_LONGEST_ID = 120


class Log(NamedTuple):
    """What is followed of a log: its letter, its samples, and the run's folder, if it is known."""

    letter: str
    follower: Follower
    folder: Path | None


def followed(logs: Sequence[Log]) -> Markup:
    """Write samples, each to be unfolded: those in most logs first, then those seen most often."""
    found: dict[tuple[str, str], list[tuple[Log, Sample]]] = defaultdict(list)
    for log in logs:
        for sample in log.follower.samples:
            found[sample.split, sample.fingerprint].append((log, sample))
    if not found:
        return tag("p", "There are no predictions of samples in the log.")
    ranked = sorted(found.values(), key=lambda same: (-len(same), -sum(sample.seen for _, sample in same)))
    shown = [
        same
        for split in ("train", "eval")
        for same in [same for same in ranked if same[0][1].split == split][:MOST_SHOWN]
    ]
    seen = sum(series.seen for same in shown for _, sample in same for series in sample.series.values())
    events = sum(log.follower.events for log in logs)
    sounds = Sounds()
    note = f"Shown are the {len(shown)} samples that were seen most often."
    if seen < events:
        note += f" They have {seen:,} of {events:,} events; show --sample-id ID has every one of a sample."
    return joined([tag("p", note), *(_sample(same, sounds, is_open=index == 0) for index, same in enumerate(shown))])


def _sample(same: Sequence[tuple[Log, Sample]], sounds: Sounds, *, is_open: bool) -> Markup:
    sample = same[0][1]
    looks = sum(sample.seen for _, sample in same)
    summary = tag(
        "summary",
        foreign(sample.sample_id, longest=_LONGEST_ID),
        f" in {looks:,} logged {'step' if looks == 1 else 'steps'} of ",
        "training" if sample.split == "train" else "evaluation",
        ", fingerprint ",
        tag("code", text(sample.fingerprint, longest=40)),
    )
    keys = dict.fromkeys(key for _, sample in same for key in sample.series)
    parts = [
        _series(log.letter, sample, key, sample.series[key])
        for key in keys
        for log, sample in same
        if key in sample.series
    ]
    parts += [_heard(log, sample, sounds) for log, sample in same if sample.sounds]
    left_out = sum(sample.left_out for _, sample in same)
    more = tag("p", f"{left_out:,} events of further codebooks are left out here.") if left_out else None
    return tag("details", summary, *parts, more, open=is_open, class_="sample")


def _series(letter: str, sample: Sample, key: Key, series: Series) -> Markup:
    name = letter + ("text" if key[0] == "text" else f"codebook {key[1]}")
    looks = series.looks
    left_out = series.seen - len(looks)
    note = tag("p", f"{left_out:,} of {series.seen:,} steps are left out, evenly.") if left_out > 0 else None
    label = f"{name} of {sample.sample_id}, fingerprint {sample.fingerprint}"
    rows = [row for _, group in groupby(looks, key=_constant) for row in _group(list(group))]
    has_text = any(side.predicted_text is not None for look in looks for side in (look.first, look.last))
    heads = ["step", "first slots", "last slots", "right", "loss", *(["decoded: first", "decoded: last"] * has_text)]
    head = tag("tr", *(tag("th", item, scope="col") for item in heads))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="slots")
    scrolling = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
    return joined([tag("h3", name), note, scrolling])


def _heard(log: Log, sample: Sample, sounds: Sounds) -> Markup:
    """Write players: of the labels once, then of the predictions at each step."""
    heard = [("labels", sample.sounds[-1].label)]
    heard += [(f"predicted at step {sound.step:,}", sound.predicted) for sound in sample.sounds]
    items = (
        tag("li", f"{name} ", sounds.player(log.folder, link, f"{log.letter}{sample.sample_id}: {name}"))
        for name, link in heard
    )
    return joined([tag("h3", f"{log.letter}sound"), tag("ul", *items, class_="sounds")])


def _constant(look: Look) -> object:
    return look.first.positions, look.first.labels, look.last.positions, look.last.labels


def _group(looks: list[Look]) -> Iterator[Markup]:
    """Write the labels once, and below them what was predicted at each step."""
    look, has_text = looks[0], looks[0].first.predicted_text is not None or looks[0].last.predicted_text is not None
    ends = (look.first, look.last)
    yield tag(
        "tr",
        tag("th", "position", scope="row"),
        *(tag("td", _slots(map(str, side.positions))) for side in ends),
        tag("td"),
        tag("td"),
        *([tag("td"), tag("td")] if has_text else []),
        class_="positions",
    )
    yield tag(
        "tr",
        tag("th", "label", scope="row"),
        *(
            tag("td", _slots(str(label) if label != IGNORE_INDEX else "-" for label in side.labels), _more(side))
            for side in ends
        ),
        tag("td", f"of {look.num_targets:,}"),
        tag("td"),
        *([_decoded(side.label_text) for side in ends] if has_text else []),
        class_="labels",
    )
    for item in looks:
        yield tag(
            "tr",
            tag("th", f"{item.step:,}", scope="row"),
            *(tag("td", _predicted(side)) for side in (item.first, item.last)),
            tag("td", f"{item.num_correct:,}"),
            tag("td", number(item.loss)),
            *([_decoded(side.predicted_text) for side in (item.first, item.last)] if has_text else []),
        )


def _slots(cells: Iterable[str]) -> Markup:
    return tag("span", *(tag("i", cell) for cell in cells), class_="row")


def _more(side: Side) -> str | None:
    return f" and {side.left_out} more" if side.left_out else None


def _predicted(side: Side) -> Markup:
    """Write predictions; one that is not its label has a star and a colour."""
    cells = (
        tag("i", "-") if token is None else tag("i", token) if right else tag("b", f"*{token}")
        for token, right in zip(side.predictions, side.right, strict=False)
    )
    return tag("span", *cells, class_="row")


def _decoded(given: str | None) -> Markup:
    return tag("td", foreign(given) if given else "", class_="said")
