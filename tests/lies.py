"""Lies about an honest log: changes of its records, and missing files. Each lie changes a `Log` in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.builders import eval_result, record_of
from tests.honest_log import CODEBOOKS, CONFIG, SLOTS, Log, Record, attempt_of, step_of

# Lies about samples and counts


def events(log: Log, step: int, name: str, **match: Any) -> Iterator[Record]:
    """Yield the records of a step that match."""
    for records in log.values():
        for record in records:
            wanted = {"step": step, "event": name, **match}
            if all(record.get(key) == value for key, value in wanted.items()):
                yield record


def sample(log: Log, step: int = 3, *, codebook: int | None = 1) -> Record:
    """Return an event of the first sample."""
    return next(events(log, step, "prediction_sample", sample_index=0, codebook=codebook))


def other_label(log: Log, step: int = 3) -> None:
    """Change a label, with its prediction, so that all counts stay."""
    first = sample(log, step)["first"]
    first["labels"][3] += 1
    first["predictions"][3] += 1


def other_input(log: Log) -> None:
    """Change an input token."""
    sample(log)["last"]["inputs"][2] += 1


def moved_window(log: Log) -> None:
    """Move the windows of all codebooks of a sample by one."""
    for record in events(log, 3, "prediction_sample", sample_index=0):
        for name in ("first", "last"):
            record[name]["positions"] = [position + 1 for position in record[name]["positions"]]


def more_targets(log: Log) -> None:
    """Add a target to a sample, with a prediction that fits every rule of the line."""
    record = sample(log)
    record |= {"num_targets": SLOTS + 1, "num_correct": record["num_correct"] + 1}
    record["accuracy"] = record["num_correct"] / record["num_targets"]


def swapped_codebooks(log: Log) -> None:
    """Swap the codebooks of two events of a sample."""
    one, other = sample(log, codebook=0), sample(log, codebook=2)
    one["codebook"], other["codebook"] = 2, 0


def swapped_contents(log: Log) -> None:
    """Swap the contents of two codebooks of a sample, at every step, so that no step contradicts another."""
    for step in range(1, 7):
        one, other = sample(log, step, codebook=0), sample(log, step, codebook=2)
        for name in ("first", "last"):
            one[name], other[name] = other[name], one[name]
        for name in ("num_correct", "accuracy"):
            one[name], other[name] = other[name], one[name]


def falling_delays(log: Log) -> None:
    """Begin each codebook before the codebook before, at every step."""
    for step in range(1, 7):
        for record in events(log, step, "prediction_sample", modality="audio"):
            for name in ("first", "last"):
                record[name]["positions"] = [place - 2 * record["codebook"] for place in record[name]["positions"]]


def swapped_counts(log: Log) -> None:
    """Swap the codebooks of two `token_counts`."""
    one, other = (next(events(log, 3, "token_counts", codebook=codebook)) for codebook in (0, 2))
    one["codebook"], other["codebook"] = 2, 0


def other_step(**changes: Any) -> Callable[[Log], None]:
    """Return a mutation of a `train_step`."""

    def mutate(log: Log) -> None:
        next(events(log, 3, "train_step")).update(changes)

    return mutate


def other_counts(**changes: Any) -> Callable[[Log], None]:
    """Return a mutation of the `token_counts` of codebook 1."""

    def mutate(log: Log) -> None:
        next(events(log, 3, "token_counts", codebook=1)).update(changes)

    return mutate


def of_another_training(mutate: Callable[[Log], None]) -> Callable[[Log], None]:
    """Return a mutation that also makes the log one of `PredictionLogger`, in a training that is not ours."""

    def of_another(log: Log) -> None:
        for records in log.values():
            records[0] |= {"family": None, "config": {"log_steps": 1, "text_loss_weight": 1.0}}
        mutate(log)

    return of_another


def other_manifest(log: Log) -> None:
    """Resume with another manifest, in which a label differs."""
    log[0, 1, 0][0]["resume_changes"] = {"train_manifest": ["a", "b"]}
    for step in (3, 4):
        other_label(log, step)


def wider_window(log: Log) -> None:
    """Log fewer slots after a resume, as an honest run may."""
    log[0, 2, 0][0]["resume_changes"] = {"log_window": [5, 3]}
    for record in log[0, 2, 0]:
        if record["event"] == "prediction_sample":
            lists = ("positions", "inputs", "labels", "predictions")
            record["first"] |= {name: record["first"][name][:3] for name in lists}
            record["last"] |= {name: record["last"][name][-3:] for name in lists}


def other(name: str, **changes: Any) -> Callable[[Log], None]:
    """Return a mutation of the first event of a kind at step 3."""

    def mutate(log: Log) -> None:
        next(events(log, 3, name)).update(changes)

    return mutate


def renamed(log: Log) -> None:
    """Give a sample of a step the name and the inputs of no sample of the step."""
    for record in events(log, 3, "prediction_sample", sample_index=0):
        record |= {"sample_id": "en-9", "fingerprint": "9" * 16}


def exchanged_steps(log: Log) -> None:
    """Exchange the samples of two steps of an attempt."""
    for one, two in zip(events(log, 3, "prediction_sample"), events(log, 4, "prediction_sample"), strict=True):
        for name in one.keys() - {"step", "seq"}:
            one[name], two[name] = two[name], one[name]


def as_train(log: Log) -> None:
    """Add the samples of an evaluation to a step without a logged training step."""
    del_step = [next(events(log, 4, "train_step")), *events(log, 4, "token_counts")]
    log[0, 1, 0] = [record for record in log[0, 1, 0] if record not in del_step]
    renumber(log)


def renumber(log: Log) -> None:
    """Number the records of each file anew, so that no gap shows what was removed."""
    for records in log.values():
        for seq, record in enumerate(records):
            record["seq"] = seq
            if record["event"] == "run_end":
                record["events_written"] = seq


def not_due(log: Log) -> None:
    """Say that every second step is logged, in a log of every step."""
    log[0, 1, 0][0]["config"] = CONFIG | {"log_steps": 2}


def with_settings(**settings: Any) -> Callable[[Log], None]:
    """Return a mutation of the settings in the first `run_start`."""

    def mutate(log: Log) -> None:
        log[0, 0, 0][0]["config"] = CONFIG | settings

    return mutate


def with_start(**changes: Any) -> Callable[[Log], None]:
    """Return a mutation of the first `run_start`."""

    def mutate(log: Log) -> None:
        log[0, 0, 0][0].update(changes)

    return mutate


def evaluated(log: Log) -> None:
    """Evaluate twice in an attempt, with another number of targets the second time."""
    step = step_of(1)
    for number in (1, 2):
        result = eval_result(
            step=number,
            epoch=float(number),
            text_targets=39 + number,
            audio_targets=step.audio_targets,
            audio_loss=3.0,
            audio_loss_per_codebook=step.audio_loss_per_codebook,
            audio_accuracy_per_codebook=step.audio_accuracy_per_codebook,
            loss=4.0,
        )
        records = log[0, 0, 0]
        after = (index for index, record in enumerate(records) if record.get("step", 0) > number)
        records.insert(next(after, len(records) - 2), record_of(result) | {"rank": 0, "attempt": 0})
    log[0, 0, 0] = json.loads(json.dumps(log[0, 0, 0]))
    renumber(log)


def other_rank_loss(log: Log) -> None:
    """Change the loss of one of 4 ranks, with its parts."""
    ranks((0, 1, 2, 3))(log)
    log[2, 0, 0][1] |= {"loss": 5.0, "text_loss": 2.0}


def exchanged_attempts(log: Log) -> None:
    """Exchange the last two attempts, which are resumed from the same step then."""
    log[0, 1, 0], log[0, 2, 0] = log[0, 2, 0], log[0, 1, 0]
    for number in (1, 2):
        for record in log[0, number, 0]:
            record["attempt"] = number


def from_another_run(log: Log) -> None:
    """Resume from a checkpoint that `--resume` names in the folder of another run, after a start that left no file."""
    del log[0, 0, 0], log[0, 2, 0]
    log[0, 1, 0][0]["config"] = CONFIG | {"resume": "other/checkpoint-2", "output_dir": "run"}


def failed_rank(log: Log) -> None:
    """Let the extraction of another rank fail at a step: the sums over all ranks are unknown, the samples are not."""
    nan: dict[str, Any] = {"loss": None, "text_loss": None, "audio_loss": None}
    of_codebooks = [None] * CODEBOOKS
    next(events(log, 3, "train_step")).update(
        nan,
        audio_loss_per_codebook=of_codebooks,
        text_accuracy=None,
        audio_accuracy_per_codebook=of_codebooks,
        text_targets=0,
        audio_targets=0,
        nonfinite=[*nan, *(f"audio_loss_per_codebook[{index}]" for index in range(CODEBOOKS))],
    )
    zeros = [0] * 5
    for record in events(log, 3, "token_counts"):
        record.update(dict.fromkeys(("num_targets", "num_correct", "stop_targets", "stop_correct"), 0))
        record.update(dict.fromkeys(("label_matches", "offset_contested", "offset_matches", "offset_correct"), zeros))
        record.update(dict.fromkeys(("divisor", "stop_rank", "stop_probability")), masked={}, supervised={})


def failed_evaluation(log: Log) -> None:
    """Let the extraction of another rank fail in the second of two evaluations."""
    evaluated(log)
    last = [record for record in log[0, 0, 0] if record["event"] == "eval_result"][-1]
    of_codebooks = [None] * CODEBOOKS
    losses = ["loss", "text_loss", "audio_loss"]
    last |= dict.fromkeys((*losses, "text_accuracy"))
    last |= {"audio_loss_per_codebook": of_codebooks, "audio_accuracy_per_codebook": of_codebooks}
    last |= {"text_targets": 0, "audio_targets": 0}
    last["nonfinite"] = [*losses, *(f"audio_loss_per_codebook[{index}]" for index in range(CODEBOOKS))]


def older_start(log: Log) -> None:
    """Begin with a version that did not log the sizes of the vocabularies."""
    for attempt in (1, 2):
        log[0, attempt, 0][0] |= {"vocab_size": 1026, "codebook_size": 1026}
    for name in ("vocab_size", "codebook_size"):
        log[0, 0, 0][0].pop(name, None)


def anonymous(log: Log) -> None:
    """Let a processor of the run replace the names of samples, which `train_step` lists as they are."""
    for records in log.values():
        records[0]["config"] = CONFIG | {"processors": "module:factory"}
        for record in records:
            if record["event"] == "prediction_sample":
                record["sample_id"] = f"sample {record['sample_index']}"


def early_end(log: Log) -> None:
    """Say that the run was completed before its last step."""
    for records in log.values():
        records[0]["total_steps"] = 6
    log[0, 2, 0][0]["total_steps"] = 9


# Missing files


def without(*keys: tuple[int, int, int]) -> Callable[[Log], None]:
    """Return a mutation that removes files."""

    def mutate(log: Log) -> None:
        for key in keys:
            del log[key]

    return mutate


def ranks(present: tuple[int, ...]) -> Callable[[Log], None]:
    """Return a mutation that writes a file for some of 4 ranks."""

    def mutate(log: Log) -> None:
        log.clear()
        for rank in present:
            config = CONFIG | {"log_all_ranks": True}
            log[rank, 0, 0] = attempt_of(0, range(1, 3), None, rank=rank, config=config, world_size=4)

    return mutate


def segments(present: tuple[int, ...], sinks: str = "jsonl:max_bytes=1M:keep=2") -> Callable[[Log], None]:
    """Return a mutation that splits attempt 0 into 4 segments, of which some are left."""

    def mutate(log: Log) -> None:
        log.clear()
        records = attempt_of(0, range(1, 5), None, config=CONFIG | {"sinks": sinks})
        size = len(records) // 4
        for segment in present:
            head = [] if segment == 0 else records[:1]
            end = None if segment == 3 else size * (segment + 1)
            log[0, 0, segment] = head + records[size * segment : end]

    return mutate


def cut_off(log: Log) -> None:
    """Cut off the end of an attempt at the end of a line."""
    del log[0, 1, 0][17:]
