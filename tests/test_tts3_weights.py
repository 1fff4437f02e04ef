"""Weights of Higgs TTS 3: both layouts are read, every weight is accounted for, and merged checkpoints are exact."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.speaking_model import merge
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.names import CODEC, original_name, port_name
from higgs_audio_trainer.families.tts3.weights import load, write_whole
from tests.tts3_models import ids_of, make_batch, plain_model, raw_config, stored_tensors, write_checkpoint

PLANS = ("p3 r5 p2 t4 p1 a4", "p1 t5 a7")
Q_PROJ, EMBEDDING = "body.layers.1.self_attn.q_proj.weight", "tied.embedding.modality_embeddings.0.embedding.weight"
AUDIO_HEAD, TEXT_HEAD = "tied.head.modality_heads.0.weight", "tied.head.text_head.weight"


def loaded(folder, *, dtype=None, attention=None):
    raw = json.loads((folder / "config.json").read_bytes())
    config = HiggsTts3Config.read(str(folder), raw)
    return load(str(folder), config, dtype=dtype, attention=attention)


def checkpoint_of(folder):
    config = HiggsTts3Config.read(str(folder), json.loads((folder / "config.json").read_bytes()))
    return BaseCheckpoint(str(folder), None, config, None, ids_of(), (), 512)


def assert_same_model(model, other):
    """Compare all weights bit by bit, and the loss, which needs the buffers of the rotation too."""
    weights, expected = model.state_dict(), other.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor), name
    batch = make_batch(PLANS)
    assert torch.equal(model(**batch).loss, other(**batch).loss)


@pytest.mark.parametrize("original", [True, False], ids=["original", "port"])
@pytest.mark.parametrize("heads", [(), ("audio_head",), ("audio_head", "lm_head")], ids=["none", "audio", "both"])
@pytest.mark.parametrize("shards", [1, 3])
def test_either_layout_is_loaded(tmp_path, original, heads, shards):
    """With or without the tied heads, in one file or several, the model is that of the weights."""
    model = plain_model()
    folder = write_checkpoint(tmp_path, stored_tensors(model, original=original, heads=heads), shards=shards)
    ours = loaded(folder)
    assert_same_model(ours, model)
    assert ours.audio_head.weight is ours.audio_embedding.weight
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert not ours.training
    assert ours.name_or_path == str(folder), "an adapter names its base by it"
    assert not any(tensor.is_meta for tensor in [*ours.parameters(), *ours.buffers()])


def test_untied_heads_have_weights_of_their_own(tmp_path):
    """If config.json says so. A text head that is missing is tied all the same."""
    parts = {"audio_encoder_config": {"tie_word_embeddings": False}, "text_config": {"tie_word_embeddings": False}}
    model = plain_model(**parts)
    folder = write_checkpoint(
        tmp_path / "a", stored_tensors(model, heads=("audio_head", "lm_head")), raw_config(**parts)
    )
    assert_same_model(loaded(folder), model)
    without = write_checkpoint(tmp_path / "b", stored_tensors(model, heads=("audio_head",)), raw_config(**parts))
    ours = loaded(without)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert not torch.equal(ours.audio_head.weight, ours.audio_embedding.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_have_the_type_that_is_asked_for(tmp_path, dtype):
    """Or that of the file without one. The rotation stays in float32. Attention is the one that is asked for."""
    folder = write_checkpoint(tmp_path, stored_tensors(plain_model().to(torch.bfloat16)))
    model = loaded(folder, dtype=dtype, attention="eager")
    assert {part.dtype for part in model.parameters()} == {dtype}
    assert {part.dtype for part in loaded(folder).parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.model.config._attn_implementation == "eager"


def test_a_loaded_model_does_not_depend_on_its_files(tmp_path):
    """Weights are in memory: other bytes in the file do not change the model."""
    folder = write_checkpoint(tmp_path, stored_tensors(plain_model()))
    model = loaded(folder)
    before = model.model.embed_tokens.weight.clone()
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(5_000)
        file.write(os.urandom(path.stat().st_size - 5_000))
    assert torch.equal(model.model.embed_tokens.weight, before)


def without(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(Q_PROJ), f"expected weights for {Q_PROJ}, got none"),
        (without(EMBEDDING), f"expected weights for {EMBEDDING}, got none"),
        (lambda t: [t.pop(name) for name in list(t) if ".layers.2." in name], "got none"),
        (
            lambda t: t.update({"body.layers.3.mlp.up_proj.weight": torch.ones(2)}),
            "got body.layers.3.mlp.up_proj.weight",
        ),
        (lambda t: t.update({"tied.embedding.other": torch.ones(2)}), "got tied.embedding.other too"),
        (lambda t: t.update({Q_PROJ: torch.ones(32, 31)}), rf"got {Q_PROJ} of \[32, 31\] for \[32, 32\]"),
        (lambda t: t.update({Q_PROJ: torch.ones(32, 32, dtype=torch.int8)}), f"got {Q_PROJ} I8"),
        (lambda t: t.update({AUDIO_HEAD: t[EMBEDDING] + 1}), f"expected {AUDIO_HEAD} to equal {EMBEDDING}"),
        (lambda t: t.update({TEXT_HEAD: torch.ones(200, 32)}), f"expected {TEXT_HEAD} to equal"),
        (lambda t: t.update({port_name(Q_PROJ): t[Q_PROJ].clone()}), f"got {port_name(Q_PROJ)} twice"),
    ],
)
def test_every_weight_is_accounted_for(tmp_path, change, message):
    """A missing, unexpected, wrongly shaped, packed, contradicting or doubled weight is an error that names it."""
    tensors = stored_tensors(plain_model())
    change(tensors)
    folder = write_checkpoint(tmp_path, tensors)
    with pytest.raises(UserError, match=f"--base_ckpt {folder}: the weights cannot be loaded: .*{message}"):
        loaded(folder)


def test_many_missing_weights_are_named_in_part(tmp_path):
    """The first five, in the names of the files, and the number of the others."""
    tensors = {name: part for name, part in stored_tensors(plain_model()).items() if ".layers." not in name}
    with pytest.raises(UserError, match=r"body\.layers\.0\.self_attn\.q_proj\.weight, .* and 28 more, got none"):
        loaded(write_checkpoint(tmp_path, tensors))


def test_an_untied_head_must_be_there(tmp_path):
    """Where config.json says that the head of the codes has weights of its own."""
    parts = {"audio_encoder_config": {"tie_word_embeddings": False}}
    folder = write_checkpoint(tmp_path, stored_tensors(plain_model(**parts)), raw_config(**parts))
    with pytest.raises(UserError, match=f"expected weights for {AUDIO_HEAD}, got none"):
        loaded(folder)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def shards(index):
    def change(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(index)

    return change


@pytest.mark.parametrize(
    "change",
    [
        cut,
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").unlink(),
        shards("{"),
        shards("[]"),
        shards("{}"),
        shards('{"weight_map": {"body.norm.weight": "model-00001-of-00002.safetensors"}}'),
        shards('{"weight_map": {"body.norm.weight": 1}}'),
    ],
    ids=["cut", "empty", "none", "no JSON", "a list", "no map", "no shard", "a number"],
)
def test_broken_files_are_user_errors(tmp_path, change):
    """A damaged or missing file is an error that names the checkpoint."""
    folder = write_checkpoint(tmp_path, stored_tensors(plain_model()))
    change(folder)
    with pytest.raises(UserError, match=f"--base_ckpt {folder}: the weights cannot be loaded"):
        loaded(folder)


def test_an_unknown_attention_is_a_user_error(tmp_path):
    """The message names the flag."""
    folder = write_checkpoint(tmp_path, stored_tensors(plain_model()))
    with pytest.raises(UserError, match="--attn_implementation nonsense"):
        loaded(folder, attention="nonsense")


def test_names_go_both_ways():
    """Each weight of the model has one original name, and back."""
    names = list(plain_model().state_dict())
    originals = [original_name(name) for name in names]
    assert len(set(originals)) == len(names)
    assert [port_name(name) for name in originals] == names
    assert all(name.startswith(("body.", "tied.")) and not name.startswith(CODEC) for name in originals)


def adapting(targets, *, scale=0.05):
    """Return a function that gives a model an adapter, as `with_adapter` does."""

    def with_adapter(model):
        adapted = add_lora(model, r=2, alpha=4, dropout=0.0, targets=targets)
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data.normal_().mul_(scale)
        return adapted

    return with_adapter


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(base, folder, targets, layout):
    folder.mkdir()
    write_whole(checkpoint_of(base), lambda model: merge(adapting(targets)(model)), folder, layout=layout)
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("heads", [(), ("audio_head", "lm_head")], ids=["no heads", "heads"])
def test_a_merged_checkpoint_is_the_base_but_for_the_adapted_weights(tmp_path, shards, heads):
    """Files, names, header, codec and configuration stay byte by byte; adapted weights are W + delta in W's type."""
    model = plain_model().to(torch.bfloat16)
    tensors = stored_tensors(model, heads=heads)
    tensors["body.norm.weight"] = tensors["body.norm.weight"].float()  # a type of its own
    base = write_checkpoint(tmp_path / "base", tensors, shards=shards)
    whole = written(base, tmp_path / "whole", ["q_proj", "down_proj"], "original")
    before, after = files_of(base), files_of(whole)
    assert before.keys() == after.keys()
    merged = adapting(["q_proj", "down_proj"])(loaded(base)).merge_and_unload(safe_merge=True).state_dict()
    for name in before:
        if not name.endswith(".safetensors"):
            assert before[name] == after[name], name
            continue
        assert len(before[name]) == len(after[name])
        header = 8 + int.from_bytes(before[name][:8], "little")
        assert before[name][:header] == after[name][:header]
        old = load_file(base / name)
        for key, tensor in load_file(whole / name).items():
            is_adapted = key.endswith(("q_proj.weight", "down_proj.weight"))
            assert torch.equal(tensor, old[key]) == (not is_adapted), key
            assert key.startswith(CODEC) or torch.equal(tensor, merged[port_name(key)])
    assert_same_model(loaded(whole, dtype=torch.float32), _float(merged))


