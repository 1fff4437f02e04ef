"""A check of every language model of the installed transformers, tiny and random, against the adapter of the model.

    python -m tests.adapted_sweep        (about five minutes)

Prints the classes that pass both oracles, the classes that fail with the reason, and the classes without a tiny
configuration.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import defaultdict
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from higgs_audio_trainer.adapters import MisalignedError, UnreadableError, adapter_for, check_adapter
from higgs_audio_trainer.events import IGNORE_INDEX
from tests.adapted import Case

_MAPPINGS = ("CAUSAL_LM", "MULTIMODAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
NAMES = sorted(
    {name for kind in _MAPPINGS for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values()}
)
_MOST_PARAMETERS = 30_000_000

_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size", "embed_dim"), 32),
    **dict.fromkeys(("word_embed_proj_dim",), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "state_size"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 16),
    **dict.fromkeys(("n_positions", "max_position_embeddings", "max_target_positions", "vocab_size"), 64),
    **dict.fromkeys(("num_mel_bins", "max_source_positions"), 20),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "dropout_rate"), 0.0),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    **dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group"), 1),
    "num_key_value_heads": 2,
    "rotary_dim": 4,
    "num_experts_per_tok": 2,
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}


def _smaller(config: Any) -> dict[str, Any]:
    """Return settings that make a configuration and all nested configurations small."""
    settings: dict[str, Any] = {}
    for name in getattr(config, "__dataclass_fields__", None) or vars(config):
        value = getattr(config, name, None)
        if isinstance(value, transformers.PreTrainedConfig):
            settings[name] = _smaller(value) | {"model_type": value.model_type}
        elif name in _TOKENS or (name in _SMALL and value is not None):
            settings[name] = {**_SMALL, **_TOKENS}[name]
    return settings


def case(name: str) -> Case:
    """Make a tiny model of a class, and a batch for the model's forward pass.

    Raises:
        Exception: The configuration needs more than smaller numbers. The type can be any.
    """
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    config = cls.config_class(**_smaller(cls.config_class()))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    model = cls(config).eval()
    input_ids = torch.randint(3, 60, (2, 12))
    labels = input_ids.clone()
    labels[:, :3], labels[-1, -2:] = IGNORE_INDEX, IGNORE_INDEX
    if "input_features" in inspect.signature(model.forward).parameters and model.config.is_encoder_decoder:
        features = torch.randn(2, _SMALL["num_mel_bins"], 2 * _SMALL["max_source_positions"])
        return model, {"input_features": features, "labels": labels}
    return model, {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def hold(model: Any, batch: dict[str, torch.Tensor]) -> str:
    """Return the problem with a model's adapter, or an empty text if both oracles hold."""
    with torch.no_grad():
        outputs = model(**batch)
    try:
        adapter = adapter_for(model)
        [stream] = adapter.streams(model.config, outputs, adapter.prepare(model, outputs, batch))
        read = float(stream.rows.nll.sum() / (stream.rows.labels != IGNORE_INDEX).sum())
        if abs(read - float(outputs.loss)) > 1e-4 * read:
            return f"its loss is {float(outputs.loss):.5f}, read {read:.5f}"
        check_adapter(adapter, model, batch)
    except (MisalignedError, UnreadableError) as error:
        return str(error)
    return ""


def main() -> None:
    """Check all models and print the results."""
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    found: dict[str, list[str]] = defaultdict(list)
    for name in NAMES:
        try:
            wrong = hold(*case(name))
        except Exception as error:  # noqa: BLE001 - some want images, sounds, or other libraries
            found["not tried"].append(f"{name}: {type(error).__name__}: {error}"[:150])
        else:
            found["other" if wrong else "both oracles hold"].append(f"{name}: {wrong}" if wrong else name)
    for title, lines in found.items():
        sys.stdout.write("\n  ".join([f"{title}: {len(lines)}", *lines]) + "\n")


if __name__ == "__main__":
    main()
