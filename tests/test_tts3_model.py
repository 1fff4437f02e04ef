"""The forward pass of Higgs TTS 3 against an independent implementation with full logits and loops."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import DynamicCache, Qwen3Config, Qwen3Model

from benchmarks.host_waits import HostWaits
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.family import PUBLISHED
from higgs_audio_trainer.families.tts3.model import HiggsTts3
from higgs_audio_trainer.families.tts3.names import original_name
from higgs_audio_trainer.training.compilation import compile_for_every_shape
from tests import forks
from tests.rank_steps import gradients, step_on_a_rank
from tests.tts3_models import PLACEHOLDER, C, H, K, V, lora_model, make_batch, plain_model, raw_config

BATCHES = {
    "ragged": ("p5 t1 p1 a9", "p30 t3 p1 a2", "p2 t4 a20"),
    "one sample": ("p4 t1 a7",),
    "references": ("p3 r5 p2 t4 p1 a4", "p1 r2 p1 r3 p1 t5 a1", "p3 t1 a1"),
    "a sample without audio": ("p5 a4", "p9 t8"),
    "no audio at all": ("p3 t2", "p9 t8"),
    "no text target": ("p5 a9", "p3 a4"),
    "no target at all": ("p5 r9", "p3"),
}


QWEN3 = {
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "max_position_embeddings": 512,
}


def embedded_by_loops(batch, text_table, audio_table):
    """Return embeddings [B, S, H], and the positions of each sample's frames."""
    embedded, places = [], []
    for ids, codes in zip(batch["input_ids"].tolist(), batch["audio_input_ids"].tolist(), strict=True):
        frames = iter(codes)
        places.append([place for place, token in enumerate(ids) if token == PLACEHOLDER])
        embedded.append(
            torch.stack(
                [
                    sum(audio_table[k * C + code] for k, code in enumerate(next(frames)))
                    if token == PLACEHOLDER
                    else text_table[token]
                    for token in ids
                ]
            )
        )
    return torch.stack(embedded), places


def cross_entropy_by_loops(logits, targets):
    """Return sum and number of the cross-entropies of targets, (index of a row, label) each."""
    terms = [-F.log_softmax(logits[where], -1)[label] for where, label in targets if label != -100]
    return sum(terms, torch.zeros(())), len(terms)


def oracle(model, batch, attention, num_targets=None):
    """Return the loss by loops, over the padded batch, with the plain Qwen3 of transformers and full logits.

    Parameters are those of `model`, so gradients arrive at the same leaves.
    """
    weights = dict(model.named_parameters())
    text_table, audio_table = weights["model.embed_tokens.weight"], weights["audio_embedding.weight"]
    embedded, places = embedded_by_loops(batch, text_table, audio_table)
    hidden = torch.func.functional_call(
        Qwen3Model(Qwen3Config(**QWEN3, attn_implementation=attention)),
        {name.removeprefix("model."): part for name, part in weights.items() if name.startswith("model.")},
        kwargs={"inputs_embeds": embedded, "attention_mask": batch["attention_mask"]},
    ).last_hidden_state
    text_logits = hidden @ text_table.T
    audio_logits = (hidden @ weights.get("audio_head.weight", audio_table).T).reshape(*hidden.shape[:2], K, C)
    labels, audio_labels = batch["labels"].tolist(), batch["audio_labels"].tolist()
    text = [((b, p - 1), row[p]) for b, row in enumerate(labels) for p in range(1, len(row))]
    parts = [cross_entropy_by_loops(text_logits, text)]
    for k in range(K):
        codes = [((b, p - 1, k), audio_labels[b][f][k]) for b, row in enumerate(places) for f, p in enumerate(row)]
        parts.append(cross_entropy_by_loops(audio_logits, codes))
    counts = [count for _, count in parts] if num_targets is None else num_targets.tolist()
    losses = [total / max(1, count) for (total, _), count in zip(parts, counts, strict=True)]
    return model.text_loss_weight * losses[0] + sum(losses[1:]) / K, losses


def assert_close(got, expected, tolerance=1e-5):
    """Compare gradients, relative to the largest entry of each. A weight without a gradient has zeros."""
    assert expected
    for name in got.keys() | expected.keys():
        a, b = got.get(name), expected.get(name)
        if a is None or b is None:
            assert (b if a is None else a).abs().max() == 0, name
        else:
            assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3), name


