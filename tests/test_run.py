"""Whole runs: from a manifest of speech to an adapter and a log, stopped, resumed, and on two ranks."""

import json
import pickle
import shutil
import stat

import orjson
import pytest
import torch
from peft import AutoPeftModel, PeftModel
from transformers import HiggsAudioV2ForConditionalGeneration

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.batch import Collator, SpeechDataset
from higgs_audio_trainer.errors import ManifestError, UserError
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from sinks import MemorySink
from tests import forks
from tests.batches import tensors
from tests.families import every_family, training_model
from tests.test_schemas import is_valid


def settings(tiny, clips, folder, **changes):
    """Make settings of a short run on the bundled clips."""
    defaults = {
        "base_ckpt": str(tiny.model_dir),
        "audio_tokenizer": str(tiny.codec_dir),
        "train_manifest": str(clips),
        "output_dir": str(folder),
        "batch_size": 2,
        "grad_accum": 2,
        "max_steps": 4,
        "log_steps": 2,
        "seed": 0,
        "sinks": "jsonl",
        "say_steps": 0,  # a decoder process takes seconds
    }
    return TrainSettings(**(defaults | changes))


def read_log(folder, attempt=0, rank=0):
    """Read one file of the log."""
    path = folder / "events" / f"rank{rank:05d}-attempt{attempt:03d}.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def stable(event):
    """Leave out what two equal runs may differ in."""
    return {name: value for name, value in event.items() if name not in VOLATILE_FIELDS}


class StopAt:
    """Interrupts the run when a checkpoint of this step was saved, as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    def __call__(self, record):
        if record["event"] == "checkpoint" and record["step"] == self.step:
            raise KeyboardInterrupt


@every_family
def test_a_run_leaves_an_adapter_and_a_log_that_fits_the_schemas(tiny, clips, tmp_path):
    """The log begins with run_start, ends with run_end, has no gap in seq, and every line fits its schema."""
    run_training(settings(tiny, clips, tmp_path, eval_manifest=str(clips), val_steps=2, log_codebooks="all"))
    events = read_log(tmp_path)
    assert all(map(is_valid, events))
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert (events[0]["event"], events[-1]["event"]) == ("run_start", "run_end")
    assert events[-1]["reason"] == "completed"
    assert events[-1]["events_written"] == len(events) - 1
    assert [event["step"] for event in events if event["event"] == "train_step"] == [1, 2, 4]
    texts = {None} if "text" in events[0]["modalities"] else set()
    assert {event["codebook"] for event in events if event["event"] == "prediction_sample"} == {*texts, *range(8)}
    assert {event["split"] for event in events if event["event"] == "prediction_sample"} == {"train", "eval"}
    base = training_model(open_checkpoint(str(tiny.model_dir)))
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert any(parameter.abs().sum() > 0 for name, parameter in loaded.named_parameters() if "lora_B" in name)


def test_the_log_file_is_private(tiny, clips, tmp_path):
    """Transcripts are for the user alone: mode 0600."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    (path,) = (tmp_path / "events").glob("rank*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_predictions_in_the_log_are_those_of_the_native_model(tiny, clips, tmp_path):
    """At step 1 an adapter does nothing yet: what the log shows is what the native model predicts from the clips."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1, log_codebooks="all", codes_dir=str(tmp_path / "codes")))
    checkpoint = open_checkpoint(str(tiny.model_dir))
    (prepared,), _ = prepare_manifests(
        [str(clips)],
        checkpoint,
        codec_name=str(tiny.codec_dir),
        codes_dir=str(tmp_path / "codes"),
        max_seconds=60,
        skip_bad_samples=False,
        devices=["cpu"],
    )
    examples = {example.ref.id: example for example in SpeechDataset(prepared, checkpoint.ids)}
    native = HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir, use_text_head=True).eval()
    events = [event for event in read_log(tmp_path) if event["event"] == "prediction_sample"]
    assert len(events) == 2 * 9
    for event in events:
        example = examples[event["sample_id"]]
        assert event["fingerprint"] == example.ref.fingerprint
        batch = tensors(Collator(checkpoint.ids)([example]))
        with torch.no_grad():
            hidden = native.model(**{k: v for k, v in batch.items() if "labels" not in k}).last_hidden_state[0]
            text, audio = native.text_lm_head(hidden), native.audio_lm_head(hidden).view(-1, 8, 1026)
        logits = text if event["codebook"] is None else audio[:, event["codebook"]]
        for window in (event["first"], event["last"]):
            for position, label, predicted in zip(
                window["positions"], window["labels"], window["predictions"], strict=True
            ):
                assert predicted == (None if label == -100 else logits[position - 1].argmax().item())
        assert event["stop_targets"] == 1
    audio = [event for event in events if event["modality"] == "audio"]
    assert all(event["last"]["labels"][-1] == 1025 for event in audio)
    assert all(event["last"]["label_text"].endswith("<|eot_id|>") for event in events if event["modality"] == "text")


@every_family
def test_two_runs_with_one_seed_are_equal(tiny, clips, tmp_path):
    """Their events differ in volatile fields and paths alone, their adapters not at all."""
    for name in ("a", "b"):
        run_training(settings(tiny, clips, tmp_path / name, max_steps=2))
    one, other = (list(map(stable, read_log(tmp_path / name))) for name in ("a", "b"))
    assert one[1:] == other[1:]
    assert (tmp_path / "a/adapter_model.safetensors").read_bytes() == (
        tmp_path / "b/adapter_model.safetensors"
    ).read_bytes()


@every_family
def test_a_resumed_run_equals_one_that_was_not_stopped(tiny, clips, tmp_path):
    """Stopped in the middle of an epoch and resumed: equal adapters, and equal events past the checkpoint."""
    options = {"max_steps": 4, "save_steps": 3, "log_steps": 1, "eval_manifest": str(clips), "val_steps": 2}
    run_training(settings(tiny, clips, tmp_path / "whole", **options))
    stopped = settings(tiny, clips, tmp_path / "stopped", **options)
    with pytest.raises(KeyboardInterrupt):
        run_training(stopped, more_sinks=[("stop", StopAt(3))])
    assert read_log(tmp_path / "stopped")[-1]["reason"] == "interrupted"
    resumed = run_training(settings(tiny, clips, tmp_path / "stopped", resume="latest", **options))
    assert (resumed.attempt, resumed.step) == (1, 4)
    for name in ("adapter_model.safetensors",):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    whole, second = read_log(tmp_path / "whole"), read_log(tmp_path / "stopped", attempt=1)
    assert second[0]["resumed_from_step"] == 3
    assert second[0]["run_id"] == read_log(tmp_path / "stopped")[0]["run_id"]
    saved = next(index for index, event in enumerate(whole) if event["event"] == "checkpoint")
    assert list(map(stable, whole[saved + 1 :])) == list(map(stable, second[1:]))


def test_an_output_directory_with_a_run_is_refused(tiny, clips, tmp_path):
    """Without --resume a second run there is an error, and the first one's files stay as they are."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"--output_dir: expected a folder without a run, got .* --resume"):
        run_training(settings(tiny, clips, tmp_path, max_steps=2))
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_resume_in_an_empty_directory_begins(tiny, clips, tmp_path):
    """A job script may always pass --resume."""
    result = run_training(settings(tiny, clips, tmp_path / "new", max_steps=1, resume="latest"))
    assert result.attempt == 0


