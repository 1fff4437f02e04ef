"""Adapters for models of other families, with the model's own loss as the oracle and gradients as the proof."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

from higgs_audio_trainer.adapters import (
    MisalignedError,
    UnreadableError,
    adapter_for,
    check_adapter,
)
from higgs_audio_trainer.adapters.adapter import ids_of, supervised_rows
from higgs_audio_trainer.adapters.families import CAUSAL_LM, CSM, HIGGS_AUDIO, MOSHI, MUSICGEN
from higgs_audio_trainer.adapters.fingerprint import fingerprints
from higgs_audio_trainer.adapters.logits import HeadLogits, MadeLogits
from higgs_audio_trainer.events import IGNORE_INDEX
from tests.adapted import CASES, make
from tests.adapted_sweep import case, hold


def mean_of_means(sums, targets):
    """Each codebook counts alike."""
    return sum(total / count for total, count in zip(sums, targets, strict=True)) / len(sums)


def sum_of_means(sums, targets):
    """The codebooks' losses are added."""
    return len(sums) * mean_of_means(sums, targets)


def mean_of_targets(sums, targets):
    """Each target counts alike, of whatever codebook."""
    return sum(sums) / sum(targets)


def first_and_depth(sums, targets):
    """Return the loss of the first codebook plus the loss of the depth decoder, which predicts all other codebooks."""
    return sums[0] / targets[0] + mean_of_targets(sums[1:], targets[1:])


# : How each family combines the losses of the codebooks, from the sums over the targets and the numbers of targets.
LOSSES = {
    "higgs_audio": sum_of_means,
    "csm": first_and_depth,
    "csm_of_codes": first_and_depth,
    "dia": mean_of_targets,
    "moshi": mean_of_targets,
}


def _by_codebook(stream):
    targets_K = (stream.rows.labels != IGNORE_INDEX).sum(-1).reshape(-1)
    return stream.rows.nll.sum(-1).reshape(-1).tolist(), targets_K.tolist()


@pytest.mark.parametrize("name", CASES)
class TestFamilies:
    def test_the_cross_entropies_are_the_models_loss(self, name):
        """The mean over each codebook's targets, combined like in the model, equals the model's loss.

        So the rows are the same.
        """
        model, batch = make(name)
        with torch.no_grad():
            outputs = model(**batch)
        adapter = adapter_for(model)
        streams = adapter.streams(model.config, outputs, adapter.prepare(model, outputs, batch))
        loss = sum(LOSSES.get(name, mean_of_means)(*_by_codebook(stream)) for stream in streams)
        assert loss == pytest.approx(outputs.loss.item(), rel=1e-5)

    def test_gradients_prove_the_alignment(self, name):
        """Each row depends on the row's inputs and not on the row's label. The model stays unchanged."""
        model, batch = make(name)
        before = [parameter.clone() for parameter in model.parameters()]
        check_adapter(adapter_for(model), model, batch)
        assert all(map(torch.equal, before, model.parameters()))
        assert not any(parameter.grad is not None for parameter in model.parameters())

    def test_a_wrong_shift_is_found(self, name):
        """An adapter that is off by one position in either direction is reported."""
        model, batch = make(name)
        adapter = adapter_for(model)
        *others, reading = adapter.readings
        for wrong in {reading.shift + 1, max(reading.shift - 1, 0)} - {reading.shift}:
            off = replace(adapter, readings=(*others, replace(reading, shift=wrong)))
            with pytest.raises(MisalignedError, match=f"Is shift={wrong} correct"):
                check_adapter(off, model, batch)


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen3ForCausalLM", "Gemma3ForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM"),
        *("MambaForCausalLM", "OPTForCausalLM", "BloomForCausalLM", "GraniteForCausalLM", "GptOssForCausalLM"),
        *("BartForConditionalGeneration", "WhisperForConditionalGeneration", "M2M100ForConditionalGeneration"),
        *("LlavaForConditionalGeneration", "Qwen2AudioForConditionalGeneration"),
    ],
)
def test_language_models(name):
    """Popular models pass both oracles. `python -m tests.adapted_sweep` checks all language models of transformers."""
    assert not hold(*case(name))


def test_a_decoder_whose_loss_does_not_shift():
    """A model that receives the inputs as labels is reported, because the model learns to copy.

    The adapter reads the loss as the model computes the loss.
    """
    model, batch = case("BartForCausalLM")
    assert "expected the next input token" in hold(model, batch)
    labels = batch["labels"].roll(-1, dims=1)
    assert not hold(model, batch | {"labels": labels.index_fill(1, torch.tensor([11]), IGNORE_INDEX)})


