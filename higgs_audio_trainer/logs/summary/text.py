"""Summary of a log as a screen of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from higgs_audio_trainer.events import SplitStatistics
from higgs_audio_trainer.logs.attempt_totals import duration_text, time_text
from higgs_audio_trainer.logs.gaps import Gap
from higgs_audio_trainer.logs.summary.bars import Glyphs, glyphs
from higgs_audio_trainer.logs.summary.figures import RunProblem, SplitMetrics, Summary
from higgs_audio_trainer.logs.summary.table import MetricRow, grid, table
from sinks.terminal.escape import printable
from sinks.terminal.fold import folded
from sinks.terminal.words import count_of

_MOST_ROWS = 12  # codebooks with a line each; more codebooks are shown side by side
_SCREEN = 40  # lines
_AROUND_GRID = 2  # lines for the heading and the number of hidden rows
_MOST_PROBLEMS, _MOST_GAPS = 5, 2
_MOST_SERIES = 3  # affected series shown for a problem
_LONGEST = 60  # characters of a string from a log
_MOST_SPLITS = 2
_LABEL = 9  # columns of the label


class _LabelledFacts(NamedTuple):
    """A line of facts with a label."""

    label: str
    text: str

    def lines(self, width: int) -> list[str]:
        """Return the facts, folded beside the label."""
        lines = folded(self.text, width - _LABEL).split("\n")
        return [f"{'' if index else self.label:<{_LABEL}}{line}" for index, line in enumerate(lines)]


def render_summary(summary: Summary, *, width: int, encoding: str) -> str:
    """Render a summary in at most 40 lines at 60 columns or more, without the last newline.

    Args:
        summary: The summary.
        width: Width in columns; longer lines are folded.
        encoding: Name of an existing codec. Without Unicode blocks in the encoding, bars are drawn in ASCII.
    """
    before = [line for entry in opening(summary) for line in entry.lines(width)]
    after = [line for entry in closing(summary) for line in entry.lines(width)]
    room = _SCREEN - len(before) - len(after) - len(["", ""])
    figures = _figures(summary, width, room, glyphs(encoding))
    return "\n\n".join("\n".join(block) for block in (before, figures, after) if block)


def opening(summary: Summary) -> tuple[_LabelledFacts, ...]:
    """Return the facts before the losses and accuracies, each a label and a text that is safe on a terminal."""
    return (*_run(summary), _state(summary), *_steps(summary))


def closing(summary: Summary) -> tuple[_LabelledFacts, ...]:
    """Return the facts after the losses and accuracies. A fact without a label continues the fact before."""
    return (*_problems(summary.problems), *_gaps(summary.gaps), *_cost(summary))


def _line(label: str, *facts: str | None) -> _LabelledFacts:
    return _LabelledFacts(label, "; ".join(fact for fact in facts if fact))


def _text(value: Any) -> str:
    return printable(value if isinstance(value, str) else str(value), longest=_LONGEST)


def _run(summary: Summary) -> Iterator[_LabelledFacts]:
    start: Any = summary.start
    if start is None:
        yield _line("log", printable(str(summary.path)), count_of(summary.events, "event"), "no run_start")
        yield from _prepared(summary)
        return
    yield _line(
        "run",
        None if start.run_id is None else _text(start.run_id),
        f"{count_of(start.world_size, 'process', 'processes')} on {_text(start.device)}",
        f"seed {start.seed}",
    )
    yield _line("log", printable(str(summary.path)), count_of(summary.events, "event") + _attempts(summary))
    yield _line(
        "data",
        f"{count_of(start.num_train_samples, 'training sample')}, {start.num_eval_samples:,} for evaluation",
        count_of(start.num_codebooks, "codebook"),
    )
    yield from _prepared(summary)
    settings = _settings(start.config)
    if settings:
        yield _line("settings", *settings)


def _attempts(summary: Summary) -> str:
    """Return the number of attempts and the step of the last resume, for a log of several attempts."""
    begun, start = summary.attempts.begun, summary.start
    if start is None or (len(begun) < 2 and not summary.attempt):  # noqa: PLR2004 - one attempt needs no words
        return ""
    is_one = len(begun) == 1
    count = f" of attempt {summary.attempt}" if is_one else f" of {count_of(len(begun), 'attempt')}"
    resumed = start.resumed_from_step
    return count if resumed is None else f"{count}, {'' if is_one else 'the last '}resumed from step {resumed:,}"


def _prepared(summary: Summary) -> Iterator[_LabelledFacts]:
    """Yield the audio of each split, and the progress of a preparation that no training has followed."""
    if summary.audit is not None:
        facts = [f"{_text(split)}{_audio(of_split)}" for split, of_split in summary.audit.splits.items()]
        yield _line("audio", *facts[:_MOST_SPLITS])
    if summary.progress is not None and summary.start is None:
        done = summary.progress
        left = f", {done.seconds_left:,.0f} s left" if done.seconds_left is not None else ""
        yield _line("prepare", f"{done.stage}: {done.clips_done:,} of {done.clips_total:,} clips{left}")


def _audio(split: SplitStatistics) -> str:
    hours = "" if split.audio_hours is None else f" {split.audio_hours:,.2f} h"
    speakers = "" if split.speakers is None else f" of {count_of(split.speakers, 'speaker')}"
    return f"{hours}{speakers} in {count_of(split.samples, 'sample')}"


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the most important settings."""
    known = {
        name: f"{value:g}" if isinstance(value, float) else _text(value)
        for name, value in config.items()
        if isinstance(value, (int, float, str))
    }
    if "lr" in known:
        yield f"lr {known['lr']}"
    if "batch_size" in known:
        yield f"batch {known['batch_size']}" + (f" x {known['grad_accum']}" if "grad_accum" in known else "")
    if known.get("max_steps", "-1") != "-1":
        yield f"at most {known['max_steps']} steps"
    elif "epochs" in known:
        yield f"{known['epochs']} epochs"
    if config.get("full_finetune"):
        yield "full fine-tuning"
    elif "lora_r" in known:
        yield f"LoRA rank {known['lora_r']}"
    if "dtype" in known:
        yield known["dtype"]


