"""Merging of findings that hold for every codebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from higgs_audio_trainer.diagnoses.finding import Finding, Severity


def per_codebook(findings: Iterable[Finding], num_codebooks: int | None) -> Iterator[Finding]:
    """Merge the findings of one code and severity into a single finding where all codebooks share them.

    Args:
        findings: At most one finding of each code, severity and codebook. Findings without a codebook pass unchanged.
        num_codebooks: Number of codebooks K. With None, nothing is merged.

    Yields:
        Findings in their order. A merged finding takes the place of its first codebook's finding. Its codebook is None,
        its message quotes codebook 0, and each field of its evidence is the list of the codebooks' values, [K], in the
        order of `evidence["codebooks"]`.

    Example:
        >>> dead = [Finding(code="x", severity="note", message=f"codebook {k}: bad", codebook=k) for k in range(2)]
        >>> [finding.message for finding in per_codebook(dead, 2)]
        ['in all 2 codebooks; for example, codebook 0: bad']
        >>> [finding.message for finding in per_codebook(dead, 8)]
        ['codebook 0: bad', 'codebook 1: bad']
    """
    groups: dict[tuple[str, Severity, int | None], list[Finding]] = {}
    for index, finding in enumerate(findings):
        own = index if finding.codebook is None else None  # never shared
        groups.setdefault((finding.code, finding.severity, own), []).append(finding)
    for group in groups.values():
        codebooks = sorted(finding.codebook for finding in group if finding.codebook is not None)
        if len(group) > 1 and len(group) == num_codebooks and codebooks == list(range(num_codebooks)):
            yield _merged(group)
        else:
            yield from group


def _merged(group: Sequence[Finding]) -> Finding:
    group = sorted(group, key=lambda finding: finding.codebook or 0)
    names = dict.fromkeys(name for finding in group for name in finding.evidence)
    evidence = {name: [finding.evidence.get(name) for finding in group] for name in names}
    return replace(
        group[0],
        message=f"in all {len(group)} codebooks; for example, {group[0].message}",
        evidence={"codebooks": [finding.codebook for finding in group], **evidence},
        codebook=None,
    )
