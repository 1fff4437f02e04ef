"""Prompts and labels, compared with chat templates and with a walk over the turns."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, HiggsAudioV2Processor, PreTrainedTokenizerFast

from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.prompt import expand, sequence_length, tokenize_all
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.v2.prompt import as_messages, render, render_text
from higgs_audio_trainer.families.v2.tiny import SPECIAL_TOKENS
from tests.samples import conversations, write_manifest

#: Written to the description of the full-size checkpoint's template, and to nothing else.
TEMPLATE = """
{%- for message in messages -%}
  {%- set now = namespace(text='') -%}
  {%- if message['content'] is string -%}
    {%- set now.text = message['content'] | trim -%}
  {%- else -%}
    {%- for piece in message['content'] -%}
      {%- if piece['type'] == 'text' -%}{%- set now.text = now.text ~ (piece['text'] | trim) -%}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'scene' -%}
    {{- '\\n\\n<|scene_desc_start|>\\n' ~ now.text ~ '\\n<|scene_desc_end|>' -}}
  {%- else -%}
    {{- '<|begin_of_text|>' if loop.first else '<|eot_id|>' -}}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' -}}
    {{- '<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>' if message['role'] == 'assistant' else now.text -}}
  {%- endif -%}
{%- endfor -%}
{{- '<|eot_id|>' -}}
"""

PLACEHOLDER, DELAY, K = -1, -2, 8
AUDIO = [{"type": "audio"}]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    """Load the tiny checkpoint's tokenizer."""
    return AutoTokenizer.from_pretrained(tiny.model_dir)


@pytest.fixture(scope="module")
def templates(tokenizer):
    """Return the tiny checkpoint's template and the template above."""
    return [tokenizer.chat_template, TEMPLATE]


def clip(name: str) -> Clip:
    """Make a clip."""
    return Clip(Path(f"{name}.wav"), encoded=False)


def test_a_sample_renders_as_written_here():
    """A sample with scene and reference renders exactly as written here."""
    sample = Sample(
        "a",
        (
            Turn("system", ("Be kind.",)),
            Turn("scene", ("A hall.",)),
            Turn("user", ("Heard.",)),
            Turn("assistant", (clip("r"),)),
            Turn("user", ("صباح الخير",)),
            Turn("assistant", (clip("a"),), supervised=True),
        ),
        "m:1",
    )
    assert render_text(sample) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.\n\n"
        "<|scene_desc_start|>\nA hall.\n<|scene_desc_end|><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHeard.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nصباح الخير<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"
    )


def test_text_recipient_and_turns_in_a_row_render_as_in_bosons_samples():
    """What the template cannot write has Boson's markers: recipient, text beside speech, eom between two answers."""
    sample = Sample(
        "a",
        (
            Turn("system", ("S.",)),
            Turn("assistant", ("One.", clip("a")), supervised=True, recipient="ann"),
            Turn("assistant", (clip("b"), clip("c")), supervised=True),
        ),
        "m:1",
    )
    assert as_messages(sample) is None
    assert render_text(sample).partition("assistant")[2] == (
        "<|end_header_id|>\n\nann<|recipient|>One.<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eom_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"
    )


WRITTEN: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": AUDIO}],
    [{"role": "user", "content": "  \n leading and trailing \t\u2003"}, {"role": "assistant", "content": AUDIO}],
    [{"role": "user", "content": "السماء صافية\u2028والبحر هادئ"}, {"role": "assistant", "content": AUDIO}],
    [
        {"role": "scene", "content": "\nA quiet room. "},
        {"role": "user", "content": [{"type": "text", "text": " one "}, {"type": "text", "text": "two\n"}]},
        {"role": "assistant", "content": AUDIO},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": AUDIO},
    ],
    [{"role": "scene", "content": [{"type": "text", "text": " مساء "}]}, {"role": "assistant", "content": AUDIO}],
]


