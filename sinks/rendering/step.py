"""The text of a `train_step` and of an `eval_result`: figures, losses with their trend, accuracies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sinks.protocol import Record
from sinks.rendering.history import RecordHistory, is_finite
from sinks.rendering.text_format import TextFormat, change, percent, short
from sinks.rendering.trend import Trend, trend_of
from sinks.terminal.fold import columns
from sinks.terminal.style import BOLD, DIM, GREEN, RED, YELLOW
from sinks.terminal.words import count_of, duration

_STRAGGLES_FROM = 1.5  # times the median of the ranks
_TWO_DECIMALS_BELOW = 10  # epochs
_GIB = 2**30
_MOST_WANTED = ("left", "rank", "rate", "norm", "seconds", "speed", "epoch")  # figures of a single line
_GAP = "  "
_CONTROL_TOKENS = "control tokens"
_STYLES = {"learning": GREEN, "rising": RED, "too early": DIM}  # of trends; other words are yellow


def render_train_step(record: Record, text_format: TextFormat) -> str:
    """Return the text of a `train_step`: three to four short lines.

    Example:
        >>> record = {
        ...     "step": 20, "epoch": 20.0, "loss": 2.526, "text_loss": 0.004, "audio_loss": 2.522, "text_targets": 24,
        ...     "audio_targets": 4640, "text_accuracy": 1.0, "audio_accuracy_per_codebook": [0.58, 0.5],
        ...     "learning_rate": 0.00424, "grad_norm": 0.547, "step_ms": 390.0, "samples_per_s": 20.4,
        ...     "seconds_left": 16.2,
        ... }
        >>> history = RecordHistory()
        >>> history.take({"event": "run_start", "total_steps": 60})
        >>> print(render_train_step(record, TextFormat(False, 80, history)))
        step 20/60  epoch 20.0  0.39 s  20.4 clips/s  ETA 0:16  lr 4.2e-03  grad 0.55
          loss 2.526  text 0.004  audio 2.522
          correct  text 100 %  audio 54.0 %  codebooks ▅▅ 50 to 58 %
    """
    head = [text_format.style(_step(record, text_format.history), BOLD), *_figures(record).values()]
    lines = [head, _losses(record, text_format.history.step, text_format), [*_trend(record, text_format)]]
    return "\n  ".join(_GAP.join(line) for line in [*lines, _accuracies(record, text_format)] if line)


def render_evaluation(record: Record, text_format: TextFormat) -> str:
    """Return the text of an `eval_result`, with the changes since the evaluation before."""
    history = text_format.history
    head = [
        text_format.style(f"evaluation at step {record['step']}", BOLD),
        count_of(record["num_samples"], "sample"),
        *_best(record, text_format),
    ]
    lines = [head, _losses(record, history.evaluation, text_format), _accuracies(record, text_format)]
    return "\n  ".join(_GAP.join(line) for line in lines if line)


def render_step_line(record: Record, text_format: TextFormat) -> str:
    """Return the text of a `train_step` as one line: as many figures as fit into the width, the first ones first."""
    history = text_format.history
    head = [text_format.style(_step(record, history), BOLD), *_losses(record, history.step, text_format, brief=True)]
    if (trend := _trend_of(record, history)) is not None:
        head.append(text_format.style(trend.word, _STYLES.get(trend.word, YELLOW)))
    figures = _figures(record)
    tail = [figures[name] for name in _MOST_WANTED if name in figures]
    return _fitting([*head, *tail], text_format.width, least=len(head))


def render_evaluation_line(record: Record, text_format: TextFormat) -> str:
    """Return the text of an `eval_result` as one line: as many figures as fit into the width."""
    head = [
        text_format.style(f"evaluation at step {record['step']}", BOLD),
        *_losses(record, text_format.history.evaluation, text_format, brief=True),
    ]
    tail = [*_best(record, text_format), count_of(record["num_samples"], "sample")]
    return _fitting([*head, *tail], text_format.width, least=len(head))


def _fitting(phrases: list[str], width: int | None, *, least: int) -> str:
    line = _GAP.join(phrases[:least])
    for phrase in phrases[least:]:
        longer = f"{line}{_GAP}{phrase}"
        if width is None or columns(longer) <= width:
            line = longer
    return line


def _step(record: Record, history: RecordHistory) -> str:
    return f"step {record['step']}" + (f"/{history.total_steps}" if history.total_steps else "")


def _figures(record: Record) -> dict[str, str]:
    """Return epoch, duration, speed, time left, learning rate and gradient norm, as far as they are known."""
    epoch, rate, norm = record["epoch"], record["learning_rate"], record["grad_norm"]
    step_ms, speed, left = record.get("step_ms"), record.get("samples_per_s"), record.get("seconds_left")
    longest, median = record.get("step_ms_max"), record.get("step_ms_median")
    figures = {}
    if epoch is not None:
        figures["epoch"] = f"epoch {epoch:.2f}" if epoch < _TWO_DECIMALS_BELOW else f"epoch {epoch:.1f}"
    if step_ms is not None:
        figures["seconds"] = f"{short(step_ms / 1000)} s"
    if speed is not None:
        figures["speed"] = f"{short(speed)} {'clips' if record['audio_targets'] else 'samples'}/s"
    if median and longest is not None and longest > _STRAGGLES_FROM * median:
        figures["rank"] = f"rank {record.get('slowest_rank')} took {short(longest / median)} times the median"
    if left:
        figures["left"] = f"ETA {duration(left)}"
    if rate is not None:
        figures["rate"] = f"lr {rate:.1e}" if rate else "lr 0"
    if norm is not None:
        figures["norm"] = f"grad {short(norm)}"
    return figures


def _losses(record: Record, before: Record, text_format: TextFormat, *, brief: bool = False) -> list[str]:
    """Return the losses with their changes. A single modality has no loss beside the loss of the step.

    Args:
        record: A step or an evaluation.
        before: The one before, to state the changes.
        text_format: Format of the text.
        brief: True for accuracies beside the losses, and without control tokens.
    """
    accuracies = _accuracy_by_modality(record)
    names = {"loss": "loss"}
    if len(accuracies) > 1:
        names |= {f"{modality}_loss": _name(modality, text_format.history) for modality in accuracies}
    phrases = []
    for field, name in names.items():
        value = record[field]
        if value is None:
            phrases.append(f"{name} {text_format.style('not finite', RED)}")
            continue
        if brief and name == _CONTROL_TOKENS:
            continue
        modality = field.removesuffix("_loss")
        accuracy = accuracies.get(modality if len(accuracies) > 1 else next(iter(accuracies), ""))
        phrase = f"{name} {value:.3f}" + (change(value, before.get(field)) if field == "loss" or not brief else "")
        phrases.append(f"{phrase} {percent(accuracy)}" if brief and accuracy is not None else phrase)
    return phrases


def _name(modality: str, history: RecordHistory) -> str:
    """Return the name of a modality. A text of control tokens alone teaches no text."""
    return _CONTROL_TOKENS if modality == "text" and history.learns_control_tokens_only else modality


def _accuracy_by_modality(record: Record) -> dict[str, float | None]:
    """Return the accuracy of each modality with targets. The accuracy of audio is the mean over codebooks."""
    accuracies: dict[str, float | None] = {}
    if record["text_targets"]:
        accuracies["text"] = record["text_accuracy"]
    if record["audio_targets"]:
        known = [accuracy for accuracy in record["audio_accuracy_per_codebook"] if accuracy is not None]
        accuracies["audio"] = sum(known) / len(known) if known else None
    return accuracies


def _accuracies(record: Record, text_format: TextFormat) -> list[str]:
    """Return the accuracies, and a bar for each codebook."""
    shares = {
        modality: accuracy for modality, accuracy in _accuracy_by_modality(record).items() if accuracy is not None
    }
    phrases = [f"{_name(modality, text_format.history)} {percent(accuracy)}" for modality, accuracy in shares.items()]
    codebooks = record["audio_accuracy_per_codebook"]
    known = [accuracy for accuracy in codebooks if accuracy is not None]
    if len(codebooks) > 1 and known:
        bars = "".join(map(text_format.bar, codebooks))
        phrases.append(f"codebooks {bars} {100 * min(known):.0f} to {100 * max(known):.0f} %")
    return ["correct", *phrases] if phrases else []


def _trend(record: Record, text_format: TextFormat) -> Iterator[str]:
    """Yield the trend in a word, its reason, and the memory of a GPU."""
    if (trend := _trend_of(record, text_format.history)) is not None:
        both = len(_accuracy_by_modality(record)) > 1
        reason = f"audio {trend.reason}" if both and trend.reason.startswith("loss") else trend.reason
        yield f"{text_format.style(trend.word, _STYLES.get(trend.word, YELLOW))}: {reason}"
    if record.get("peak_memory_bytes"):
        yield f"GPU memory {short(record['peak_memory_bytes'] / _GIB)} GiB"


def _trend_of(record: Record, history: RecordHistory) -> Trend | None:
    """Return the trend of the audio loss, or of the text loss in a model without audio."""
    modality = "audio" if record["audio_targets"] else "text"
    loss: Any = record[f"{modality}_loss"]
    targets = record[f"{modality}_targets"]
    if not targets or not is_finite(loss):
        return None
    return trend_of([*history.losses[modality], loss], targets=targets, chance=history.chance(modality))


def _best(record: Record, text_format: TextFormat) -> Iterator[str]:
    """Yield the place of the loss among the evaluations of the attempt."""
    best, loss = text_format.history.best, record["loss"]
    if best is None or loss is None:
        return
    if loss < best[0]:
        yield text_format.style("lowest so far", GREEN)
    else:
        yield f"lowest {best[0]:.3f} at step {best[1]}"
