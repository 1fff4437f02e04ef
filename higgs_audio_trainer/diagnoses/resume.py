"""Check of a resumed run for settings that differ from the settings of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from higgs_audio_trainer.diagnoses.finding import Check, Finding, make_finding
from higgs_audio_trainer.diagnoses.history import AttemptFacts, History
from higgs_audio_trainer.logged_step import LoggedStep

CODE = "resume_changed"
#: Changes that lengthen a run, or evaluate it otherwise. All others change how the model learns.
_MILD = frozenset({"max_steps", "eval_manifest", "num_train_epochs"})
#: Settings that decide which sample comes when.
_ORDER = frozenset(
    (
        *("train_manifest", "batch_size", "grad_accum", "world_size", "seed", "data_seed"),
        *("train_sampling_strategy", "dataloader_drop_last", "max_batch_seconds"),
    )
)


def resume_changed(logged: LoggedStep, history: History) -> Iterator[Finding]:
    """Find settings that a resumed run changed, at the first logged step after the resume.

    The finding names the changes of earlier resumes too, so that the last finding of a log is complete.
    """
    attempt = history.attempt_at(logged.step)
    last = max((event.step for event in (*history.steps[-1:], *history.evaluations[-1:])), default=0)
    if logged.train is None or not attempt.changes or last > attempt.start:
        return
    resumes = [one for one in history.attempts if one.start <= attempt.start and one.changes]
    yield make_finding(
        "resume_changed",
        "note" if all(one.changes.keys() <= _MILD for one in resumes) else "warning",
        f"{'; '.join(map(_described, resumes))}.",
        "What was learned before and what is learned now were trained otherwise.",
        "If that is not on purpose, resume from the checkpoint with its own settings.",
        evidence={"changes": {str(one.start): one.changes for one in resumes}},
    )


def _described(attempt: AttemptFacts) -> str:
    return f"changed since the checkpoint of step {attempt.start}: {changes_in_words(attempt.changes)}"


def changes_in_words(changes: Mapping[str, Any]) -> str:
    """Return changed settings as text, and the consequence for the order of the samples.

    Args:
        changes: [value then, value now] by the name of each setting.

    Example:
        >>> changes_in_words({"lr": [0.005, 1e-05]})
        '--lr: 0.005, now 1e-05'
        >>> changes_in_words({"max_steps": [4, 8]})
        '--max_steps: 4 steps, now 8, and the schedule with them'
    """
    parts = []
    for name, (before, now) in changes.items():
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            parts.append(f"--{name}: other samples ({before.get('samples')}, now {now.get('samples')})")
        elif name == "max_steps":
            parts.append(f"--{name}: {before} steps, now {now}, and the schedule with them")
        else:
            parts.append(f"--{name}: {before}, now {now}")
    order = ". Samples of the epoch in progress may come twice or not at all" if _ORDER & changes.keys() else ""
    return f"{'; '.join(parts)}{order}"


CHECKS: tuple[Check, ...] = (resume_changed,)
