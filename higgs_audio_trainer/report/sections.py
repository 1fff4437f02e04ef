"""The sections of the page: what is drawn of one log or of two beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from higgs_audio_trainer.report.chart import SMALL, WIDE, Line, Mark, Plot, line_chart, panel, range_of, table
from higgs_audio_trainer.report.gather import MOST_CODEBOOKS, Figures, Gathered
from higgs_audio_trainer.report.heat import caption_of, strip
from higgs_audio_trainer.report.markup import Markup, joined, tag
from higgs_audio_trainer.report.samples import Log, followed
from higgs_audio_trainer.report.scale import SHARES, Axis, axis_of, number, share, steps_of
from higgs_audio_trainer.report.thinning import Bucket, Thinned
from higgs_audio_trainer.report.timeline import listed, timeline


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the sections are made of.

    Attributes:
        logs: one or two.
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


def curves(sheet: Sheet) -> Markup:
    """Draw losses and accuracies over steps, and those of evaluations."""
    both = [figures for log in sheet.logs for figures in (log.train, log.evaluation)]
    axis = axis_of(one for figures in both for one in (figures.loss, figures.text_loss, figures.audio_loss))
    parts: list[Markup] = []
    for of_evaluations, what in ((False, ""), (True, " of evaluations")):
        for title, values, lines in (("Loss", axis, _loss_lines), ("Predicted right", SHARES, _accuracy_lines)):
            for letter, log in zip(sheet.letters, sheet.logs, strict=True):
                figures = log.evaluation if of_evaluations else log.train
                unit = "" if values.is_share else " (nats)"
                if figures.steps:
                    parts.append(_chart(f"{letter}{title}{what}{unit}", sheet, log, values, lines(figures)))
    return columns(parts)


def _loss_lines(figures: Figures) -> list[Line]:
    lines = Line("total", figures.loss, 0), Line("audio", figures.audio_loss, 1), Line("text", figures.text_loss, 2)
    return [line for line in lines if not line.series.is_empty]


def _accuracy_lines(figures: Figures) -> list[Line]:
    lines = Line("audio", figures.audio_accuracy, 1), Line("text", figures.text_accuracy, 2)
    return [line for line in lines if not line.series.is_empty]


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
    for title, values, lines_of in (("loss (nats)", axis, _losses), ("predicted right", SHARES, _accuracies)):
        for letter, log in zip(sheet.letters, sheet.logs, strict=True):
            lines, plot = lines_of(log.train), Plot(SMALL, sheet.steps, values)
            panels = tag("div", *(panel(line.name, plot, line.series, line.style) for line in lines), class_="panels")
            whole = f"{letter}Text and each codebook: {title}"
            cell = range_of(share if values.is_share else number)
            parts.append(figure(whole, panels, table(f"Numbers: {whole}", lines, cell)))
    return columns(parts)


def _losses(figures: Figures) -> list[Line]:
    text = [] if figures.text_loss.is_empty else [Line("text", figures.text_loss, 2)]
    return [*text, *_codebook_lines(figures.losses)]


def _accuracies(figures: Figures) -> list[Line]:
    text = [] if figures.text_accuracy.is_empty else [Line("text", figures.text_accuracy, 2)]
    return [*text, *_codebook_lines(figures.accuracies)]


def heat(sheet: Sheet) -> Markup:
    """Draw the heat strips."""
    axis = axis_of((one for log in sheet.logs for one in log.train.losses), from_zero=False)
    parts: list[Markup] = []
    for title, values in (("predicted right", SHARES), ("loss (nats)", axis)):
        for letter, log in zip(sheet.letters, sheet.logs, strict=True):
            series = log.train.accuracies if values.is_share else log.train.losses
            if series:
                parts.append(_strip(f"{letter}Codebook by step: {title}", series, values))
    return columns(parts)


def _strip(title: str, series: Sequence[Thinned], values: Axis) -> Markup:
    lines = _codebook_lines(series)
    cell = partial(_mean, label=share if values.is_share else number)
    note = tag("p", caption_of(series[0].buckets), class_="note")
    return figure(title, strip(title, lines, values), note, table(f"Numbers: {title}", lines, cell))


def _mean(bucket: Bucket, *, label: Callable[[float | None], str]) -> str:
    return label(bucket.mean)


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
                f"{total - len(log.diagnoses):,} more are left out; the worst are kept. the command diagnose says all.",
                class_="note",
            )
        parts.append(
            figure(f"{letter}Diagnoses by step", timeline(log.diagnoses, sheet.steps), listed(log.diagnoses), more)
        )
    return columns(parts) if len(sheet.logs) > 1 else joined(parts)


def samples(sheet: Sheet) -> Markup:
    """Follow samples; of two logs the same sample below each other."""
    logs = zip(sheet.letters, sheet.logs, strict=True)
    return followed([Log(letter, log.follower, log.folder) for letter, log in logs])


def cost(sheet: Sheet) -> Markup:
    """Say and draw what logging cost."""
    axis = axis_of(one for log in sheet.logs for one in (log.step_ms, log.logging_ms))
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
    for name, series in (
        ("Learning rate", [log.learning_rate for log in sheet.logs]),
        ("Gradient norm before clipping", [log.grad_norm for log in sheet.logs]),
    ):
        axis = axis_of(series)
        parts += [
            _chart(f"{letter}{name}", sheet, log, axis, [Line(name.lower(), one, 0)])
            for letter, log, one in zip(sheet.letters, sheet.logs, series, strict=True)
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
            f"{letter}Each point of a chart stands for up to {each:,} neighbouring logged steps. Of these the lowest "
            "and the highest value are drawn, so that no spike is lost; what lies between them is left out."
        )
    else:
        items.append(f"{letter}Every logged step is drawn.")
    if log.train.codebooks > MOST_CODEBOOKS:
        items.append(
            f"{letter}{log.train.codebooks - MOST_CODEBOOKS:,} codebooks beyond {MOST_CODEBOOKS} are left out."
        )
    if log.faults:
        lines = "1 damaged line was" if log.faults == 1 else f"{log.faults:,} damaged lines were"
        items.append(f"{letter}{lines} passed over; the command validate says which.")
    if log.lost:
        items.append(f"{letter}{log.lost:,} events were lost by a sink that failed, as it says itself.")
    if log.full:
        items.append(f"{letter}The log was full before the run ended: what came later is not in it.")
    return items
