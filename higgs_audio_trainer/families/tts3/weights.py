"""The model of a checkpoint of Higgs TTS 3, and whole checkpoints with trained weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.utils.hub import cached_file

from higgs_audio_trainer.documents import load_json
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.quantization import Quantization, fit_for_cpu
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.model import HiggsTts3
from higgs_audio_trainer.families.tts3.names import original_name
from higgs_audio_trainer.families.tts3.stored_weights import StoredWeights, find, not_loaded, some

_TEXT_HEAD = "lm_head.weight"
_HEADS = ("lm_head", "audio_head")
_DTYPES = ("F64", "F32", "F16", "BF16")
_MOST_BYTES = "5GB"  # of a file of weights
_CONFIG = "config.json"
#: Heads that may have the weights of an embedding, with the part of config.json that says so.
_PART_OF = {"audio_head.weight": "audio_encoder_config", _TEXT_HEAD: "text_config"}


def load(
    name: str,
    config: HiggsTts3Config,
    *,
    dtype: torch.dtype | None,
    attention: str | None,
    quantization: Quantization | None = None,
) -> HiggsTts3:
    """Return the model of a checkpoint, in evaluation mode.

    Args:
        name: Folder, or name on the Hugging Face Hub.
        config: Configuration of the checkpoint. The model has a copy.
        dtype: Type of the weights. None for the types of the files.
        attention: Implementation of attention, as `attn_implementation` of transformers. None for the usual one.
        quantization: Numbers of the linear modules, all but the heads. None for `dtype`.

    Raises:
        UserError: The weights cannot be loaded, or some are missing, unexpected or of another shape.
    """
    loaded = _load_stored(find(name), name, config, dtype=dtype, attention=attention)
    return loaded if quantization is None else _quantized(loaded, quantization)


def _quantized(model: HiggsTts3, quantization: Quantization) -> HiggsTts3:
    """Return the model with quantized linear modules. The heads are embeddings as well, and stay as they are."""
    quantized: HiggsTts3 = HiggsTts3.from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=model.state_dict(),
        dtype=model.dtype,
        attn_implementation=model.config._attn_implementation,  # noqa: SLF001 - has no public name
        **quantization.options(model.dtype, _HEADS),
    )
    quantized.name_or_path = quantized.config.name_or_path = model.config.name_or_path  # which an adapter names
    return fit_for_cpu(quantized)


def _load_stored(
    stored: StoredWeights, name: str, config: HiggsTts3Config, *, dtype: torch.dtype | None, attention: str | None
) -> HiggsTts3:
    """Return the model of weights that are found, see `load`."""
    config = copy.deepcopy(config)
    config.name_or_path = name
    config.text_config.tie_word_embeddings = config.has_tied_text_head or _TEXT_HEAD not in stored.weights
    try:
        with torch.device("meta"):  # no memory before the weights are read
            model: Any = HiggsTts3._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
    except Exception as error:  # libraries raise any class for a damaged file
        if attention is not None and ("attn" in str(error) or isinstance(error, ImportError)):
            raise UserError(f"--attn_implementation {attention}: {one_line(error)}") from error
        text = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"--base_ckpt {name}: expected a config.json of a model, got {text}") from error
    ties = model.get_expanded_tied_weights_keys()
    _account(stored, name, model, ties)
    try:
        tensors = stored.tensors(dtype)
    except (OSError, SafetensorError) as error:
        raise not_loaded(name, one_line(error)) from error
    for head, embedding in ties.items():
        if head in tensors and not torch.equal(tensors[head], tensors[embedding]):
            raise not_loaded(
                name,
                f"expected {stored.weights[head].name} to equal {stored.weights[embedding].name}, since "
                "tie_word_embeddings of config.json is true, got other values",
            )
        tensors[head] = tensors[embedding]
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    model.model.rotary_emb = Qwen3RotaryEmbedding(config=config.text_config)  # its buffers are not among the weights
    model.eval()
    loaded: HiggsTts3 = model
    return loaded


def _account(stored: StoredWeights, name: str, model: HiggsTts3, ties: dict[str, str]) -> None:
    """Check that the weights of the files are those of the model, but for heads with the weights of an embedding."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    is_original = stored.layout == "original"
    if missing := [key for key in shapes if key not in stored.weights and key not in ties]:
        raise not_loaded(
            name,
            f"expected weights for {some([original_name(key) if is_original else key for key in missing])}, got none",
        )
    if unexpected := [weight.name for key, weight in stored.weights.items() if key not in shapes]:
        raise not_loaded(name, f"expected the weights of Higgs TTS 3 alone, got {some(unexpected)} too")
    others = [(weight, shapes[key]) for key, weight in stored.weights.items() if weight.shape != shapes[key]]
    if others:
        got = some([f"{weight.name} of {list(weight.shape)} for {list(shape)}" for weight, shape in others])
        raise not_loaded(name, f"expected weights of the shapes in config.json, got {got}")
    if packed := [f"{weight.name} {weight.dtype}" for weight in stored.weights.values() if weight.dtype not in _DTYPES]:
        raise not_loaded(name, f"expected weights of type {', '.join(_DTYPES)}, got {some(packed)}")


