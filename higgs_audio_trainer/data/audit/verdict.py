"""What an audit means for the run: the level of its event, and the error of a strict run."""

from __future__ import annotations

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import DatasetAudit, DatasetFinding, FoundSample, Level


def level_of(audit: DatasetAudit) -> Level:
    """Return the level of an audit's event: that of the most severe finding.

    Example:
        >>> level_of(DatasetAudit(splits={}, findings=()))
        'info'
    """
    severities = {finding.severity for finding in audit.findings}
    return "error" if "error" in severities else "warning" if "warning" in severities else "info"


def strict_error(audit: DatasetAudit) -> UserError | None:
    """Return the error that ends a run with `--strict_data`. None if the audit has no finding of severity error.

    Example:
        >>> strict_error(DatasetAudit(splits={}, findings=())) is None
        True
    """
    errors = [finding for finding in audit.findings if finding.severity == "error"]
    if not errors:
        return None
    return UserError(
        "\n".join(
            (
                f"--strict_data: expected data without errors, got {', '.join(finding.code for finding in errors)}",
                *map(_line, errors),
                "Correct the data, or run without --strict_data.",
            )
        )
    )


def _line(finding: DatasetFinding) -> str:
    more = finding.count - len(finding.samples)
    names = "; ".join(map(_name, finding.samples)) + (f"; and {more:,} more" if more else "")
    samples = f"{finding.count:,} sample{'' if finding.count == 1 else 's'}"
    return f"{finding.code}: {samples}: {finding.message}: {names}"


def _name(sample: FoundSample) -> str:
    name = f"{sample.where} ({sample.id})" if sample.id else str(sample.where)
    return name + (f", {sample.detail}" if sample.detail else "")


def check_strictly(audit: DatasetAudit) -> None:
    """Check an audit as `--strict_data` does.

    Raises:
        UserError: The audit has a finding of severity error.
    """
    if (error := strict_error(audit)) is not None:
        raise error