def test_resume_names_a_checkpoint(tiny, clips, tmp_path):
    """An earlier checkpoint can be chosen; a folder that is none is an error."""
    run_training(settings(tiny, clips, tmp_path, save_steps=1, max_steps=2))
    run_training(settings(tiny, clips, tmp_path, save_steps=1, max_steps=2, resume=str(tmp_path / "checkpoint-1")))
    assert read_log(tmp_path, attempt=1)[0]["resumed_from_step"] == 1
    with pytest.raises(UserError, match=r"--resume: expected the folder of a complete checkpoint"):
        run_training(settings(tiny, clips, tmp_path, resume=str(tmp_path / "checkpoint-99")))


def test_faults_are_listed_at_once_and_nothing_is_left_behind(tiny, clips, tmp_path):
    """All faults of the manifest come in one error, before any training and before the directory is claimed."""
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"id": "a", "audio": "none.wav", "text": "x"}\n{broken\n{"id": "c", "audio": "m.jsonl", "text": " "}\n'
    )
    with pytest.raises(ManifestError) as caught:
        run_training(settings(tiny, manifest, tmp_path / "out"))
    assert [fault.where for fault in caught.value.problems] == [f"{manifest}:{line}" for line in (1, 2, 3)]
    assert not (tmp_path / "out").exists()