def _float(weights):
    model = plain_model()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


@pytest.mark.parametrize("base_is_original", [True, False])
@pytest.mark.parametrize("layout", ["original", "port"])
def test_either_layout_is_written_from_either(tmp_path, base_is_original, layout):
    """The names are those of the layout, the port has its audio head, and the model is the merged one."""
    base = write_checkpoint(tmp_path / "base", stored_tensors(plain_model(), original=base_is_original))
    whole = written(base, tmp_path / "whole", ["v_proj"], layout)
    with safe_open(whole / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert all(name.startswith(("body.", "tied.")) for name in names) == (layout == "original")
    assert any(name.startswith(CODEC) for name in names) == (layout == "original" and base_is_original)
    assert ("audio_head.weight" in names) == (layout == "port" and base_is_original)
    assert files_of(whole)["config.json"] == files_of(base)["config.json"]
    assert_same_model(loaded(whole), adapting(["v_proj"])(loaded(base)).merge_and_unload())


@pytest.mark.parametrize("head", ["audio_head", "lm_head"])
def test_an_adapted_tied_head_gets_weights_of_its_own_in_the_port(tmp_path, head):
    """The embedding stays, config.json says that the head is not tied, and the other head stays tied."""
    base = write_checkpoint(tmp_path / "base", stored_tensors(plain_model()))
    adapted = adapting([head])(loaded(base))
    whole = written(base, tmp_path / "whole", [head], "port")
    model = loaded(whole)
    batch = make_batch(PLANS)
    torch.testing.assert_close(model(**batch).loss, adapted(**batch).loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.audio_embedding.weight, plain_model().audio_embedding.weight)
    raw = json.loads((whole / "config.json").read_bytes())
    part = {"audio_head": "audio_encoder_config", "lm_head": "text_config"}[head]
    assert raw == raw_config(**{part: {"tie_word_embeddings": False}})
    tied = [
        model.audio_head.weight is model.audio_embedding.weight,
        model.lm_head.weight is model.model.embed_tokens.weight,
    ]
    assert tied == [head != "audio_head", head != "lm_head"]


def test_an_adapted_tied_head_has_no_place_in_the_original_layout(tmp_path):
    """The message names the head and the ways out, and nothing is written."""
    base = write_checkpoint(tmp_path / "base", stored_tensors(plain_model()))
    with pytest.raises(UserError, match=r"--layout original: .* audio_head .*--layout port"):
        written(base, tmp_path / "whole", ["audio_head", "q_proj"], "original")
    assert not files_of(tmp_path / "whole")


def test_an_adapted_head_of_its_own_is_merged_in_the_original_layout(tmp_path):
    """A head that is not tied is a weight like others."""
    parts = {"audio_encoder_config": {"tie_word_embeddings": False}}
    tensors = stored_tensors(plain_model(**parts), heads=("audio_head",))
    base = write_checkpoint(tmp_path / "base", tensors, raw_config(**parts))
    whole = written(base, tmp_path / "whole", ["audio_head"], "original")
    changed = [
        key for key, part in load_file(whole / "model.safetensors").items() if not torch.equal(part, tensors[key])
    ]
    assert changed == [AUDIO_HEAD]


def test_weights_that_are_not_finite_are_not_merged(tmp_path):
    """A damaged adapter is an error, and no weights are written."""
    base = write_checkpoint(tmp_path / "base", stored_tensors(plain_model()))
    (tmp_path / "whole").mkdir()
    with pytest.raises(ValueError, match="NaN"):
        write_whole(
            checkpoint_of(base),
            lambda model: merge(adapting(["q_proj"], scale=float("nan"))(model)),
            tmp_path / "whole",
            layout="original",
        )
    assert not files_of(tmp_path / "whole")
