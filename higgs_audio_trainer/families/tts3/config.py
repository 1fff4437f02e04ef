"""Configuration of Higgs TTS 3, in the form of transformers, which has no class for the family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig, Qwen3Config

from higgs_audio_trainer.errors import UserError, of_library

MODEL_TYPE = "higgs_multimodal_qwen3"
_PLACEHOLDER = -100  # no token, and what the servers of the family expect
_ROPE_THETA = 1_000_000.0  # meant by the null of the public config.json
_DERIVED = ("num_codebooks", "codebook_size", "vocab_size", "hidden_size")


class HiggsTts3Config(PreTrainedConfig):
    """Configuration of a Qwen3 backbone, with one embedding and one head for the codes of all codebooks.

    Attributes:
        text_config: Configuration of the backbone.
        audio_encoder_config: Sizes of the audio embedding, as in config.json: `num_codebooks`, `vocab_size`,
            `tie_word_embeddings` and others.
        audio_token_id: Placeholder of a frame in the token ids. The placeholder is no token.
    """

    model_type = MODEL_TYPE
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {"text_config": Qwen3Config}

    text_config: Any = None
    audio_encoder_config: Any = None
    audio_token_id: int = _PLACEHOLDER

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the backbone's configuration of a dictionary. Other entries of config.json stay as attributes."""
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = Qwen3Config(**_with_rope_theta(self.text_config or {}))
        self.audio_encoder_config = dict(self.audio_encoder_config or {})
        super().__post_init__(**{name: value for name, value in kwargs.items() if name not in _DERIVED})

    @classmethod
    def read(cls, name: str, raw: Mapping[str, Any]) -> HiggsTts3Config:
        """Return the configuration of a checkpoint.

        Args:
            name: Name of the checkpoint, for messages.
            raw: Content of config.json.

        Raises:
            UserError: The configuration is inconsistent, or of a variant that the trainer does not know.
        """
        for key in ("text_config", "audio_encoder_config"):
            if not isinstance(raw.get(key), dict):
                raise UserError(f"--base_ckpt {name}: expected {key} in config.json, got {raw.get(key)!r}")
        try:
            config = cls.from_dict(dict(raw))
        except Exception as error:  # libraries raise any class for a damaged file
            raise UserError(f"--base_ckpt {name}: expected a valid config.json, got: {of_library(error)}") from error
        for key, expected, got in _facts(raw, config):
            if got != expected:
                raise UserError(f"--base_ckpt {name}: expected {key} {expected!r} in config.json, got {got!r}")
        theta = config.text_config.rope_parameters["rope_theta"]
        if not isinstance(theta, (int, float)) or not theta > 0:
            raise UserError(f"--base_ckpt {name}: expected rope_theta above 0 in config.json, got {theta!r}")
        for key in ("num_codebooks", "vocab_size"):
            size = config.audio_encoder_config.get(key)
            if not isinstance(size, int) or size < 1:
                raise UserError(
                    f"--base_ckpt {name}: expected audio_encoder_config.{key} in config.json, at least 1, got {size!r}"
                )
        return config

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks K."""
        return int(self.audio_encoder_config["num_codebooks"])

    @property
    def codebook_size(self) -> int:
        """Entries of a codebook C, with stream BOS and EOS."""
        return int(self.audio_encoder_config["vocab_size"])

    @property
    def vocab_size(self) -> int:
        """Number of text tokens V."""
        return int(self.text_config.vocab_size)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone H."""
        return int(self.text_config.hidden_size)

    @property
    def has_tied_audio_head(self) -> bool:
        """Whether the head of the codes has the weights of the embedding of the codes."""
        return bool(self.audio_encoder_config.get("tie_word_embeddings", True))

    @property
    def has_tied_text_head(self) -> bool:
        """Whether the head of the text has the weights of the embedding of the text."""
        return bool(self.text_config.tie_word_embeddings)


def _facts(raw: Mapping[str, Any], config: HiggsTts3Config) -> list[tuple[str, Any, Any]]:
    """Return entries of config.json, each with the value that the trainer knows and the actual value."""
    audio = config.audio_encoder_config
    return [
        ("model_type", MODEL_TYPE, raw.get("model_type", MODEL_TYPE)),
        ("audio_token_id", _PLACEHOLDER, raw.get("audio_token_id", _PLACEHOLDER)),
        ("text_config.model_type", "qwen3", raw["text_config"].get("model_type", "qwen3")),
        ("text_config.use_sliding_window", False, config.text_config.use_sliding_window),
        ("text_config.layer_types", ["full_attention"], sorted(set(config.text_config.layer_types))),
        ("audio_encoder_config.encoder_type", "discrete", audio.get("encoder_type", "discrete")),
        ("audio_encoder_config.use_delay_pattern", True, audio.get("use_delay_pattern", True)),
        ("audio_encoder_config.out_dim", config.hidden_size, audio.get("out_dim", config.hidden_size)),
    ]


def _with_rope_theta(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the backbone, with the base of the rotary frequencies in `rope_parameters`."""
    rest = {name: value for name, value in text.items() if name not in ("rope_theta", "rope_scaling")}
    rope = {**(text.get("rope_parameters") or {}), **(text.get("rope_scaling") or {})}
    if rope.get("rope_theta") is None:
        theta = text.get("rope_theta")
        rope["rope_theta"] = _ROPE_THETA if theta is None else theta
    return {**rest, "rope_parameters": rope}