def write_whole(checkpoint: BaseCheckpoint, trained: Callable[[Any], Any], folder: Path, *, layout: str) -> None:
    """Write trained weights and the configuration of a base checkpoint.

    In the layout of the base checkpoint, files are copied, and the weights that the training changed are written over
    the copies: names of files, types, the bundled codec and all other weights stay bit by bit. For another layout the
    weights are renamed, without the codec.

    An adapter may change a head that has the weights of an embedding, or the embedding without the head. The head then
    needs weights of its own. The port gets such weights, and a config.json that says so. The original layout is for
    servers that may not read such weights, so the adapter is refused.

    Args:
        checkpoint: Base checkpoint.
        trained: Returns the model with trained weights, such as a merged adapter.
        folder: Folder to write to.
        layout: One of `LAYOUTS`.

    Raises:
        UserError: The weights cannot be loaded, or the trained weights do not fit or change a tied head.
        ValueError: The merged weights are not finite.
        OSError: A file cannot be written.
    """
    stored = find(checkpoint.name)
    model = _load_stored(stored, checkpoint.name, checkpoint.config, dtype=None, attention=None)
    ties = model.get_expanded_tied_weights_keys()
    merged: dict[str, Tensor] = trained(model).state_dict()
    untied = [head for head, embedding in ties.items() if not torch.equal(merged[head], merged[embedding])]
    if untied and layout == "original":
        heads = " and ".join(head.removesuffix(".weight") for head in untied)
        raise UserError(
            f"--layout original: expected an adapter that leaves {heads} alone, got one that changes it. The original "
            f"layout has no weights for {heads}, which shares those of an embedding. Write --layout port, serve the "
            "adapter as it is, or train with other --lora_targets."
        )
    content = Path(str(cached_file(checkpoint.name, _CONFIG))).read_bytes()
    if untied:
        content = _with_untied(content, untied)
    (folder / _CONFIG).write_bytes(content)
    if layout == stored.layout and not untied:
        stored.copy(folder, merged)
        return
    tied = {head for head in ties if head not in untied}
    kept = {key: merged[key] for key in merged if key not in tied}
    if layout == "port" and "audio_head.weight" in tied:
        kept["audio_head.weight"] = merged["audio_embedding.weight"].clone()  # the port has the head, too
    renamed = {original_name(key) if layout == "original" else key: tensor for key, tensor in kept.items()}
    save_torch_state_dict(renamed, folder, max_shard_size=_MOST_BYTES)


def _with_untied(content: bytes, untied: list[str]) -> bytes:
    raw = load_json(content)
    for head in untied:
        raw[_PART_OF[head]]["tie_word_embeddings"] = False
    return f"{json.dumps(raw, indent=2, ensure_ascii=False)}\n".encode()
