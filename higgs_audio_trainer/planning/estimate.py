"""Estimated memory of a training on one device, from the configuration of the base checkpoint alone.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import Family
from higgs_audio_trainer.planning.live_memory import fake_model, step_peak
from higgs_audio_trainer.training.argument_checks import problems_of_quantization, sharding_backend
from higgs_audio_trainer.training.lora_settings import with_lora_config
from higgs_audio_trainer.training.model import plan_model

#: Memory of a device that no tensor has: the CUDA context, libraries, and what the allocator cannot reuse.
RESERVE = 2**30
FRAMES_PER_SECOND = 25
PROMPT_TOKENS = 60  # of a sample beside its clip
_TEXT_TARGETS = 3  # of a sample: begin and end of audio, end of turn
#: Bytes of a quantized weight: nf4 in blocks of 64, with scales of 8 bit and a float32 for 256 of them (Dettmers et al.
#: 2023, https://arxiv.org/abs/2305.14314); LLM.int8, whose float32 scales of rows are left out.
_QUANTIZED = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
_MEASURED_LAYERS = (2, 3)  # of a model whose layers are alike. Further layers add the same
_LAYER = re.compile(r"(.*\blayers)\.(\d+)\.(.*)")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of one device in bytes, and numbers of parameters.

    Attributes:
        trained: Number of trained parameters, of all devices together.
        total: Number of parameters.
        weights: Memory of all parameters.
        gradients: Memory of the gradients.
        optimizer: Memory of the optimizer's states.
        activations: Most memory of a forward and backward pass beside weights and gradients.
        exchange: Memory of the exchange between devices: buckets of gradients, or gathered layers.
        keeps_gradients: Whether gradients are there during forward passes, as with several micro-batches per step.
    """

    trained: int
    total: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    exchange: int
    keeps_gradients: bool

    @property
    def peak(self) -> int:
        """Most memory of all tensors at a time.

        Without gradients from an earlier micro-batch, gradients grow as activations are freed.
        """
        moving = self.activations + self.gradients if self.keeps_gradients else max(self.activations, self.gradients)
        return self.weights + self.optimizer + self.exchange + moving

    def fits(self, memory: int) -> bool:
        """Return True if a device with some bytes of free memory is enough."""
        return self.peak + RESERVE <= memory


@dataclass(frozen=True, slots=True)
class Load:
    """Batch of the estimate, and the devices that share the training.

    Attributes:
        clip_seconds: Length of each clip, in seconds.
        ranks: Number of devices.
    """

    clip_seconds: float = 10.0
    ranks: int = 1


