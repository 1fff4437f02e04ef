"""Proof, by gradients, that an adapter compares each prediction with the token that comes next."""

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
    """An adapter reads a model wrongly; the message says how."""


def check_adapter(adapter: Adapter, model: nn.Module, batch: Mapping[str, Any]) -> None:
    """Hold an adapter against a model: each row must know the token that it was fed, and not the one it is to predict.

    Two things are shown for each modality. The label of each row, where it is a token that is fed in later, is fed
    in at the next row. And the logits of a row have a gradient at what was fed to that row, and none at the next. Of a
    depth decoder it is shown that each codebook has a gradient at the one before, and none at itself.

    Args:
        adapter: what is claimed.
        model: a small one will do; its weights are not changed.
        batch: what its forward pass takes, labels included; a few positions of each sample supervised.

    Raises:
        MisalignedError: the claim does not hold.
        UnreadableError: the outputs cannot be read as is claimed, or the model has no layers that can be found.
    """
    was_training = model.training
    model.eval()
    with ExitStack() as watches, torch.enable_grad():
        fed = _watched(model, adapter.layers, watches)
        fed_depth = _watched(model, adapter.depth, watches) if adapter.depth else {}
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


def _watched(model: nn.Module, within: str, watches: ExitStack) -> dict[str, Tensor]:
    """Keep what the first layer of each list of layers is fed, by its name, as something that gradients reach."""
    fed: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        watched = given if given.requires_grad else given.detach().requires_grad_()
        fed.setdefault(name, watched)
        onward = watched.clone()  # some layers add to it in place
        return ((onward, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": onward})

    in_decoder = not within and getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    for name, module in (model.get_submodule(within) if within else model).named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and ("decoder" in name or not in_decoder):
            first = module[0]
            if len(list(first.children())) > 1 and any(weight.ndim > 1 for weight in first.parameters()):
                handle = first.register_forward_pre_hook(partial(keep, name), with_kwargs=True)
                watches.callback(handle.remove)
    return fed


def _by_position(fed: Mapping[str, Tensor], logits: Logits) -> Tensor:
    """Choose what was fed position by position: the batch first, and a position for each row of the logits."""
    for tensor in fed.values():
        if tensor.ndim >= len("BSH") and len(tensor) == logits.shape[0] and tensor.shape[1] >= logits.shape[1]:
            return tensor
    got = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in fed.items()) or "none"
    raise UnreadableError(
        f"expected a list of layers that is fed [{logits.shape[0]}, {logits.shape[1]}, hidden size], got {got}"
    )


def _check_rows(
    reading: Reading, rows: SupervisedRows, logits: Logits, labels_BSK: Tensor, inputs_BSK: Tensor, fed_BSH: Tensor
) -> None:
    hint = f"Is shift={reading.shift} right?"
    before = fed_BSH.shape[1] - logits.shape[1]  # positions of a condition, before those of the rows
    for sample, position, row in zip(rows.batch_index.tolist(), rows.position.tolist(), rows.row.tolist(), strict=True):
        if row + 1 == logits.shape[1]:
            continue  # nothing is fed in after the last
        where = f"{reading.modality}, sample {sample}: the label at {position}, of the row at {row}"
        labels, following = labels_BSK[sample, position], inputs_BSK[sample, row + 1]
        differs = (labels != IGNORE_INDEX) & (following >= 0) & (labels != following)
        if differs.any():
            k = int(differs.nonzero()[0])
            raise MisalignedError(f"{where}: expected what is fed in next, {following[k]}, got {labels[k]}. {hint}")
        at = (rows.batch_index.new_tensor([sample]), rows.row.new_tensor([row]))
        row_logits = logits.at(*at).float()
        made = row_logits.square().sum()
        (gradient,) = torch.autograd.grad(made, fed_BSH, retain_graph=True, materialize_grads=True)
        reach_S = gradient[sample].abs().flatten(1).sum(dim=-1)[before:]
        if not reach_S[row] > 0:
            raise MisalignedError(f"{where}: expected a gradient at what is fed in there, got none. {hint}")
        if reach_S[row + 1 :].any():
            raise MisalignedError(f"{where}: expected no gradient at what is fed in after it, got one. {hint}")


def _check_depth(logits: Logits, rows: SupervisedRows, fed_FKH: Tensor) -> None:
    """Hold the codebooks of all frames against what the depth decoder was fed: at k, the codebook before k."""
    has_label_KN = rows.labels != IGNORE_INDEX
    logits_NKV = logits.at(rows.batch_index, rows.row).float()
    for k in range(1, logits.shape[2]):
        made = logits_NKV[has_label_KN[k], k].square().sum()
        (gradient,) = torch.autograd.grad(made, fed_FKH, retain_graph=True)
        reach_K = gradient.abs().sum(dim=(0, 2))
        if not reach_K[k] > 0:
            raise MisalignedError(f"audio: expected codebook {k} to depend on codebook {k - 1}, got no gradient")
        if reach_K[k + 1 :].any():
            raise MisalignedError(f"audio: expected codebook {k} not to see itself, got a gradient there")