@pytest.mark.parametrize("messages", WRITTEN)
def test_the_prompt_of_a_manifest_is_what_the_chat_template_renders(tmp_path, tokenizer, templates, messages):
    """White space, Arabic, scenes and references render as in the chat template."""
    (tmp_path / "a.wav").touch()
    messages = [{"role": "system", "content": " Be kind. "}, *messages]
    spoken = {"role": "assistant", "content": {"type": "audio", "audio_url": "a.wav"}}
    entry = {"messages": [spoken if message["content"] == AUDIO else message for message in messages]}
    (sample,), faults = read_manifest(write_manifest(tmp_path / "m.jsonl", entry))
    assert not faults
    for template in templates:
        rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        assert render_text(sample) == rendered
        own_messages = as_messages(sample)
        assert tokenizer.apply_chat_template(own_messages, chat_template=template, tokenize=False) == rendered


@settings(max_examples=200, deadline=None)
@given(sample=conversations())
def test_any_conversation_that_a_template_takes_renders_as_it_does(tokenizer, templates, sample):
    """Our prompt and both templates agree on every sample that the templates can render."""
    messages = as_messages(sample)
    for template in templates if messages is not None else ():
        assert tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False) == render_text(sample)


@settings(max_examples=200, deadline=None)
@given(sample=conversations())
def test_a_conversation_is_left_to_us_only_if_the_template_could_not_write_it(tokenizer, sample):
    """All samples with a single clip in each assistant turn and no two assistant turns in a row are compared."""
    assistants = [turn for turn in sample.turns if turn.role == "assistant"]
    in_a_row = "assistant assistant" in " ".join(turn.role for turn in sample.turns)
    plain = all(len(t.parts) == 1 and isinstance(t.parts[0], Clip) and t.recipient is None for t in assistants)
    assert (as_messages(sample) is not None) == (plain and not in_a_row)


