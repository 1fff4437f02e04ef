"""The page: one HTML document that loads nothing and runs nothing, under a policy that allows its style alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.logs.diff.comparison import Comparison
from higgs_audio_trainer.logs.diff.reports import wording
from higgs_audio_trainer.report import sections
from higgs_audio_trainer.report.gather import Gathered
from higgs_audio_trainer.report.markup import Markup, joined, tag, text
from higgs_audio_trainer.report.scale import number, share, span
from higgs_audio_trainer.report.sections import Sheet, section

#: How a report begins: by it, one is known.
BEGINNING = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="generator" content="higgs-audio-trainer report">'
)
_LONGEST_NAME = 200
_SAMPLES = (
    "One sample through the training: its labels, and below them what the model predicted at each logged step. A star "
    "marks what is wrong; - is a masked slot."
)
_CURVES = (
    "Loss: mean cross-entropy over all targets of a step; lower is better. Predicted right: the share of supervised "
    "slots; higher is better."
)
_MOST_DIFFERENCES = 20


def render(logs: Sequence[Gathered], comparison: Comparison | str | None = None) -> str:
    """Make the page.

    Args:
        logs: one, or two to show beside each other.
        comparison: of two, or why they could not be compared.
    """
    first = comparison.first if isinstance(comparison, Comparison) else None
    step = first.place.step if first is not None and isinstance(first.place.step, int) else None
    sheet = Sheet(logs, step)
    parts = list(_sections(sheet, comparison))
    title = "Training report: " + " and ".join(log.name[:_LONGEST_NAME] for log in logs)
    body = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag(
            "header",
            tag("h1", title),
            sections.columns([_facts(letter, log) for letter, log in zip(sheet.letters, logs, strict=True)]),
        ),
        tag(
            "nav",
            tag("ul", *(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in parts)),
            aria_label="Sections",
        ),
        tag("main", *(part for _, _, part in parts), id="content"),
    ]
    return f"{BEGINNING}{_head(title)}</head>\n{tag('body', *body)}</html>\n"


def _head(title: str) -> Markup:
    style = files("higgs_audio_trainer.report").joinpath("style.css").read_text("utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; media-src data:; base-uri 'none'; form-action 'none'"
    return joined(
        [
            tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
            tag("meta", name="referrer", content="no-referrer"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Markup(style)),
        ]
    )


def _sections(sheet: Sheet, comparison: Comparison | str | None) -> list[tuple[str, str, Markup]]:
    made = []

    def add(anchor: str, title: str, meaning: str, *parts: object) -> None:
        made.append((anchor, title, section(anchor, title, meaning, *parts)))

    if comparison is not None:
        add(
            "difference",
            "First difference",
            "Where the two runs part, joined event by event; A is what is expected, B what was got.",
            _difference(comparison),
        )
    if any(log.train.steps or log.evaluation.steps for log in sheet.logs):
        add("curves", "Losses and accuracies", _CURVES, sections.curves(sheet))
    if any(log.train.losses for log in sheet.logs):  # a model of text has no codebooks
        add(
            "codebooks",
            "Text and each codebook",
            "All on the same axes, with the last value above each.",
            sections.codebooks(sheet),
        )
        add(
            "heat",
            "Heat strip",
            "Which codebook learns when: a row a codebook, a column a logged step.",
            sections.heat(sheet),
        )
    add(
        "diagnoses",
        "Diagnoses",
        "What the checks of the training found in its own record, and when.",
        sections.diagnoses(sheet),
    )
    add(
        "samples",
        "Samples",
        _SAMPLES,
        sections.samples(sheet),
    )
    if any(log.train.steps for log in sheet.logs):
        add(
            "settings",
            "Learning rate and gradients",
            "What the optimizer did at each logged step.",
            sections.settings(sheet),
        )
        add(
            "cost",
            "Cost of logging",
            "How long the logged steps took, and which part of that was logging.",
            sections.cost(sheet),
        )
    add("left-out", "What is left out", "What this page does not show of the log.", sections.left_out(sheet))
    return made


def _difference(comparison: Comparison | str) -> Markup:
    if isinstance(comparison, str):
        return tag("p", f"They could not be compared. {comparison}")
    parts: list[Markup] = [tag("p", tag("strong", wording.verdict(comparison)))]
    if comparison.first is not None:
        where, what = wording.divergence(comparison.first)
        parts.append(tag("p", f"First difference: {where}: {what}"))
    shown = [tag("li", wording.setting(item)) for item in comparison.settings[:_MOST_DIFFERENCES]]
    if shown:
        parts += [tag("p", "The runs were set up differently:"), tag("ul", *shown)]
    if len(comparison.settings) > len(shown):
        parts.append(
            tag("p", f"{len(comparison.settings) - len(shown):,} more settings differ; the command diff says all.")
        )
    return joined(parts)


def _facts(letter: str, log: Gathered) -> Markup:
    facts = dict(_known_facts(log))
    items = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items())
    return tag("div", tag("h2", f"{letter}{log.name}") if letter else None, tag("dl", *items, class_="facts"))


def _known_facts(log: Gathered) -> list[tuple[str, object]]:
    train, start, end = log.train, log.start, log.end
    facts: list[tuple[str, object]] = [("state", f"{end.reason} at step {end.step:,}" if end else "no end in the log")]
    if train.first_step is not None and train.last_step is not None:
        facts.append(("logged steps", f"{train.steps:,}, {span(train.first_step, train.last_step)}"))
    facts += [("last loss", number(train.loss.last[1]))] if train.loss.last else []
    for name, series in (("text right", train.text_accuracy), ("audio right", train.audio_accuracy)):
        facts += [(name, share(series.last[1]))] if series.last else []
    found = [
        f"{log.severities[kind]:,} {kind}{'' if log.severities[kind] == 1 else 's'}"
        for kind in ("error", "warning", "note")
        if log.severities[kind]
    ]
    facts.append(("diagnoses", ", ".join(found) or "none"))
    if start is not None:
        facts += [("run", text(log.run_id)), *_settings(start)] if log.run_id else _settings(start)
    facts += [
        (name, f"{ts[:19].replace('T', ' ')} UTC")
        for name, ts in (("begun", log.first_ts), ("last event", log.last_ts))
        if ts
    ]
    return facts


def _settings(start: RunStart) -> list[tuple[str, object]]:
    return [
        ("data", f"{start.num_train_samples:,} training samples, {start.num_eval_samples:,} for evaluation"),
        ("device", f"{start.world_size:,} x {start.device}"),
    ]
