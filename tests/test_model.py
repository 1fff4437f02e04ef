"""The model's losses and logits against the native forward, and its adapters in the native model."""

import pytest
import torch
from peft import PeftModel
from transformers import HiggsAudioV2ForConditionalGeneration

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.training_forward import count_targets
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from tests.batches import collate, lora_model, random_examples, tensors
from tests.families import every_family, training_model


@pytest.fixture(scope="module")
def checkpoint(tiny):
    return open_checkpoint(str(tiny.model_dir))


@pytest.fixture(scope="module")
def native(tiny):
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir, use_text_head=True).eval()


@pytest.fixture(scope="module")
def model(checkpoint):
    return training_model(checkpoint).eval()


@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_the_native_ones(checkpoint, native, model, seed):
    """On the same labels the loss is the native one, which sums over codebooks where ours takes the mean."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 3, seed)))
    with torch.no_grad():
        ours = model(**batch)
        theirs = native(**batch).loss
        audio_only = native(**{name: value for name, value in batch.items() if name != "labels"}).loss
    audio_sum = ours.audio_loss_K.sum()
    assert ours.text_loss + audio_sum == pytest.approx(theirs.item(), rel=1e-5)
    assert audio_sum == pytest.approx(audio_only.item(), rel=1e-5)
    assert ours.audio_loss == pytest.approx((audio_sum / 8).item(), rel=1e-6)
    assert ours.loss == pytest.approx((ours.text_loss + ours.audio_loss).item(), rel=1e-6)


def test_supervised_rows_are_the_native_logits_one_position_before(checkpoint, native, model):
    """Each logits row is what the native model gives at p-1, and its label is the token or code at p."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 3, 11)))
    with torch.no_grad():
        outputs = model(**batch)
        hidden = native.model(**{k: v for k, v in batch.items() if "labels" not in k}).last_hidden_state
    text, audio = outputs.text, outputs.audio
    text_rows = native.text_lm_head(hidden[text.batch_index, text.position - 1])
    audio_rows = native.audio_lm_head(hidden[audio.batch_index, audio.position - 1]).view(-1, 8, 1026)
    torch.testing.assert_close(text.logits, text_rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(audio.logits, audio_rows, rtol=1e-5, atol=1e-5)
    assert torch.equal(text.labels, batch["labels"][text.batch_index, text.position])
    assert torch.equal(text.labels, batch["input_ids"][text.batch_index, text.position])
    assert len(text.labels) == (batch["labels"] != IGNORE_INDEX).sum()
    assert (audio.labels != IGNORE_INDEX).sum() == (batch["audio_labels"] != IGNORE_INDEX).sum()


def test_the_native_forward_is_scored_where_ours_is(checkpoint, native, model):
    """A change of one label at p changes the loss exactly through the logits at p-1, in both."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 1, 5)))
    with torch.no_grad():
        before = model(**batch)
        position = before.text.position[0]
        batch["labels"][0, position] = 7
        after = model(**batch)
        expected = before.text.logits[0].log_softmax(-1)
    changed = (after.text.nll - before.text.nll)[0]
    assert changed == pytest.approx((expected[before.text.labels[0]] - expected[7]).item(), rel=1e-4)


@every_family
@pytest.mark.parametrize("missing", ["text", "audio", "codebook", "all"])
def test_what_has_no_target_contributes_zero(checkpoint, model, missing):
    """A modality or a codebook without a target contributes 0, never NaN, and gradients stay finite."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2, 3)))
    whole = model(**batch)
    if missing in ("text", "all"):
        batch["labels"][:] = IGNORE_INDEX
    if missing in ("audio", "all"):
        batch["audio_labels"][:] = IGNORE_INDEX
    if missing == "codebook":
        batch["audio_labels"][..., 3] = IGNORE_INDEX
    outputs = model(**batch)
    assert torch.isfinite(outputs.loss)
    if missing == "text":
        assert outputs.text_loss == 0
        assert outputs.loss.item() == pytest.approx(whole.audio_loss.item(), rel=1e-6)
    if missing == "codebook":
        assert outputs.audio_loss_K[3] == 0
        assert outputs.audio_loss == pytest.approx(
            ((whole.audio_loss_K.sum() - whole.audio_loss_K[3]) / 8).item(), rel=1e-6
        )
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


@every_family
def test_text_loss_weight_scales_the_text_loss(checkpoint):
    """The loss is weight x text + audio."""
    model = training_model(checkpoint).eval()
    model.text_loss_weight = 0.25
    with torch.no_grad():
        outputs = model(**tensors(collate(checkpoint, random_examples(checkpoint, 2, 9))))
    assert outputs.loss == pytest.approx((0.25 * outputs.text_loss + outputs.audio_loss).item(), rel=1e-6)


@every_family
def test_count_targets_counts_what_is_supervised(checkpoint, model):
    """The divisors are the numbers of rows and labels that the loss sees."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 4, 21)))
    with torch.no_grad():
        outputs = model(**batch)
    counted = count_targets(batch["labels"], batch["audio_labels"])
    assert counted[0] == len(outputs.text.labels)
    assert torch.equal(counted[1:], (outputs.audio.labels != IGNORE_INDEX).sum(-1))


@every_family
def test_given_divisors_replace_the_batch_own(checkpoint, model):
    """With the targets of a whole optimizer step, a batch gives its share of that step's loss."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2, 2)))
    own = count_targets(batch["labels"], batch["audio_labels"])
    with torch.no_grad():
        assert model(**batch, num_targets=own * 4).loss == pytest.approx(model(**batch).loss.item() / 4, rel=1e-6)


@every_family
def test_gradient_checkpointing_changes_nothing(checkpoint, tiny):
    """Recomputed activations give the same loss and gradients."""
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2, 4)))
    gradients = []
    for checkpointing in (False, True):
        model = lora_model(tiny.model_dir).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_adapters_are_plain_peft(checkpoint, tiny, tmp_path, native):
    """`PeftModel.from_pretrained` on the native model loads an adapter and gives the same logits."""
    trained = lora_model(tiny.model_dir).eval()
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        HiggsAudioV2ForConditionalGeneration.from_pretrained(tiny.model_dir, use_text_head=True), tmp_path
    ).eval()
    batch = tensors(collate(checkpoint, random_examples(checkpoint, 2, 8)))
    inputs = {name: value for name, value in batch.items() if "labels" not in name}
    with torch.no_grad():
        audio = trained(**batch).audio
        logits = loaded(**inputs).logits
        base = native(**inputs).logits
    rows = logits[audio.batch_index, audio.position - 1].view(-1, 8, 1026)
    torch.testing.assert_close(rows, audio.logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, base, atol=1e-3), "the adapter does something"


