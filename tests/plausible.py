"""Events as the producer can make them: random, but their values agree with each other."""

import math
from dataclasses import replace

from higgs_audio_trainer.events import IGNORE_INDEX, Window
from tests.builders import audio_sample, checkpoint, diagnosis, eval_result, run_end, run_start, text_sample, train_step

WEIGHT = 0.5
TEXTS = ["", "en-1", "السلام", "x" * 900, "\ud800", "\u202e\x1b[2J\n\u2028"]


def span(random, *, is_text):
    """Make the slots of a target span: position, input, label and prediction; supervised at both ends."""
    size, position, slots = random.randrange(14), random.randrange(1, 50), []
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


def loss(random):
    """Make a loss: finite, or not."""
    return random.choice([random.uniform(0, 20), random.uniform(0, 20), math.nan, math.inf])


def sample(random, codebook, **fixed):
    """Make a `prediction_sample` of text, or of a codebook of 2; `fixed` are fields of it."""
    is_text = codebook is None
    slots = span(random, is_text=is_text)
    size = random.randrange(1, 6)
    targets = sum(slot[2] != IGNORE_INDEX for slot in slots)
    correct = sum(slot[2] == slot[3] for slot in slots)
    text = random.choice([None, *TEXTS]) if is_text else None
    texts = {"predicted_text": text, "label_text": text}
    rows = targets + random.randrange(5)
    shapes = [(rows, 2001), (rows,)] if is_text else [(rows, 2, 2001), (2, rows)]
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
        stop_targets=random.randint(0, targets),
        first=window(slots[:size], texts),
        last=window(slots[size:][-size:], texts),
        **fixed,
    )


def figures(random):
    """Make what `train_step` and `eval_result` have in common, for 2 codebooks."""
    targets = [random.choice([0, random.randrange(1, 9)]) for _ in range(3)]
    text_loss, *audio_losses = (loss(random) if count else 0.0 for count in targets)
    text_accuracy, *accuracies = (random.randint(0, count) / count if count else None for count in targets)
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
    """Make the events of a run, but for its `run_end`."""
    config = {"text_loss_weight": WEIGHT, "sinks": sinks, "note": random.choice(TEXTS)}
    events = [run_start(num_codebooks=2, config=config | {"huge": 10**30, "odd": object()})]
    for step in sorted(random.sample(range(1, 30), random.randrange(7))):
        names = {"sample_id": random.choice(TEXTS), "fingerprint": f"{step:016x}", "step": step}
        events.append(train_step(step=step, grad_norm=random.choice([None, 1.0, math.nan]), **figures(random)))
        events += [sample(random, codebook, **names) for codebook in (None, 0, 1)]
        if random.random() < 0.5:
            events += [eval_result(step=step, **figures(random)), sample(random, None, split="eval", **names)]
            events.append(checkpoint(step=step))
        if random.random() < 0.3:
            evidence = {"x": math.nan, "y": [object()]}
            events.append(diagnosis(step=step, message=random.choice(TEXTS), evidence=evidence))
    return events


def end_of(events, pipeline):
    """Make the `run_end` of a run."""
    return run_end(
        step=max(getattr(event, "step", 0) for event in events),
        events_written=pipeline.written,
        events_lost=pipeline.lost,
        values_replaced=pipeline.replaced,
    )