def test_faults_of_both_manifests_come_together(tiny, clips, tmp_path):
    """A fault of the evaluation manifest is said with those of the training manifest, before anything is encoded."""
    bad = '{"id": "a", "audio": "none.wav", "text": "x"}\n'
    train, evaluation = tmp_path / "t.jsonl", tmp_path / "e.jsonl"
    train.write_text(bad)
    evaluation.write_text(bad)
    with pytest.raises(ManifestError) as caught:
        run_training(settings(tiny, train, tmp_path / "out", eval_manifest=str(evaluation)))
    assert [fault.where for fault in caught.value.problems] == [f"{train}:1", f"{evaluation}:1"]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.problems, str(again)) == (caught.value.problems, str(caught.value)), "other ranks are sent the error"


def test_bad_samples_are_skipped_on_request(tiny, clips, tmp_path):
    """--skip_bad_samples says how many and which, and trains on the rest."""
    manifest = clips.parent / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["audio"] = str(clips.parent / line["audio"])
    lines[2]["audio"] = "gone.wav"
    own = tmp_path / "m.jsonl"
    own.write_text("\n".join(map(json.dumps, lines)))
    said = []
    run_training(settings(tiny, own, tmp_path / "out", skip_bad_samples=True, max_steps=1), say=said.append)
    assert any(f"{own}:3: audio: expected a file" in line for line in said)
    assert any("skipped 1 of 8 samples" in line for line in said)
    assert read_log(tmp_path / "out")[0]["num_train_samples"] == 7


def test_a_model_has_so_many_codebooks(tiny, clips, tmp_path):
    """A codebook that the model hasn't is an error with the range."""
    with pytest.raises(UserError, match=r"--log_codebooks: expected codebooks from 0 to 7, as the model has, got 8"):
        run_training(settings(tiny, clips, tmp_path, log_codebooks="0,8"))


def test_a_checkpoint_without_text_head_is_refused(tiny, clips, tmp_path):
    """A conversion that dropped text_lm_head.weight would train a random head; it is said instead."""
    model = HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir)
    for path in tiny.model_dir.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"expected weights for text_lm_head.weight, got none"):
        run_training(settings(tiny, clips, tmp_path / "out", base_ckpt=str(tmp_path)))


def test_a_third_party_sink_takes_part(tiny, clips, tmp_path, monkeypatch):
    """A dotted path is loaded and gets every record that the file gets."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_sinks.py").write_text(
        "import json\n"
        "def make(context, path):\n"
        "    def sink(record):\n"
        "        with open(path, 'a') as file:\n"
        "            file.write(record['event'] + '\\n')\n"
        "    return sink\n"
    )
    run_training(
        settings(tiny, clips, tmp_path / "out", max_steps=1, sinks=f"jsonl,their_sinks:make:path={tmp_path}/names")
    )
    assert (tmp_path / "names").read_text().split() == [event["event"] for event in read_log(tmp_path / "out")]


def test_sinks_none_writes_no_events(tiny, clips, tmp_path, capsys):
    """Nothing on the console, no file of events, and the adapter is there."""
    run_training(settings(tiny, clips, tmp_path, sinks="none", max_steps=1))
    assert not (tmp_path / "events").exists()
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert capsys.readouterr().out == ""


@every_family
def test_gradient_checkpointing_and_bf16_train(tiny, clips, tmp_path):
    """Both run through the same trainer; losses are finite."""
    memory = MemorySink()
    run_training(
        settings(
            tiny, clips, tmp_path, max_steps=2, gradient_checkpointing=True, dtype="bfloat16", extra={"bf16": True}
        ),
        more_sinks=[("memory", memory)],
    )
    losses = [event["loss"] for event in memory.named("train_step")]
    assert all(isinstance(loss, float) for loss in losses)
    plain = MemorySink()
    run_training(settings(tiny, clips, tmp_path / "plain", max_steps=2), more_sinks=[("memory", plain)])
    assert losses == pytest.approx([event["loss"] for event in plain.named("train_step")], rel=0.02)


@every_family
def test_two_ranks_write_one_log(tiny, clips, tmp_path):
    """Rank 0 alone writes, unless --log_all_ranks; the error of a rank is said once."""
    out = tmp_path / "out"
    paths = ("--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", clips)
    line = (*paths, "--output_dir", out, "--use_cpu", "true", "--max_steps", 1)
    one, other = forks.ranks(tmp_path, forks.command, *line)
    assert (one.status, other.status) == (0, 0), one.err
    assert [path.name for path in (out / "events").glob("rank*")] == ["rank00000-attempt000.jsonl"]
    assert one.out.count("run ended: completed at step 1") == 1
    assert other.out == ""
    refused = forks.ranks(tmp_path, forks.command, *line)
    assert [rank.status for rank in refused] == [2, 2]
    assert "".join(rank.err for rank in refused).count("expected a folder without a run") == 1


def test_bad_input_is_exit_2_without_a_traceback(clips, tmp_path, capsys):
    """A missing checkpoint is one line on stderr."""
    paths = ("--train_manifest", clips, "--output_dir", tmp_path, "--base_ckpt", tmp_path / "none")
    assert main(list(map(str, paths))) == 2
    said = capsys.readouterr().err
    assert said.startswith("higgs-audio-trainer: --base_ckpt: expected a folder")
    assert "Traceback" not in said


def test_a_sink_that_cannot_be_set_up_leaves_the_directory_free(tiny, clips, tmp_path):
    """A log folder that cannot be written is an error, after which the same command works with another folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="jsonl"):
        run_training(settings(tiny, clips, tmp_path / "out", sinks=f"jsonl:dir={tmp_path}/file/logs", max_steps=1))
    run_training(settings(tiny, clips, tmp_path / "out", max_steps=1))
    assert read_log(tmp_path / "out")[0]["attempt"] == 0


