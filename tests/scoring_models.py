"""Tiny models of speech recognition and of speaker embeddings with random weights."""

import json

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
RATE_HZ = 16_000


def write_whisper(folder):
    """Write a multilingual Whisper whose window has 2 s."""
    words = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    words += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    times = [f"<|{step * 0.02:.2f}|>" for step in range(101)]
    vocabulary = {word: number for number, word in enumerate([*LETTERS, "Ġ", *words, *times])}
    tokenizer = WhisperTokenizer(vocab={word: vocabulary[word] for word in [*LETTERS, "Ġ"]}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    tokenizer.add_tokens(times)
    assert tokenizer.get_vocab() == vocabulary
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=100,
        max_target_positions=64,
        pad_token_id=vocabulary["<|endoftext|>"],
        bos_token_id=vocabulary["<|endoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = _random(WhisperForConditionalGeneration, config)
    model.proj_out.weight.data[len(LETTERS) :] *= 0.1  # it prefers letters
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        is_multilingual=True,
        lang_to_id={"<|en|>": vocabulary["<|en|>"], "<|de|>": vocabulary["<|de|>"]},
        task_to_id={"transcribe": vocabulary["<|transcribe|>"], "translate": vocabulary["<|translate|>"]},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        prev_sot_token_id=vocabulary["<|startofprev|>"],
        max_length=40,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=2, sampling_rate=RATE_HZ).save_pretrained(folder)
    return folder


def write_ctc(folder):
    """Write a wav2vec 2.0 that writes letters."""
    folder.mkdir(parents=True)
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "letters.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    Wav2Vec2CTCTokenizer(str(folder / "letters.json")).save_pretrained(folder)
    _random(Wav2Vec2ForCTC, _wav2vec2(vocab_size=len(names))).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ).save_pretrained(folder)
    return folder


def write_xvector(folder):
    """Write a wav2vec 2.0 with an x-vector head, which needs 15 frames of 20 ms."""
    config = _wav2vec2(tdnn_dim=(16, 16, 16, 16, 24), xvector_output_dim=8)
    _random(Wav2Vec2ForXVector, config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ).save_pretrained(folder)
    return folder


def _wav2vec2(**fields):
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **fields,
    )


def _random(kind, config):
    """Return a model with normal matrices by NumPy: those of torch depend on what the CPU can."""
    model, numbers = kind(config), np.random.default_rng(0)
    for name, part in model.named_parameters():
        if part.ndim > 1:
            part.data = torch.from_numpy(numbers.normal(0, 0.3, part.shape).astype(np.float32))
        elif name.endswith("bias"):
            part.data.zero_()
    return model.eval()
