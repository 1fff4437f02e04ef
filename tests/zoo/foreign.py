"""Healthy trainings that are not ours, under `PredictionLogger`: plain loops and the Trainer, from scratch and not.

Sequences have 8 to 256 tokens. Their tokens follow a random chain with repeats, so that there is something to learn.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from higgs_audio_trainer import PredictionLogger, read
from higgs_audio_trainer.adapters import Adapter, Reading
from higgs_audio_trainer.events import IGNORE_INDEX, Diagnosis, TrainStep

KINDS = ("shifted data", "chunks", "trainer", "prompts", "encoder-decoder")
LENGTHS = (8, 16, 32, 64, 128, 256)
_EOS, _PAD, _FIRST = 1, 0, 3  # ids of the special tokens, and of the first other token


def plan(seed: int) -> dict[str, Any]:
    """Return random settings of a training. Kinds and lengths take turns."""
    rng = random.Random(seed)
    return {
        "kind": KINDS[seed % len(KINDS)],
        "length": LENGTHS[seed // len(KINDS) % len(LENGTHS)],
        "batch": min(rng.choice([1, 2, 4, 8, 16]), 512 // LENGTHS[seed // len(KINDS) % len(LENGTHS)]),
        "steps": rng.choice([5, 20, 20, 40, 110]),
        "log_steps": rng.choice([1, 2, 5]),
        "lr": 10 ** rng.uniform(-3.5, -2),
        "pretrained": rng.random() < 0.5,
        "tokens": rng.choice([20, 64, 300]),
        "repeats": rng.choice([0.0, 0.1, 0.4]),
        "choices": rng.choice([3, 10]),
        "seed": seed,
    }


class Shifting(nn.Module):
    """A model of a plain loop: the loss compares logits and targets at the same index."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor, targets: Tensor) -> SimpleNamespace:
        """Return logits and loss."""
        logits = self.model(input_ids=idx).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
        return SimpleNamespace(logits=logits, loss=loss)


SHIFTED_DATA = Adapter("shifted data", (Reading("text", labels="targets", inputs="idx", shift=0),))


def chain(drawn: Mapping[str, Any], size: int) -> Tensor:
    """Return tokens of a random chain: each token has a few successors, or repeats."""
    rng = random.Random(drawn["seed"])
    known = range(_FIRST, drawn["tokens"])
    after = {token: rng.choices(known, k=drawn["choices"]) for token in known}
    tokens = [rng.choice(known)]
    while len(tokens) < size:
        repeats = rng.random() < drawn["repeats"]
        tokens.append(tokens[-1] if repeats else rng.choice(after[tokens[-1]]))
    return torch.tensor(tokens)


def batches(drawn: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """Yield batches without end, as the kind of training has them."""
    length, size = drawn["length"], drawn["batch"]
    stream = chain(drawn, 40 * length + 2000)
    torch.manual_seed(drawn["seed"])
    for _ in count():
        starts = torch.randint(len(stream) - length - 1, (size,)).tolist()
        x = torch.stack([stream[start : start + length] for start in starts])
        if drawn["kind"] == "shifted data":
            yield {"idx": x, "targets": torch.stack([stream[start + 1 : start + length + 1] for start in starts])}
        elif drawn["kind"] in {"chunks", "trainer"}:
            yield {"input_ids": x, "labels": x.clone()}
        elif drawn["kind"] == "prompts":
            yield _prompted(x)
        else:
            labels = x.clone()
            labels[:, -1] = _EOS
            yield {"input_ids": x, "labels": labels}


def _prompted(x: Tensor) -> dict[str, Tensor]:
    """Return sequences of various lengths that end with a stop token, with a masked prompt and padding."""
    labels = x.clone()
    for row in range(len(x)):
        end = int(torch.randint(x.shape[1] // 2, x.shape[1], ()))
        x[row, end], x[row, end + 1 :] = _EOS, _PAD
        labels[row] = x[row]
        labels[row, : x.shape[1] // 4], labels[row, end + 1 :] = IGNORE_INDEX, IGNORE_INDEX
    return {"input_ids": x, "attention_mask": (x != _PAD).long(), "labels": labels}


def model_of(drawn: Mapping[str, Any]) -> nn.Module:
    """Return a tiny model with random weights."""
    torch.manual_seed(drawn["seed"])
    common = {"vocab_size": drawn["tokens"], "eos_token_id": _EOS, "pad_token_id": _PAD}
    if drawn["kind"] == "encoder-decoder":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(**common, **sizes, decoder_start_token_id=_PAD)
        )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, **sizes, num_key_value_heads=4))
    return Shifting(model) if drawn["kind"] == "shifted data" else model


class _Batches(torch.utils.data.IterableDataset):
    """Batches for the Trainer, sample by sample."""

    def __init__(self, made: Iterator[dict[str, Tensor]]) -> None:
        self._made = made

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._made:
            yield from ({name: values[row] for name, values in batch.items()} for row in range(len(batch["labels"])))


def train_in_a_loop(
    drawn: Mapping[str, Any], model: nn.Module, made: Iterator[dict[str, Tensor]], logger: PredictionLogger
) -> None:
    """Train by a plain loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=drawn["lr"])
    logger.attach(model, optimizer)
    for number, batch in zip(range(1, drawn["steps"] + 1), made, strict=False):
        with logger.step(number):
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logger.close()


def run(seed: int) -> dict[str, Any]:
    """Train with a seed and return the plan, the losses and the findings."""
    torch.set_num_threads(1)
    drawn = plan(seed)
    model, made = model_of(drawn).train(), batches(drawn)
    if drawn["pretrained"]:
        before = drawn | {"lr": 1e-2, "steps": 60, "batch": max(2, 256 // drawn["length"])}
        train_in_a_loop(before, model, batches(before), PredictionLogger("unused", sinks="none"))
    with tempfile.TemporaryDirectory() as folder:
        logger = PredictionLogger(
            folder,
            log_steps=drawn["log_steps"],
            sinks="jsonl",
            adapter=SHIFTED_DATA if drawn["kind"] == "shifted data" else None,
            pretrained=drawn["pretrained"],
        )
        if drawn["kind"] == "trainer":
            arguments = transformers.TrainingArguments(
                folder,
                max_steps=drawn["steps"],
                per_device_train_batch_size=drawn["batch"],
                learning_rate=drawn["lr"],
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
            )
            trainer = transformers.Trainer(
                model=model, args=arguments, train_dataset=_Batches(made), callbacks=[logger]
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        else:
            train_in_a_loop(drawn, model, made, logger)
        events = list(read(folder))
    steps = [event for event in events if isinstance(event, TrainStep)]
    found = [event for event in events if isinstance(event, Diagnosis)]
    return {
        "seed": seed,
        "kind": f"{drawn['kind']}, T {drawn['length']}{'' if drawn['pretrained'] else ', from scratch'}",
        "steps": drawn["steps"],
        "lr": drawn["lr"],
        "loss": (steps[0].loss, steps[-1].loss),
        "logged_steps": len(steps),
        "notes": sorted({event.code for event in found if event.severity == "note"} - {"mask_audit"}),
        "alarms": [(event.code, event.step, event.message) for event in found if event.severity != "note"],
    }
