"""Higgs TTS 3, the family of `bosonai/higgs-tts-3-4b`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.config import LORA_TARGETS
from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.data.prompt import PromptSegment
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.families.tts3.checkpoint import token_ids
from higgs_audio_trainer.families.tts3.prompt import REFERENCE_TEXT, render
from higgs_audio_trainer.families.tts3.usage import adapter_usage, whole_usage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.families.quantization import Quantization
    from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt
    from higgs_audio_trainer.families.tiny_size import TinySize

#: Sizes in config.json of the published checkpoint.
PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "higgs_multimodal_qwen3",
        "text_config": {
            "model_type": "qwen3",
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
        "audio_encoder_config": {"num_codebooks": 8, "vocab_size": 1026, "tie_word_embeddings": True},
    }
)


class HiggsTts3Family:
    """The family of `higgs_multimodal_qwen3`. See `Family`.

    Args:
        with_reference_text: Whether the tokenizer has a marker for the text of a reference, as all but the oldest do.
    """

    name = "higgs-tts-3"
    model_type = "higgs_multimodal_qwen3"
    text_loss_weight = 0.0
    layouts: tuple[str, ...] = ("original", "port")
    published = "bosonai/higgs-tts-3-4b"
    published_config: Mapping[str, Any] = PUBLISHED
    demo_settings: Mapping[str, Any] = MappingProxyType(
        {"lora_targets": LORA_TARGETS, "lora_r": 64, "lora_alpha": 256, "lr": 0.02}
    )

    def __init__(self, *, with_reference_text: bool = True) -> None:
        self._with_reference_text = with_reference_text

    def read_config(self, name: str, raw: Mapping[str, Any]) -> Any:
        """Return the configuration of a checkpoint."""
        from higgs_audio_trainer.families.tts3.config import HiggsTts3Config

        return HiggsTts3Config.read(name, raw)

    def open(self, name: str, raw: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> BaseCheckpoint:
        """Return a base checkpoint."""
        config = self.read_config(name, raw)
        ids = token_ids(name, config, tokenizer)
        family = HiggsTts3Family(with_reference_text=REFERENCE_TEXT in tokenizer.get_vocab())
        length = config.text_config.max_position_embeddings
        return BaseCheckpoint(name, family, config, tokenizer, ids, text_stop_ids=(), max_length=length)

    def render(self, sample: Sample) -> list[PromptSegment]:
        """Return the segments of a sample's prompt."""
        return render(sample, with_reference_text=self._with_reference_text)

    def check_samples(self, checkpoint: BaseCheckpoint, samples: Sequence[Sample]) -> None:
        """Check nothing, since there is no chat template."""

    def for_training(
        self, name: str, *, dtype: torch.dtype, attention: str | None, quantization: Quantization | None = None
    ) -> Any:
        """Return the model with its forward pass for training."""
        return _load(name, dtype, attention, quantization)

    def without_weights(self, config: Any) -> Any:
        """Return the model for training on the meta device."""
        from higgs_audio_trainer.families.meta_device import on_meta
        from higgs_audio_trainer.families.tts3.model import HiggsTts3

        model = on_meta(lambda: HiggsTts3(copy.deepcopy(config)))
        model.tie_weights()
        return model

    def for_speech(
        self, name: str, *, dtype: torch.dtype, adapted: Sequence[str], quantization: Quantization | None = None
    ) -> Any:
        """Return the model, which has all heads for any adapter."""
        del adapted
        return _load(name, dtype, None, quantization)

    def generate(
        self,
        model: Any,
        prompts: Sequence[SpeechPrompt],
        decoding: Decoding,
        ids: TokenIds,
        is_asked_to_stop: Callable[[], bool],
    ) -> list[Speech]:
        """Speak prompts as one batch."""
        from higgs_audio_trainer.families.tts3.generation import generate

        return generate(model, prompts, decoding, ids, is_asked_to_stop)

    def write_whole(
        self, checkpoint: BaseCheckpoint, trained: Callable[[Any], Any], folder: Path, *, layout: str
    ) -> None:
        """Write trained weights and the configuration, in the layout of the original or of the port."""
        from higgs_audio_trainer.families.tts3.weights import write_whole

        write_whole(checkpoint, trained, folder, layout=layout)

    def adapter_mapping(self) -> dict[str, str] | None:
        """Return None, since no public package has a class for the model."""
        return None

    def adapter_usage(self, *, folder: str, base: str, rank: int, targets: Sequence[str]) -> str:
        """Return what the servers load."""
        return adapter_usage(folder=folder, base=base, rank=rank, targets=targets)

    def whole_usage(self, *, folder: str, layout: str) -> str:
        """Return what the servers load."""
        return whole_usage(folder=folder, layout=layout)

    def write_tiny(self, folder: Path, size: TinySize, codec_dir: Path, codec_class: str) -> None:
        """Write a tiny checkpoint with random weights, in the layout of the original."""
        from higgs_audio_trainer.families.tts3.tiny import write_tiny

        del codec_class  # is in the codec's own configuration
        write_tiny(folder, size, codec_dir)


def _load(name: str, dtype: torch.dtype, attention: str | None, quantization: Quantization | None) -> Any:
    from transformers import PreTrainedConfig

    from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
    from higgs_audio_trainer.families.tts3.weights import load

    raw, _ = PreTrainedConfig.get_config_dict(name)
    config = HiggsTts3Config.read(name, raw)
    return load(name, config, dtype=dtype, attention=attention, quantization=quantization)
