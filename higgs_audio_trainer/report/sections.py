"""The sections of the page: what is drawn of one log or of two beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from higgs_audio_trainer.report.chart import SMALL, WIDE, Line, Mark, Plot, line_chart, panel, range_of, table
from higgs_audio_trainer.report.gather import MOST_CODEBOOKS, Gathered
from higgs_audio_trainer.report.heat import caption_of, strip
from higgs_audio_trainer.report.markup import Markup, joined, tag
from higgs_audio_trainer.report.scale import SHARES, Axis, axis_of, number, share, steps_of
from higgs_audio_trainer.report.timeline import listed, timeline
from higgs_audio_trainer.report.samples import followed
from higgs_audio_trainer.report.thinning import Thinned


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the sections are made of.

    Attributes:
        logs: one or two.
        letters: A and B of two, nothing of one.
        steps: the axis that all share.
        divergence: the step of the first difference between two logs.
    """

    logs: Sequence[Gathered]
    divergence: int | None = None

    @property
    def letters(self) -> Sequence[str]:
        """Name the logs."""
        return ("",) if len(self.logs) == 1 else ("A: ", "B: ")

    @property
    def steps(self) -> Axis:
        """Return the axis that all charts share."""
        return steps_of(
            step
            for log in self.logs
            for step in (log.train.first_step, log.evaluation.first_step, log.train.last_step, log.last_step or None)
        )

    def marks(self, log: Gathered) -> list[Mark]:
        """List what is drawn over a chart."""
        found = [
            Mark(item.step, item.severity, f"step {item.step:,}: {item.severity} {item.code}")
            for item in log.diagnoses
            if item.severity != "note"
        ]
        if self.divergence is not None:
            found.append(Mark(self.divergence, "divergence", f"first difference: step {self.divergence:,}"))
        return found