@pytest.mark.parametrize("plans", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("text_weight", [0.0, 1.0])
def test_losses_and_gradients_of_all_weights(plans, attention, text_weight):
    """Loss, loss of each modality and codebook, and the gradient of each weight are those of the oracle."""
    model = plain_model(attention)
    model.text_loss_weight = text_weight
    batch = make_batch(plans, learns_text=text_weight > 0)
    ours = model(**batch)
    expected, losses = oracle(model, batch, attention)
    torch.testing.assert_close(ours.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.text_loss, losses[0].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.audio_loss_K, torch.stack(losses[1:]).detach(), rtol=1e-5, atol=1e-6)
    if ours.audio.labels.numel() or (text_weight and ours.text.labels.numel()):
        assert_close(gradients(model, ours.loss), gradients(model, expected))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_gradients_of_adapters(attention, tied):
    """The gradients of the adapters are those of merged weights, by the chain rule: dA = s B^T dW, dB = s dW A^T."""
    audio = {"tie_word_embeddings": tied}
    adapted = lora_model(attention=attention, audio_encoder_config=audio)
    batch = make_batch(BATCHES["references"])
    got = gradients(adapted, adapted(**batch).loss)
    merged = lora_model(attention=attention, audio_encoder_config=audio).merge_and_unload()
    merged.requires_grad_(True)
    expected, _ = oracle(merged, batch, attention)
    weights = gradients(merged, expected)
    torch.testing.assert_close(adapted(**batch).loss, expected, rtol=1e-5, atol=1e-6)
    parameters = dict(adapted.named_parameters())
    for name, gradient in got.items():
        module = name.partition(".lora_")[0]
        A, B = (parameters[f"{module}.lora_{part}.default.weight"] for part in "AB")
        dW = weights[module.removeprefix("base_model.model.") + ".weight"]
        chain = 2 * B.T @ dW if "lora_A" in name else 2 * dW @ A.T
        assert (gradient - chain).abs().max() <= 1e-5 * chain.abs().max(), name
    assert len(got) == 2 * 3 * 4


def test_losses_are_sums_over_the_targets_of_the_step():
    """Losses of two micro-batches with the targets of both add up to the loss of one batch, gradients too."""
    model = plain_model()
    plans = [*BATCHES["references"], *BATCHES["ragged"]]
    whole = make_batch(plans)
    counts = torch.tensor([(whole["labels"] != -100).sum(), *(whole["audio_labels"] != -100).sum((0, 1))])
    expected, _ = oracle(model, whole, "sdpa")
    halves = []
    for keep in (slice(0, 3), slice(3, 6)):
        half = make_batch(plans)
        for name in ("labels", "audio_labels"):
            half[name] = torch.full_like(whole[name], -100)
            half[name][keep] = whole[name][keep]
        halves.append(model(**half, num_targets=counts).loss)
        torch.testing.assert_close(halves[-1], oracle(model, half, "sdpa", counts)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sum(halves), expected, rtol=1e-5, atol=1e-6)
    assert_close(gradients(model, sum(halves)), gradients(model, expected))


@pytest.mark.parametrize("plans", BATCHES.values(), ids=BATCHES)
def test_hidden_states_are_those_of_the_padded_batch(plans):
    """Each token has the hidden state that the layers of transformers give it without a route."""
    model, batch = plain_model().eval(), make_batch(plans)
    route = batch.pop("route")
    seen = []
    model.model.register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        model(**batch, route=route)
        padded = model(**batch)
    torch.testing.assert_close(seen[0], padded.flatten(0, 1)[route["places"]], rtol=1e-6, atol=2e-6)


def test_padding_takes_no_part():
    """Tokens and codes at padding change nothing, not even a bit."""
    model, batch = plain_model(), make_batch(BATCHES["ragged"])
    before = model(**batch)
    batch["input_ids"][batch["attention_mask"] == 0] = 7
    batch["audio_input_ids"][~batch["audio_input_ids_mask"]] = 3
    assert torch.equal(model(**batch).loss, before.loss)


@pytest.mark.parametrize("codebooks", [1, 2, 8, 12])
def test_any_number_of_codebooks(codebooks):
    """Frames are the sums of the embeddings of their codes, and logits have the codebooks in order."""
    model = plain_model(audio_encoder_config={"num_codebooks": codebooks})
    codes = torch.randint(C, (2, 4, codebooks))
    table = model.audio_embedding.weight
    expected = sum(table[k * C + codes[..., k]] for k in range(codebooks))
    torch.testing.assert_close(model.embed_frames(codes), expected)
    hidden = torch.randn(2, 5, H)
    for k in range(codebooks):
        torch.testing.assert_close(model.audio_logits(hidden)[..., k, :], hidden @ table[k * C : k * C + C].T)
    assert torch.isfinite(model(**make_batch(BATCHES["ragged"], codebooks)).loss)


def test_rotation_has_the_base_that_null_means():
    """A rope_theta of null, none at all, and a million are the same. Another base is taken."""
    forms = [{"rope_theta": None}, {"rope_theta": 1_000_000}, {"rope_scaling": None}, {"rope_parameters": None}]
    forms.append({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    exact = 1e6 ** (-torch.arange(0, 8, 2) / 8)
    for form in forms:
        torch.testing.assert_close(plain_model(text_config=form).model.rotary_emb.inv_freq, exact)
    for form in ({"rope_theta": 500}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}):
        torch.testing.assert_close(
            plain_model(text_config=form).model.rotary_emb.inv_freq, 500 ** (-torch.arange(0, 8, 2) / 8)
        )


def test_a_cache_gives_the_hidden_states_of_the_whole():
    """Row by row, after a prompt with references, as generation runs."""
    model, batch = plain_model().eval(), make_batch(("p3 r5 p2 a4",))
    with torch.no_grad():
        embedded = model.embed(batch["input_ids"], batch["audio_input_ids"], batch["audio_input_ids_mask"])
        expected = model(**{name: part for name, part in batch.items() if name != "route"})
        cache = DynamicCache(config=model.config.text_config)
        parts = [model.step(embedded[:, :13], cache=cache)]
        parts += [model.step(embedded[:, s : s + 1], cache=cache) for s in range(13, embedded.shape[1])]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant):
    """Activations that are computed again are the same, with dropout too."""
    batch, model = make_batch(BATCHES["references"]), lora_model(dropout=0.3).train()
    torch.manual_seed(0)
    plain = gradients(model, model(**batch).loss)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    torch.manual_seed(0)
    calls = []
    model.base_model.model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    again = gradients(model, model(**batch).loss)
    assert len(calls) == 2, "each layer runs once more in the backward pass"
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)


