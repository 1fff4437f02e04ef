"""Variants of LoRA and full fine-tuning: what is saved is the model that was trained, wherever it is loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import higgs_audio_trainer.run
from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.lora_settings import with_lora_config
from higgs_audio_trainer.training.whole_checkpoint import export_model
from tests import forks
from tests.batches import collate, random_examples, tensors
from tests.families import every_family, training_model
from tests.test_run import read_log, settings

#: Settings of each variant. A list of names in the place of the file stands for its fields.
LORA = {
    "dora, rslora, layers": {"use_dora": True, "use_rslora": True, "lora_layers": "0,2-3"},
    "pissa": {"init_lora_weights": "pissa", "lora_dropout": 0.0},
    "olora, dora, rslora, patterns": {
        "init_lora_weights": "olora",
        "use_dora": True,
        "use_rslora": True,
        "lora_config": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 16}, "exclude_modules": "v_proj"},
    },
    "gaussian, head": {"init_lora_weights": "gaussian", "modules_to_save": "HEAD"},
    "orthogonal, embedding": {"init_lora_weights": "orthogonal", "modules_to_save": "embed_tokens,norm,EMBEDDING"},
    "any, random": {
        "init_lora_weights": "false",
        "lora_config": {"target_modules": r".*\.\d\.(mlp|self_attn)\.(up|o)_proj", "lora_bias": True},
    },
}
NAMES = {
    "higgs-audio-v2": {"HEAD": "audio_lm_head", "EMBEDDING": "embed_audio_tokens"},
    "higgs-tts-3": {"HEAD": "audio_head", "EMBEDDING": "audio_embedding"},
}
#: Variants that give a tied head of TTS 3 weights of its own, or its embedding others.
UNTIED = ("gaussian, head", "orthogonal, embedding")


@pytest.fixture
def trained(monkeypatch):
    """Collect the models of the runs."""
    models = []
    load = higgs_audio_trainer.run.load_model
    monkeypatch.setattr(higgs_audio_trainer.run, "load_model", lambda *parts: models.append(load(*parts)) or models[-1])
    return models


def run_on_a_rank(given):
    """Train in a forked process."""
    run_training(given, say=lambda _: None)


def scores_of(model, checkpoint):
    """Return the cross-entropies of a batch, text and each codebook."""
    inputs = tensors(collate(checkpoint, random_examples(checkpoint, 3)))
    with torch.no_grad():
        output = model.eval()(**inputs)
    return torch.cat([output.text.nll.flatten(), output.audio.nll.flatten()])


def assert_same(model, expected, checkpoint, tolerance=1e-5):
    """Check the cross-entropies of another model, to the tolerance relative to their size."""
    assert ((scores_of(model, checkpoint) - expected).abs() / expected.clamp(min=1)).max() < tolerance


def short(tiny, clips, folder, changes, **more):
    """Make settings of two steps, with the fields of a file written to the file."""
    family = open_checkpoint(str(tiny.model_dir)).family.name
    for key, name in NAMES[family].items():
        saved = changes.get("modules_to_save")
        changes = changes | ({"modules_to_save": saved.replace(key, name)} if saved else {})
    if isinstance(fields := changes.get("lora_config"), dict):
        path = folder.parent / "lora.json"
        path.write_text(json.dumps(fields))
        changes["lora_config"] = str(path)
    rank = {} if changes.get("full_finetune") else {"lora_r": 4, "lora_alpha": 8}
    return settings(
        tiny, clips, folder, **{"max_steps": 2, "save_steps": 1, "lr": 5e-3, "grad_accum": 1} | rank | changes | more
    )


def weights_of(folder):
    return {name: part for path in sorted(folder.glob("*model*.safetensors")) for name, part in load_file(path).items()}


def assert_resumes_equal(tiny, clips, out, tmp_path, changes):
    """Check that a run that goes on from its first checkpoint ends with the same bits."""
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoint-2")
    run_training(short(tiny, clips, again, changes, resume="latest"))
    before, after = weights_of(out), weights_of(again)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@every_family
@pytest.mark.parametrize("variant", LORA)
def test_a_variant_of_lora_is_the_trained_model_everywhere(tiny, clips, tmp_path, trained, variant):
    """Loaded by plain peft on the unchanged base, resumed, spoken with and merged."""
    out, changes = tmp_path / "out", LORA[variant]
    run_training(short(tiny, clips, out, changes))
    checkpoint = open_checkpoint(str(tiny.model_dir))
    expected = scores_of(trained[0], checkpoint)
    base = training_model(checkpoint)
    assert (scores_of(base, checkpoint) - expected).abs().max() > 1e-2
    assert_same(PeftModel.from_pretrained(base, out), expected, checkpoint)
    speaking = open_speaking_model(str(out), base_ckpt=None, audio_tokenizer=None, device="cpu").model
    if checkpoint.family.name == "higgs-tts-3":  # v2 speaks with the native class
        assert_same(speaking, expected, checkpoint)
    assert_resumes_equal(tiny, clips, out, tmp_path, changes)
    whole, layouts = tmp_path / "whole", checkpoint.family.layouts
    if variant in UNTIED and "original" in layouts:
        with pytest.raises(UserError, match="--layout original: expected an adapter that leaves"):
            export_model(str(out), whole)
        assert not whole.exists()
        layouts = ("port",)
    if "random" in variant:
        with pytest.raises(UserError, match=r"cannot be merged .* because the base layer has no bias"):
            export_model(str(out), whole)
        layouts = ()
    for layout in layouts:
        export_model(str(out), tmp_path / layout, layout=layout)
        assert_same(training_model(open_checkpoint(str(tmp_path / layout))), expected, checkpoint, tolerance=1e-4)
    config = read_log(out)[0]["config"]
    given = short(tiny, clips, out, changes)
    assert {name: config.get(name, "absent") for name in changes} == {name: getattr(given, name) for name in changes}


FULL = {"all": {}, "mlp": {"train": "layers.*.mlp.*,norm", "freeze": "layers.0"}}


@every_family
@pytest.mark.parametrize("chosen", FULL)
def test_a_full_fine_tuning_is_a_checkpoint_as_the_base_is(tiny, clips, tmp_path, trained, chosen, capsys):
    """The usual layout, frozen weights bit by bit; spoken with, resumed, and trained further."""
    out, changes = tmp_path / "out", {"full_finetune": True, "lr": 1e-3, **FULL[chosen]}
    more = {"eval_manifest": str(clips), "val_steps": 1}
    run_training(short(tiny, clips, out, changes | more))
    checkpoint = open_checkpoint(str(tiny.model_dir))
    expected = scores_of(trained[0], checkpoint)
    for folder in (out, out / "checkpoint-2", out / "best"):
        assert_same(training_model(open_checkpoint(str(folder))), expected, checkpoint)
    before, after = weights_of(Path(tiny.model_dir)), weights_of(out)
    assert {name: part.dtype for name, part in before.items()} == {name: part.dtype for name, part in after.items()}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    numbers = sum(parameter.numel() for parameter in trained[0].parameters() if parameter.requires_grad)
    assert numbers == sum(before[name].numel() for name in changed)
    assert read_log(out)[0]["trainable_parameters"] == numbers
    if chosen == "mlp":
        assert changed
        assert all((".mlp." in name and ".layers.0." not in name) or "norm." in name for name in changed)
    assert open_speaking_model(str(out), base_ckpt=None, audio_tokenizer=None, device="cpu").model is not None
    say = ["say", str(out), "Hm.", "-o", str(tmp_path / "a.wav"), "--max_seconds", "0.1", "--device", "cpu"]
    assert main(say) == 0
    assert capsys.readouterr().err == ""
    assert_resumes_equal(tiny, clips, out, tmp_path, changes | more)
    with pytest.raises(UserError, match="expected an adapter to merge, got a whole checkpoint"):
        export_model(str(out), tmp_path / "whole")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| method | full fine-tuning |" in card
    assert "library_name: peft" not in card


REFUSED = [
    ({"lora_layers": "0-4"}, "--lora_layers: expected layers from 0 to 3, as the model has, got 4"),
    ({"lora_layers": "3-1"}, "--lora_layers: expected numbers and ranges like 0-7,12, got '3-1'"),
    ({"init_lora_weights": "eva"}, "got 'eva', which reads the data before the training"),
    ({"init_lora_weights": "olora", "load_in_8bit": True}, "with a quantized base model, whose weights the start"),
    ({"init_lora_weights": "pisa"}, "--init_lora_weights: expected one of true, false, gaussian"),
    (
        {"init_lora_weights": "orthogonal", "lora_r": 3},
        "--init_lora_weights orthogonal: expected an even --lora_r, got 3",
    ),
    ({"modules_to_save": "audio_hed"}, "--modules_to_save: expected names of modules ("),
    (
        {"modules_to_save": "mlp"},
        "--modules_to_save: expected modules without an adapter, got 'mlp', which has one at ",
    ),
    ({"lora_bias": "all"}, "--lora_bias all: expected biases to train, got a model without any"),
    ({"lora_config": {"exclude_modules": ["q_proj"]}}, "--lora_targets: expected modules that get an adapter, got 'q_"),
    (
        {"lora_config": {"rank_patern": {}}},
        "rank_patern: expected a field of peft's LoraConfig, got an unknown one. Did",
    ),
    ({"lora_config": {"rank_pattern": {"query": 2}}}, "rank_pattern: expected names of modules with an adapter, got"),
    ({"lora_config": {"r": "four"}}, "lora.json: r: Expected `int`, got `str`"),
    ({"lora_config": {"rank_pattern": {"q_proj": 0}}}, "lora.json: rank_pattern: Expected `int` >= 1"),
    ({"lora_config": {"target_modules": "("}}, "target_modules: expected a regular expression, got '(': missing )"),
    ({"lora_config": {"alpha_pattern": {"(": 2}}}, "alpha_pattern: expected a regular expression, got '(': missing )"),
    (
        {"init_lora_weights": "pissa", "lora_r": 65},
        "--init_lora_weights pissa: expected a rank of at most 64 for model.layers.0.self_attn.k_proj, which",
    ),
    ({"modules_to_save": "HEAD", "dtype": "float16"}, "--dtype: expected auto, float32 or bfloat16 to train weights"),
    ({"full_finetune": True, "dtype": "float16"}, "--dtype: expected auto, float32 or bfloat16 to train weights"),
    ({"lora_config": {"r": 8}}, "--lora_r: expected 8, as --lora_config "),
    ({"lora_config": {"peft_type": "VERA"}}, "peft_type: expected LORA, got 'VERA'"),
    ({"lora_config": {"alora_invocation_tokens": [1]}}, "alora_invocation_tokens: expected the default, since the"),
    ({"lora_config": {"lora_dropout": 2}}, "lora.json: --lora_dropout: expected at least 0 and less than 1, got 2"),
    ({"lora_config": {"lora_bias": True, "use_dora": True}}, "peft.LoraConfig: The argument lora_bias=True is not"),
    ({"lora_config": "nowhere.yaml"}, "--lora_config nowhere.yaml: No such file or directory"),
    ({"train": "norm"}, "--train: expected --full_finetune, got a training of adapters"),
    ({"full_finetune": True, "use_dora": True}, "--full_finetune: expected no --use_dora, which is of adapters"),
    ({"full_finetune": True, "load_in_4bit": True}, "--full_finetune: expected no --load_in_4bit, whose weights"),
    ({"full_finetune": True, "train": "mpl"}, "--train: expected patterns of parameter names, such as model.embed_"),
    ({"full_finetune": True, "freeze": "*"}, "--freeze: expected some parameters to train, got none left"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_cannot_work_is_refused(tiny, clips, tmp_path, monkeypatch, changes, message):
    """In one line, before data are prepared, and nothing is left behind."""
    monkeypatch.setattr(higgs_audio_trainer.run, "prepare_data", lambda *_: pytest.fail("the data were prepared"))
    with pytest.raises(UserError) as caught:
        run_training(short(tiny, clips, tmp_path / "out", changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


RANKS = {
    "full": {"full_finetune": True, "freeze": "layers.[01]", "gradient_checkpointing": True},
    "modules": {"modules_to_save": "embed_tokens,norm,EMBEDDING", "lora_layers": "1", "init_lora_weights": "pissa"},
}


@every_family
@pytest.mark.parametrize("method", RANKS)
def test_two_ranks_train_what_one_rank_trains(tiny, clips, tmp_path, method):
    """Every trained parameter takes part in every forward pass, so that no rank waits for its gradient."""
    more = {"lora_dropout": 0.0} if method == "modules" else {}
    given = short(tiny, clips, tmp_path / "one", RANKS[method] | more, extra={"optim": "sgd", "use_cpu": True})
    run_training(given)
    ended = forks.ranks(tmp_path, run_on_a_rank, replace(given, output_dir=str(tmp_path / "two"), batch_size=1))
    assert [rank.status for rank in ended] == [0, 0], ended[0].err
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5


def test_a_start_from_tied_weights_is_refused(tiny_of, clips, tmp_path, monkeypatch):
    """It would change the embedding of the codes with the head."""
    monkeypatch.setattr(higgs_audio_trainer.run, "prepare_data", lambda *_: pytest.fail("the data were prepared"))
    model = training_model(open_checkpoint(str(tiny_of("higgs-tts-3").model_dir)))
    message = "--init_lora_weights pissa: expected no adapter on audio_head, whose weights are those of audio_embedding"
    changes = {"lora_targets": "audio_head", "init_lora_weights": "pissa"}
    with pytest.raises(UserError, match=message):
        run_training(short(tiny_of("higgs-tts-3"), clips, tmp_path / "out", changes))
    with pytest.raises(UserError, match=message):
        add_lora(model, r=2, alpha=4, dropout=0.0, targets=["audio_head"], init_lora_weights="pissa")


def test_biases_are_trained_and_saved(tiny, clips, tmp_path, trained):
    """A base with biases gets those of its adapters, or all."""
    base = tmp_path / "base"
    shutil.copytree(tiny.model_dir, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"mlp_bias": True}))
    checkpoint = open_checkpoint(str(base))
    from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining

    HiggsAudioForTraining.from_pretrained(base).save_pretrained(base)
    (base / "config.json").write_text(json.dumps(config | {"mlp_bias": True}))
    for bias in ("all", "lora_only"):
        out = tmp_path / bias
        run_training(
            short(tiny, clips, out, {"lora_bias": bias, "lora_targets": "mlp.up_proj", "base_ckpt": str(base)})
        )
        saved = [name for name in weights_of(out) if name.endswith("bias")]
        assert (len(saved), any("gate_proj" in name for name in saved)) == ((24, True) if bias == "all" else (4, False))
        loaded = PeftModel.from_pretrained(training_model(checkpoint), out)
        assert_same(loaded, scores_of(trained[-1], checkpoint), checkpoint)


def test_the_file_yields_what_the_flags_would(tiny, clips, tmp_path):
    """In YAML, as in JSON, and as the adapter_config.json of a run; equal flags are no contradiction."""
    path = tmp_path / "lora.yaml"
    path.write_text(
        "r: 8\nlora_alpha: 32\ntarget_modules: [q_proj, v_proj]\nlayers_to_transform: [2, 0, 1]\nuse_dora: true\n"
    )
    given = settings(tiny, clips, tmp_path / "out", lora_config=str(path), lora_r=8, lora_targets="v_proj,q_proj")
    found = with_lora_config(given)
    assert (found.lora_r, found.lora_alpha, found.lora_targets, found.lora_layers) == (8, 32, "q_proj,v_proj", "0-2")
    assert with_lora_config(found) == found
    run_training(short(tiny, clips, tmp_path / "out", {"max_steps": 1, "use_dora": True, "lora_layers": "1"}))
    again = with_lora_config(
        settings(tiny, clips, tmp_path / "out", lora_config=str(tmp_path / "out" / "adapter_config.json"))
    )
    assert (again.lora_r, again.lora_alpha, again.use_dora, again.lora_layers) == (4, 8, True, "1")
    assert sorted(again.targets()) == sorted(given.lora_targets.split(",")) or len(again.targets()) == 7


def test_a_resumed_run_keeps_its_method(tiny, clips, tmp_path):
    """Another method is another model. The message names the value of the checkpoint."""
    out = tmp_path / "out"
    run_training(short(tiny, clips, out, {"use_dora": True}))
    shutil.rmtree(out / "checkpoint-2")
    for changes, message in (
        ({}, "--use_dora: expected True, the value of checkpoint-1, to resume from it, got False"),
        ({"use_dora": True, "modules_to_save": "norm"}, "--modules_to_save: expected none, .* got norm"),
        ({"use_dora": True, "lora_layers": "0"}, "--lora_layers: expected all, .* got 0"),
        ({"full_finetune": True}, "--full_finetune: expected False, .* got True"),
    ):
        with pytest.raises(UserError, match=message):
            run_training(short(tiny, clips, out, changes, resume="latest"))


def test_names_in_another_order_are_the_same_method(tiny, clips, tmp_path):
    """Lists of names resume in any order, with or without spaces, and a change of the data type is reported."""
    out, said = tmp_path / "out", []
    run_training(short(tiny, clips, out, {"full_finetune": True, "train": "norm, layers.0", "max_steps": 1}))
    changes = {"full_finetune": True, "train": "layers.0,norm", "dtype": "bfloat16"}
    run_training(short(tiny, clips, out, changes, resume="latest"), say=said.append)
    assert "--resume: changed since checkpoint-1: --dtype: float32, now bfloat16; --max_steps: 1 steps" in said[0]
    with pytest.raises(UserError, match=r"--train: expected layers.0,norm, the value of checkpoint-2, .* got norm"):
        run_training(short(tiny, clips, out, changes | {"train": "norm"}, resume="latest"))


def test_another_start_than_the_saved_one(tiny, tmp_path):
    """An adapter of PiSSA loads into a model whose own start differs, as on another machine."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        fields = {"targets": ["q_proj"], "init_lora_weights": "pissa_niter_1"}
        models.append(add_lora(training_model(checkpoint), r=4, alpha=4, dropout=0.0, **fields))
    for name, part in models[0].named_parameters():
        if "lora_B" in name:
            part.data.add_(0.05)
    expected = scores_of(models[0], checkpoint)
    assert (scores_of(models[1], checkpoint) - expected).abs().max() > 1e-3
    models[0].save_pretrained(tmp_path)
    models[1].load_adapter(str(tmp_path), "default")
    assert_same(models[1], expected, checkpoint)
