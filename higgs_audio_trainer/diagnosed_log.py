"""The training checks over a finished log. Connects the reader of logs and the checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser, ReportedFinding
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import Diagnosis, RunStart
from higgs_audio_trainer.logs.lines import LogLine, OnProblem, ignore_problem, int_field
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.reader import marked_lines
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.runs import selected
from higgs_audio_trainer.logs.typed import Logged


@dataclass(slots=True)
class DiagnosedLog:
    """Findings of a log and the amount of data behind the findings.

    Attributes:
        findings: Worst diagnosis of each problem with its statistics, sorted by first step.
        steps: Number of logged steps.
        evaluations: Number of evaluations.
        has_counts: Whether the log has `token_counts`, which some checks need.

    Example:
        >>> DiagnosedLog(steps=3).has_findings
        False
    """

    findings: list[tuple[Diagnosis, ReportedFinding]] = field(default_factory=list)
    steps: int = 0
    evaluations: int = 0
    has_counts: bool = False

    @property
    def has_findings(self) -> bool:
        """Return True if a finding is worse than a note."""
        return any(diagnosis.severity != "note" for diagnosis, _ in self.findings)


def diagnose(
    *paths: str | Path,
    run: str | None = None,
    on_problem: OnProblem | None = None,
    on_notice: OnNotice | None = None,
) -> DiagnosedLog:
    r"""Run the training checks over the log of one run. The same checks run during a training.

    Args:
        paths: Paths as for `read`, of the log of one run.
        run: Id of the run to check, or the beginning of the id. By default the run that began last.
        on_problem: Receives each invalid line. Without `on_problem`, invalid lines are skipped.
        on_notice: Receives each message about the log, as for `read`.

    Raises:
        UserError: The paths hold no log, several logs, or a log without logged steps of this version.

    Example:
        >>> import json
        >>> from tempfile import TemporaryDirectory
        >>> step = {"event": "train_step", "v": 1, "rank": 0, "level": "info", "step": 10, "epoch": 1.0, "loss": None}
        >>> step |= {"text_loss": 0.5, "audio_loss": None, "audio_loss_per_codebook": [None], "text_accuracy": 0.9}
        >>> step |= {"audio_accuracy_per_codebook": [0.1], "text_targets": 9, "audio_targets": 9, "learning_rate": 1e-4}
        >>> step |= {"grad_norm": None, "step_ms": 9.0, "logging_ms": 1.0, "nonfinite": ["loss"]}
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "rank00000-attempt000.jsonl"
        ...     _ = path.write_text(json.dumps(step) + "\n")
        ...     diagnosed = diagnose(folder)
        >>> [(diagnosis.code, diagnosis.severity) for diagnosis, _ in diagnosed.findings], diagnosed.steps
        ([('non_finite', 'error')], 1)
    """
    named = ", ".join(map(str, paths))
    logs = selected(paths, run, on_notice, needs_known=True)
    if len(logs) != 1:
        raise UserError(f"{named}: expected the log of one run, got {len(logs)}. Name one of them")
    diagnosed, diagnoser = DiagnosedLog(), Diagnoser()
    worst: dict[tuple[str, str | None, int | None], Diagnosis] = {}
    lines = marked_lines(logs[0], on_problem or ignore_problem)
    for part in logged_steps(_events(lines, diagnoser)):
        if isinstance(part, RunStart):
            diagnoser.start(part)
            continue
        diagnosed.steps += part.train is not None
        diagnosed.evaluations += part.evaluation is not None
        diagnosed.has_counts |= bool(part.counts)
        worst |= {(event.code, event.modality, event.codebook): event for event in diagnoser.check(part)}
    if not diagnosed.steps + diagnosed.evaluations:
        raise UserError(
            f"{named}: expected the log of a training, got no train_step and no eval_result. Name a run's folder"
        )
    findings = [(worst[key], reported) for key, reported in diagnoser.reported.items()]
    diagnosed.findings = sorted(findings, key=lambda item: item[1].first_step)
    return diagnosed


def _events(lines: Iterable[tuple[LogLine, bool]], diagnoser: Diagnoser) -> Iterator[Logged]:
    """Yield the events that count. The diagnoser begins each earlier attempt of the first rank too, in their order."""
    rank: int | None = None
    for line, is_current in lines:
        if isinstance(line.event, RunStart):
            of_line = int_field(line.record, "rank")
            rank = of_line if rank is None else rank
            if of_line == rank and not is_current:
                diagnoser.start(line.event)
        if is_current:
            yield line.event
