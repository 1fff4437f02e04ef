"""One recorder for every training: each event is made in one place, and says the same whoever trains."""

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import HiggsAudioV2ForConditionalGeneration, Trainer
from transformers.utils.generic import ModelOutput

import higgs_audio_trainer
from benchmarks.workload import add_lora
from higgs_audio_trainer import PredictionLogger
from higgs_audio_trainer.adapters import Adapter, Reading
from higgs_audio_trainer.adapters.families import HIGGS_AUDIO
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.output_dir.attempt import Attempt
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, every
from higgs_audio_trainer.training.beginning import Beginning
from higgs_audio_trainer.training.run_facts import run_facts
from sinks import MemorySink
from tests.batches import collate, lora_model, make_trainer, random_examples, tensors, training_arguments
from tests.logs import read as read_log

PACKAGE = Path(higgs_audio_trainer.__file__).parent
IN_RECORDER = ("RunStart", "TrainStep", "EvalResult", "Checkpoint", "RunEnd")
#: An event that needs the places of slots, which are known for batches of our own collator alone.
OURS_ALONE = "mask_audit"
#: Fields that another training cannot know, or that differ between any two runs, each with the reason.
UNKNOWN = {
    "every event": {
        "ts": "time of emission",
        "run_id": "drawn for each run",
        "seq": "`mask_audit`, an event of ours alone, moves the numbers",
    },
    "run_start": {
        "config": "the other training has settings of its own",
        "family": "another training names no family",
        "vocab_size": "the shapes of the samples tell the vocabularies of another training",
        "codebook_size": "as vocab_size",
        "num_eval_samples": "a Trainer makes its evaluation data after the training began",
    },
    "train_step": {
        "step_ms": "time",
        "logging_ms": "time",
        "samples": "samples have no names in another training: fingerprints stand for them",
        "padding_share": "the length of a sample is known for batches of our own collator alone",
        "tokens_per_s": "time",
        "audio_seconds_per_s": "time",
        "samples_per_s": "time",
        "data_wait_ms": "the loop of another training asks its loader itself",
        "seconds_left": "time",
    },
    "prediction_sample": {
        "sample_id": "samples have no names in another training",
        "fingerprint": "hash of the tokens alone; ours is of the codes too",
    },
    "token_counts": {
        "masked": "the place of a slot is known for batches of our own collator alone",
        "supervised": "the place of a slot is known for batches of our own collator alone",
        "divisor": "the loss of one codebook is known for our own model alone",
        "constant_samples": "samples have no names in another training",
        "strip": "the place of a slot is known for batches of our own collator alone",
    },
    "eval_result": {"duration_s": "time"},
    "checkpoint": {},
    "run_end": {"logging_ms_total": "time", "events_written": "the mask audit is an event of ours alone"},
    "diagnosis": {},
}


def test_each_event_is_constructed_in_one_place():
    """The events of a run, its steps, evaluations and checkpoints have one constructor call each, in the recorder."""
    calls = Counter()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            name = getattr(node.func, "id", getattr(node.func, "attr", None)) if isinstance(node, ast.Call) else None
            if name in IN_RECORDER:
                calls[name, str(path.relative_to(PACKAGE))] += 1
    assert calls == {(name, "recording/recorder.py"): 1 for name in IN_RECORDER}


@dataclass
class PlainOutput(ModelOutput):
    """The outputs of an ordinary model: a loss, and logits at every position."""

    loss: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None
    audio_logits: torch.Tensor | None = None


class PlainHiggs(HiggsAudioV2ForConditionalGeneration):
    """The native model with a plain loss over all positions: mean over text, mean over codebooks of their means."""

    def __init__(self, config, use_text_head=True):
        super().__init__(config, use_text_head=use_text_head)

    def forward(self, labels=None, audio_labels=None, **inputs):
        """Compute logits at every position, and the loss."""
        hidden = self.model(use_cache=False, **inputs).last_hidden_state
        K, C = self.config.num_codebooks, self.config.codebook_size
        text, audio = self.text_lm_head(hidden), self.audio_lm_head(hidden).unflatten(-1, (K, C))
        at = HIGGS_AUDIO.prepare(self, None, {**inputs, "audio_labels": audio_labels})["labels_at_positions"]
        losses = [F.cross_entropy(audio[:, :-1, k].flatten(0, 1), at[:, 1:, k].flatten()) for k in range(K)]
        loss = F.cross_entropy(text[:, :-1].flatten(0, 1), labels[:, 1:].flatten()) + torch.stack(losses).mean()
        return PlainOutput(loss, text, audio.flatten(2))


