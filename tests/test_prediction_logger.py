"""The log of trainings that are not ours: real clients, and everything that must not reach them."""

import argparse
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import accelerate
import peft
import pytest
import structlog
import torch
import transformers
from torch.utils.checkpoint import checkpoint

import sinks
from higgs_audio_trainer import PredictionLogger
from higgs_audio_trainer.adapters import Adapter, Reading, UnreadableError, check_adapter
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.errors import LoggingError, UserError
from tests import forks
from tests.adapted import make
from tests.adapted_sweep import case
from tests.readme import PAGES, section
from tests.test_schemas import is_valid
from tests.tracked import PROJECT

RANDOM = partial(torch.randint, 3, 64, (2, 10))


class Tokens(torch.utils.data.Dataset):
    """Sixteen sequences whose first tokens are a prompt."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.randint(3, 64, (10,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids.clone().index_fill(0, torch.arange(3), -100)}


def batches(count=6):
    """Batches of `Tokens`, in order."""
    return list(torch.utils.data.DataLoader(Tokens(), batch_size=2))[:count]


def arguments(folder, **kwargs):
    """Settings of a short run on the CPU."""
    settings = {"max_steps": 5, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_strategy": "no"}
    settings |= {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 2}
    return transformers.TrainingArguments(str(folder), **settings | kwargs)


def trained(folder, *callbacks, model=None, data=None, **kwargs):
    """Train a model, by default a tiny Llama, by the plain Trainer, and return it."""
    model = model or make("llama")[0].train()
    trainer = transformers.Trainer(
        model=model, args=arguments(folder, **kwargs), train_dataset=data or Tokens(), callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


def log_of(folder, attempt=0):
    """Records of the log, each of which fits its schema."""
    path = Path(folder) / "events" / f"rank00000-attempt{attempt:03d}.jsonl"
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert all(map(is_valid, records))
    return records


def named(records, name):
    """Records of one event."""
    return [record for record in records if record["event"] == name]


class PredictsInBetween(transformers.TrainerCallback):
    """Asks the Trainer for predictions after step 3, as a callback may."""

    trainer: transformers.Trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.trainer.predict(Tokens())


def quiet(folder=None, **kwargs):
    """Make a logger that writes a file alone."""
    return PredictionLogger(folder, sinks="jsonl", **kwargs)


class TestTrainer:
    def test_the_log(self, tmp_path):
        """Due steps have figures and samples; the whole log fits the schemas and is in order."""
        trained(tmp_path, quiet())
        records = log_of(tmp_path)
        assert [record["seq"] for record in records] == list(range(len(records)))
        assert [record["step"] for record in named(records, "train_step")] == [1, 2, 4]
        assert [record["sample_index"] for record in named(records, "prediction_sample")] == [0, 1] * 3
        [start] = named(records, "run_start")
        assert (start["num_codebooks"], start["modalities"], start["num_train_samples"]) == (0, ["text"], 16)
        [end] = named(records, "run_end")
        assert (end["reason"], end["events_lost"], end["values_replaced"]) == ("completed", 0, 0)

    def test_figures_are_those_of_the_step(self, tmp_path):
        """The loss is the Trainer's, over all micro-batches; the rate is the one that the step used."""
        trainer = trained(tmp_path, quiet(log_steps=1), gradient_accumulation_steps=2, logging_steps=1)
        expected = [(entry["loss"], entry["learning_rate"]) for entry in trainer.state.log_history if "loss" in entry]
        steps = named(log_of(tmp_path), "train_step")
        assert [step["loss"] for step in steps] == pytest.approx([loss for loss, _ in expected], abs=1e-3)
        assert [step["learning_rate"] for step in steps] == pytest.approx([rate for _, rate in expected])
        assert {step["text_targets"] for step in steps} == {4 * 7}

    def test_what_is_shown_is_what_the_model_said(self, tmp_path):
        """Predictions, labels, inputs and positions of the first step are those of a forward pass beside it."""
        model = make("llama")[0].train()
        with quiet(tmp_path).attach(model).step(1):
            batch = batches(1)[0]
            logits = model(**batch).logits
        sample = named(log_of(tmp_path), "prediction_sample")[1]
        assert sample["first"]["positions"] == [3, 4, 5, 6, 7]
        assert sample["first"]["labels"] == batch["labels"][1, 3:8].tolist()
        assert sample["first"]["inputs"] == batch["input_ids"][1, 2:7].tolist()
        assert sample["first"]["predictions"] == logits[1, 2:7].argmax(-1).tolist()
        assert sample["last"]["positions"] == [8, 9]
        assert (sample["shift"], sample["num_targets"]) == (1, 7)

    @pytest.mark.parametrize("steps", [1, 100])
    def test_training_is_not_changed(self, tmp_path, steps):
        """Weights are equal bit by bit with and without, and no hook is left."""
        bare = trained(tmp_path / "a").model
        logged = trained(tmp_path / "b", quiet(log_steps=steps)).model
        assert all(map(torch.equal, bare.parameters(), logged.parameters()))
        assert not any(module._forward_hooks for module in logged.modules())

    def test_peft_and_checkpointing(self, tmp_path):
        """An adapted model with checkpointed layers is read once a micro-batch."""
        model = peft.get_peft_model(make("llama")[0], peft.LoraConfig(task_type="CAUSAL_LM", r=2))
        trained(tmp_path, quiet(), model=model, gradient_checkpointing=True, gradient_accumulation_steps=2)
        steps = named(log_of(tmp_path), "train_step")
        assert {step["text_targets"] for step in steps} == {4 * 7}
        [start] = named(log_of(tmp_path), "run_start")
        assert start["trainable_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)

    def test_evaluation(self, tmp_path):
        """Its figures are the Trainer's; its forward passes belong to no step, and those of `predict` to nothing."""
        logger = quiet(log_steps=1)
        trainer = transformers.Trainer(
            model=make("llama")[0],
            args=arguments(tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=5),
            train_dataset=Tokens(),
            eval_dataset=torch.utils.data.Subset(Tokens(), range(5)),
            callbacks=[logger, PredictsInBetween()],
        )
        PredictsInBetween.trainer = trainer
        trainer.train()
        records = log_of(tmp_path)
        assert {step["text_targets"] for step in named(records, "train_step")} == {2 * 7}
        results = named(records, "eval_result")
        expected = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        figures = [(result["step"], result["num_samples"], result["text_targets"]) for result in results]
        assert figures == [(2, 5, 35), (4, 5, 35), (5, 5, 35)]
        # The Trainer weighs its batches alike, the log each token; all samples have as many.
        assert [result["loss"] for result in results] == pytest.approx(expected, rel=1e-5)
        samples = [sample for sample in named(records, "prediction_sample") if sample["split"] == "eval"]
        expected = [(step, index) for step in (2, 4, 5) for index in (0, 1)]
        assert [(sample["step"], sample["sample_index"]) for sample in samples] == expected
        assert [saved["path"] for saved in named(records, "checkpoint")] == ["checkpoint-5"]

    def test_several_evaluations(self, tmp_path):
        """Of several sets that are evaluated at a step, and before the first one, the first is logged."""
        trainer = transformers.Trainer(
            model=make("llama")[0],
            args=arguments(tmp_path, eval_strategy="steps", eval_steps=2, eval_on_start=True),
            train_dataset=Tokens(),
            eval_dataset={"one": Tokens(), "two": torch.utils.data.Subset(Tokens(), range(4))},
            callbacks=[quiet()],
        )
        trainer.train()
        results = [(result["step"], result["num_samples"]) for result in named(log_of(tmp_path), "eval_result")]
        assert results == [(0, 16), (2, 16), (4, 16), (5, 16)]
        assert main(["validate", str(tmp_path)]) == 0

    def test_labels_that_do_not_reach_the_model(self, tmp_path, capsys):
        """A Trainer that smooths labels keeps them to itself: it is said, once, and the training goes on."""
        trained(tmp_path, quiet(log_steps=1), label_smoothing_factor=0.1)
        said = [line for line in capsys.readouterr().err.splitlines() if "under a Trainer, call the model with" in line]
        assert len(said) == 1
        assert named(log_of(tmp_path), "run_end")[0]["events_lost"] == 5

    def test_the_norm_of_the_gradients(self, tmp_path):
        """Known of the steps that the Trainer logs itself: it is the norm before it was clipped. Of others, null."""
        trainer = trained(tmp_path, quiet(log_steps=1), max_grad_norm=0.01)
        expected = {entry["step"]: entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry}
        norms = {step["step"]: step["grad_norm"] for step in named(log_of(tmp_path), "train_step")}
        assert norms == {step: expected.get(step) for step in range(1, 6)}
        assert min(expected.values()) > 0.01
        assert [record["seq"] for record in log_of(tmp_path)] == list(range(len(log_of(tmp_path))))

    @pytest.mark.parametrize("name", ["csm", "csm_of_codes", "musicgen", "higgs_audio"])
    def test_speech_models(self, tmp_path, name):
        """Models of speech under the plain Trainer: every codebook has its figures, and training is not changed."""
        model, batch = make(name)
        items = [{key: values[index] for key, values in batch.items()} for index in range(2)] * 4
        bare = trained(tmp_path / "a", model=make(name)[0].train(), data=items).model
        logged = trained(tmp_path / "b", quiet(codebooks=(0, 1)), model=model.train(), data=items).model
        assert all(map(torch.equal, bare.parameters(), logged.parameters()))
        records = log_of(tmp_path / "b")
        steps = named(records, "train_step")
        assert [step["step"] for step in steps] == [1, 2, 4]
        losses = [step["audio_loss_per_codebook"] for step in steps]
        assert {len(of_codebooks) for of_codebooks in losses} == {records[0]["num_codebooks"]}
        assert all(loss > 0 for of_codebooks in losses for loss in of_codebooks)
        assert losses[-1] != losses[0]
        samples = named(records, "prediction_sample")
        assert [sample["codebook"] for sample in samples] == [0, 1, 0, 1] * 3
        assert named(records, "run_end")[0]["events_lost"] == 0

    def test_resumed(self, tmp_path):
        """A resumed training goes on in another file of the same run; one that begins anew is another run."""
        trained(tmp_path, quiet(), save_strategy="steps", save_steps=3, max_steps=3)
        trainer = transformers.Trainer(
            model=make("llama")[0],
            args=arguments(tmp_path, weight_decay=0.5),
            train_dataset=Tokens(),
            callbacks=[quiet()],
        )
        trainer.train(resume_from_checkpoint=True)
        trained(tmp_path, quiet())
        first, second, third = (log_of(tmp_path, attempt) for attempt in range(3))
        assert first[0]["run_id"] == second[0]["run_id"] != third[0]["run_id"]
        assert second[0]["resumed_from_step"] == 3
        changes = {"weight_decay": [0.0, 0.5], "max_steps": [3, 5]}
        assert [log[0]["resume_changes"] for log in (first, second, third)] == [None, changes, None]
        assert (second[0]["total_steps"], second[0]["schedule"]) == (5, "linear")
        (found,) = [event for event in named(second, "diagnosis") if event["code"] == "resume_changed"]
        assert "--weight_decay: 0.0, now 0.5" in found["message"]
        assert [step["step"] for step in named(second, "train_step")] == [4]
        assert [record["attempt"] for record in (first[0], second[0], third[0])] == [0, 1, 2]

    def test_a_training_that_fails(self, tmp_path):
        """Its log ends when the process does, or the next training begins."""

        class Failing(transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 3:
                    raise RuntimeError("not the log's")

        logger = quiet()
        with pytest.raises(RuntimeError, match="not the log's"):
            trained(tmp_path / "a", logger, Failing())
        trained(tmp_path / "b", logger)
        [end] = named(log_of(tmp_path / "a"), "run_end")
        assert (end["reason"], end["step"]) == ("error", 3)
        assert named(log_of(tmp_path / "b"), "run_end")[0]["reason"] == "completed"


class TestSettingsInForce:
    @pytest.mark.parametrize(
        ("settings", "steps"),
        [
            ({"logging_steps": 0.25}, [1, 2, 4, 6, 8]),
            ({"logging_strategy": "epoch"}, [1, 4, 8]),
            ({"logging_strategy": "no"}, [1, 8]),
        ],
        ids=str,
    )
    def test_steps_that_the_trainer_logs(self, tmp_path, settings, steps):
        """Without `log_steps`, a share of all steps, epochs and no logging mean what they mean to the Trainer."""
        trained(tmp_path, quiet(), max_steps=8, gradient_accumulation_steps=2, **settings)
        assert [step["step"] for step in named(log_of(tmp_path), "train_step")] == steps

    def test_the_home_folder(self, tmp_path, monkeypatch):
        """`~` is the home folder, for the logger as for its sink."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        loop("~/run", make("llama")[0])
        assert log_of(tmp_path / "run")
        assert not (tmp_path / "~").exists()

    def test_what_is_in_force(self, tmp_path, monkeypatch):
        """The record has accelerate's precision, the batch size that was found, and the rate of a resumed optimizer."""
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        trained(tmp_path, quiet(), save_strategy="steps", save_steps=3, max_steps=3)
        trainer = transformers.Trainer(
            model=make("llama")[0],
            args=arguments(tmp_path, learning_rate=5.0),
            train_dataset=Tokens(),
            callbacks=[quiet()],
        )
        trainer.train(resume_from_checkpoint=True)
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        configs = [log_of(tmp_path, attempt)[0]["config"] for attempt in (0, 1)]
        assert [config["mixed_precision"] for config in configs] == ["bf16", "bf16"]
        assert [config["learning_rate"] for config in configs] == [1e-2, 1e-2]

    def test_a_batch_size_that_was_found(self, tmp_path, monkeypatch):
        """A start that ran out of memory leaves no log, and the record has the smaller batch size."""

        class Forgetful(transformers.TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **kwargs):
                if state.train_batch_size > 2:
                    raise RuntimeError("CUDA out of memory.")

        trained(tmp_path, quiet(), Forgetful(), per_device_train_batch_size=4, auto_find_batch_size=True)
        [path] = (tmp_path / "events").iterdir()
        start = log_of(tmp_path)[0]
        assert (path.name, start["config"]["train_batch_size"]) == ("rank00000-attempt000.jsonl", 2)


class TestDiagnoses:
    def test_labels_that_are_shifted_twice(self, tmp_path):
        """The usual mistake: labels moved by hand, for a model that moves them itself. It is said at the first step."""
        items = [
            {"input_ids": item["input_ids"], "labels": torch.cat([item["labels"][1:], torch.tensor([-100])])}
            for item in map(Tokens().__getitem__, range(16))
        ]
        trained(tmp_path, quiet(), data=items)
        found = {record["code"]: record for record in named(log_of(tmp_path), "diagnosis")}
        assert (found["shifted_alignment"]["step"], found["shifted_alignment"]["severity"]) == (1, "error")
        assert named(log_of(tmp_path), "run_end")[0]["diagnoses"]["shifted_alignment"] == 3

    def test_a_decoder_that_is_taught_to_copy(self, tmp_path):
        """A model whose loss does not shift, given its inputs as labels, as causal models are."""
        model, _ = case("BartForCausalLM")
        trained(tmp_path, quiet(), model=model.train())
        assert "shifted_alignment" in {record["code"] for record in named(log_of(tmp_path), "diagnosis")}

    def test_what_is_right(self, tmp_path):
        """Nothing is said of labels that are where they belong; nor of stop tokens to a model that has none."""
        trained(tmp_path / "a", quiet())
        assert {record["code"] for record in named(log_of(tmp_path / "a"), "diagnosis")} == {
            "no_stop_target",  # there is none in these data
            "chance_level",  # nor was the model ever trained
        }
        model, batch = make("musicgen")
        items = [{key: values[index] for key, values in batch.items()} for index in range(2)] * 4
        trained(tmp_path / "b", quiet(), model=model.train(), data=items)
        assert {record["code"] for record in named(log_of(tmp_path / "b"), "diagnosis")} <= {"chance_level"}
        assert log_of(tmp_path / "b")[0]["stops"] == []

    def test_none(self, tmp_path):
        """Checks can be turned off, and then nothing is counted for them."""
        trained(tmp_path, quiet(diagnose=False))
        assert named(log_of(tmp_path), "diagnosis") == named(log_of(tmp_path), "token_counts") == []


SOFT_PROMPTS = {
    "prompt tuning": (partial(peft.PromptTuningConfig, num_virtual_tokens=4), 4),
    "p-tuning": (partial(peft.PromptEncoderConfig, num_virtual_tokens=3, encoder_hidden_size=8), 3),
    "prefix tuning": (partial(peft.PrefixTuningConfig, num_virtual_tokens=5), 0),
}


class TestSoftPrompts:
    @pytest.mark.parametrize("name", SOFT_PROMPTS)
    def test_a_trainer(self, tmp_path, name):
        """The loss is the model's own, positions without a token come first, and nothing is misaligned."""
        config, before = SOFT_PROMPTS[name]
        model = peft.get_peft_model(make("llama")[0], config(task_type="CAUSAL_LM"))
        trainer = trained(tmp_path, quiet(log_steps=1, pretrained=False), model=model, logging_steps=1)
        records = log_of(tmp_path)
        expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        steps = named(records, "train_step")
        assert [step["loss"] for step in steps] == pytest.approx(expected, abs=1e-3)
        assert {step["text_targets"] for step in steps} == {2 * 7}
        assert {record["code"] for record in named(records, "diagnosis")} <= {"no_stop_target"}
        counts = named(records, "token_counts")[0]
        assert counts["label_matches"][2] == counts["num_targets"]
        window = named(records, "prediction_sample")[0]["first"]
        assert window["positions"][0] == before + 3
        assert window["inputs"][1] == window["labels"][0]
        assert named(records, "run_end")[0]["events_lost"] == 0

    @pytest.mark.parametrize("name", SOFT_PROMPTS)
    def test_a_loop(self, tmp_path, name):
        """Where the first token is a target, the last position of a soft prompt predicts the token."""
        config, before = SOFT_PROMPTS[name]
        model, ids = peft.get_peft_model(make("llama")[0], config(task_type="CAUSAL_LM")), batches(1)[0]["input_ids"]
        with quiet(tmp_path).attach(model).step(1):
            outputs = model(input_ids=ids, labels=ids)
        [step] = named(log_of(tmp_path), "train_step")
        window = named(log_of(tmp_path), "prediction_sample")[0]["first"]
        assert step["loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)
        assert step["text_targets"] == 2 * (10 if before else 9)
        assert (window["positions"][0], window["inputs"][0]) == ((before, None) if before else (1, ids[0, 0].item()))

    def test_the_names_of_samples(self, tmp_path):
        """A sample has the same fingerprint with a soft prompt and without."""
        prompted = peft.get_peft_model(
            make("llama")[0], peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        )
        for folder, model in (("a", make("llama")[0]), ("b", prompted)):
            loop(tmp_path / folder, model)
        names = [named(log_of(tmp_path / name), "train_step")[0]["samples"] for name in "ab"]
        assert names[0] == names[1]

    def test_an_encoder_decoder(self, tmp_path):
        """The soft prompt of an encoder is outside of the labels."""
        model, batch = make("t5")
        config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
        model = peft.get_peft_model(model, config)
        with quiet(tmp_path).attach(model).step(1):
            outputs = model(**batch)
        assert named(log_of(tmp_path), "train_step")[0]["loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)

    def test_embeddings_of_the_users_own(self, tmp_path, capsys):
        """The message names a way for a loop and for a Trainer."""
        model, batch = make("llama")[0], batches(1)[0]
        with quiet(tmp_path).attach(model).step(1):
            model(inputs_embeds=model.get_input_embeddings()(batch["input_ids"]), labels=batch["labels"])
        [said] = capsys.readouterr().err.splitlines()
        assert "step(n, input_ids=...); under a Trainer, give the logger an Adapter whose `prepare`" in said


class TestSft:
    def test_trl(self, tmp_path):
        """Trl's SFTTrainer, which fuses the head with its loss and makes no logits: its own loss and accuracy."""
        datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
        items = [Tokens()[index] for index in range(16)]
        rows = [{name: tokens.tolist() for name, tokens in item.items()} for item in items]
        common = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"}
        common |= {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True, "logging_steps": 1}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_words(), pad_token="<pad>", eos_token="</s>")
        trainer = trl.SFTTrainer(
            model=make("llama")[0],
            args=trl.SFTConfig(str(tmp_path), **common),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[quiet()],
        )
        trainer.train()
        steps = named(log_of(tmp_path), "train_step")
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [step["loss"] for step in steps] == pytest.approx([entry["loss"] for entry in entries], abs=1e-3)
        accuracies = [entry["mean_token_accuracy"] for entry in entries]
        assert [step["text_accuracy"] for step in steps] == pytest.approx(accuracies, abs=1e-3)
        sample = named(log_of(tmp_path), "prediction_sample")[0]
        assert sample["first"]["label_text"] == " ".join(f"w{token}" for token in sample["first"]["labels"])
        assert sample["text"] is None  # a training of text speaks nothing


def _not_a_gradient():
    raise TypeError("not the log's")


def _words():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", *(f"w{number}" for number in range(3, 64))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def loop(folder, model, read=None, **kwargs):
    """Train by a plain loop; `read` calls the model."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logger = quiet(folder, log_steps=2, **kwargs).attach(model, optimizer, config={"api_key": "hush"})
    for number, batch in enumerate(batches(4), start=1):
        with logger.step(number):
            (read or (lambda **inputs: model(**inputs).loss))(**batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    logger.close()
    return logger


class TestLoop:
    def test_the_log(self, tmp_path):
        """Its settings are logged without secrets; a second `close` does nothing."""
        loop(tmp_path, make("llama")[0]).close()
        records = log_of(tmp_path)
        assert [step["step"] for step in named(records, "train_step")] == [1, 2, 4]
        assert {step["learning_rate"] for step in named(records, "train_step")} == {0.1}
        assert records[0]["config"]["api_key"] == "[redacted]"
        assert len(named(records, "run_end")) == 1

    def test_labels_that_the_model_is_not_given(self, tmp_path):
        """A loss made outside of the model: the labels are given to the step."""
        model = make("llama")[0]
        logger = quiet(tmp_path).attach(model)
        batch = batches(1)[0]
        with logger.step(1, labels=batch["labels"]):
            model(batch["input_ids"])
        assert named(log_of(tmp_path), "train_step")[0]["text_targets"] == 14

    def test_what_a_loop_may_say(self, tmp_path):
        """The norm of its gradients, and which passes are an evaluation; passes outside of one are not read."""
        model = make("llama")[0].train()
        logger = quiet(tmp_path).attach(model)
        one, two, three = batches(3)
        with logger.step(1) as notes:
            model(**one).loss.backward()
            notes.grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        model.eval()
        with torch.no_grad():
            model(**three)
            with logger.evaluation(1):
                losses = [model(**batch).loss.item() for batch in (one, two)]
                model.generate(one["input_ids"], max_new_tokens=2, do_sample=False)
        logger.close()
        records = log_of(tmp_path)
        assert named(records, "train_step")[0]["grad_norm"] == pytest.approx(notes.grad_norm.item())
        [result] = named(records, "eval_result")
        assert (result["num_samples"], result["loss"]) == (4, pytest.approx(sum(losses) / 2, rel=1e-5))
        assert named(records, "run_end")[0]["events_lost"] == 0

    @pytest.mark.parametrize("name", ["t5", "higgs_audio", "musicgen", "dia", "moshi"])
    def test_other_families(self, tmp_path, name):
        """What is trained is logged: text or K codebooks, whose figures make the model's loss."""
        model, batch = make(name)
        with quiet(tmp_path, codebooks=(0, 1, 7)).attach(model).step(1):
            outputs = model(**batch)
        records = log_of(tmp_path)
        [step] = named(records, "train_step")
        codebooks = [sample["codebook"] for sample in named(records, "prediction_sample")]
        text, audio = [None] if name in {"t5", "moshi"} else [], [] if name == "t5" else [0, 1]
        assert codebooks == (text + audio) * 2
        assert len(step["audio_loss_per_codebook"]) == records[0]["num_codebooks"]
        if name not in {"dia", "moshi"}:  # theirs is a mean over targets, not over codebooks
            whole = step["loss"] * (records[0]["num_codebooks"] if name == "higgs_audio" else 1)
            assert whole == pytest.approx(outputs.loss.item(), rel=1e-5)

    def test_a_model_of_ones_own(self, tmp_path):
        """No configuration, other names: an adapter says what they mean, and is proved."""

        class Mine(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.layers = torch.nn.Embedding(30, 8), torch.nn.ModuleList([Mixer()])
                self.head = torch.nn.Linear(8, 30)

            def forward(self, tokens, targets):
                scores = self.head(self.layers[0](self.embed(tokens)))
                return SimpleNamespace(scores=scores, loss=scores.mean(), targets=targets)

        class Mixer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.value, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

            def forward(self, hidden):
                return hidden + self.out(self.value(hidden).cumsum(dim=1))

        adapter = Adapter("mine", (Reading("text", logits="scores", labels="targets", inputs="tokens"),))
        model, tokens = Mine(), torch.randint(0, 30, (2, 6))
        check_adapter(adapter, model, {"tokens": tokens, "targets": tokens})
        with quiet(tmp_path, adapter=adapter).attach(model).step(1):
            scores = model(tokens, tokens).scores
        [step] = named(log_of(tmp_path), "train_step")
        expected = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        assert step["loss"] == pytest.approx(expected.item(), rel=1e-5)

    def test_compiled(self, tmp_path):
        """A compiled model is read as it is; what it computes stays compiled."""
        model = make("llama")[0]
        compiled = torch.compile(model, backend="eager")
        loop(tmp_path / "a", compiled, lambda **inputs: compiled(**inputs).loss)
        loop(tmp_path / "b", make("llama")[0])
        figures = [[step["loss"] for step in named(log_of(tmp_path / name), "train_step")] for name in "ab"]
        assert figures[0] == pytest.approx(figures[1], rel=1e-5)

    def test_accelerate(self, tmp_path):
        """Accelerate's loop, which accumulates gradients: a step has two micro-batches, each read once."""
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = make("llama")[0].train()
        loader = torch.utils.data.DataLoader(Tokens(), batch_size=2)
        model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01), loader)
        logger = quiet(tmp_path, log_steps=2).attach(model, optimizer)
        losses = []
        micro_batches = iter(loader)
        for number in range(1, 5):
            with logger.step(number) as notes:
                for batch in itertools.islice(micro_batches, 2):
                    with accelerator.accumulate(model):
                        loss = model(**batch).loss
                        losses.append(loss.item())
                        accelerator.backward(loss)
                        if accelerator.sync_gradients:
                            notes.grad_norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        optimizer.step()
                        optimizer.zero_grad()
        logger.close()
        steps = named(log_of(tmp_path), "train_step")
        assert [(step["step"], step["text_targets"]) for step in steps] == [(1, 28), (2, 28), (4, 28)]
        means = [losses[2 * number - 2 : 2 * number] for number in (1, 2, 4)]
        assert [step["loss"] for step in steps] == pytest.approx([sum(pair) / 2 for pair in means], rel=1e-5)
        assert all(step["grad_norm"] > 0 for step in steps)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_a_forward_pass_that_is_done_again(self, tmp_path, reentrant):
        """The whole model checkpointed: the pass within the backward pass emits nothing."""
        model = make("llama")[0]
        anchor = torch.zeros(1, requires_grad=True)  # reentrant checkpointing needs an input with a gradient

        def read(**inputs):
            def run(_anchor):
                return model(**inputs).loss

            return checkpoint(run, anchor, use_reentrant=reentrant)

        loop(tmp_path, model, read)
        steps = named(log_of(tmp_path), "train_step")
        assert {step["text_targets"] for step in steps} <= {14}

    def test_half_a_step(self, tmp_path):
        """An error of the training's own in the first step is raised, and no log is left that holds no step."""
        model = make("llama")[0]
        logger = quiet(tmp_path).attach(model)
        with pytest.raises(TypeError, match="not the log's"), logger.step(1):
            model(**batches(1)[0]).loss.backward(_not_a_gradient())
        logger.close("error")
        assert not list(tmp_path.rglob("*.jsonl"))


class TestProcessors:
    def test_processors(self, tmp_path):
        """Events pass the processors; the log of a training with `processors` is in order and lacks what they drop."""

        def drop_odd_samples(_logger, _level, event_dict):
            if event_dict.get("sample_index") == 1:
                raise structlog.DropEvent
            event_dict["experiment"] = "a"
            return event_dict

        trained(tmp_path, quiet(processors=[drop_odd_samples, structlog.processors.TimeStamper(key="local_time")]))
        records = log_of(tmp_path)
        assert [record["seq"] for record in records] == list(range(len(records)))
        assert {record["experiment"] for record in records} == {"a"}
        assert all("local_time" in record for record in records)
        assert {record["sample_index"] for record in named(records, "prediction_sample")} == {0}
        assert named(records, "run_end")[0]["events_lost"] == 0

    def test_a_wrong_one_is_refused_at_once(self):
        """A processor that cannot work is refused where the logger is made: on every rank, before the training."""
        with pytest.raises(UserError, match="expected a processor that keeps the field `event`"):
            PredictionLogger("out", processors=[structlog.processors.EventRenamer("msg")])


class TestFailures:
    def test_a_fault_of_the_log(self, tmp_path, monkeypatch, capsys):
        """Extraction that raises is said once and counted; the training is what it would have been."""
        monkeypatch.setattr("higgs_audio_trainer.recording.hooked_model.fingerprints", lambda *_: 1 / 0)
        bare = trained(tmp_path / "a").model
        logged = trained(tmp_path / "b", quiet(log_steps=1)).model
        assert all(map(torch.equal, bare.parameters(), logged.parameters()))
        [end] = named(log_of(tmp_path / "b"), "run_end")
        assert end["events_lost"] == 5
        assert capsys.readouterr().err.count("ZeroDivisionError") == 1

    def test_a_model_that_is_not_called(self, tmp_path, capsys):
        """A logged step without a forward pass is reported."""
        with quiet(tmp_path).attach(make("llama")[0]).step(1):
            pass
        assert "expected the model to be called in a logged step" in capsys.readouterr().err

    def test_a_wrong_argument_is_refused_at_once(self):
        """What a person typed is refused where the logger is made, in one sentence."""
        wrong = {"log_steps": 0, "samples": -1, "window": 0, "codebooks": "all", "sinks": None, "adapter": "llama"}
        wrong |= {"tokenizer": 7}
        for name, value in wrong.items():
            with pytest.raises(UserError, match=f"PredictionLogger: {name}: expected"):
                PredictionLogger("out", **{name: value})
        for name in ("log_steps", "samples"):
            with pytest.raises(UserError, match="whole number"):
                PredictionLogger("out", **{name: 0.25})
        with pytest.raises(sinks.SinkError, match="expected one of"):
            PredictionLogger("out", sinks="jsnl")
        with pytest.raises(ValueError, match="expected a folder"):
            PredictionLogger(sinks="jsonl").attach(make("llama")[0])
        with pytest.raises(UserError, match="config: expected a mapping, got Namespace"):
            PredictionLogger("out").attach(make("llama")[0], config=argparse.Namespace())

    def test_a_model_that_cannot_be_read(self, tmp_path, capsys):
        """The training goes on; it is said once, and in the log. A strict logger ends it, and leaves no log."""
        model = torch.nn.Linear(1, 1)
        logger = quiet(tmp_path / "a").attach(model)
        for number in (1, 2):
            with logger.step(number):
                model(torch.zeros(1)).backward()
        logger.close()
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "no step is logged: expected a model with a known adapter" in said[0]
        start, found, end = log_of(tmp_path / "a")
        assert (start["modalities"], found["code"], end["step"]) == ([], "unreadable_model", 2)
        assert "got Linear" in found["message"]
        assert main(["validate", str(tmp_path / "a")]) == 0
        with pytest.raises(UnreadableError, match="got Linear"):
            quiet(tmp_path / "b", strict=True).attach(model)
        assert not list((tmp_path / "b").rglob("*.jsonl"))

    def test_a_log_that_cannot_be_opened(self, tmp_path, capsys):
        """The training goes on without a log, which is said in one line; a strict logger ends it."""
        (tmp_path / "events").write_text("a file")
        trained(tmp_path, quiet())
        [said] = [line for line in capsys.readouterr().err.splitlines() if "PredictionLogger" in line]
        assert "nothing is logged: jsonl: " in said
        with pytest.raises(sinks.SinkError, match="jsonl: "):
            trained(tmp_path, quiet(strict=True))

    def test_codebooks_that_the_model_lacks(self, tmp_path, capsys):
        """They are named in one line, and the first codebook is shown where none is left."""
        model, batch = make("musicgen")
        with quiet(tmp_path, codebooks=(9,)).attach(model).step(1):
            model(**batch)
        [said] = capsys.readouterr().err.splitlines()
        assert "expected numbers from 0 to 1, since the model has 2 codebooks, got 9. Shown: 0" in said
        assert {sample["codebook"] for sample in named(log_of(tmp_path), "prediction_sample")} == {0}
        with pytest.raises(UserError, match="codebooks: expected numbers from 0 to 1"):
            quiet(tmp_path, codebooks=(9,), strict=True).attach(model)

    def test_a_strict_logger(self, tmp_path, monkeypatch):
        """An error in a logged step ends the training."""
        monkeypatch.setattr("higgs_audio_trainer.recording.hooked_model.fingerprints", lambda *_: 1 / 0)
        with pytest.raises(LoggingError, match="ZeroDivisionError"):
            trained(tmp_path, quiet(strict=True))

    def test_a_start_that_failed(self, tmp_path):
        """A training that fails in its first step leaves no log, and the next one is the first attempt."""

        class Failing(transformers.TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, **kwargs):
                raise RuntimeError("not the log's")

        logger = quiet()
        with pytest.raises(RuntimeError, match="not the log's"):
            trained(tmp_path, logger, Failing())
        trained(tmp_path, logger)
        assert [path.name for path in (tmp_path / "events").iterdir()] == ["rank00000-attempt000.jsonl"]
        assert log_of(tmp_path)[0]["attempt"] == 0


def log_on_a_rank(folder):
    """Train a loop with the logger, as one rank of several."""
    torch.distributed.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(make("llama")[0])
    logger = quiet(folder).attach(model)
    for number, batch in enumerate(batches(2), start=1):
        with logger.step(number):
            model(**batch).loss.backward()
    logger.close()
    assert not model.module._forward_hooks
    torch.distributed.barrier()
    os._exit(0)  # both at once: gloo aborts, now and then, where a peer is gone


def test_two_ranks(tmp_path):
    """Rank 0 writes what it saw, whatever the other does; no rank waits for another because of the log."""
    for ended in forks.ranks(tmp_path, log_on_a_rank, tmp_path / "out"):
        assert ended.status == 0, ended.err[-2000:]
    assert [path.name for path in (tmp_path / "out" / "events").iterdir()] == ["rank00000-attempt000.jsonl"]
    records = log_of(tmp_path / "out")
    assert records[0]["world_size"] == 2
    assert [step["step"] for step in named(records, "train_step")] == [1, 2]


def test_the_documents_lines(tmp_path, monkeypatch):
    """The lines for a Trainer and for a loop do what they say. The README has those for a Trainer too."""
    for_trainer, for_loop = re.findall(r"```python\n(.*?)```", PAGES["docs/any_trainer.md"], re.DOTALL)
    assert for_trainer in section("README.md", "Log any training")
    monkeypatch.chdir(tmp_path)
    model = make("llama")[0]
    names = {"trainer": transformers.Trainer(model=model, args=arguments(tmp_path), train_dataset=Tokens())}
    exec(for_trainer, names)
    names["trainer"].train()
    names |= {"model": model, "optimizer": torch.optim.SGD(model.parameters()), "loader": batches(2)}
    exec(for_loop, names)
    assert [named(log_of("out", attempt), "run_end")[0]["step"] for attempt in (0, 1)] == [5, 2]


def run_script(*arguments):
    """Run the example as a script, in a process that has imported what it needs."""
    sys.argv = list(map(str, arguments))
    runpy.run_path(sys.argv[0], run_name="__main__")


def test_the_path_of_a_stranger(tmp_path, monkeypatch, capsys):
    """A script for trl that gained three lines is run twice; its logs are read with what its first lines name."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_words(), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    make("llama")[0].save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [{"prompt": f"w{n} w{n + 1}", "completion": f" w{n + 2} w{n + 3}"} for n in range(3, 51)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    script = Path(__file__).parent.parent / "examples" / "sft.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # not on a device that this machine may have: others use it
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    for arguments in (["model", "train.jsonl", "one"], ["model", "train.jsonl", "other", "1e-4"]):
        out, err = (tmp_path / f"{arguments[2]}.{stream}" for stream in ("out", "err"))
        process = forks.start(run_script, script, *arguments, out=out, err=err)
        assert forks.wait(process, err) == 0, err.read_text()
    assert "Sample 1 Prediction vs Label Comparison" in (tmp_path / "one.out").read_text()
    one, other = log_of("one"), log_of("other")
    assert [step["step"] for step in named(one, "train_step")] == [1, 10]
    assert {step["text_targets"] for step in named(one, "train_step")} == {4 * 3}  # two words, and the end
    show, diff, report, trackio = (
        shlex.split(line)
        for line in script.read_text().split('"""')[1].splitlines()
        if line.startswith(("    higgs-audio-trainer ", "    trackio "))
    )
    assert main(show[1:]) == 0
    assert "2 logged, 1 to 10" in capsys.readouterr().out
    assert main(diff[1:]) == 1
    assert "config.learning_rate: expected 0.001, got 0.0001" in capsys.readouterr().out
    assert main(report[1:]) == 0
    assert "First difference" in Path("report.html").read_text()
    assert [*trackio[:2], trackio[3]] == ["trackio", "show", PROJECT]
    done = subprocess.run(
        [sys.executable, "-c", TRACKED, one[0]["run_id"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scalars, samples = json.loads(done.stdout)
    losses = [[step["step"], pytest.approx(step["loss"])] for step in named(one, "train_step")]
    assert scalars["train/loss"] == losses
    assert len(samples) == len(named(one, "prediction_sample"))
    assert other[0]["config"]["learning_rate"] == 1e-4


#: trackio reads where its store is when it is imported: in a process of its own.
TRACKED = """
import json, sys
sys.path.insert(0, "ROOT")
from tests.tracked import read
tracked = read("trackio", None, sys.argv[1])
print(json.dumps([tracked.scalars, tracked.samples]))
""".replace("ROOT", str(Path(__file__).parent.parent))
