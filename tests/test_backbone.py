"""The forward pass along a route against the native forward pass over the padded batch."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend
from torch.overrides import TorchFunctionMode
from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

from benchmarks.workload import add_lora
from higgs_audio_trainer.data.batch import Collator, PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.training.compilation import compile_for_every_shape
from tests import forks
from tests.batches import tensors
from tests.rank_steps import gradients, step_on_a_rank

V, C = 200, 20
AUDIO, DELAY, BOS, EOS = 190, 191, 18, 19


def ids_of(codebooks):
    return TokenIds(pad=0, audio=AUDIO, audio_delay=DELAY, stream_bos=BOS, stream_eos=EOS, num_codebooks=codebooks)


def make_model(codebooks=3, targets=None, dropout=0.0, attention="sdpa", dtype=torch.float32):
    """Make a model of three random layers, with adapters whose B is not zero."""
    torch.manual_seed(3)
    config = HiggsAudioV2Config(
        vocab_size=V,
        num_codebooks=codebooks,
        codebook_size=C,
        audio_token_id=AUDIO,
        audio_delay_token_id=DELAY,
        audio_stream_bos_id=BOS,
        audio_stream_eos_id=EOS,
        pad_token_id=0,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        attn_implementation=attention,
    )
    config._attn_implementation = attention
    model = HiggsAudioForTraining(config).to(dtype)
    model.text_loss_weight = 1 / codebooks  # then the native loss, which sums over the codebooks, is K times ours
    model = add_lora(model, r=2, alpha=4, dropout=dropout, **({} if targets is None else {"targets": targets}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_batch(plans, codebooks=3, seed=0):
    """Make a batch by plans. p5 is a prompt of 5 tokens, t3 supervised text, r4 reference speech, a6 speech."""
    numbers, examples = np.random.default_rng(seed), []
    for number, plan in enumerate(plans):
        segments, codes = [], []
        for kind, size in ((part[0], int(part[1:])) for part in plan.split()):
            if kind in "ra":
                codes.append(numbers.integers(0, BOS, (codebooks, size)))
            ids = None if kind in "ra" else numbers.integers(1, AUDIO, size)
            segments.append(TokenSegment(ids, supervised=kind in "ta"))
        examples.append(build_example(PreparedSample(str(number), tuple(segments), ()), codes, ids_of(codebooks)))
    return tensors(Collator(ids_of(codebooks))(examples))


BATCHES = {
    "ragged": ("p5 t1 a9 t2", "p30 t1 a2 t2", "p2 t4 a20 t1"),
    "one sample": ("p4 t1 a7 t2",),
    "one sample without audio": ("p5 a4 t2", "p9 t8"),
    "no audio at all": ("p3 t2", "p9 t8"),
    "no text target": ("p5 a9", "p3 a4"),
    "no target at all": ("p5 r9", "p3"),
    "several clips and references": ("p3 r5 p2 a4 t1 p2 a6 t3", "p1 r2 p1 r3 p1 t5 a1 t1", "a3 t1"),
    "begins with speech": ("a5 t2", "a2"),
}


def native(model, batch, **kwargs):
    inputs = {name: part for name, part in batch.items() if name != "route"}
    return HiggsAudioV2ForConditionalGeneration.forward(model.base_model.model, **inputs, **kwargs)


def assert_equal_steps(model, batch, codebooks, *, loss_tolerance=1e-6, tolerance=1e-5):
    """Compare losses and gradients of both forward passes, relative to the largest entry of each gradient."""
    ours = model(**batch)
    got = gradients(model, ours.loss * codebooks)
    has_nan = bool((batch["audio_labels"] != -100).sum((0, 1)).eq(0).any()) or bool(batch["labels"].eq(-100).all())
    if has_nan:  # the native loss of a series without a target is NaN
        assert torch.isfinite(ours.loss)
        return
    theirs = native(model, batch)
    expected = gradients(model, theirs.loss)
    assert ours.loss.item() * codebooks == pytest.approx(theirs.loss.item(), rel=loss_tolerance)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (got[name] - gradient).abs().max()
        assert difference <= tolerance * gradient.abs().max().clamp(min=1e-6), name


@pytest.mark.parametrize("plans", BATCHES.values(), ids=BATCHES)
def test_hidden_states_are_the_native_ones(plans):
    """Each real token has the hidden state that the native layers give it in the padded batch."""
    model, batch = make_model().eval(), make_batch(plans)
    with torch.no_grad():
        ours = model.base_model.model.model(batch["input_ids"], batch["audio_input_ids"], along=batch["route"])
        inputs = {name: part for name, part in batch.items() if "labels" not in name and name != "route"}
        theirs = model.base_model.model.model(**inputs).last_hidden_state.flatten(0, 1)
    places = batch["route"]["places"]
    assert sorted(places.tolist()) == batch["attention_mask"].flatten().nonzero()[:, 0].tolist()
    torch.testing.assert_close(ours, theirs[places], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("plans", BATCHES.values(), ids=BATCHES)
def test_losses_and_gradients_are_the_native_ones(plans):
    """Whatever the batch holds."""
    assert_equal_steps(make_model(), make_batch(plans), 3)


@pytest.mark.parametrize("codebooks", range(1, 13))
def test_any_number_of_codebooks(codebooks):
    """One to twelve codebooks."""
    assert_equal_steps(make_model(codebooks), make_batch(BATCHES["ragged"], codebooks), codebooks)


@pytest.mark.parametrize(
    "targets",
    [["q_proj"], ["v_proj", "o_proj"], ["mlp.gate_proj"], ["audio_mlp.down_proj"], ["text_lm_head"], ["audio_lm_head"]],
    ids="+".join,
)
def test_adapters_on_any_modules(targets):
    """Attention, either branch, either head."""
    assert_equal_steps(make_model(targets=targets), make_batch(BATCHES["several clips and references"]), 3)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant):
    """Activations that are computed again are the same, with dropout too."""
    batch, model = make_batch(BATCHES["ragged"]), make_model(dropout=0.3).train()
    torch.manual_seed(0)
    plain = gradients(model, model(**batch).loss)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    torch.manual_seed(0)
    again = gradients(model, model(**batch).loss)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)


def test_bfloat16_autocast_gives_the_native_numbers():
    """Under mixed precision, up to the precision of bfloat16."""
    model, batch = make_model(), make_batch(BATCHES["ragged"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_steps(model, batch, 3, loss_tolerance=2e-3, tolerance=2e-2)


def test_bfloat16_weights_give_the_native_numbers():
    """With weights in bfloat16 and adapters in float32, as on a GPU."""
    model, batch = make_model(dtype=torch.bfloat16), make_batch(BATCHES["ragged"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_steps(model, batch, 3, loss_tolerance=5e-3, tolerance=5e-2)


class SumsAsOnCuda(TorchFunctionMode):
    """Sums in float32 unless a dtype is given, as autocast does on CUDA and not on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.sum, torch.Tensor.sum) and args[0].is_floating_point() and "dtype" not in kwargs:
            kwargs = kwargs | {"dtype": torch.float32}
        return function(*args, **kwargs)