def test_flex_attention_gives_the_same():
    """The same with the block masks of flex attention, whose backward pass no CPU has."""
    batch = make_batch(BATCHES["ragged"])
    with torch.no_grad():
        flex = plain_model("flex_attention").eval()(**batch).loss
        assert flex.item() == pytest.approx(plain_model().eval()(**batch).loss.item(), rel=1e-5)


def test_bfloat16():
    """Weights in bfloat16 under autocast give the loss of float32, up to the precision. Embeddings keep the type."""
    batch = make_batch(BATCHES["references"])
    expected = lora_model()(**batch).loss.item()
    model = lora_model(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = model(**batch)
        assert model.base_model.model.embed_frames(batch["audio_input_ids"]).dtype == torch.bfloat16
    assert ours.loss.item() == pytest.approx(expected, rel=3e-2)
    assert all(torch.isfinite(part).all() for part in gradients(model, ours.loss).values())


@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_a_step_waits_for_nothing(chunk_rows):
    """Neither the forward nor the backward pass has a result that the host must wait for."""
    model, batch = lora_model(dropout=0.1), make_batch(BATCHES["references"])
    model.base_model.model.loss_chunk_rows = chunk_rows
    model.gradient_checkpointing_enable({"use_reentrant": False})
    num_targets = torch.ones(1 + K)
    with HostWaits() as waits:
        model(**batch, num_targets=num_targets).loss.backward()
    assert not waits.counts


def test_the_full_size_has_the_published_shapes():
    """The model of the public config.json, without memory: shapes, the authors' names, and 4 B parameters."""
    text = {**PUBLISHED["text_config"], "rope_theta": None}
    audio = {**PUBLISHED["audio_encoder_config"], "out_dim": 2560}
    config = HiggsTts3Config.read("full", raw_config(text_config=text, audio_encoder_config=audio))
    with torch.device("meta"):
        model = HiggsTts3(config)
    expected = {
        "model.embed_tokens.weight": (151_936, 2560),
        "model.norm.weight": (2560,),
        "audio_embedding.weight": (8 * 1026, 2560),
        "audio_head.weight": (8 * 1026, 2560),
        "lm_head.weight": (151_936, 2560),
    }
    for layer in range(36):
        expected |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (2560,),
                "post_attention_layernorm": (2560,),
                "self_attn.q_proj": (4096, 2560),
                "self_attn.k_proj": (1024, 2560),
                "self_attn.v_proj": (1024, 2560),
                "self_attn.o_proj": (2560, 4096),
                "self_attn.q_norm": (128,),
                "self_attn.k_norm": (128,),
                "mlp.gate_proj": (9728, 2560),
                "mlp.up_proj": (9728, 2560),
                "mlp.down_proj": (2560, 9728),
            }.items()
        }
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    parts = ("input_layernorm", "post_attention_layernorm", *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))
    attention = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
    assert set(map(original_name, expected)) == {
        "tied.embedding.text_embedding.weight",
        "tied.embedding.modality_embeddings.0.embedding.weight",
        "tied.head.text_head.weight",
        "tied.head.modality_heads.0.weight",
        "body.norm.weight",
        *(f"body.layers.{layer}.{part}.weight" for layer in range(36) for part in parts),
        *(f"body.layers.{layer}.self_attn.{part}.weight" for layer in range(36) for part in attention),
    }
    assert sum(part.numel() for part in model.parameters()) == sum(map(math.prod, expected.values())) - 2560 * (
        151_936 + 8 * 1026
    )  # tied weights count once
    assert config.text_config.rope_parameters["rope_theta"] == 1e6


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model_type": "qwen3"}, "expected model_type 'higgs_multimodal_qwen3'"),
        (
            {"text_config": {"model_type": "llama"}},
            "expected text_config.model_type 'qwen3' .*, got 'llama'",
        ),
        ({"text_config": {"use_sliding_window": True}}, "expected text_config.use_sliding_window False"),
        ({"text_config": {"hidden_size": "wide"}}, "expected a valid config.json"),
        (
            {"audio_encoder_config": {"encoder_type": "continuous"}},
            "expected .*encoder_type 'discrete'",
        ),
        (
            {"audio_encoder_config": {"use_delay_pattern": False}},
            "expected .*use_delay_pattern True",
        ),
        ({"audio_encoder_config": {"out_dim": 64}}, "expected audio_encoder_config.out_dim 32 in config.json, got 64"),
        ({"audio_encoder_config": {"num_codebooks": None}}, "expected audio_encoder_config.num_codebooks"),
        ({"audio_encoder_config": {"vocab_size": 0}}, "expected audio_encoder_config.vocab_size"),
        ({"audio_encoder_config": None}, "expected audio_encoder_config in config.json, got None"),
    ],
)
def test_an_inconsistent_configuration_is_refused(parts, message):
    """The message names the entry, its expected and its actual value."""
    with pytest.raises(UserError, match=f"--base_ckpt small: {message}"):
        HiggsTts3Config.read("small", raw_config(**parts))