def plain_model(model_dir):
    """Load the plain model with the adapters of `lora_model`."""
    torch.manual_seed(0)
    model = add_lora(PlainHiggs.from_pretrained(model_dir), r=4, alpha=8, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


SCHEDULE = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "prediction_loss_only": True,
    "max_grad_norm": 1.0,
}


def ours(checkpoint, tiny, folder):
    """Train with our trainer and return the events."""
    memory = MemorySink()
    emit = Pipeline([("memory", memory)], run_id="r")
    shown = WindowSettings(2, 5, (0, 3), None)
    settings = RecorderSettings(every(1), checkpoint.ids.num_codebooks, shown, counts=True)
    recorder = Recorder(emit, settings, checks=LiveChecks(emit, fails=False))
    model = lora_model(tiny.model_dir)
    trainer = make_trainer(checkpoint, model, random_examples(checkpoint, 6, seed=3), folder, recorder, **SCHEDULE)
    run = TrainSettings(train_manifest="train.jsonl", output_dir=str(folder), base_ckpt=str(tiny.model_dir))

    def start():
        facts = run_facts(run, trainer, checkpoint, Attempt("r", 0, None), None, 6, 6)
        recorder.start(facts, current_step=lambda: trainer.state.global_step)

    trainer.add_callback(Beginning(start, lambda: None))
    trainer.train()
    recorder.end("completed")
    return memory.records


def theirs(checkpoint, tiny, folder):
    """Train with a plain Trainer and PredictionLogger and return the events."""
    text = Reading("text", "text_logits", stops=("text_stops",))
    audio = HIGGS_AUDIO.readings[0]
    adapter = Adapter(
        "plain Higgs", (text, Reading(**{**vars_of(audio), "logits": "audio_logits"})), prepare=HIGGS_AUDIO.prepare
    )
    model = plain_model(tiny.model_dir)
    model.get_base_model().config.text_stops = list(checkpoint.vocabulary.text_stops)
    logger = PredictionLogger(folder, log_steps=1, sinks="jsonl", adapter=adapter, codebooks=(0, 3))
    trainer = Trainer(
        model,
        training_arguments(folder, **SCHEDULE),
        data_collator=lambda examples: tensors(collate(checkpoint, examples)),
        train_dataset=random_examples(checkpoint, 6, seed=3),
        eval_dataset=random_examples(checkpoint, 6, seed=3),
        callbacks=[logger],
    )
    trainer.train()
    return list(read_log(folder))


def vars_of(reading):
    """Return the fields of a reading, which has slots and no `__dict__`."""
    return {name: getattr(reading, name) for name in reading.__slots__}


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """Return the events of both trainings, without the event that is ours alone."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    trained = (train(checkpoint, tiny, tmp_path_factory.mktemp(train.__name__)) for train in (ours, theirs))
    return [[record for record in records if record.get("code") != OURS_ALONE] for records in trained]


def known(record):
    """Leave out what another training cannot know."""
    without = UNKNOWN["every event"].keys() | UNKNOWN[record["event"]].keys()
    return {name: value for name, value in record.items() if name not in without}


def assert_equal(one, other, path):
    """Compare values: floats to 1e-3 of their size, all else exactly."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), path
        for name in one:
            assert_equal(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}[{index}]")
    elif isinstance(one, float) and isinstance(other, float):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4), path
    else:
        assert other == one, path


def test_both_trainings_record_the_same(both):
    """The same model on the same batches gives the same events in the same order, field by field."""
    mine, other = both
    names = [record["event"] for record in mine]
    assert [record["event"] for record in other] == names
    assert {"train_step", "prediction_sample", "token_counts", "eval_result", "checkpoint"} <= set(names)
    for number, (one, two) in enumerate(zip(mine, other, strict=True)):
        assert_equal(known(one), known(two), f"{number} {one['event']}")


def test_no_field_is_left_out_without_need(both):
    """Each field of the list differs somewhere, so that a field that both trainings know is compared."""
    pairs = list(zip(*both, strict=True))
    differing = {(one["event"], name) for one, two in pairs for name in one if one[name] != two[name]}
    listed = {(event, name) for event, names in UNKNOWN.items() if event != "every event" for name in names}
    assert listed <= differing, listed - differing