def test_hidden_states_keep_the_dtype_of_the_weights():
    """Where autocast sums in float32, layers still see bfloat16, along a route and in the native forward."""
    model, batch = make_model(dtype=torch.bfloat16), make_batch(BATCHES["ragged"])
    seen = set()
    for layer in model.base_model.model.model.layers:
        layer.register_forward_pre_hook(lambda _layer, given: seen.add(given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), SumsAsOnCuda():
        assert_equal_steps(model, batch, 3, loss_tolerance=5e-3, tolerance=5e-2)
    assert seen == {torch.bfloat16}


def test_eager_attention_gives_the_same():
    """An implementation that needs a causal mask gets one."""
    assert_equal_steps(make_model(attention="eager"), make_batch(BATCHES["ragged"]), 3)


def test_flex_attention_gives_the_same():
    """The same with the block masks of flex attention, whose backward pass no CPU has."""
    batch = make_batch(BATCHES["ragged"])
    with torch.no_grad():
        flex = make_model(attention="flex_attention").eval()(**batch).loss
        assert flex.item() == pytest.approx(make_model().eval()(**batch).loss.item(), rel=1e-5)


def test_padding_takes_no_part():
    """Tokens and codes at padding change nothing, not even a bit."""
    model, batch = make_model(), make_batch(BATCHES["ragged"])
    before = model(**batch)
    batch["input_ids"][batch["attention_mask"] == 0] = 7
    batch["audio_input_ids"][~batch["audio_input_ids_mask"]] = 3
    assert torch.equal(model(**batch).loss, before.loss)


def test_a_later_token_changes_no_earlier_hidden_state():
    """Attention is causal, and samples do not see each other."""
    model, batch = make_model().eval(), make_batch(BATCHES["ragged"])
    backbone, route = model.base_model.model.model, batch["route"]
    places = route["places"]
    length = batch["input_ids"].shape[1]
    with torch.no_grad():
        before = backbone(batch["input_ids"], batch["audio_input_ids"], along=route)
        batch["input_ids"][1, 10] = 99
        after = backbone(batch["input_ids"], batch["audio_input_ids"], along=route)
    changed = (before != after).any(-1)
    assert changed[(places >= length + 10) & (places < 2 * length)].all()
    assert not changed[(places < length + 10) | (places >= 2 * length)].any()


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 1000])
@pytest.mark.parametrize("targets", [None, ["text_lm_head", "audio_lm_head", "q_proj"]], ids=["layers", "heads"])
def test_chunks_of_rows_change_neither_value_nor_gradient(chunk_rows, targets):
    """Rows in chunks have the losses, gradients and logits of rows in one piece."""
    batch = make_batch(BATCHES["several clips and references"])
    whole, model = make_model(targets=targets), make_model(targets=targets)
    model.base_model.model.loss_chunk_rows = chunk_rows
    expected, got = whole(**batch), model(**batch)
    torch.testing.assert_close(got.text.nll, expected.text.nll, rtol=1e-6, atol=0)  # small products round otherwise
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-6, atol=0)
    for rows, same in ((got.text, expected.text), (got.audio, expected.audio)):
        assert rows.logits.shape == same.logits.shape
        assert torch.equal(rows.most_likely(), same.most_likely())
        index = torch.zeros((*same.logits.shape[:-1], 2), dtype=torch.long)
        torch.testing.assert_close(rows.logits.gather(-1, index), same.logits.gather(-1, index))
    for (name, a), b in zip(gradients(model, got.loss).items(), gradients(whole, expected.loss).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_chunks_are_read_in_the_precision_of_the_forward_pass():
    """Logits that a logged step computes again, after autocast has ended, are those that the loss saw."""
    batch, whole, model = make_batch(BATCHES["ragged"]), make_model(), make_model()
    model.base_model.model.loss_chunk_rows = 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = whole(**batch), model(**batch)
    index = torch.zeros((*expected.audio.logits.shape[:-1], 1), dtype=torch.long)
    assert torch.equal(got.audio.logits.gather(-1, index), expected.audio.logits.gather(-1, index).float())
    assert torch.equal(got.text.most_likely(), expected.text.most_likely())


def test_without_a_route_the_model_is_the_native_one(tmp_path):
    """`generate` and comparisons get the native forward pass."""
    model, batch = make_model().eval(), make_batch(BATCHES["ragged"])
    batch.pop("route")
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, native(model, batch).loss)


