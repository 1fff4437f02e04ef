"""Rules between the values of a `train_step` or an `eval_result`, which `extraction/loss_sums` fulfils for every batch.

Each rule takes a line and the `run_start`, and yields the inconsistent fields of the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isclose

from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.sample_rules import LEAST_LOSS, Rule, at_least_0

_TOLERANCE = 1e-4  # relative; losses may be summed in float32
_Rules = tuple[tuple[tuple[str, ...], Rule], ...]  # each rule with its fields


def _codebooks(record: Record, start: Record) -> Iterator[InvalidField]:
    losses, accuracies = record["audio_loss_per_codebook"], record["audio_accuracy_per_codebook"]
    expected = int_field(start, "num_codebooks")
    if expected is not None and len(losses) != expected:
        yield InvalidField(
            "$.audio_loss_per_codebook", f"{expected} items, num_codebooks of run_start", str(len(losses))
        )
    elif len(accuracies) != len(losses):
        yield InvalidField(
            "$.audio_accuracy_per_codebook",
            f"{len(losses)} items, as many as audio_loss_per_codebook",
            str(len(accuracies)),
        )


def _audio_loss(record: Record, _start: Record) -> Iterator[InvalidField]:
    losses = record["audio_loss_per_codebook"]
    yield from _not_close(
        record, "audio_loss", sum(losses) / len(losses) if losses else 0.0, "the mean of the codebooks"
    )


def _total_loss(record: Record, start: Record) -> Iterator[InvalidField]:
    config = start.get("config")
    weight = config.get("text_loss_weight") if isinstance(config, dict) else None
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        total = weight * record["text_loss"] + record["audio_loss"]
        yield from _not_close(record, "loss", total, "text_loss x text_loss_weight + audio_loss")


def _parts_of_step(record: Record, _start: Record) -> Iterator[InvalidField]:
    for name in ("logging_ms", "data_wait_ms"):
        if (record.get(name) or 0) > record["step_ms"]:
            yield InvalidField(f"$.{name}", f"at most step_ms, {record['step_ms']:g}", repr(record[name]))


def _rank_times(record: Record, _start: Record) -> Iterator[InvalidField]:
    longest, median = record["step_ms_max"], record["step_ms_median"]
    if (longest is None) != (median is None):
        yield InvalidField("$.step_ms_median", "null exactly if step_ms_max is null", repr(median))
    elif longest is not None and median > longest:
        yield InvalidField("$.step_ms_median", f"at most step_ms_max, {longest}", repr(median))


def _ranks(record: Record, start: Record) -> Iterator[InvalidField]:
    rank, ranks = record["slowest_rank"], int_field(start, "world_size")
    if rank is not None and ranks is not None and rank >= ranks:
        yield InvalidField("$.slowest_rank", f"less than world_size of run_start, {ranks}", str(rank))


def _not_close(record: Record, name: str, expected: float, formula: str) -> Iterator[InvalidField]:
    if not isclose(record[name], expected, rel_tol=_TOLERANCE, abs_tol=1e-9):
        yield InvalidField(f"$.{name}", f"{formula}, {expected:.6g}", repr(record[name]))


def _losses(record: Record, _start: Record) -> Iterator[InvalidField]:
    names = "text_loss", "audio_loss_per_codebook"
    yield from _outside(record, *names, LEAST_LOSS, inf, "a cross-entropy, at least 0")


def _accuracies(record: Record, _start: Record) -> Iterator[InvalidField]:
    yield from _outside(record, "text_accuracy", "audio_accuracy_per_codebook", 0, 1, "a share from 0 to 1")


def _outside(
    record: Record, name: str, of_codebooks: str, least: float, most: float, expected: str
) -> Iterator[InvalidField]:
    for index, value in enumerate((record[name], *record[of_codebooks]), start=-1):
        if value is not None and not least <= value <= most:
            yield InvalidField(f"$.{name}" if index < 0 else f"$.{of_codebooks}[{index}]", expected, repr(value))


def _text_targets(record: Record, _start: Record) -> Iterator[InvalidField]:
    targets = record["text_targets"]
    yield from _null_without("text_accuracy", record["text_accuracy"], targets, "text_targets")
    if not targets and record["text_loss"]:
        yield InvalidField("$.text_loss", "0 because text_targets is 0", repr(record["text_loss"]))


def _audio_targets(record: Record, _start: Record) -> Iterator[InvalidField]:
    accuracies = record["audio_accuracy_per_codebook"]
    supervised, targets = len(accuracies) - accuracies.count(None), record["audio_targets"]
    if targets < supervised or (targets and not supervised):
        expected = f"at least one for each of {supervised} codebooks with an accuracy" if supervised else "0"
        yield InvalidField("$.audio_targets", expected, str(targets))
    for index, (loss, accuracy) in enumerate(zip(record["audio_loss_per_codebook"], accuracies, strict=False)):
        if accuracy is None and loss:
            yield InvalidField(f"$.audio_loss_per_codebook[{index}]", "0 because the accuracy is null", repr(loss))


def _null_without(name: str, value: float | None, targets: int, count: str) -> Iterator[InvalidField]:
    if value is None and targets:
        yield InvalidField(f"$.{name}", f"a number because {count} is {targets}", "null")
    elif value is not None and not targets:
        yield InvalidField(f"$.{name}", f"null because {count} is 0", repr(value))


_FIGURES: _Rules = (
    (("audio_loss_per_codebook", "audio_accuracy_per_codebook"), _codebooks),
    (("audio_loss", "audio_loss_per_codebook"), _audio_loss),
    (("loss", "text_loss", "audio_loss"), _total_loss),
    (("text_loss", "audio_loss_per_codebook"), _losses),
    (("text_accuracy", "audio_accuracy_per_codebook"), _accuracies),
    (("text_accuracy", "text_targets", "text_loss"), _text_targets),
    (("audio_accuracy_per_codebook", "audio_targets", "audio_loss_per_codebook"), _audio_targets),
    (("epoch",), at_least_0("epoch")),
)
#: Rules of each event, each with its fields.
FIGURE_RULES: dict[str, _Rules] = {
    "train_step": (
        *_FIGURES,
        (("learning_rate",), at_least_0("learning_rate")),
        (("grad_norm",), at_least_0("grad_norm")),
        (("step_ms", "logging_ms"), _parts_of_step),
        (("step_ms_max", "step_ms_median"), _rank_times),
        (("slowest_rank",), _ranks),
    ),
    "eval_result": _FIGURES,
}
