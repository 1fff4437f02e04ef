"""Says once what holds for every codebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from higgs_audio_trainer.diagnoses.finding import Finding, Severity


def per_codebook(findings: Iterable[Finding], num_codebooks: int | None) -> Iterator[Finding]:
    """Fold the findings of one code and severity that all codebooks share into one.

    Args:
        findings: at most one of each code, severity and codebook. Those without a codebook pass as they are.
        num_codebooks: K; None where it is not known, and nothing is folded.

    Yields:
        The findings in order. A folded one stands where the first of its codebooks stood. Its codebook is None, its
        message quotes that first one, and each field of its evidence is the list of the codebooks' values, [K], in the
        order of `evidence["codebooks"]`.
    """
    groups: dict[tuple[str, Severity, int | None], list[Finding]] = {}
    for index, finding in enumerate(findings):
        own = index if finding.codebook is None else None  # never shared
        groups.setdefault((finding.code, finding.severity, own), []).append(finding)
    for group in groups.values():
        codebooks = sorted(finding.codebook for finding in group if finding.codebook is not None)
        if len(group) > 1 and len(group) == num_codebooks and codebooks == list(range(num_codebooks)):
            yield _folded(group)
        else:
            yield from group


def _folded(group: Sequence[Finding]) -> Finding:
    group = sorted(group, key=lambda finding: finding.codebook or 0)
    names = dict.fromkeys(name for finding in group for name in finding.evidence)
    evidence = {name: [finding.evidence.get(name) for finding in group] for name in names}
    message = f"in all {len(group)} codebooks; for example, {group[0].message}"
    return replace(
        group[0],
        message=message,
        evidence={"codebooks": [finding.codebook for finding in group], **evidence},
        codebook=None,
    )
