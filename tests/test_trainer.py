"""Normalisation over micro-batches and ranks, logged steps, and the promise that logging changes nothing."""

import pytest
import torch

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.errors import LoggingError
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.families.training_forward import TrainingOutput
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.recording.live_checks import LiveChecks
from higgs_audio_trainer.recording.recorder import Recorder
from higgs_audio_trainer.recording.settings import RecorderSettings, every
from higgs_audio_trainer.training.model_streams import micro_batch_of
from sinks import MemorySink
from tests import forks
from tests.batches import lora_model, make_trainer, random_examples
from tests.families import every_family
from tests.record_training import record, save_record


def distance(one, other):
    """Distance of two sets of gradients, relative to the norm of the first."""
    flat_one, flat_other = (torch.cat([grads[name].flatten() for name in sorted(one)]) for grads in (one, other))
    return ((flat_one - flat_other).norm() / flat_one.norm()).item()


@pytest.fixture(scope="module")
def checkpoint(tiny):
    return open_checkpoint(str(tiny.model_dir))


@every_family
def test_a_compiled_training_has_the_same_losses(checkpoint, tiny, tmp_path, monkeypatch):
    """`--torch_compile true` through accelerate, with batches of several shapes and logged steps."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # which the arguments set for the whole process
    losses = []
    for arguments in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        memory = MemorySink()
        shown = WindowSettings(2, 5, (0, 3), None)
        settings = RecorderSettings(every(1), checkpoint.ids.num_codebooks, shown, counts=True)
        recorder = Recorder(Pipeline([("memory", memory)], run_id="r"), settings)
        trainer = make_trainer(
            checkpoint,
            lora_model(tiny.model_dir),
            random_examples(checkpoint, 8),
            tmp_path,
            recorder,
            max_steps=3,
            per_device_train_batch_size=2,
            **arguments,
        )
        trainer.train()
        losses.append([step["loss"] for step in memory.named("train_step")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(losses[1]) == 3


@every_family
def test_micro_batches_give_the_gradients_of_one_batch(tiny):
    """Four micro-batches of one sample give the gradients, the loss and the counts of one batch of four."""
    whole = record(tiny.model_dir, batch_size=4, grad_accum=1, samples=4, steps=1)
    parts = record(tiny.model_dir, batch_size=1, grad_accum=4, samples=4, steps=1)
    assert distance(whole["gradients"], parts["gradients"]) < 1e-5
    assert parts["steps"][0]["loss"] == pytest.approx(whole["steps"][0]["loss"], rel=1e-5)
    assert parts["steps"][0]["audio_targets"] == whole["steps"][0]["audio_targets"]
    assert_same_counts(parts["counts"], whole["counts"])
    for name in ("unigram_accuracy", "unigram_loss", "top_prediction_share"):
        assert [part[name] for part in parts["counts"]] == pytest.approx([part[name] for part in whole["counts"]])


def assert_same_counts(got, expected):
    """Compare token counts, but for what each rank counts for itself, and for padding."""
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        for name in ("step", "codebook", "num_targets", "supervised", "label_matches", "offset_contested"):
            assert one[name] == other[name]
        assert {**one["masked"], "padding": 0} == {**other["masked"], "padding": 0}
        for name in ("offset_surplus", "stop_rank", "stop_probability", "divisor"):
            assert one[name] == (None if other[name] is None else pytest.approx(other[name], rel=1e-3, abs=1e-3))


@every_family
@pytest.mark.parametrize("samples", [12, 7])
def test_two_ranks_train_as_one(tiny, tmp_path, samples):
    """Two ranks give the first gradients and the losses of one rank with the same global batch.

    With 7 samples the last batch of an epoch is not full on both ranks: what is repeated there does not count.
    """
    alone = record(tiny.model_dir, batch_size=4, grad_accum=1, samples=samples, steps=6)
    out = tmp_path / "two.pt"
    plan = {"batch_size": 2, "grad_accum": 1, "samples": samples, "steps": 6}
    for ended in forks.ranks(tmp_path, save_record, tiny.model_dir, out, plan):
        assert ended.status == 0, ended.err[-3000:]
    two = torch.load(out, weights_only=False)
    assert distance(alone["gradients"], two["gradients"]) < 1e-5
    for one, other in zip(alone["steps"], two["steps"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert (other["text_targets"], other["audio_targets"]) == (one["text_targets"], one["audio_targets"])
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert_same_counts(two["counts"][:9], alone["counts"][:9])
    assert two["eval"][0]["loss"] == pytest.approx(alone["eval"][0]["loss"], rel=1e-4)
    assert two["eval"][0]["audio_targets"] == alone["eval"][0]["audio_targets"]
    assert two["metrics"]["eval_loss"] == pytest.approx(alone["metrics"]["eval_loss"], rel=1e-4)


def logged(checkpoint, tiny, folder, *, log_steps=1, samples=4, shown_samples=2, **arguments):
    """Train with a memory sink."""
    memory = MemorySink()
    shown = WindowSettings(shown_samples, 5, (0, 3), None)
    settings = RecorderSettings(every(log_steps), checkpoint.ids.num_codebooks, shown)
    recorder = Recorder(Pipeline([("memory", memory)], run_id="r"), settings)
    defaults = {"per_device_train_batch_size": 2, "max_steps": 7}
    trainer = make_trainer(
        checkpoint,
        lora_model(tiny.model_dir, dropout=0.1),
        random_examples(checkpoint, samples, seed=1),
        folder,
        recorder,
        **(defaults | arguments),
    )
    trainer.train()
    return trainer, memory


def test_due_steps_are_the_first_and_every_multiple(checkpoint, tiny, tmp_path):
    """With log_steps 3, steps 1, 3 and 6 of 7 are logged."""
    _, memory = logged(checkpoint, tiny, tmp_path, log_steps=3)
    assert [event["step"] for event in memory.named("train_step")] == [1, 3, 6]
    assert {event["step"] for event in memory.named("prediction_sample")} == {1, 3, 6}


def test_with_accumulation_the_first_micro_batch_is_shown_once(checkpoint, tiny, tmp_path):
    """Steps count optimizer steps; each logged step shows its first micro-batch and counts all of them."""
    _, memory = logged(
        checkpoint, tiny, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=3
    )
    assert [event["step"] for event in memory.named("train_step")] == [1, 2, 3]
    for step in (1, 2, 3):
        shown = [event for event in memory.named("prediction_sample") if event["step"] == step]
        assert [(event["sample_index"], event["codebook"]) for event in shown] == [(0, None), (0, 0), (0, 3)]
    targets = {event["audio_targets"] for event in memory.named("train_step")}
    assert len(targets) == 1, "every step sees all four samples"


@every_family
def test_figures_are_those_of_the_training_loss(checkpoint, tiny, tmp_path):
    """The logged loss is what transformers logs for its trackers, which is what was optimised."""
    trainer, memory = logged(checkpoint, tiny, tmp_path, logging_strategy="steps", logging_steps=1)
    history = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
    for event in memory.named("train_step"):
        assert event["loss"] == pytest.approx(history[event["step"]]["loss"], rel=1e-5)
        assert event["learning_rate"] == history[event["step"]]["learning_rate"]
        assert event["grad_norm"] == pytest.approx(history[event["step"]]["grad_norm"], rel=1e-5)
        assert event["epoch"] == history[event["step"]]["epoch"]
        assert event["step_ms"] >= event["logging_ms"] > 0


@every_family
def test_evaluation_emits_its_own_samples_and_result(checkpoint, tiny, tmp_path):
    """An evaluation gives samples with split eval and one eval_result, whose loss is a mean over all targets."""
    trainer, memory = logged(
        checkpoint, tiny, tmp_path, samples=5, eval_strategy="steps", eval_steps=4, per_device_eval_batch_size=2
    )
    assert [event["step"] for event in memory.named("eval_result")] == [4, 7]  # and at the end, as transformers does
    samples = [event for event in memory.named("prediction_sample") if event["split"] == "eval"]
    assert len(samples) == 2 * 2 * 3
    result = memory.named("eval_result")[-1]
    assert result["num_samples"] == 5
    trainer.args.per_device_eval_batch_size = 5
    in_one_batch = trainer.evaluate()
    for name in ("loss", "text_loss", "audio_loss"):
        assert result[name] == pytest.approx(in_one_batch[f"eval_{name}"], rel=1e-5)


@every_family
def test_logging_changes_no_bit(checkpoint, tiny, tmp_path):
    """Adapters trained with logging at every step and without any are equal bit by bit, dropout included."""
    trained = []
    for name in ("on", "off"):
        folder = tmp_path / name
        trainer = make_trainer(
            checkpoint,
            lora_model(tiny.model_dir, dropout=0.1),
            random_examples(checkpoint, 6, seed=2),
            folder,
            every_step(checkpoint, ("memory", MemorySink())) if name == "on" else None,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=5,
            eval_strategy="steps",
            eval_steps=2,
        )
        trainer.train()
        trainer.save_model()
        trained.append((folder / "adapter_model.safetensors").read_bytes())
    assert trained[0] == trained[1]


def every_step(checkpoint, *sinks, **settings):
    """Record every step, all codebooks, with the checks unless nothing is counted."""
    shown = WindowSettings(2, 5, tuple(range(8)), str, ranks=True)
    emit = Pipeline(sinks, run_id="r")
    defaults = {"is_logged_step": every(1), "num_codebooks": checkpoint.ids.num_codebooks, "shown": shown}
    record = RecorderSettings(**(defaults | {"counts": True} | settings))
    return Recorder(emit, record, checks=LiveChecks(emit, fails=False) if record.counts else None)


class Untouchable(torch.Tensor):
    """A tensor whose every use raises."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"a tensor was touched by {func}")