def test_other_entries_of_a_configuration_stay(caplog):
    """Entries that the trainer does not know survive, and the placeholder of -100 is no cause for a warning."""
    config = HiggsTts3Config.read("small", {**raw_config(audio_encoder_config={"x": 1}), "sample_rate": 24_000})
    assert config.sample_rate == 24_000
    assert config.audio_encoder_config["x"] == 1
    assert (config.num_codebooks, config.codebook_size, config.vocab_size, config.hidden_size) == (K, C, V, H)
    again = HiggsTts3Config.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert not caplog.records


def test_one_graph_serves_batches_of_every_shape(compiler_settings):
    """Another number of samples, another length, other numbers of targets: no graph break, no second graph."""
    compile_for_every_shape()
    torch._dynamo.reset()
    graphs, model = CompileCounterWithBackend("eager"), lora_model()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    for names in (["ragged"], ["references"], ["ragged", "one sample"]):
        batch = make_batch([plan for name in names for plan in BATCHES[name]])
        got, expected = gradients(model, compiled(**batch).loss), gradients(model, model(**batch).loss)
        assert_close(got, expected)
    assert graphs.frame_count == 1


def half_a_step(kind, out):
    """Take a step on this rank's half of a batch. Work for a process."""
    dist.init_process_group("gloo")
    step_on_a_rank(kind, lora_model(), lambda: make_batch([*BATCHES["references"], *BATCHES["one sample"]]), out)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_make_the_gradients_of_one(kind, tmp_path):
    """Replicated or sharded, layer by layer, with tied weights and frozen weights beside adapters."""
    for ended in forks.ranks(tmp_path, half_a_step, kind, tmp_path / "gradients.pt"):
        assert ended.status == 0, ended.err
    model, batch = lora_model(), make_batch([*BATCHES["references"], *BATCHES["one sample"]])
    assert_close(torch.load(tmp_path / "gradients.pt"), gradients(model, model(**batch).loss))


def test_sharding_wraps_the_routed_layers():
    """The layers that transformers and peft name for FSDP are classes of modules of the model."""
    model = lora_model()
    classes = {type(module).__name__ for module in model.modules()}
    assert model.base_model.model._no_split_modules == {"RoutedQwen3Layer"}
    assert model.base_model.model._no_split_modules <= classes
