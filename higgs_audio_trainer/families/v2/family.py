"""Higgs Audio v2, in the native layout of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from higgs_audio_trainer.config import DEFAULT_BASE_CKPT, LORA_TARGETS
from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.data.prompt import PromptSegment
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import UserError, of_library, one_line
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.v2.checkpoint import check_template, check_vocabulary, read_config
from higgs_audio_trainer.families.v2.prompt import STOP_TOKENS, render
from higgs_audio_trainer.families.v2.usage import usage
from higgs_audio_trainer.hub import hub_error

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.families.quantization import Quantization
    from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt
    from higgs_audio_trainer.families.tiny_size import TinySize

_MOST_BYTES = "5GB"  # of a file of weights
_FLAG = "--base_ckpt"
_TEXT_HEAD = "text_lm_head"
_HEADS = (_TEXT_HEAD, "audio_lm_head")


class HiggsAudioV2:
    """The family of `higgs_audio_v2`. See `Family`."""

    name = "higgs-audio-v2"
    model_type = "higgs_audio_v2"
    text_loss_weight = 1.0
    layouts: tuple[str, ...] = ("native",)
    published = DEFAULT_BASE_CKPT
    published_config: Mapping[str, Any] = MappingProxyType({"model_type": "higgs_audio_v2", "codebook_size": 1026})
    demo_settings: Mapping[str, Any] = MappingProxyType({"lora_targets": f"{LORA_TARGETS},audio_lm_head", "lr": 6e-3})

    def read_config(self, name: str, raw: Mapping[str, Any]) -> Any:
        """Return the configuration of a checkpoint."""
        return read_config(name, raw)

    def open(self, name: str, raw: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> BaseCheckpoint:
        """Return a base checkpoint."""
        config = read_config(name, raw)
        vocabulary = tokenizer.get_vocab()
        check_vocabulary(name, vocabulary, config)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.pad_token_id
        ids = TokenIds(
            pad=int(pad or 0),
            audio=config.audio_token_id,
            audio_delay=config.audio_delay_token_id,
            stream_bos=config.audio_stream_bos_id,
            stream_eos=config.audio_stream_eos_id,
            num_codebooks=config.num_codebooks,
        )
        stops = tuple(vocabulary[token] for token in STOP_TOKENS if token in vocabulary)
        return BaseCheckpoint(name, self, config, tokenizer, ids, stops, config.max_position_embeddings)

    def render(self, sample: Sample) -> list[PromptSegment]:
        """Return the segments of a sample's prompt."""
        return render(sample)

    def check_samples(self, checkpoint: BaseCheckpoint, samples: Sequence[Sample]) -> None:
        """Check that the prompts of the training are those of the checkpoint's chat template."""
        check_template(checkpoint, samples)

    def for_training(
        self, name: str, *, dtype: torch.dtype, attention: str | None, quantization: Quantization | None = None
    ) -> Any:
        """Return the model with its forward pass for training."""
        from higgs_audio_trainer.families.quantization import fit_for_cpu
        from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining

        try:
            loaded: Any = HiggsAudioForTraining.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                **_options(quantization, dtype),
            )
        except Exception as error:  # libraries raise any class for a damaged file
            if "attn_implementation" in str(error) or isinstance(error, ImportError):
                raise UserError(f"--attn_implementation {attention}: {one_line(error)}") from error
            raise hub_error(error, _FLAG, name) or _unloadable(name, error) from error
        base, info = loaded
        if info["missing_keys"]:
            raise UserError(
                f"--base_ckpt {name}: expected weights for {', '.join(sorted(info['missing_keys'])[:5])}, got none. "
                f"{_TEXT_HEAD}.weight must be kept when a checkpoint is converted: the text loss needs it."
            )
        return base if quantization is None else fit_for_cpu(base)

    def without_weights(self, config: Any) -> Any:
        """Return the model for training on the meta device."""
        from higgs_audio_trainer.families.meta_device import on_meta
        from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining

        return on_meta(lambda: HiggsAudioForTraining(copy.deepcopy(config)))

    def for_speech(
        self, name: str, *, dtype: torch.dtype, adapted: Sequence[str], quantization: Quantization | None = None
    ) -> Any:
        """Return the native model, without the head of the text unless the adapter changes it."""
        from transformers import HiggsAudioV2ForConditionalGeneration

        from higgs_audio_trainer.families.quantization import fit_for_cpu

        try:
            model = HiggsAudioV2ForConditionalGeneration.from_pretrained(
                name,
                dtype=dtype,
                use_text_head=any(_TEXT_HEAD in weight for weight in adapted),
                **_options(quantization, dtype),
            )
        except Exception as error:  # libraries raise any class for a damaged file
            raise hub_error(error, _FLAG, name) or _unloadable(name, error) from error
        return model if quantization is None else fit_for_cpu(model)

    def generate(
        self,
        model: Any,
        prompts: Sequence[SpeechPrompt],
        decoding: Decoding,
        ids: TokenIds,
        is_asked_to_stop: Callable[[], bool],
    ) -> list[Speech]:
        """Speak prompts as one batch."""
        from higgs_audio_trainer.families.v2.generation import generate

        return generate(model, prompts, decoding, ids, is_asked_to_stop)

    def write_whole(
        self, checkpoint: BaseCheckpoint, trained: Callable[[Any], Any], folder: Path, *, layout: str
    ) -> None:
        """Write the native model with trained weights, which keep their dtype."""
        del layout  # there is one
        trained(_whole_model(checkpoint.name)).save_pretrained(folder, max_shard_size=_MOST_BYTES)

    def adapter_mapping(self) -> dict[str, str] | None:
        """Return the native class, which loads an adapter of the class for training."""
        from transformers import HiggsAudioV2ForConditionalGeneration as Native

        return {"base_model_class": Native.__name__, "parent_library": Native.__module__}

    def adapter_usage(self, *, folder: str, base: str, rank: int, targets: Sequence[str]) -> str:
        """Return the lines of Python that speak with transformers and peft."""
        del rank, targets  # peft loads them all
        return usage(folder=folder, base=base)

    def whole_usage(self, *, folder: str, layout: str) -> str:
        """Return the lines of Python that speak with transformers."""
        del layout  # there is one
        return usage(folder=folder)

    def write_tiny(self, folder: Path, size: TinySize, codec_dir: Path, codec_class: str) -> None:
        """Write a tiny checkpoint with random weights."""
        from higgs_audio_trainer.families.v2.tiny import build_model, build_tokenizer, write_processor

        tokenizer = build_tokenizer()
        build_model(size, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_processor(folder, codec_dir, codec_class)


def _unloadable(name: str, error: Exception) -> UserError:
    return UserError(f"{_FLAG} {name}: the weights cannot be loaded: {of_library(error)}")


def _options(quantization: Quantization | None, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a quantization."""
    return {} if quantization is None else quantization.options(dtype, _HEADS)


def _whole_model(base: str) -> Any:
    from transformers import HiggsAudioV2ForConditionalGeneration

    try:
        loaded: Any = HiggsAudioV2ForConditionalGeneration.from_pretrained(
            base, dtype="auto", use_text_head=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise hub_error(error, _FLAG, base) or _unloadable(base, error) from error
    model, info = loaded
    missing = [name for name in info["missing_keys"] if not name.startswith(f"{_TEXT_HEAD}.")]
    if missing:
        raise UserError(f"--base_ckpt {base}: expected weights for {', '.join(sorted(missing)[:5])}, got none.")
    if info["missing_keys"]:
        model.text_lm_head = None  # which speech does not need
    return model
