"""Random events with consistent values, as the producer emits such events."""

import math
from dataclasses import replace

from higgs_audio_trainer.events import IGNORE_INDEX, CodesEnd, Window
from tests.builders import (
    audio_sample,
    checkpoint,
    diagnosis,
    eval_result,
    generation_sample,
    run_end,
    run_start,
    text_sample,
    token_counts,
    train_step,
)

WEIGHT = 0.5
TEXTS = ["", "en-1", "السلام", "x" * 900, "\ud800", "\u202e\x1b[2J\n\u2028"]


def span(random, codebook):
    """Make the slots of a target span (position, input, label, prediction), with both ends supervised."""
    is_text, size, slots = codebook is None, random.randrange(14), []
    position = random.randrange(1, 50) + 50 * (codebook or 0)  # a later codebook has a longer delay
    for index in range(size):
        position += 1 if is_text or index == 0 else random.randrange(1, 4)
        masked = 0 < index < size - 1 and random.random() < 0.3
        label = IGNORE_INDEX if masked else random.randrange(2000)
        prediction = None if masked else random.choice([label, random.randrange(2000)])
        slots.append((position, random.choice([None, 7]), label, prediction))
    return slots


def window(slots, texts):
    """Make a window of slots."""
    columns = list(zip(*slots, strict=True)) or [()] * 4
    return Window(**dict(zip(("positions", "inputs", "labels", "predictions"), columns, strict=True)), **texts)


def with_ranks(random, shown):
    """Give the labels of a window ranks and probabilities, some of them not finite."""
    probabilities = [random.choice([random.random(), math.nan]) for _ in shown.labels]
    is_masked = [label == IGNORE_INDEX for label in shown.labels]
    return replace(
        shown,
        label_ranks=tuple(
            None if masked else 1 if label == predicted else random.randint(1, 2000)
            for masked, label, predicted in zip(is_masked, shown.labels, shown.predictions, strict=True)
        ),
        label_probabilities=tuple(
            None if masked else value for masked, value in zip(is_masked, probabilities, strict=True)
        ),
    )


def loss(random):
    """Make a loss, which may be finite or not."""
    return random.choice([random.uniform(0, 20), random.uniform(0, 20), math.nan, math.inf])


def sample(random, codebook, *, rows=None, **fixed):
    """Make a `prediction_sample` of text, or of one of 2 codebooks. `rows` are those of the batch."""
    is_text = codebook is None
    slots = span(random, codebook)
    size = random.randrange(1, 6)
    targets = sum(slot[2] != IGNORE_INDEX for slot in slots)
    correct = sum(slot[2] == slot[3] for slot in slots)
    text = random.choice([None, *TEXTS]) if is_text else None
    texts = {"predicted_text": text, "label_text": text}
    rows = targets + random.randrange(5) if rows is None else rows
    shapes = [(rows, 2001), (rows,)] if is_text else [(rows, 2, 2001), (2, rows)]
    stops = random.randint(0, targets)
    windows = window(slots[:size], texts), window(slots[size:][-size:], texts)
    if random.random() < 0.5:
        windows = tuple(with_ranks(random, shown) for shown in windows)
    return replace(
        text_sample() if is_text else audio_sample(),
        num_codebooks=None if is_text else 2,
        codebook=codebook,
        logits_shape=shapes[0],
        labels_shape=shapes[1],
        num_targets=targets,
        num_correct=correct,
        accuracy=correct / targets if targets else None,
        loss=loss(random) if targets else None,
        stop_targets=stops,
        stop_rank=random.randint(1, 2000) if stops else None,
        stop_probability=random.choice([random.random(), math.nan]) if stops else None,
        first=windows[0],
        last=windows[1],
        **fixed,
    )


def counts(random, codebook, step, shown):
    """Make the `token_counts` of text, or of a codebook of 2, with the slots of a shown sample among the slots."""
    masked = random.choice([{}, {"prompt": 3, "padding": 1}])
    supervised = {"response": shown.num_targets + random.randrange(9), "stop": random.randrange(9)}
    targets = sum(supervised.values())
    correct = random.randint(shown.num_correct, targets)
    stops = random.randint(shown.stop_targets, targets)
    slots_with_competitor = [random.randint(0, targets) for _ in range(5)]
    correct_there = [random.randint(0, min(correct, count)) for count in slots_with_competitor]
    known = {"unigram_accuracy": 0.5, "unigram_loss": loss(random), "top_prediction": 7, "top_prediction_share": 1.0}
    return token_counts(
        step=step,
        codebook=codebook,
        num_codebooks=None if codebook is None else 2,
        num_targets=targets,
        num_correct=correct,
        divisor=float(targets) if targets else None,
        masked=masked,
        supervised={name: count for name, count in supervised.items() if count},
        label_matches=tuple(random.randint(0, targets) for _ in range(5)),
        offset_contested=tuple(slots_with_competitor),
        offset_matches=tuple(
            random.randint(0, n - r) for n, r in zip(slots_with_competitor, correct_there, strict=True)
        ),
        offset_correct=tuple(correct_there),
        offset_surplus=tuple(random.choice([random.uniform(-9, 9), math.nan]) for _ in range(5)),
        stop_targets=stops,
        stop_correct=random.randint(0, min(stops, correct)),
        stop_rank=random.uniform(1, 2000) if stops else None,
        stop_probability=random.choice([random.random(), math.nan]) if stops else None,
        constant_samples=tuple(random.sample(TEXTS, random.randrange(3))),
        strip=random.choice(["57p 1# 72_ 2#", "1!"]) if step == 1 else None,
        **(known if targets else dict.fromkeys(known)),
    )


