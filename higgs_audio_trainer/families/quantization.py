"""Base models in 4 or 8 bit, by bitsandbytes: QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from packaging.version import Version

from higgs_audio_trainer.errors import UserError, one_line

#: Oldest bitsandbytes that the tests have seen to train as the dequantized weights do on a CPU.
OLDEST = "0.48"
_INSTALL = "pip install 'higgs-audio-trainer[qlora]'"
_TRIAL = 64  # rows and columns of a matrix, as many as a block of 4-bit weights has


@dataclass(frozen=True, slots=True)
class Quantization:
    """Numbers in which the linear modules of a decoder are stored.

    Embeddings, norms and heads keep the data type of the model.

    Attributes:
        bits: 4 for nf4 with quantized scales (double quantization), 8 for LLM.int8.
        device: Device of the model. The weights are quantized there, so a model cannot move afterwards.
    """

    bits: int
    device: str

    @property
    def flag(self) -> str:
        """Name of the setting, for messages."""
        return f"--load_in_{self.bits}bit"

    def config(self, dtype: torch.dtype, kept: Sequence[str]) -> Any:
        """Return the configuration of transformers, `BitsAndBytesConfig`.

        Args:
            dtype: Type in which products are computed.
            kept: Names of linear modules that are not quantized.
        """
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=self.bits == 4,  # noqa: PLR2004 - or 8
            load_in_8bit=self.bits == 8,  # noqa: PLR2004 - or 4
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(kept),
        )

    def options(self, dtype: torch.dtype, kept: Sequence[str]) -> dict[str, Any]:
        """Return arguments of `from_pretrained` of transformers. See `config`."""
        return {"quantization_config": self.config(dtype, kept), "device_map": {"": self.device}}

    def check(self) -> None:
        """Quantize a small matrix and multiply with it, to know that package and device can.

        Raises:
            UserError: bitsandbytes is missing, too old or broken, or cannot use the device.
        """
        require_bitsandbytes(self.flag)
        try:
            import bitsandbytes

            layer: Any = (
                bitsandbytes.nn.Linear4bit(_TRIAL, _TRIAL, bias=False, quant_type="nf4")
                if self.bits == 4  # noqa: PLR2004 - or 8
                else bitsandbytes.nn.Linear8bitLt(_TRIAL, _TRIAL, bias=False, has_fp16_weights=False)
            )
            layer.to(self.device)(torch.ones(1, _TRIAL, device=self.device))
        except Exception as error:  # a library for the device is missing: OSError, RuntimeError, AttributeError, ...
            raise UserError(
                f"{self.flag}: expected bitsandbytes to work on {self.device}, got "
                f"{type(error).__name__}: {one_line(error)}. Install a bitsandbytes for the device "
                f"({_INSTALL}), or train without {self.flag}"
            ) from error


def require_bitsandbytes(wanted_by: str) -> None:
    """Raise an error without a bitsandbytes that is new enough.

    Args:
        wanted_by: Flag, for the message.

    Raises:
        UserError: bitsandbytes is missing or too old.
    """
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError as error:
        raise UserError(
            f"{wanted_by}: expected the package bitsandbytes, got none installed. Install it: {_INSTALL}"
        ) from error
    if Version(found) < Version(OLDEST):
        raise UserError(f"{wanted_by}: expected bitsandbytes {OLDEST} or newer, got {found}. Install it: {_INSTALL}")


def prepare_quantized(model: Any) -> None:
    """Make a quantized model ready for adapters.

    `peft.prepare_model_for_kbit_training` does the same, and also turns all other weights into float32. These are
    frozen, so nothing is gained: norms compute in float32 anyway, hidden states would be float32, and the embeddings
    and heads of Higgs Audio v2 would take 1.7 GB more.

    Args:
        model: Model of transformers.
    """
    model.requires_grad_(False)
    model.enable_input_require_grads()  # for checkpointing with use_reentrant, which peft leaves to the preparation


def fit_for_cpu(model: Any) -> Any:
    """Return a quantized model that computes on any CPU.

    Weights of 4 bit are not packed for CPUs with AVX512-BF16. Packed by an evaluation, products would be in bfloat16
    and without gradients, in the next training step too. Some products of packed weights end the process (bitsandbytes
    0.50.2: SIGFPE in `say`).

    Weights of 8 bit keep their scales when DoRA of peft has dequantized the weights, see `_keep_scales`.

    Args:
        model: Quantized model of transformers.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state"):
            module.register_forward_pre_hook(_keep_scales)
    return model


def _keep_scales(module: Any, _inputs: Any) -> None:
    """Keep the scales of a module in 8 bit, which the next product would replace by none.

    On a CPU, peft makes a new parameter of a weight that it dequantizes, without the scales (peft 0.21). The module
    has them since its first product.
    """
    if module.weight.SCB is None and module.state.SCB is not None:
        module.weight.CB = None


def round_weights(model: Any, bits: int) -> None:
    """Replace the weights of a decoder's linear modules by the numbers that a quantized training computes with.

    Args:
        model: Model of a family, on the CPU. The weights keep their data type.
        bits: 4 or 8.
    """
    from bitsandbytes import functional
    from bitsandbytes.nn import Int8Params, Params4bit

    for module in model.model.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight: Any = module.weight.data
        if bits == 4:  # noqa: PLR2004 - or 8
            packed = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to("cpu")
            rounded = functional.dequantize_4bit(packed.data, packed.quant_state)
        else:
            packed = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
            rounded = functional.int8_vectorwise_dequant(packed.data, packed.SCB)
        module.weight.data = rounded.to(weight.dtype).view(weight.shape)
