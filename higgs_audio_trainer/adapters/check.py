"""Check by gradients that an adapter compares each prediction with the next token.

Shape suffixes: B batch, S sequence, K codebooks, V vocabulary, H hidden; F frames; N supervised positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError, supervised_rows
from higgs_audio_trainer.adapters.logits import Logits
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.rows import SupervisedRows


class MisalignedError(Exception):
    """Misaligned adapter. The message names the modality, the sample, the position and the evidence.

    Example:
        >>> raise MisalignedError("text: expected supervised positions in the batch, got none")
        Traceback (most recent call last):
        higgs_audio_trainer.adapters.check.MisalignedError: text: expected supervised positions in the batch, got none
    """


def check_adapter(adapter: Adapter, model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Raise an error unless each row sees the row's own input token and not the predicted token.

    The function checks two facts for each modality. First, the label of a row equals the input token of the next row,
    if that input is a token. Second, the logits of a row have a gradient at the row's own input and no gradient at the
    inputs of later rows. For a depth decoder, each codebook must have a gradient at the preceding codebook and no
    gradient at itself.

    Args:
        adapter: Adapter to check.
        model: Model of the adapter's family. A small model with random weights is enough. The weights do not change.
        batch: Arguments of the forward pass, including labels, with a few supervised positions in each sample.

    Raises:
        MisalignedError: The adapter compares predictions with the wrong labels.
        UnreadableError: The adapter cannot read the outputs, or the model has no list of layers.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from higgs_audio_trainer.adapters import adapter_for
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))
        >>> tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
        >>> check_adapter(adapter_for(model), model, {"input_ids": tokens, "labels": tokens})
    """
    was_training = model.training
    model.eval()
    with ExitStack() as hooks, torch.enable_grad():
        fed = _layer_inputs(model, adapter.layers, hooks)
        fed_depth = _layer_inputs(model, adapter.depth, hooks) if adapter.depth else {}
        outputs = model(**batch)
    model.train(was_training)
    prepared = adapter.prepare(model, outputs, batch)
    for reading in adapter.supervised(prepared):
        read = adapter.arranged(reading, getattr(model, "config", None), outputs, prepared)
        rows, _ = supervised_rows(read[0], read[1], reading.shift, reading.modality)
        if not len(rows.row):
            raise MisalignedError(f"{reading.modality}: expected supervised positions in the batch, got none")
        _check_rows(reading, rows, *read, _by_position(fed, read[0]))
        if fed_depth and reading.modality == "audio":
            _check_depth(read[0], rows, next(iter(fed_depth.values())))


def _layer_inputs(model: nn.Module, within: str, hooks: ExitStack) -> dict[str, Tensor]:
    """Return a mapping from lists of layers to inputs of the first layer. The forward pass fills the mapping.

    Args:
        model: Model.
        within: Dotted name of the submodule to search; "" for the whole model.
        hooks: Stack that removes the hooks.
    """
    fed: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        tracked = given if given.requires_grad else given.detach().requires_grad_()
        fed.setdefault(name, tracked)
        onward = tracked.clone()  # some layers add to the input in place
        return ((onward, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": onward})

    in_decoder = not within and getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    for name, module in (model.get_submodule(within) if within else model).named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and ("decoder" in name or not in_decoder):
            first = module[0]
            if len(list(first.children())) > 1 and any(weight.ndim > 1 for weight in first.parameters()):
                handle = first.register_forward_pre_hook(partial(keep, name), with_kwargs=True)
                hooks.callback(handle.remove)
    return fed


def _by_position(fed: Mapping[str, Tensor], logits: Logits) -> Tensor:
    """Return the layer input [B, S, H] with one position for each row of the logits."""
    for tensor in fed.values():
        if tensor.ndim >= len("BSH") and len(tensor) == logits.shape[0] and tensor.shape[1] >= logits.shape[1]:
            return tensor
    got = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in fed.items()) or "none"
    raise UnreadableError(
        f"expected a list of layers with an input of [{logits.shape[0]}, {logits.shape[1]}, hidden size], got {got}"
    )


def _check_rows(
    reading: Reading, rows: SupervisedRows, logits: Logits, labels_BSK: Tensor, inputs_BSK: Tensor, fed_BSH: Tensor
) -> None:
    hint = f"Is shift={reading.shift} correct?"
    before = fed_BSH.shape[1] - logits.shape[1]  # positions of a condition that precede the rows
    for sample, position, row in zip(rows.batch_index.tolist(), rows.position.tolist(), rows.row.tolist(), strict=True):
        if row + 1 == logits.shape[1]:
            continue  # the last row has no following input
        where = f"{reading.modality}, sample {sample}: the label at {position}, of the row at {row}"
        labels, following = labels_BSK[sample, position], inputs_BSK[sample, row + 1]
        differs = (labels != IGNORE_INDEX) & (following >= 0) & (labels != following)
        if differs.any():
            k = int(differs.nonzero()[0])
            raise MisalignedError(f"{where}: expected the next input token, {following[k]}, got {labels[k]}. {hint}")
        at = (rows.batch_index.new_tensor([sample]), rows.row.new_tensor([row]))
        row_logits = logits.at(*at).float()
        energy = row_logits.square().sum()
        (gradient,) = torch.autograd.grad(energy, fed_BSH, retain_graph=True, materialize_grads=True)
        reach_S = gradient[sample].abs().flatten(1).sum(dim=-1)[before:]
        if not reach_S[row] > 0:
            raise MisalignedError(f"{where}: expected a gradient at the input of that row, got none. {hint}")
        if reach_S[row + 1 :].any():
            raise MisalignedError(f"{where}: expected no gradient at the inputs of later rows, got one. {hint}")


def _check_depth(logits: Logits, rows: SupervisedRows, fed_FKH: Tensor) -> None:
    """Raise an error unless codebook k of every frame depends on the depth decoder's inputs up to codebook k - 1."""
    has_label_KN = rows.labels != IGNORE_INDEX
    logits_NKV = logits.at(rows.batch_index, rows.row).float()
    for k in range(1, logits.shape[2]):
        energy = logits_NKV[has_label_KN[k], k].square().sum()
        (gradient,) = torch.autograd.grad(energy, fed_FKH, retain_graph=True)
        reach_K = gradient.abs().sum(dim=(0, 2))
        if not reach_K[k] > 0:
            raise MisalignedError(f"audio: expected codebook {k} to depend on codebook {k - 1}, got no gradient")
        if reach_K[k + 1 :].any():
            raise MisalignedError(
                f"audio: expected no gradient of codebook {k} at the token of codebook {k} or later, got one"
            )
