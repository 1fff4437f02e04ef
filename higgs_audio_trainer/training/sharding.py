"""Sharding of a model by FSDP where accelerate, torch and peft leave gaps.

accelerate shards on GPUs alone: on CPUs `--fsdp` and `ACCELERATE_USE_FSDP` would be accepted, and the model replicated
by DDP, without a word. peft 0.21 asks FSDP1 for names that FSDP1 does not have, and would save adapters without
weights.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.accelerator import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft.tuners import tuners_utils
from torch import nn
from torch.distributed.fsdp import _optim_utils
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.distributed.fsdp._flat_param import FlatParamHandle
from transformers import TrainingArguments

_unflatten_states = _optim_utils._unflatten_orig_param_states  # noqa: SLF001 - has no public name
_prefixes_of_peft = tuners_utils._get_tuner_state_dict_key_prefixes  # noqa: SLF001 - has no public name


def is_fsdp_asked(arguments: TrainingArguments) -> bool:
    """Return True if `--fsdp` or the configuration of `accelerate launch` asks for FSDP."""
    return bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def fsdp_version(arguments: TrainingArguments) -> int | None:
    """Return 1 or 2, the version of FSDP that is asked for. None without FSDP."""
    if not is_fsdp_asked(arguments):
        return None
    return int((arguments.fsdp_plugin_args or {}).get("fsdp_version") or os.environ.get("FSDP_VERSION", "1"))


def prepare_sharding(arguments: TrainingArguments) -> None:
    """Prepare peft and the arguments for FSDP, before there is an accelerator. Does nothing without FSDP."""
    if not is_fsdp_asked(arguments):
        return
    tuners_utils._get_tuner_state_dict_key_prefixes = _clean_prefixes  # noqa: SLF001
    if arguments.device.type == "cpu":
        # Rank 0 cannot send its weights. Each rank loaded them from the same file, and adapters from the same seed.
        os.environ["FSDP_SYNC_MODULE_STATES"] = "false"
        if arguments.fsdp_plugin_args is not None:
            arguments.fsdp_plugin_args["sync_module_states"] = False


def _clean_prefixes(model: nn.Module, adapter_name: str | None = None) -> set[str]:
    """Return peft's prefixes of an adapter's weights without the names of FSDP1's wrappers, as in the state."""
    return {clean_tensor_name(prefix) for prefix in _prefixes_of_peft(model, adapter_name)}


def _copied_states(info: Any, states: dict[str, dict[str, Any]], name: str, *args: Any) -> None:
    """Copy the gathered states of an optimizer, whose memory the next state would take on a CPU: see torch's caller."""
    for state in states.values():
        if name in state:
            state[name] = state[name].clone()
    _unflatten_states(info, states, name, *args)


def shard_on_cpu(accelerator: Accelerator, arguments: TrainingArguments) -> bool:
    """Let an accelerator of several processes on CPUs shard its models, if FSDP is asked for.

    Args:
        accelerator: Accelerator that prepared no model yet.
        arguments: Arguments of the run.

    Returns:
        True if the accelerator shards from here on.
    """
    if accelerator.distributed_type is not DistributedType.MULTI_CPU or not is_fsdp_asked(arguments):
        return False
    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    state: Any = accelerator.state
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    if plugin.fsdp_version == 1:
        state.device = torch.device("cpu")  # FSDP1 refuses cpu:0
        # A copy "to the CPU" would be the gathered tensor itself, whose memory FSDP1 frees: a segmentation fault.
        FlatParamHandle.to_cpu = lambda _handle: nullcontext()  # type: ignore[assignment, method-assign, return-value]
        _optim_utils._unflatten_orig_param_states = _copied_states  # type: ignore[assignment]  # noqa: SLF001
    state.fsdp_plugin = plugin
    state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # noqa: SLF001 - as accelerate's state does
    return True