def _state(summary: Summary) -> _LabelledFacts:
    end, attempts = summary.end, summary.attempts
    begun = None if attempts.first_ts is None else f"begun {_text(time_text(attempts.first_ts))}"
    if end is None:
        last = None if attempts.last_ts is None else f"last event at {_text(time_text(attempts.last_ts))}"
        return _line("state", "no run_end: killed, or still running", begun, last)
    total = None if summary.start is None else summary.start.total_steps
    step = f"step {end.step:,}" if total is None else f"step {end.step:,} of {total:,}"
    ran = None if attempts.duration_s is None else f"ran {duration_text(attempts.duration_s)}"
    if end.reason == "completed":
        return _line("state", f"completed at {step}", begun, ran)
    if end.reason.startswith("SIG"):
        return _line("state", f"stopped by {_text(end.reason)} at {step}", begun, ran)
    lost = f"lost: rank {', '.join(map(str, end.lost_ranks))}" if end.lost_ranks else None
    return _line("state", f"ended at {step}: {_text(end.reason)}", lost, begun, ran)


def _steps(summary: Summary) -> Iterator[_LabelledFacts]:
    training, evaluation = summary.training, summary.evaluation
    logged = f"{training.count:,} logged" + _span(training)
    evaluated = f"{count_of(evaluation.count, 'evaluation')}{_span(evaluation)}" if evaluation.count else None
    yield _line("steps", logged, evaluated)
    if facts := list(summary.speech.facts()):
        yield _line("voice", *facts)


def _span(figures: SplitMetrics) -> str:
    if figures.first_step is None or figures.last_step is None:
        return ""
    if figures.first_step == figures.last_step:
        return f", step {figures.first_step:,}"
    return f", {figures.first_step:,} to {figures.last_step:,}"


def _figures(summary: Summary, width: int, room: int, drawn: Glyphs) -> list[str]:
    """Return the lines of losses and accuracies, fitted to the remaining lines of the screen if possible."""
    rows, codebooks, evaluations = metric_rows(summary)
    if not rows and not evaluations:
        return []
    whole = table([*rows, *codebooks, *evaluations], width, drawn)
    if not codebooks or (len(codebooks) <= _MOST_ROWS and len(whole) <= room):
        return whole
    upper = [*table([*rows, *evaluations], width, drawn), "codebooks: loss, then accuracy"]
    numbered = [row._replace(name=row.name.removeprefix("codebook ")) for row in codebooks]
    return [*upper, *grid(numbered, width, max(1, room - len(upper) - _AROUND_GRID), drawn)]