def codes_end(random, codebook, length, *, has_label):
    """Make the codes of one end of a codebook."""
    codes = tuple(random.randrange(1024) for _ in range(length))
    labels = tuple(random.choice([code, 7]) for code in codes[: random.randint(0, length)])
    return CodesEnd(codebook=codebook, codes=codes, labels=labels if has_label else None)


def prompt(random):
    """Make the text and the length of the label of a probe, which stay the same in a run."""
    return random.choice(TEXTS), random.choice([None, random.randrange(1, 60)])


def generation(random, step, probe, asked):
    """Make the `generation_sample` of a probe in 2 codebooks."""
    stopped, has_audio = (random.random() < 0.5 for _ in range(2))
    text, frames_label = asked
    has_label = frames_label is not None
    frames, limit = (random.randrange(40), 50) if stopped else (50, 50)
    run_length = random.randint(min(frames, 1), frames)
    first = random.randint(0, min(frames, 5))
    last = random.randint(0, min(frames - first, 5))
    return generation_sample(
        step=step,
        probe=probe or "none",
        text=text,
        decoding={"temperature": 0.0, "max_frames": limit, "top_p": math.nan},
        frames=frames,
        frames_label=frames_label,
        stopped=stopped,
        first=tuple(codes_end(random, codebook, first, has_label=has_label) for codebook in (0, 1)),
        last=tuple(codes_end(random, codebook, last, has_label=has_label) for codebook in (0, 1)),
        agreement=(random.random(), random.choice([1.0, math.nan])) if has_label else None,
        longest_run=run_length,
        repeat_share=random.uniform(0.01, 1) if run_length > 1 else 0.0,
        silence_share=random.random() if has_audio else None,
        peak=random.choice([0.5, math.inf]) if has_audio else None,
        audio=f"audio/step-{step:06d}-probe-{probe}.wav" if has_audio and "\ud800" not in probe else None,
    )


def figures(random, targets, correct):
    """Make the common fields of `train_step` and `eval_result` for text and 2 codebooks."""
    text_loss, *audio_losses = (loss(random) if count else 0.0 for count in targets)
    text_accuracy, *accuracies = (
        right / count if count else None for right, count in zip(correct, targets, strict=True)
    )
    audio_loss = sum(audio_losses) / 2
    return {
        "text_loss": text_loss,
        "audio_loss": audio_loss,
        "loss": WEIGHT * text_loss + audio_loss,
        "audio_loss_per_codebook": tuple(audio_losses),
        "text_accuracy": text_accuracy,
        "audio_accuracy_per_codebook": tuple(accuracies),
        "text_targets": targets[0],
        "audio_targets": sum(targets[1:]),
    }


def run(random, sinks="jsonl"):
    """Make the events of a run, without the `run_end`."""
    config = {"text_loss_weight": WEIGHT, "sinks": sinks, "note": random.choice(TEXTS)}
    events = [run_start(num_codebooks=2, config=config | {"huge": 10**30, "odd": object()})]
    evaluated = [random.choice([0, random.randrange(1, 9)]) for _ in range(3)]
    prompt_of = {probe: prompt(random) for probe in TEXTS}
    waiting = []  # speech of earlier steps, whose audio is decoded meanwhile
    for step in sorted(random.sample(range(1, 30), random.randrange(7))):
        names = {"sample_id": random.choice(TEXTS), "fingerprint": f"{step:016x}", "step": step}
        shown = [sample(random, codebook, rows=random.randrange(13, 18), **names) for codebook in (None, 0)]
        rows = shown[1].logits_shape[0]
        shown.append(sample(random, 1, rows=rows, **names))
        counted = [counts(random, one.codebook, step, one) for one in shown]
        figured = figures(random, [each.num_targets for each in counted], [each.num_correct for each in counted])
        events.append(train_step(step=step, grad_norm=random.choice([None, 1.0, math.nan]), **figured))
        events += shown + counted
        if random.random() < 0.5:
            names["fingerprint"] = f"{step:015x}e"
            figured = figures(random, evaluated, [random.randint(0, count) for count in evaluated])
            events += [eval_result(step=step, **figured), sample(random, None, split="eval", **names)]
            events.append(checkpoint(step=step))
        if random.random() < 0.3:
            evidence = {"x": math.nan, "y": [object()]}
            events.append(diagnosis(step=step, message=random.choice(TEXTS), evidence=evidence))
        if random.random() < 0.5:
            events += waiting
            probes = random.sample(TEXTS, random.randrange(3))
            waiting = [generation(random, step, probe, prompt_of[probe]) for probe in probes]
            waiting += [diagnosis(step=step, code="never_stops")] if waiting else []
    return events + waiting


def end_of(events, pipeline):
    """Make the `run_end` of a run."""
    return run_end(
        step=max(getattr(event, "step", 0) for event in events),
        events_written=pipeline.written,
        events_lost=pipeline.lost,
        values_replaced=pipeline.replaced,
    )