def section(name: str, title: str, meaning: str, *parts: object) -> Markup:
    """Make a section with a heading and what it means in a sentence."""
    return tag(
        "section",
        tag("h2", title, id=f"{name}-title"),
        tag("p", meaning),
        *parts,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def figure(title: str, *parts: object) -> Markup:
    """Make a figure with its title."""
    return tag("figure", tag("figcaption", title), *parts)


def columns(parts: Sequence[object]) -> Markup:
    """Put parts beside each other where there is room."""
    return tag("div", *parts, class_="columns")


def losses(sheet: Sheet) -> Markup:
    """Draw losses over steps."""
    series = [
        one
        for log in sheet.logs
        for one in (log.train.loss, log.train.text_loss, log.train.audio_loss, log.evaluation.loss)
    ]
    axis = axis_of(series)
    drawn = [
        _chart(f"{letter}Loss (nats)", sheet, log, axis, _loss_lines(log))
        for letter, log in zip(sheet.letters, sheet.logs, strict=True)
    ]
    evaluated = [
        _chart(f"{letter}Loss of evaluations (nats)", sheet, log, axis, _evaluation_lines(log))
        for letter, log in zip(sheet.letters, sheet.logs, strict=True)
        if log.evaluation.steps
    ]
    return joined(
        [
            columns(drawn + (evaluated if len(sheet.logs) == 1 else [])),
            columns(evaluated) if len(sheet.logs) > 1 and evaluated else None,
        ]
    )


def _loss_lines(log: Gathered) -> list[Line]:
    train = log.train
    return [Line("total", train.loss, 0), Line("audio", train.audio_loss, 1), Line("text", train.text_loss, 2)]


def _evaluation_lines(log: Gathered) -> list[Line]:
    found = log.evaluation
    return [Line("total", found.loss, 0), Line("audio", found.audio_loss, 1), Line("text", found.text_loss, 2)]


def _accuracy_lines(log: Gathered) -> list[Line]:
    return [Line("audio", log.train.audio_accuracy, 1), Line("text", log.train.text_accuracy, 2)]


def accuracies(sheet: Sheet) -> Markup:
    """Draw the shares predicted right."""
    return columns(
        [
            _chart(f"{letter}Predicted right", sheet, log, SHARES, _accuracy_lines(log))
            for letter, log in zip(sheet.letters, sheet.logs, strict=True)
        ]
    )


def _chart(title: str, sheet: Sheet, log: Gathered, axis: Axis, lines: Sequence[Line]) -> Markup:
    label = share if axis.is_share else number
    plot = Plot(WIDE, sheet.steps, axis)
    return figure(
        title, line_chart(title, plot, lines, sheet.marks(log)), table(f"Numbers: {title}", lines, range_of(label))
    )


def _codebook_lines(series: Sequence[Thinned]) -> list[Line]:
    return [Line(f"codebook {index}", one, 1) for index, one in enumerate(series)]


def codebooks(sheet: Sheet) -> Markup:
    """Draw each codebook by itself, all on the same axes."""
    axis = axis_of(one for log in sheet.logs for one in (*log.train.losses, log.train.text_loss))
    parts = []
    for letter, log in zip(sheet.letters, sheet.logs, strict=True):
        for title, values, first, series in (
            ("loss (nats)", axis, log.train.text_loss, log.train.losses),
            ("predicted right", SHARES, log.train.text_accuracy, log.train.accuracies),
        ):
            lines = [Line("text", first, 2), *_codebook_lines(series)]
            plot = Plot(SMALL, sheet.steps, values)
            panels = tag("div", *(panel(line.name, plot, line.series, line.style) for line in lines), class_="panels")
            whole = f"{letter}Text and each codebook: {title}"
            parts.append(
                figure(whole, panels, table(f"Numbers: {whole}", lines, range_of(share if values.is_share else number)))
            )
    return columns(parts)


def heat(sheet: Sheet) -> Markup:
    """Draw the heat strips."""
    axis = axis_of((one for log in sheet.logs for one in log.train.losses), from_zero=False)
    parts: list[Markup] = []
    for letter, log in zip(sheet.letters, sheet.logs, strict=True):
        if log.train.losses:
            parts += _strips(letter, log, axis)
    return columns(parts)


def _strips(letter: str, log: Gathered, axis: Axis) -> list[Markup]:
    found = []
    for title, values, series in (
        ("predicted right", SHARES, log.train.accuracies),
        ("loss (nats)", axis, log.train.losses),
    ):
        lines, whole = _codebook_lines(series), f"{letter}Codebook by step: {title}"
        label: Callable[[float | None], str] = share if values.is_share else number
        cell = partial(_mean, label=label)
        note = tag("p", caption_of(series[0].buckets), class_="note")
        found.append(figure(whole, strip(whole, lines, values), note, table(f"Numbers: {whole}", lines, cell)))
    return found


def _mean(bucket: object, *, label: Callable[[float | None], str]) -> str:
    return label(bucket.mean)  # type: ignore[attr-defined]


def diagnoses(sheet: Sheet) -> Markup:
    """Draw the diagnoses on the axis of steps, and say them."""
    parts = []
    for letter, log in zip(sheet.letters, sheet.logs, strict=True):
        if not log.diagnoses:
            parts.append(figure(f"{letter}Diagnoses", tag("p", "The training recorded none.")))
            continue
        total = log.severities.total()
        more = None
        if total > len(log.diagnoses):
            more = tag(
                "p",
                f"{total - len(log.diagnoses):,} more are left out; the worst are kept. `diagnose` says all.",
                class_="note",
            )
        parts.append(
            figure(f"{letter}Diagnoses by step", timeline(log.diagnoses, sheet.steps), listed(log.diagnoses), more)
        )
    return columns(parts) if len(sheet.logs) > 1 else joined(parts)


def samples(sheet: Sheet) -> Markup:
    """Follow samples."""
    parts = []
    for letter, log in zip(sheet.letters, sheet.logs, strict=True):
        title = tag("h3", f"{letter}{log.name}") if letter else None
        parts.append(tag("div", title, followed(log.follower)))
    return columns(parts) if len(sheet.logs) > 1 else joined(parts)


def cost(sheet: Sheet) -> Markup:
    """Say and draw what logging cost."""
    axis = axis_of(one for log in sheet.logs for one in (log.train_times()))
    parts = []
    for letter, log in zip(sheet.letters, sheet.logs, strict=True):
        lines = [Line("step", log.step_ms, 0), Line("of which logging", log.logging_ms, 1)]
        title = f"{letter}Time of a logged step (ms)"
        chart = _chart(title, Sheet(sheet.logs), log, axis, lines)
        parts.append(tag("div", tag("p", _cost_in_words(letter, log)), chart))
    return columns(parts)


def _cost_in_words(letter: str, log: Gathered) -> str:
    if not log.step_ms_total:
        return f"{letter}the log has no times."
    part = share(log.logging_ms_total / log.step_ms_total)
    words = f"{letter}{number(log.logging_ms_total)} ms of {number(log.step_ms_total)} ms in the logged steps ({part})"
    if log.end is not None and log.end.logging_ms_total is not None:
        words += f"; {number(log.end.logging_ms_total)} ms in all"
    return f"{words}."


def settings(sheet: Sheet) -> Markup:
    """Draw learning rate and gradient norm."""
    parts = []
    for name, of in (
        ("Learning rate", lambda log: log.learning_rate),
        ("Gradient norm before clipping", lambda log: log.grad_norm),
    ):
        axis = axis_of(of(log) for log in sheet.logs)
        parts += [
            _chart(f"{letter}{name}", sheet, log, axis, [Line(name.lower(), of(log), 0)])
            for letter, log in zip(sheet.letters, sheet.logs, strict=True)
        ]
    return columns(parts)


def left_out(sheet: Sheet) -> Markup:
    """Say what was thinned, and what could not be read."""
    items = [item for letter, log in zip(sheet.letters, sheet.logs, strict=True) for item in _left_out(letter, log)]
    return tag("ul", *(tag("li", item) for item in items))


def _left_out(letter: str, log: Gathered) -> list[str]:
    each = log.train.loss.values_each
    items = [f"{letter}{log.events:,} events were read, {log.train.steps:,} of them logged steps."]
    if each > 1:
        items.append(
            f"{letter}Each column of a chart stands for up to {each:,} neighbouring logged steps: the lowest and the highest value of "
            "each are drawn, so that no spike is lost; what lies between them is left out."
        )
    else:
        items.append(f"{letter}Every logged step is drawn.")
    if log.train.codebooks > MOST_CODEBOOKS:
        items.append(
            f"{letter}{log.train.codebooks - MOST_CODEBOOKS:,} codebooks beyond {MOST_CODEBOOKS} are left out."
        )
    if log.faults:
        items.append(f"{letter}{log.faults:,} damaged lines were passed over; `validate` says which.")
    if log.lost:
        items.append(f"{letter}{log.lost:,} events were lost by a sink that failed, as it says itself.")
    if log.full:
        items.append(f"{letter}The log was full before the run ended: what came later is not in it.")
    return items
