"""Proof, by gradients, that an adapter compares each prediction with the token that comes next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError, supervised_rows
from higgs_audio_trainer.events import IGNORE_INDEX


class MisalignedError(Exception):
    """An adapter reads a model wrongly; the message says how."""


def check_adapter(adapter: Adapter, model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Hold an adapter against a model: each row must know the token that it was fed, and not the one it is to predict.

    Two things are shown for each modality. The label of each row, where it is a token that is fed in later, is fed
    in at the next row. And the logits of a row have a gradient at what was fed to that row, and none at the next.

    Args:
        adapter: what is claimed.
        model: a small one will do; its weights are not changed.
        batch: what its forward pass takes, labels included; a few positions of each sample supervised.

    Raises:
        MisalignedError: the claim does not hold.
        UnreadableError: the outputs cannot be read as is claimed, or the model has no layers that can be found.
    """
    fed: list[Tensor] = []
    was_training = model.training
    model.eval()
    handle = _first_layer(model).register_forward_pre_hook(lambda *call: _watch(fed, *call), with_kwargs=True)
    try:
        with torch.enable_grad():
            outputs = model(**batch)
    finally:
        handle.remove()
        model.train(was_training)
    for reading in adapter.readings:
        _check(adapter, reading, model, outputs, batch, fed[0])


def _first_layer(model: nn.Module) -> nn.Module:
    """Find the first layer that the positions of the labels pass; in an encoder-decoder, of the decoder."""
    in_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and ("decoder" in name.split(".") or not in_decoder):
            first = module[0]
            if len(list(first.children())) > 1 and any(weight.ndim > 1 for weight in first.parameters()):
                return first
    raise UnreadableError(f"expected a list of layers in the model, got none in {type(model).__name__}")


def _watch(fed: list[Tensor], _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Keep what the layer is given, position by position, as something that gradients reach."""
    hidden = args[0] if args else kwargs["hidden_states"]
    watched = hidden.detach().requires_grad_()
    fed.append(watched)
    return ((watched, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": watched})


def _check(
    adapter: Adapter, reading: Reading, model: nn.Module, outputs: Any, batch: Mapping[str, Any], fed_BSH: Tensor
) -> None:
    config = getattr(model, "config", None)
    prepared = adapter.prepare(config, batch)
    logits, labels_BSK, inputs_BSK = adapter.arranged(reading, config, outputs, prepared)
    rows, _ = supervised_rows(logits, labels_BSK, reading.shift, reading.modality)
    if not len(rows.row):
        raise MisalignedError(f"{reading.modality}: expected supervised positions in the batch, got none")
    for sample, position, row in zip(rows.batch_index.tolist(), rows.position.tolist(), rows.row.tolist(), strict=True):
        if row + 1 == logits.shape[1]:
            continue  # nothing is fed in after the last
        where = f"{reading.modality}, sample {sample}: the label at {position}, of the row at {row}"
        labels, following = labels_BSK[sample, position], inputs_BSK[sample, row + 1]
        differs = (labels != IGNORE_INDEX) & (following >= 0) & (labels != following)
        if differs.any():
            k = int(differs.nonzero()[0])
            raise MisalignedError(
                f"{where}: expected the token fed in at the next row, {following[k]}, got {labels[k]}. "
                f"Is shift={reading.shift} right?"
            )
        row_logits = logits.at(rows.batch_index.new_tensor([sample]), rows.row.new_tensor([row])).float()
        (gradient_BSH,) = torch.autograd.grad(row_logits.square().sum(), fed_BSH, retain_graph=True)
        reach_S = gradient_BSH[sample].abs().sum(dim=-1)
        if not reach_S[row] > 0:
            raise MisalignedError(f"{where}: expected it to depend on what was fed in at {row}, got no gradient")
        if reach_S[row + 1 :].any():
            raise MisalignedError(f"{where}: expected it not to see what is fed in after {row}, got a gradient there")
