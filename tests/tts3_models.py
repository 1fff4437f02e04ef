"""Small models of Higgs TTS 3, their batches and their checkpoints."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.workload import add_lora
from higgs_audio_trainer.data.batch import Collator, PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config
from higgs_audio_trainer.families.tts3.model import HiggsTts3
from higgs_audio_trainer.families.tts3.names import CODEC, original_name
from tests.batches import tensors

V, C, K, H = 200, 20, 3, 32
PLACEHOLDER, BOC, EOC = -100, 18, 19
RAW = {
    "model_type": "higgs_multimodal_qwen3",
    "architectures": ["HiggsMultimodalQwen3ForConditionalGeneration"],
    "audio_token_id": PLACEHOLDER,
    "audio_tokenizer_id": "bosonai/higgs-audio-v2-tokenizer",
    "text_config": {
        "model_type": "qwen3",
        "hidden_size": H,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": V,
        "rope_theta": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "max_position_embeddings": 512,
    },
    "audio_encoder_config": {
        "encoder_type": "discrete",
        "num_codebooks": K,
        "vocab_size": C,
        "out_dim": H,
        "tie_word_embeddings": True,
        "use_delay_pattern": True,
    },
}


def raw_config(**parts):
    """Return the content of config.json. `parts` are entries of its parts, such as `text_config={...}`."""
    raw = deepcopy(RAW)
    for name, entries in parts.items():
        raw[name] = {**raw[name], **entries} if isinstance(entries, dict) else entries
    return raw


def ids_of(codebooks=K, learns_text=True):
    """Return the token ids and the layout of the family."""
    return TokenIds(
        pad=0,
        audio=PLACEHOLDER,
        audio_delay=PLACEHOLDER,
        stream_bos=BOC,
        stream_eos=EOC,
        num_codebooks=codebooks,
        bos_frames=0,
        reference_eos=False,
        learns_text=learns_text,
    )


def plain_model(attention="sdpa", seed=3, **parts):
    """Return a model with random weights, and norms that are not one."""
    torch.manual_seed(seed)
    config = HiggsTts3Config.read("small", raw_config(**parts))
    model = HiggsTts3._from_config(config, dtype=torch.float32, attn_implementation=attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "audio_embedding" in name:
                parameter.mul_(10)
    return model


def lora_model(targets=("q_proj", "v_proj", "o_proj", "down_proj"), dropout=0.0, dtype=torch.float32, **arguments):
    """Return a model with adapters whose B is not zero."""
    model = add_lora(plain_model(**arguments).to(dtype), r=2, alpha=4, dropout=dropout, targets=targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_batch(plans, codebooks=K, seed=0, learns_text=True):
    """Make a batch by plans. p5 is a prompt of 5 tokens, t3 supervised text, r4 reference speech, a6 speech."""
    numbers, examples, ids = np.random.default_rng(seed), [], ids_of(codebooks, learns_text)
    for number, plan in enumerate(plans):
        segments, codes = [], []
        for kind, size in ((part[0], int(part[1:])) for part in plan.split()):
            if kind in "ra":
                codes.append(numbers.integers(0, BOC, (codebooks, size)))
            tokens = None if kind in "ra" else numbers.integers(1, V, size)
            segments.append(TokenSegment(tokens, supervised=kind in "ta"))
        examples.append(build_example(PreparedSample(str(number), tuple(segments), ()), codes, ids))
    return tensors(Collator(ids)(examples))


def stored_tensors(model, *, original=True, heads=(), codec=True):
    """Return the tensors of a checkpoint, in the order of the model."""
    kept = {}
    for name, tensor in model.state_dict().items():
        if "head" not in name or name.partition(".")[0] in heads:
            kept[original_name(name) if original else name] = tensor.clone()
    if codec and original:
        kept[f"{CODEC}encoder.weight"] = torch.arange(6.0).reshape(2, 3)
        kept[f"{CODEC}quantizer.codebook"] = torch.arange(4)
    return kept


def write_checkpoint(folder, tensors, raw=None, shards=1):
    """Write config.json and weights, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw or RAW, indent=3, sort_keys=True))  # an odd form, to be kept
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "made": "by a test"})
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensor for number, (key, tensor) in enumerate(tensors.items()) if number % shards == shard}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
