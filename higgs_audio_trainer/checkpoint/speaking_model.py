"""Model for speech: a base checkpoint with tokenizer, codec and, after a training, an adapter."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from higgs_audio_trainer.checkpoint.base_checkpoint import codec_of, open_checkpoint
from higgs_audio_trainer.documents import read_json
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.quantization import Quantization
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, is_finished, latest_checkpoint
from higgs_audio_trainer.phases import phase

_ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class SpeakingModel:
    """A model that speaks.

    Attributes:
        checkpoint: Configuration and tokenizer of the base checkpoint.
        codec_name: Folder of the codec, or a name on the Hub.
        adapter: Folder of the adapter. None without one.
        device: Device of the model.
        trained: Folder of the training's result: the adapter, or a whole checkpoint. None for a base checkpoint.
        quantization: Numbers of the base model's linear modules. None for the usual ones.
    """

    checkpoint: BaseCheckpoint
    codec_name: str
    adapter: Path | None
    device: str
    trained: Path | None = None
    quantization: Quantization | None = None

    @cached_property
    def model(self) -> Any:
        """Model in evaluation mode. The first use loads the weights.

        Raises:
            UserError: The weights cannot be loaded, the adapter does not fit, or the device cannot be used.
        """
        with phase(f"loading the weights of {self.checkpoint.name}"):
            return _load(self.checkpoint, self.adapter, self.device, self.quantization)


def open_speaking_model(
    adapter: str | None, *, base_ckpt: str | None, audio_tokenizer: str | None, device: str, bits: int | None = None
) -> SpeakingModel:
    """Open a model that speaks, without its weights.

    Args:
        adapter: Output directory of a training or one of its checkpoints. None for the base checkpoint alone.
        base_ckpt: Base checkpoint, a folder or a name on the Hub. None for the one that the adapter names.
        audio_tokenizer: Codec, a folder or a name on the Hub. None for the one of the training or of the base.
        device: Device of the model.
        bits: 4 or 8 for a quantized base model, None for a model in full.

    Raises:
        UserError: The adapter or the checkpoint is missing, or the device cannot compute with a quantized model.
    """
    quantization = None if bits is None else Quantization(bits, device)
    if quantization is not None:
        quantization.check()
    folder = None if adapter is None else trained_folder(Path(adapter))
    is_whole = folder is not None and not (folder / ADAPTER_CONFIG).is_file()
    if is_whole and base_ckpt is not None:
        raise UserError(f"--base_ckpt: expected none, since {folder} is a whole checkpoint, got {base_ckpt}")
    base = base_ckpt or (None if folder is None else str(folder) if is_whole else base_of(folder))
    if base is None:
        raise UserError("expected the output directory of a training, or --base_ckpt, got neither")
    checkpoint = open_checkpoint(base)
    has_processor = folder is not None and (folder / "processor_config.json").is_file()
    codec = audio_tokenizer or codec_of(str(folder) if has_processor else base)
    return SpeakingModel(checkpoint, codec, None if is_whole else folder, device, folder, quantization)


def trained_folder(path: Path) -> Path:
    """Return the folder of an adapter or of a whole checkpoint: the path, or the last complete checkpoint below.

    Raises:
        UserError: There is neither.
    """
    if not path.is_dir():
        raise UserError(f"{path}: expected the output directory of a training or a checkpoint, got no folder")
    if is_finished(path):
        return path
    newest, damaged = latest_checkpoint(path)
    if newest is None:
        why = f" ({'; '.join(damaged)})" if damaged else ""
        raise UserError(
            f"{path}: expected an adapter, or a checkpoint with one, got none{why}. Name the --output_dir of a training"
        )
    return newest


def base_of(adapter: Path) -> str:
    """Return the base checkpoint that an adapter names.

    Raises:
        UserError: The configuration of the adapter cannot be read, or names none.
    """
    try:
        named = read_json(adapter / ADAPTER_CONFIG)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{adapter / ADAPTER_CONFIG}: expected the configuration of an adapter, got: {error}"
        ) from error
    if not isinstance(named, str) or not named:
        raise UserError(f"{adapter / ADAPTER_CONFIG}: expected the name of a base checkpoint. Name it with --base_ckpt")
    return named


def with_adapter(model: Any, adapter: Path, base: str) -> Any:
    """Return a model with an adapter.

    Args:
        model: Model of a base checkpoint.
        adapter: Folder of the adapter.
        base: Name of the base checkpoint, for messages.

    Raises:
        UserError: The adapter cannot be read, or belongs to another model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    message = f"{adapter}: the adapter does not fit {base}"
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        with safe_open(adapter / _ADAPTER_WEIGHTS, "pt") as file:
            saved = set(file.keys())
    except Exception as error:  # libraries raise any class for a damaged file
        raise UserError(f"{message}: {of_library(error)}") from error
    # peft leaves weights out that the model has no place for.
    places = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if different := sorted(saved ^ places):
        raise UserError(
            f"{message}: expected weights for the same layers, got a difference in {len(different)}, such as "
            f"{different[0]}. Name the base checkpoint of the training with --base_ckpt."
        )
    return adapted


def merge(adapted: Any) -> Any:
    """Return a model with its adapter merged into its weights.

    A module that shares its weights with another gets weights of its own before the adapter changes them.

    Args:
        adapted: Model with an adapter.

    Raises:
        ValueError: The merged weights are not finite, or the adapter has biases that the weights have no place for.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    counts = Counter(weight for _, weight in adapted.named_parameters(remove_duplicate=False))
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module.get_base_layer()
            if counts[layer.weight] > 1:
                layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except RuntimeError as error:
        raise ValueError(one_line(error)) from error


def _names_of(adapter: Path) -> list[str]:
    """Return the names of an adapter's weights. `with_adapter` reports a file that cannot be read."""
    with suppress(OSError, SafetensorError), safe_open(adapter / _ADAPTER_WEIGHTS, "pt") as file:
        return list(file.keys())
    return []


def _load(checkpoint: BaseCheckpoint, adapter: Path | None, device: str, quantization: Quantization | None) -> Any:
    dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    model = checkpoint.family.for_speech(
        checkpoint.name,
        dtype=dtype,
        adapted=() if adapter is None else _names_of(adapter),
        quantization=quantization,
    )
    if adapter is not None:
        model = with_adapter(model, adapter, checkpoint.name)
    if quantization is not None:
        return model.eval()  # is on the device
    try:
        return model.eval().to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"--device {device}: cannot be used: {reason}. Name another device.") from error