def metric_rows(summary: Summary) -> tuple[list[MetricRow], list[MetricRow], list[MetricRow]]:
    """Return the rows of the training, of its codebooks, and of the evaluations."""
    training, evaluation = summary.training, summary.evaluation
    trained = None if summary.start is None else summary.start.modalities
    names = ("total", *(trained or ("text", "audio")))
    codebooks = _rows(training, *(name for name in training.losses if name.startswith("codebook ")))
    evaluations = [MetricRow(f"eval {name}", *figures) for name, *figures in _rows(evaluation, *names)]
    return list(_rows(training, *names)), list(codebooks), evaluations


def _rows(figures: SplitMetrics, *names: str) -> Iterator[MetricRow]:
    for name in names:
        if name in figures.losses:
            yield MetricRow(name, figures.losses[name], figures.accuracies.get(name))


def _problems(problems: Sequence[RunProblem]) -> Iterator[_LabelledFacts]:
    if not problems:
        yield _line("problems", "none")
    label = "problems"
    for problem in problems[:_MOST_PROBLEMS]:
        place = "" if problem.first_step is None else f", first at step {problem.first_step:,}"
        name = f"{_text(problem.name)}{_about(problem.about)}"
        yield _line(label, f"{problem.severity}: {name}, {count_of(problem.count, 'time')}{place}")
        label = ""
    if len(problems) > _MOST_PROBLEMS:
        yield _line("", f"... and {len(problems) - _MOST_PROBLEMS:,} more kinds")


def _about(series: Sequence[str]) -> str:
    shown = [*map(_text, series[:_MOST_SERIES]), *(["..."] if len(series) > _MOST_SERIES else [])]
    return f" ({', '.join(shown)})" if shown else ""


def _gaps(gaps: Sequence[Gap] | None) -> Iterator[_LabelledFacts]:
    if gaps is None:
        yield _line("gaps", "n/a: the events have no seq")
        return
    unexplained = [gap for gap in gaps if gap.explained_by is None]
    explained = sum(gap.count for gap in gaps) - sum(gap.count for gap in unexplained)
    if not gaps:
        yield _line("gaps", "none")
    if explained:
        reasons = " and ".join(sorted({gap.explained_by for gap in gaps if gap.explained_by}))
        yield _line("gaps", f"{count_of(explained, 'missing event')}, explained by {reasons}")
    if unexplained:
        places = [_place(gap) for gap in unexplained[:_MOST_GAPS]]
        more = f" and {count_of(len(unexplained) - _MOST_GAPS, 'more gap')}" if len(unexplained) > _MOST_GAPS else ""
        missing = count_of(sum(gap.count for gap in unexplained), "missing event")
        yield _line("" if explained else "gaps", f"{missing} without an explanation: {', '.join(places)}{more}")


def _place(gap: Gap) -> str:
    numbers = f"{gap.first_seq:,}" if gap.count == 1 else f"{gap.first_seq:,} to {gap.last_seq:,}"
    return f"seq {numbers} of rank {gap.rank}, attempt {gap.attempt}"


def _cost(summary: Summary) -> Iterator[_LabelledFacts]:
    cost, totals = summary.cost, summary.attempts
    label = "logging"
    if cost.step_ms is not None and cost.logging_ms is not None:
        share = f" ({cost.logging_ms / cost.step_ms:.2%})" if cost.step_ms > 0 else ""
        yield _line(label, f"{_ms(cost.logging_ms)} of {_ms(cost.step_ms)} in the logged steps{share}")
        label = ""
    facts = []
    if totals.logging_ms is not None:
        facts.append(f"{_ms(totals.logging_ms)} in all{'' if totals.events_lost is not None else totals.scope}")
    if totals.events_lost is not None:
        facts.append(f"{count_of(totals.events_lost, 'event')} lost{totals.scope}")
    if facts:
        yield _line(label, *facts)
    elif label:
        yield _line(label, "n/a: the log has no times")


def _ms(milliseconds: float) -> str:
    if milliseconds < 10_000:  # noqa: PLR2004 - ten seconds
        return f"{milliseconds:,.0f} ms"
    return f"{milliseconds / 1000:,.1f} s"