def test_lora_covers_attention_and_both_branches(tiny):
    """By default every linear layer of the decoder gets an adapter, heads and embeddings none."""
    model = add_lora(HiggsAudioForTraining.from_pretrained(tiny.model_dir), r=2, alpha=4, dropout=0.0)
    adapted = {
        name.split(".lora_A")[0].split("layers.0.")[1]
        for name, _ in model.named_parameters()
        if "layers.0." in name and "lora_A" in name
    }
    branches = {f"{branch}.{part}_proj" for branch in ("mlp", "audio_mlp") for part in ("gate", "up", "down")}
    assert adapted == {f"self_attn.{part}_proj" for part in "qkvo"} | branches
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())


def test_lora_targets_choose_one_branch(tiny):
    """`mlp.gate_proj` is the text branch alone."""
    base = HiggsAudioForTraining.from_pretrained(tiny.model_dir)
    model = add_lora(base, r=2, alpha=4, dropout=0.0, targets=["mlp.gate_proj"])
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 4
    assert all(".mlp.gate_proj." in name for name in adapted)


def test_unknown_lora_target_lists_the_known(tiny):
    """A target that matches nothing is an error, also beside one that does."""
    base = HiggsAudioForTraining.from_pretrained(tiny.model_dir)
    with pytest.raises(
        UserError, match=r"--lora_targets: expected names of linear modules \(audio_lm_head, .*got 'query'"
    ):
        add_lora(base, r=2, alpha=4, dropout=0.0, targets=["q_proj", "query"])
