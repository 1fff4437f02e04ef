"""The sample follower: one sample through the training, its labels beside what was predicted at each step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.report.chart import folded
from higgs_audio_trainer.report.follower import Follower, Key, Look, Sample, Series, Side
from higgs_audio_trainer.report.markup import Markup, foreign, joined, tag, text
from higgs_audio_trainer.report.scale import number

MOST_SHOWN = 6  # samples of each split
_LONGEST_ID = 120


def followed(follower: Follower) -> Markup:
    """Write the samples that were seen most often, each to be unfolded."""
    samples = follower.most_seen(MOST_SHOWN)
    if not samples:
        return tag("p", "The log holds no predictions of samples.")
    shown = sum(series.seen for sample in samples for series in sample.series.values())
    note = f"Shown are the {len(samples)} samples that were seen most often."
    if shown < follower.events:
        note += f" They have {shown:,} of {follower.events:,} events; `show --sample-id ID` has every one."
    return joined([tag("p", note), *(_sample(sample, is_open=index == 0) for index, sample in enumerate(samples))])


def _sample(sample: Sample, *, is_open: bool) -> Markup:
    seen = "1 logged step" if sample.seen == 1 else f"{sample.seen:,} logged steps"
    summary = tag(
        "summary",
        foreign(sample.sample_id, longest=_LONGEST_ID),
        f" in {seen} of {'training' if sample.split == 'train' else 'evaluation'}, fingerprint ",
        tag("code", text(sample.fingerprint, longest=40)),
    )
    parts = [_series(sample, key, series) for key, series in sample.series.items()]
    if sample.left_out:
        parts.append(tag("p", f"{sample.left_out:,} events of further codebooks are left out here."))
    return tag("details", summary, *parts, open=is_open, class_="sample")


def _series(sample: Sample, key: Key, series: Series) -> Markup:
    name = "Text" if key[0] == "text" else f"Codebook {key[1]}"
    looks = series.looks
    left_out = series.seen - len(looks)
    note = tag("p", f"{left_out:,} of {series.seen:,} steps are left out, evenly.") if left_out > 0 else None
    label = f"{name} of {sample.sample_id}"
    rows = [row for _, group in groupby(looks, key=_constant) for row in _group(list(group))]
    has_text = any(side.predicted_text is not None for look in looks for side in (look.first, look.last))
    heads = ["step", "first slots", "last slots", "right", "loss", *(["decoded: first", "decoded: last"] * has_text)]
    head = tag("tr", *(tag("th", item, scope="col") for item in heads))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="slots")
    scrolling = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
    return joined([tag("h4", name), note, scrolling])


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


def _slots(cells: object) -> Markup:
    return tag("span", *(tag("i", cell) for cell in cells), class_="row")  # type: ignore[attr-defined]


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
