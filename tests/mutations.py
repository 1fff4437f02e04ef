"""Mutated logs: lies about an honest log, and damage of its files.

A mutation changes the files of a log. `MUTATIONS` has the expected exit status of each reader, and a part of what
`validate` says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.damage import flipped_gzip, flipped_zstd, lines, packed, replaced_bytes, runs, stored
from tests.honest_log import Log
from tests.lies import (
    anonymous,
    as_train,
    cut_off,
    early_end,
    evaluated,
    exchanged_attempts,
    exchanged_steps,
    failed_evaluation,
    failed_rank,
    falling_delays,
    from_another_run,
    more_targets,
    moved_window,
    not_due,
    of_another_training,
    older_start,
    other,
    other_counts,
    other_input,
    other_label,
    other_manifest,
    other_rank_loss,
    other_step,
    ranks,
    renamed,
    segments,
    swapped_codebooks,
    swapped_contents,
    swapped_counts,
    wider_window,
    with_settings,
    with_start,
    without,
)


class Mutation(NamedTuple):
    """A mutation with the expected exit status of each reader.

    Attributes:
        change: Change of the records.
        statuses: Exit status of each of `tests.measured_readers.READERS`.
        says: Part of the finding or note of `validate`; empty for no finding and no note.
        damage: Change of the files.
    """

    change: Callable[[Log], None]
    statuses: str
    says: str = ""
    damage: Callable[[Path], None] = lambda _folder: None


def nothing(_log: Log) -> None:
    """Change nothing."""


#: Each mutation with the exit status of each reader. `diff` compares with the honest log.
MUTATIONS: dict[str, Mutation] = {
    "honest": Mutation(nothing, "000000000"),
    "label of a sample": Mutation(other_label, "001100000", "$.first.labels[3]: expected "),
    "label at the last step": Mutation(lambda log: other_label(log, 6), "001100000", "$.first.labels[3]: expected "),
    "input of a sample": Mutation(other_input, "001100000", "$.last.inputs[2]: expected "),
    "window moved": Mutation(moved_window, "001100000", "$.first.positions[0]: expected 20, as the same inputs"),
    "targets of a sample": Mutation(more_targets, "001100000", "$.num_targets: expected 12, as the same inputs"),
    "codebooks of two samples": Mutation(swapped_codebooks, "001100000", "where codebook 2 begins at"),
    "contents of two codebooks": Mutation(swapped_contents, "001100000", "where codebook 0 begins at"),
    "codebooks of two counts": Mutation(swapped_counts, "001100010", "num_targets x audio_accuracy_per_codebook[0]"),
    "targets of a step": Mutation(other_step(text_targets=25), "001100000", "$.num_targets: expected 25, text_targets"),
    "audio targets of a step": Mutation(other_step(audio_targets=97), "001100000", "expected 97 over all codebooks"),
    "accuracy of a step": Mutation(
        other_step(text_accuracy=0.5), "001100000", "$.num_correct: expected 12, num_targets"
    ),
    "correct slots of counts": Mutation(other_counts(num_correct=21), "001100000", "$.num_correct: expected 20"),
    "fewer counts than samples": Mutation(
        other_counts(stop_targets=1, stop_correct=1), "001100000", "$.stop_targets: expected at least 2, the sum"
    ),
    "label of another training": Mutation(
        of_another_training(other_label), "001000000", "note: $.first.labels[3]: expected "
    ),
    "window of another training": Mutation(
        of_another_training(moved_window), "001000000", "note: $.first.positions[0]: expected 20"
    ),
    "delays of another training": Mutation(
        of_another_training(falling_delays), "001000000", "where codebook 0 begins at"
    ),
    "another manifest": Mutation(other_manifest, "001000010", "note: $.first.labels[3]: expected "),
    "another window": Mutation(wider_window, "001000010"),
    "epoch of a sample": Mutation(other("prediction_sample", epoch=9.0), "001100000", "$.epoch: expected 3, as in"),
    "epoch of a step": Mutation(other("train_step", epoch=1e-3), "001100000", "$.epoch: expected 0.001, as in train"),
    "shape of a sample": Mutation(
        other("prediction_sample", logits_shape=[25, 1026], labels_shape=[25]),
        "001100000",
        "the shape of the same batch",
    ),
    "no sample of the step": Mutation(renamed, "001100000", "$.sample_id: expected a sample of train_step"),
    "samples of two steps": Mutation(exchanged_steps, "001100000", "$.epoch: expected "),
    "samples without their step": Mutation(as_train, "001100000", "$.split: expected train after a"),
    "steps that are not due": Mutation(not_due, "000100000", "1 or a multiple of log_steps, 2, got 3"),
    "more samples than chosen": Mutation(with_settings(log_samples=1), "000100000", "less than log_samples, 1"),
    "other codebooks than chosen": Mutation(with_settings(log_codebooks="0"), "000100000", "one of log_codebooks, 0"),
    "larger windows than chosen": Mutation(with_settings(log_window=4), "000100000", "4 slots, as log_window says"),
    "another vocabulary": Mutation(with_start(codebook_size=1030), "000100000", "codebook_size of run_start"),
    "another family": Mutation(with_start(family="higgs-tts-3"), "000100000", "of the same run"),
    "targets of an evaluation": Mutation(evaluated, "001100000", "$.text_targets: expected 40, as at "),
    "loss of a rank": Mutation(other_rank_loss, "001100000", "with the same sums of another rank"),
    "completed early": Mutation(early_end, "001100000", "at least 9, total_steps of run_start"),
    "events written": Mutation(
        lambda log: log[0, 1, 0][-1].update(events_written=3), "000100000", "because events_lost is 0, got 3"
    ),
    "time in the step": Mutation(other_step(logging_ms=1e6), "000100000", "$.logging_ms: expected at most step_ms"),
    "no attempt 0": Mutation(
        without((0, 0, 0)), "001100000", "$.resumed_from_step: expected steps 1 to 2 in files of attempt 0, got none"
    ),
    "failed extraction of a rank": Mutation(failed_rank, "001000010"),
    "failed evaluation of a rank": Mutation(failed_evaluation, "001000000"),
    "start of an older version": Mutation(older_start, "001000000"),
    "names of a processor": Mutation(anonymous, "001000010"),
    "codebooks with zeros": Mutation(with_settings(log_codebooks="00,01,02,03"), "000000000"),
    "attempts exchanged": Mutation(exchanged_attempts, "001000000", "the beginning of attempt 1, got 2026"),
    "checkpoint of another run": Mutation(from_another_run, "001000000", "note: $.resumed_from_step: expected steps 1"),
    "no attempts 0 and 1": Mutation(
        without((0, 0, 0), (0, 1, 0)), "001100000", "expected steps 1 to 4 in files of attempts 0 to 1, got none"
    ),
    "no attempt 1": Mutation(
        without((0, 1, 0)), "001100000", "$.resumed_from_step: expected steps 3 to 4 in files of attempt 1, got none"
    ),
    "no last attempt": Mutation(without((0, 2, 0)), "001000000"),
    "no end of attempt 1": Mutation(cut_off, "001000000", "note: $.resumed_from_step: expected step 4 of an earlier"),
    "no rank 1 of 4": Mutation(ranks((0, 2, 3)), "001100000", "$.rank: expected files of rank 1 in attempt 0"),
    "no rank 3 of 4": Mutation(ranks((0, 1, 2)), "001000000", "note: $.rank: expected files of rank 3 in attempt 0"),
    "every second rank": Mutation(ranks((0, 2)), "001000000", "note: $.rank: expected files of ranks 1, 3 in attempt"),
    "segments of keep": Mutation(segments((2, 3)), "001000000", "note: $.seq: expected seq 1 to"),
    "no segment that keep left": Mutation(segments((3,)), "001100000", "$: expected the last 2 segments, which keep=2"),
    "no first segment": Mutation(segments((1, 2, 3), "jsonl:max_bytes=1M"), "001100000", "and no event explains"),
    "no segment in the middle": Mutation(segments((0, 1, 3)), "001100000", "and no event explains the gap"),
    "gzip": Mutation(nothing, "000000000", "", replaced_bytes(stored)),
    "a bit of a gzip": Mutation(
        nothing, "001100000", "expected complete compressed data", replaced_bytes(flipped_gzip)
    ),
    "zstd": Mutation(nothing, "000000000", "", replaced_bytes(packed)),
    "a bit of a zstd": Mutation(
        nothing, "001100000", "expected complete compressed data", replaced_bytes(flipped_zstd)
    ),
    "zstd without a checksum": Mutation(
        nothing, "000000000", "note: $: expected a checksum", replaced_bytes(lambda c: packed(c, checksum=False))
    ),
    "torn line": Mutation(nothing, "000100000", "bytes that are not JSON", replaced_bytes(lambda c: c[:-9])),
    "line lost": Mutation(nothing, "001100000", "no event explains the gap", lines(lambda old: old[:5] + old[6:])),
    "line twice": Mutation(nothing, "000100000", "a repeated line", lines(lambda old: old[:6] + old[5:])),
    "lines swapped": Mutation(
        nothing, "000100000", "$.seq: expected more", lines(lambda old: [*old[:5], old[6], old[5], *old[7:]])
    ),
    "lines reversed": Mutation(nothing, "000100000", "$.seq: expected more", lines(lambda old: old[::-1])),
    "no run_end": Mutation(
        nothing, "001100000", "run_end as the last line", replaced_bytes(lambda c: c[: c.rindex(b"{")], 2)
    ),
    "empty file": Mutation(nothing, "001100000", "", replaced_bytes(lambda _: b"")),
    "zeros": Mutation(nothing, "000100000", "not JSON", replaced_bytes(lambda c: c + bytes(10_000))),
    "no JSON": Mutation(nothing, "001100000", "not JSON", replaced_bytes(lambda _: bytes(range(256)) * 40)),
    "UTF-16": Mutation(nothing, "001100000", "UTF-16", replaced_bytes(lambda c: c.decode().encode("utf-16"))),
    "NaN literal": Mutation(
        nothing, "001100000", "not JSON", replaced_bytes(lambda c: c.replace(b"1.23456", b"NaN", 1))
    ),
    "long line": Mutation(nothing, "000100000", "a line of at most", replaced_bytes(lambda c: c + b"x" * 2**21)),
    "renamed event": Mutation(
        nothing,
        "001100000",
        "$.event: expected one of",
        replaced_bytes(lambda c: c.replace(b'"token_counts"', b'"tokens"', 1)),
    ),
    "negative seq": Mutation(
        nothing, "000100000", "$.seq: expected", replaced_bytes(lambda c: c.replace(b'"seq":4,', b'"seq":-4,', 1))
    ),
    "another rank": Mutation(
        nothing, "001100000", "as in the file's name", replaced_bytes(lambda c: c.replace(b'"rank":0', b'"rank":5', 9))
    ),
    "spliced run": Mutation(
        nothing,
        "001100000",
        "another run",
        lines(lambda old: old[:20] + [each.replace(b"20260102", b"20270102") for each in old[20:]]),
    ),
    "a run a line": Mutation(
        nothing, "000120200", "at most 1,000 runs in a file", lines(lambda old: old + runs(2000, old[1]))
    ),
}