@pytest.fixture(scope="module")
def merging_tokenizer(tokenizer):
    """Return a byte-level BPE tokenizer with merges and Llama 3's splits, as in the full-size checkpoint."""
    bpe = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["assistant\n\nab ab. a! b, صباح\n\n", "narrator ab, ab..\n a 00 0\n\nba"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


@settings(max_examples=200, deadline=None)
@given(sample=conversations())
def test_tokens_are_those_of_the_whole_text_at_once(tokenizer, merging_tokenizer, sample):
    """Cutting the prompt into segments changes no token, with merges or without."""
    for one in (tokenizer, merging_tokenizer):
        placeholder = one.convert_tokens_to_ids("<|AUDIO_OUT|>")
        segments = tokenize_all([render(sample)], one)[0]
        in_pieces = [i for s in segments for i in ([placeholder] if s.ids is None else s.ids.tolist())]
        assert in_pieces == one.encode(render_text(sample), add_special_tokens=False)
        assert [segment.ids is None for segment in segments] == [isinstance(s.content, Clip) for s in render(sample)]


def test_the_merging_tokenizer_merges(merging_tokenizer):
    """The test above needs a tokenizer with longer tokens than a byte."""
    assert len(merging_tokenizer.encode("<|eot_id|>assistant\n\nab", add_special_tokens=False)) == 4


def walked(sample: Sample, frames: dict[Clip, int], encode: Any) -> tuple[list[int], list[int]]:
    """Write down ids and labels turn by turn, straight from the rules of the format."""
    ids: list[int] = []
    labels: list[int] = []

    def add(tokens: list[int], *, learned: bool) -> None:
        ids.extend(tokens)
        labels.extend(tokens if learned else [IGNORE_INDEX] * len(tokens))

    add(encode("<|begin_of_text|>"), learned=False)
    for index, turn in enumerate(sample.turns):
        learned = turn.supervised
        roles = [t.role for t in sample.turns[index + 1 : index + 2]]
        if turn.role == "scene":
            add(encode(f"\n\n<|scene_desc_start|>\n{turn.parts[0]}\n<|scene_desc_end|><|eot_id|>"), learned=False)
            continue
        add(encode(f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n"), learned=False)
        if turn.recipient:
            add(encode(f"{turn.recipient}<|recipient|>"), learned=learned)
        for part in turn.parts:
            if isinstance(part, str):
                add(encode(part), learned=learned)
                continue
            add(encode("<|audio_out_bos|>"), learned=learned)
            stream = 1 + frames[part] + 1 + (K - 1)  # BOS, codes, EOS, and the delay
            add([PLACEHOLDER] * (stream - (K - 1)) + [DELAY] * (K - 1), learned=False)
            add(encode("<|audio_eos|>"), learned=learned)
        if turn.role == "assistant" and roles == ["assistant"]:
            add(encode("<|eom_id|>"), learned=learned)
        elif roles != ["scene"]:
            add(encode("<|eot_id|>"), learned=learned)
    return ids, labels


@settings(max_examples=200, deadline=None)
@given(sample=conversations())
def test_labels_are_what_a_walk_over_the_turns_gives(tokenizer, sample):
    """Labels are the text, audio markers and end of assistant turns. Placeholders and other turns are masked."""
    frames = {clip: 1 + int(clip.path.stem) % 5 for clip in sample.clips}
    lengths = [frames[clip] for clip in sample.clips]
    segments = tokenize_all([render(sample)], tokenizer)[0]
    ids, labels = expand(
        segments,
        [num_stream_frames(n, K) for n in lengths],
        placeholder=PLACEHOLDER,
        delay=DELAY,
        num_codebooks=K,
    )
    by_hand = walked(sample, frames, lambda text: tokenizer.encode(text, add_special_tokens=False))
    assert (ids.tolist(), labels.tolist()) == by_hand
    assert sequence_length(segments, lengths, TokenIds(0, PLACEHOLDER, DELAY, 1024, 1025, K)) == len(ids) == len(labels)
    assert ids.dtype == labels.dtype == np.int64


def test_only_the_last_of_a_manifests_turns_is_learned(tmp_path, tokenizer):
    """The labels of a simple sample with a reference are only the markers of the answer."""
    for name in ("a.wav", "r.wav"):
        (tmp_path / name).touch()
    entry = {"id": "a", "audio": "a.wav", "text": "Say it.", "ref_audio": "r.wav", "ref_text": "Heard."}
    (sample,), _ = read_manifest(write_manifest(tmp_path / "m.jsonl", entry))
    _, labels = expand(
        tokenize_all([render(sample)], tokenizer)[0], [12, 12], placeholder=PLACEHOLDER, delay=DELAY, num_codebooks=K
    )
    learned = tokenizer.convert_ids_to_tokens(labels[labels != IGNORE_INDEX].tolist())
    assert learned == ["<|audio_out_bos|>", "<|audio_eos|>", "<|eot_id|>"]


@pytest.mark.parametrize("num_codebooks", [1, 2, 8])
@pytest.mark.parametrize("num_frames", [1, 2, 30])
def test_the_placeholders_of_a_clip_are_those_of_transformers_processor(tokenizer, num_codebooks, num_frames):
    """Number and order of placeholder and delay tokens, in a prompt with two clips."""
    turns = (Turn("system", ("S.",)), Turn("assistant", (clip("a"), clip("b")), supervised=True))
    sample = Sample("a", turns, "m:1")
    length = num_stream_frames(num_frames, num_codebooks)
    placeholder, delay = tokenizer.convert_tokens_to_ids(["<|AUDIO_OUT|>", "<|reserved_special_token_6|>"])
    ids, _ = expand(
        tokenize_all([render(sample)], tokenizer)[0],
        [length, length],
        placeholder=placeholder,
        delay=delay,
        num_codebooks=num_codebooks,
    )
    processor = SimpleNamespace(
        audio_token="<|AUDIO_OUT|>",
        audio_delay_token="<|reserved_special_token_6|>",
        audio_tokenizer=SimpleNamespace(config=SimpleNamespace(num_quantizers=num_codebooks)),
    )
    theirs = render_text(sample).replace("<|AUDIO_OUT|>", HiggsAudioV2Processor.get_audio_tokens(processor, length))
    assert ids.tolist() == tokenizer.encode(theirs, add_special_tokens=False)