def batch_size_of(settings: TrainSettings, load: Load) -> int:
    """Return the number of samples of a micro-batch, B."""
    if settings.max_batch_seconds is None:
        return settings.batch_size
    return max(1, int(settings.max_batch_seconds // load.clip_seconds))


def backend_of(settings: TrainSettings) -> str | None:
    """Return the name of the backend that divides the weights among the ranks, FSDP or DeepSpeed."""
    return sharding_backend(settings.extra.get("deepspeed"), settings.extra.get("fsdp"))


def estimate(settings: TrainSettings, family: Family, config: Any, load: Load) -> Estimate:
    """Return the estimated memory of a training.

    Args:
        settings: Settings of the training.
        family: Family of the base checkpoint.
        config: Configuration of the base checkpoint.
        load: Batch and devices.

    Raises:
        UserError: The method of the settings does not fit the model, or not the backend.
    """
    for problem in problems_of_quantization(settings, backend_of(settings)):
        raise UserError(problem)
    settings = with_lora_config(settings).with_text_loss(family.text_loss_weight)
    base = family.without_weights(config)
    decoder = {id(module.weight) for module in base.model.modules() if isinstance(module, nn.Linear)}
    names = {name for name, parameter in base.named_parameters() if id(parameter) in decoder}
    model = plan_model(settings, base, _dtype(settings))
    quantized = _quantized(model, names, settings)
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    bits = 4 if settings.load_in_4bit else 8
    weights = sum(
        int(parameter.numel() * _QUANTIZED[bits]) if id(parameter) in quantized else _bytes(parameter)
        for parameter in parameters
    )
    gradients, states = sum(map(_bytes, trained)), sum(_states(parameter, settings) for parameter in trained)
    # A layer in 4 or 8 bit is turned into the type of the products when the layer is used.
    product = max((2 * parameter.numel() for parameter in parameters if id(parameter) in quantized), default=0)
    weights, gradients, states, exchange = _shared(model, settings, load.ranks, (weights, gradients, states))
    return Estimate(
        trained=sum(parameter.numel() for parameter in trained),
        total=sum(parameter.numel() for parameter in parameters),
        weights=weights,
        gradients=gradients,
        optimizer=states,
        activations=product + _activations(model, base, settings, load),
        exchange=exchange,
        keeps_gradients=settings.grad_accum > 1,
    )


def _dtype(settings: TrainSettings) -> torch.dtype:
    """Return the type of the weights, for a device with bfloat16 unless the training is to run on the CPU."""
    if settings.dtype != "auto":
        named: torch.dtype = getattr(torch, settings.dtype)
        return named
    return torch.float32 if settings.full_finetune or settings.extra.get("use_cpu") else torch.bfloat16


def _autocast(settings: TrainSettings) -> Any:
    """Return the context of the forward pass, see `training.arguments`."""
    if settings.extra.get("fp16"):
        return torch.autocast("cpu", dtype=torch.float16)
    automatic = settings.dtype in ("auto", "bfloat16") and not settings.extra.get("use_cpu")
    return torch.autocast("cpu", dtype=torch.bfloat16) if settings.extra.get("bf16", automatic) else nullcontext()


def _quantized(model: Any, names: set[str], settings: TrainSettings) -> set[int]:
    """Return the identities of the weights in 4 or 8 bit: the frozen weights of the decoder's linear modules."""
    if not (settings.load_in_4bit or settings.load_in_8bit):
        return set()
    return {
        id(parameter)
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and name.removeprefix("base_model.model.").replace(".base_layer.", ".") in names
    }


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _states(parameter: Tensor, settings: TrainSettings) -> int:
    """Return the bytes of the optimizer's states of a parameter.

    Paged states move to the memory of the host when the device has no room, and count as none.
    """
    name = str(getattr(settings.extra.get("optim"), "value", settings.extra.get("optim") or "adamw_torch_fused"))
    if "paged" in name or name == "sgd":
        return 0
    moments = 1 if name.startswith(("lion", "rmsprop", "adagrad")) else 2
    if name == "adafactor":  # sums of rows and columns (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235)
        factored = parameter.ndim > 1
        return 4 * (sum(parameter.shape[-2:]) if factored else parameter.numel())
    is_small = parameter.numel() < 4096  # noqa: PLR2004 - which bitsandbytes keeps in 32 bit
    if name.endswith(("8bit", "bnb_8bit")) and not is_small:
        return moments * (parameter.numel() + parameter.numel() // 64)  # a float32 for each block of 256
    if name == "adamw_torch_4bit":
        return moments * parameter.numel() // 2
    return moments * _bytes(parameter)


def _shared(
    model: nn.Module, settings: TrainSettings, ranks: int, parts: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Return weights, gradients and states of one device, and the memory of the exchange."""
    weights, gradients, states = parts
    if ranks == 1:
        return (*parts, 0)
    if backend_of(settings) != "FSDP":  # DistributedDataParallel copies gradients into buckets
        return (*parts, gradients)
    layers = _layers(model)
    gathered = 2 * max(sum(size for _, size, _ in layer) for layer in layers.values())  # a layer and the next
    whole = "shard_grad_op" in str(settings.extra.get("fsdp"))
    return (weights if whole else weights // ranks, gradients // ranks, states // ranks, 0 if whole else gathered)


def _layers(model: nn.Module) -> dict[str, list[tuple[str, int, bool]]]:
    """Return the name in the layer, bytes and whether trained, of each parameter of each decoder layer."""
    layers: dict[str, list[tuple[str, int, bool]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if match := _LAYER.fullmatch(name):
            layers[match[2]].append((match[3], _bytes(parameter), parameter.requires_grad))
    return layers


def _activations(model: Any, base: Any, settings: TrainSettings, load: Load) -> int:
    """Return the most bytes of a forward and backward pass beside weights and gradients.

    Layers with the same adapters add the same, so that two and three of them tell the memory of all.
    """
    model.train()
    if settings.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    text = base.model.config.get_text_config()
    number = int(text.num_hidden_layers)
    first, *others = _layers(model).values()
    # In a full fine-tuning, copies of weights and the gradient of an embedding peak elsewhere with few layers.
    alike = all(layer == first for layer in others) and number > _MEASURED_LAYERS[1] and not settings.full_finetune
    with fake_model(model):
        batch = _batch(settings, base.config, load)
        before = [*model.parameters(), *model.buffers(), *_tensors(batch)]

        def loss() -> Tensor:
            with _autocast(settings):
                made: Tensor = base(**batch).loss
            return made

        def peak(layers: int) -> int:
            text.num_hidden_layers = layers
            most: int = step_peak(model, loss, before)
            return most

        if not alike:
            return peak(number)
        few, more = map(peak, _MEASURED_LAYERS)
        return more + (number - _MEASURED_LAYERS[1]) * (more - few)


def _batch(settings: TrainSettings, config: Any, load: Load) -> dict[str, Any]:
    """Return the inputs of the model for clips of one length, of which only the shapes count."""
    num_codebooks = int(config.num_codebooks)
    batch = batch_size_of(settings, load)
    frames = num_stream_frames(max(1, round(load.clip_seconds * FRAMES_PER_SECOND)), num_codebooks)
    text = PROMPT_TOKENS + _TEXT_TARGETS
    length = text + frames
    if length > config.get_text_config().max_position_embeddings:
        raise UserError(
            f"--clip_seconds: expected at most {config.get_text_config().max_position_embeddings} positions, the "
            f"longest sequence of the model, got {length} of a clip of {load.clip_seconds:g} s"
        )

    def indices(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64)

    text_rows = batch * _TEXT_TARGETS if settings.text_weight > 0 else 0
    route = {
        "places": indices(batch * length),
        "frame_places": indices(batch * frames),
        "text_rows": indices(text_rows),
        "audio_rows": indices(batch * (frames - 1)),
        "audio_targets": indices(batch * (frames - 1)),
    }
    return {
        "input_ids": indices(batch, length),
        "labels": indices(batch, length),
        "audio_input_ids": indices(batch, frames, num_codebooks),
        "audio_labels": indices(batch, frames, num_codebooks),
        "route": route,
        "num_targets": indices(1 + num_codebooks),
    }


def _tensors(batch: dict[str, Any]) -> Iterator[Tensor]:
    for value in batch.values():
        yield from value.values() if isinstance(value, dict) else (value,)