def test_resuming_a_finished_run_trains_no_further(tiny, clips, tmp_path):
    """A job script may always pass --resume: a finished run stays as it is, also one that ended inside an epoch."""
    options = {"max_steps": 3, "save_steps": 3, "extra": {"lr_scheduler_type": "constant"}}
    run_training(settings(tiny, clips, tmp_path, **options))
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    result = run_training(settings(tiny, clips, tmp_path, resume="latest", **options))
    assert result.step == 3
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    assert [event["event"] for event in read_log(tmp_path, attempt=1)] == ["run_start", "run_end"]


def test_a_checkpoint_that_was_cut_off_is_passed_over(tiny, clips, tmp_path):
    """A kill while the newest checkpoint was written leaves the one before it to resume from."""
    run_training(settings(tiny, clips, tmp_path, save_steps=1, max_steps=2))
    (tmp_path / "checkpoint-2/trainer_state.json").write_text("")
    run_training(settings(tiny, clips, tmp_path, save_steps=1, max_steps=2, resume="latest"))
    assert read_log(tmp_path, attempt=1)[0]["resumed_from_step"] == 1


def test_an_adapter_of_another_shape_is_not_resumed(tiny, clips, tmp_path):
    """A rank that differs from the checkpoint's is said before the weights are loaded."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    with pytest.raises(UserError, match=r"--lora_r: expected 32, the value of checkpoint-1"):
        run_training(settings(tiny, clips, tmp_path, max_steps=2, resume="latest", lora_r=8))


def test_the_adapter_names_the_native_class(tiny, clips, tmp_path):
    """`AutoPeftModel` finds the native model, without this package."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    loaded = AutoPeftModel.from_pretrained(tmp_path)
    assert type(loaded.base_model.model) is HiggsAudioV2ForConditionalGeneration


def test_the_log_says_what_was_resolved(tiny, clips, tmp_path):
    """`auto` and defaults stand in run_start as what they became."""
    run_training(settings(tiny, clips, tmp_path, max_steps=1))
    config = read_log(tmp_path)[0]["config"]
    assert (config["dtype"], config["mixed_precision"]) == ("float32", "no")


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"dataloader_num_workers": -1}},
        {"extra": {"eval_strategy": "steps"}},
        {"report_to": "nonsense"},
        {"lora_targets": "nope"},
    ],
)
def test_arguments_that_libraries_refuse_are_bad_input(tiny, clips, tmp_path, changes):
    """What transformers or peft would raise for an argument is a UserError."""
    with pytest.raises(UserError):
        run_training(settings(tiny, clips, tmp_path, max_steps=1, **changes))


def test_damaged_weights_are_bad_input(tiny, clips, tmp_path):
    """A base checkpoint that was cut off is said as such."""
    shutil.copytree(tiny.model_dir, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="the weights cannot be loaded"):
        run_training(settings(tiny, clips, tmp_path / "out", base_ckpt=str(tmp_path / "model")))


def test_two_runs_do_not_share_a_file(tiny, clips, tmp_path):
    """A second run with the same folder of logs is refused: a file begins with its run_start and has one run."""
    logs = tmp_path / "logs"
    run_training(settings(tiny, clips, tmp_path / "a", sinks=f"jsonl:dir={logs}", max_steps=1))
    before = (logs / "rank00000-attempt000.jsonl").read_bytes()
    with pytest.raises(UserError, match="expected a new file"):
        run_training(settings(tiny, clips, tmp_path / "b", sinks=f"jsonl:dir={logs}", max_steps=1))
    assert (logs / "rank00000-attempt000.jsonl").read_bytes() == before