class TestFinding:
    def test_by_class(self):
        """A user's subclass of a known class has the adapter of the known class."""

        class Mine(transformers.LlamaForCausalLM):
            pass

        model, _ = make("llama")
        model.__class__ = Mine
        assert adapter_for(model) is CAUSAL_LM
        assert adapter_for(make("higgs_audio")[0]) is HIGGS_AUDIO
        assert adapter_for(make("musicgen")[0]) is MUSICGEN

    def test_a_depth_decoder_that_is_one_off(self):
        """Logits of the depth decoder that belong to the previous or next codebook are found."""
        model, batch = make("csm_of_codes")
        for order, message in (
            ([1, 2, 2], "no gradient of codebook 1 at the token of codebook 1"),
            ([0, 0, 1], "codebook 2 to depend on"),
        ):

            def prepare(core, outputs, inputs, order=order):
                depth = outputs.depth_decoder_logits[:, order]
                return CSM.prepare(core, type(outputs)(logits=outputs.logits, depth_decoder_logits=depth), inputs)

            with pytest.raises(MisalignedError, match=message):
                check_adapter(replace(CSM, prepare=prepare), model, batch)

    def test_moshi_as_its_documentation_has_it(self):
        """Labels that equal the inputs, as in the documentation, teach the model to copy.

        The forward pass scores each row against the row's own input.
        """
        model, batch = make("moshi")
        copied = batch | {"audio_labels": batch["moshi_audio_codes"]}
        with pytest.raises(MisalignedError, match=r"audio.*Is shift=0 correct"):
            check_adapter(MOSHI, model, copied)

    def test_unknown(self):
        """The error shows how to write an adapter."""
        with pytest.raises(UnreadableError, match=r"got Linear.*adapter=Adapter.*check_adapter"):
            adapter_for(nn.Linear(1, 1))


class TestReading:
    def test_what_is_missing(self):
        """An error names missing logits, labels and inputs, with a possible cause."""
        model, batch = make("llama")
        with torch.no_grad():
            outputs = model(**batch)
        for name, hint in (("labels", "step\\(n, labels"), ("input_ids", "step\\(n, input_ids")):
            lacking = {key: value for key, value in batch.items() if key != name}
            with pytest.raises(UnreadableError, match=f"expected a tensor '{name}'.*{hint}"):
                CAUSAL_LM.streams(model.config, outputs, lacking)
        outputs.logits = None
        with pytest.raises(UnreadableError, match="'logits' among the outputs"):
            CAUSAL_LM.streams(model.config, outputs, batch)

    def test_other_shapes(self):
        """Positions that disagree and missing axes are reported with the shapes."""
        model, batch = make("llama")
        with torch.no_grad():
            outputs = model(**batch)
        with pytest.raises(UnreadableError, match=r"got \[2, 12, 1\], \[2, 11, 1\] and \[2, 12, 1\]"):
            CAUSAL_LM.streams(model.config, outputs, batch | {"labels": batch["labels"][:, 1:]})
        with pytest.raises(UnreadableError, match=r"logits: expected the axes '\(B K\) S V', got the shape"):
            MUSICGEN.streams(make("musicgen")[0].config, type(outputs)(logits=torch.zeros(3, 4)), {})

    def test_rows_against_loops(self):
        """Rows, predictions and cross-entropies of random logits equal the result of a loop over all positions."""
        torch.manual_seed(1)
        logits = torch.randn(3, 7, 2, 11)
        labels = torch.randint(0, 11, (3, 7, 2)).masked_fill(torch.rand(3, 7, 2) < 0.5, IGNORE_INDEX)
        rows, predictions = supervised_rows(MadeLogits(logits), labels, 1, "audio")
        expected = [
            (b, p) for b in range(3) for p in range(1, 7) if any(labels[b, p, k] != IGNORE_INDEX for k in range(2))
        ]
        assert list(zip(rows.batch_index.tolist(), rows.position.tolist(), strict=True)) == expected
        for n, (b, p) in enumerate(expected):
            for k in range(2):
                assert predictions[k, n] == logits[b, p - 1, k].argmax()
                masked = labels[b, p, k] == IGNORE_INDEX
                nll = 0.0 if masked else -logits[b, p - 1, k].log_softmax(-1)[labels[b, p, k]]
                assert rows.nll[k, n] == pytest.approx(float(nll), abs=1e-5)

    @pytest.mark.parametrize("change", [{}, {"logit_scale": 0.5}, {"final_logit_softcapping": 3.0}])
    def test_logits_of_a_fused_head(self, change):
        """Logits made of the last hidden states equal the model's own logits, with the same scale and cap."""
        torch.manual_seed(0)
        head, hidden = nn.Linear(8, 20, bias=False), torch.randn(2, 5, 8)
        config = transformers.LlamaConfig(**change)
        expected = head(hidden) * change.get("logit_scale", 1.0)
        if cap := change.get("final_logit_softcapping"):
            expected = cap * torch.tanh(expected / cap)
        made = HeadLogits(hidden, head, config)
        assert made.shape == (2, 5, 1, 20)
        index, row = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2])
        torch.testing.assert_close(made.at(index, row)[:, 0], expected[index, row])

    def test_stop_tokens(self):
        """A configuration may have no stop token or several stop tokens, and may nest the ids."""
        config = transformers.LlamaConfig(eos_token_id=[3, 5])
        assert ids_of(config, ("eos_token_id", "pad_token_id", "nothing.here")) == (3, 5)


class TestFingerprints:
    def test_padding_does_not_count(self):
        """The same tokens have the same fingerprint in a batch of any length, with left, right or no padding."""
        tokens = torch.tensor([[5, 6, 7, 0, 0], [0, 0, 5, 6, 7], [5, 6, 8, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
        right, left, other = fingerprints(tokens, mask)
        [alone] = fingerprints(torch.tensor([[5, 6, 7]]))
        assert right == left == alone != other
        assert len(right) == 16

    def test_of_codebooks(self):
        """Which codebook a code stands in counts."""
        one, two = fingerprints(torch.tensor([[[1, 2], [3, 4]], [[2, 1], [3, 4]]]))
        assert one != two