def test_one_graph_serves_batches_of_every_shape(compiler_settings):
    """Another number of samples, another length, other numbers of targets: no graph break, no second graph."""
    compile_for_every_shape()
    torch._dynamo.reset()
    graphs, model = CompileCounterWithBackend("eager"), make_model()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    for names in (["ragged"], ["several clips and references"], ["ragged", "begins with speech", "one sample"]):
        batch = make_batch([plan for name in names for plan in BATCHES[name]])
        got, expected = gradients(model, compiled(**batch).loss), gradients(model, model(**batch).loss)
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6)
    assert graphs.frame_count == 1
    assert torch.isfinite(compiled(**make_batch(BATCHES["one sample"])).loss)
    assert graphs.frame_count == 2, "torch takes a size of 1 for a constant"


def half_a_step(kind, out):
    """Take a step on this rank's half of a batch. Work for a process."""
    dist.init_process_group("gloo")
    step_on_a_rank(
        kind, make_model(), lambda: make_batch([*BATCHES["several clips and references"], *BATCHES["one sample"]]), out
    )


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_make_the_gradients_of_one(kind, tmp_path):
    """Replicated or sharded, layer by layer, with frozen weights beside adapters."""
    for ended in forks.ranks(tmp_path, half_a_step, kind, tmp_path / "gradients.pt"):
        assert ended.status == 0, ended.err
    got = torch.load(tmp_path / "gradients.pt")
    model, batch = make_model(), make_batch([*BATCHES["several clips and references"], *BATCHES["one sample"]])
    expected = gradients(model, model(**batch).loss)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-7)