def test_without_sinks_no_tensor_is_touched(checkpoint, tiny, tmp_path, monkeypatch):
    """When nothing is logged, the logits and labels that the model returns are never used again."""
    trainer = make_trainer(
        checkpoint, lora_model(tiny.model_dir), random_examples(checkpoint, 2), tmp_path, max_steps=2
    )
    forward = type(trainer.model.base_model.model).forward

    def returning_untouchables(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        for rows in (outputs.text, outputs.audio):
            for name in ("logits", "labels", "nll", "batch_index", "position", "row"):
                setattr(rows, name, torch.zeros(1).as_subclass(Untouchable))
        for name in ("text_loss", "audio_loss", "audio_loss_K"):
            outputs[name] = torch.zeros(1).as_subclass(Untouchable)
        return outputs

    monkeypatch.setattr(type(trainer.model.base_model.model), "forward", returning_untouchables)
    trainer.train()
    assert trainer.state.global_step == 2


def test_untouchable_tensors_do_catch_extraction(checkpoint):
    """The tensor of the test above raises where extraction would use it."""
    from higgs_audio_trainer.extraction.rows import SupervisedRows

    rows = SupervisedRows(*(torch.zeros(1).as_subclass(Untouchable) for _ in range(6)))
    with pytest.raises(AssertionError, match="a tensor was touched"):
        micro_batch_of(TrainingOutput(text=rows, audio=rows), {}, [], vocabulary=checkpoint.vocabulary)


class Broken:
    """A sink that always fails."""

    def __call__(self, record):
        raise OSError("no space left")


def test_a_failing_sink_does_not_stop_training(checkpoint, tiny, tmp_path, capsys):
    """Training goes on, the failure is said once, every loss is counted."""
    memory = MemorySink()
    recorder = every_step(checkpoint, ("broken", Broken()), ("memory", memory), counts=False)
    trainer = make_trainer(
        checkpoint, lora_model(tiny.model_dir), random_examples(checkpoint, 2), tmp_path, recorder, max_steps=3
    )
    trainer.train()
    assert trainer.state.global_step == 3
    assert recorder.emit.lost == len(memory.records) > 3
    assert capsys.readouterr().err.count("no space left") == 1


def broken_decode(ids):
    """Fail as a bug in extraction would."""
    raise ValueError("cannot decode")


@pytest.mark.parametrize("strict", [False, True])
def test_an_error_in_extraction_costs_the_step_not_the_training(checkpoint, tiny, tmp_path, capsys, strict):
    """Without strict logging the error is counted and training ends as ever; with it, it ends the run."""
    memory = MemorySink()
    shown = WindowSettings(2, 5, (0,), broken_decode)
    pipeline = Pipeline([("memory", memory)], run_id="r", strict=strict)
    recorder = Recorder(pipeline, RecorderSettings(every(1), checkpoint.ids.num_codebooks, shown, strict=strict))
    trainer = make_trainer(
        checkpoint, lora_model(tiny.model_dir), random_examples(checkpoint, 2), tmp_path, recorder, max_steps=3
    )
    if strict:
        with pytest.raises(LoggingError, match=r"cannot decode.*extraction"):
            trainer.train()
        return
    trainer.train()
    assert trainer.state.global_step == 3
    assert pipeline.failures == {"extraction": 3}
    assert memory.records == []
    assert "cannot decode" in capsys.readouterr().err
