r"""Prompts: samples rendered as by the chat template, as tokens, with the supervised tokens marked.

The format of each turn (https://huggingface.co/docs/transformers/model_doc/higgs_audio_v2):

    <|begin_of_text|>
    <|start_header_id|>ROLE<|end_header_id|>\n\n CONTENT <|eot_id|>

with `<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>` for speech, `<|eom_id|>` in place of `<|eot_id|>` between two
assistant turns in a row, and `RECIPIENT<|recipient|>` before the content where an assistant turn has one. A scene
is part of the system turn: `\n\n<|scene_desc_start|>\nSCENE\n<|scene_desc_end|>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.events import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUDIO_PLACEHOLDER = "<|AUDIO_OUT|>"
_AUDIO_BOS, _AUDIO_EOS = "<|audio_out_bos|>", "<|audio_eos|>"
_END_OF_TURN, _END_OF_MESSAGE = "<|eot_id|>", "<|eom_id|>"

#: Markers of every prompt. A tokenizer without these tokens is refused.
REQUIRED_TOKENS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    _END_OF_TURN,
    _AUDIO_BOS,
    AUDIO_PLACEHOLDER,
    _AUDIO_EOS,
)

#: Markers of some samples: for two assistant turns in a row, a recipient, a scene.
OPTIONAL_TOKENS = (_END_OF_MESSAGE, "<|recipient|>", "<|scene_desc_start|>", "<|scene_desc_end|>")

#: Tokens that end a turn or the text. A model must learn to predict these tokens in order to stop.
STOP_TOKENS = (_END_OF_TURN, _END_OF_MESSAGE, "<|end_of_text|>")


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """A text or a clip of the prompt, all supervised or all masked."""

    content: str | Clip
    supervised: bool


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """A segment of the prompt as tokens.

    Attributes:
        ids: Token ids, int64 [N]. None for a clip, which takes the frames of the clip's audio stream.
        supervised: Whether all tokens are training targets.
    """

    ids: npt.NDArray[np.int64] | None
    supervised: bool


def render(sample: Sample) -> list[PromptSegment]:
    """Return the segments of a sample's prompt. Neighbouring texts with the same supervision are merged.

    Example:
        >>> sample = Sample("a", (Turn("user", ("Hi",)), Turn("assistant", ("Hello.",), supervised=True)), "m.jsonl:1")
        >>> [segment.content for segment in render(sample) if segment.supervised]
        ['Hello.<|eot_id|>']
    """
    segments: list[PromptSegment] = []
    for segment in _raw_segments(sample.turns):
        previous = segments[-1] if segments else None
        if (
            previous is not None
            and isinstance(segment.content, str)
            and isinstance(previous.content, str)
            and previous.supervised == segment.supervised
        ):
            segments[-1] = PromptSegment(previous.content + segment.content, segment.supervised)
        else:
            segments.append(segment)
    return segments


def _raw_segments(turns: tuple[Turn, ...]) -> Iterable[PromptSegment]:
    yield PromptSegment("<|begin_of_text|>", supervised=False)
    for turn, following in zip(turns, (*turns[1:], None), strict=True):
        if turn.role == "scene":
            yield PromptSegment(f"\n\n<|scene_desc_start|>\n{turn.parts[0]}\n<|scene_desc_end|>", supervised=False)
        else:
            yield PromptSegment(f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n", supervised=False)
            yield from _content(turn)
        if following is None or following.role != "scene":
            goes_on = turn.role == "assistant" and following is not None and following.role == "assistant"
            yield PromptSegment(_END_OF_MESSAGE if goes_on else _END_OF_TURN, turn.supervised)


def _content(turn: Turn) -> Iterable[PromptSegment]:
    if turn.recipient is not None:
        yield PromptSegment(f"{turn.recipient}<|recipient|>", turn.supervised)
    for part in turn.parts:
        if isinstance(part, Clip):
            yield PromptSegment(_AUDIO_BOS, turn.supervised)
            yield PromptSegment(part, turn.supervised)
            yield PromptSegment(_AUDIO_EOS, turn.supervised)
        else:
            yield PromptSegment(part, turn.supervised)


def render_text(sample: Sample) -> str:
    r"""Return a sample's prompt as text with a placeholder for each clip, as the chat template does.

    Example:
        >>> render_text(Sample("a", (Turn("user", ("Hi",)),), "m.jsonl:1"))
        '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>'
    """
    return "".join(
        segment.content if isinstance(segment.content, str) else AUDIO_PLACEHOLDER for segment in render(sample)
    )


def tokenize(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[TokenSegment]:
    """Return the tokens of a sample's segments.

    Segments begin and end at special tokens, where every tokenizer splits. The only other border lies between the
    header and the text of an assistant turn, where generation begins.
    """
    return tokenize_all([sample], tokenizer)[0]


def tokenize_all(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> list[list[TokenSegment]]:
    """Return the tokens of the segments of many samples. See `tokenize`."""
    rendered = [render(sample) for sample in samples]
    texts = {segment.content: None for segments in rendered for segment in segments if isinstance(segment.content, str)}
    if not texts:
        return [[TokenSegment(None, segment.supervised) for segment in segments] for segments in rendered]
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = {text: np.asarray(tokens, dtype=np.int64) for text, tokens in zip(texts, encoded, strict=True)}
    return [
        [
            TokenSegment(ids[segment.content] if isinstance(segment.content, str) else None, segment.supervised)
            for segment in segments
        ]
        for segments in rendered
    ]


def sequence_length(segments: Iterable[TokenSegment], clip_frames: Iterable[int], num_codebooks: int) -> int:
    """Return the number of tokens of a sample.

    Args:
        segments: Tokens of the sample.
        clip_frames: Number of codec frames T of each clip.
        num_codebooks: Number of codebooks K.

    Example:
        >>> sequence_length([TokenSegment(np.array([1, 2, 3]), False), TokenSegment(None, True)], [25], 8)
        37
    """
    frames = iter(clip_frames)
    return sum(
        num_stream_frames(next(frames), num_codebooks) if segment.ids is None else len(segment.ids)
        for segment in segments
    )


def expand(
    segments: Iterable[TokenSegment], stream_lengths: Iterable[int], *, placeholder: int, delay: int, num_codebooks: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the token ids and text labels of a sample, with placeholders for the audio stream of each clip.

    A stream of F frames takes F - (K - 1) placeholders and K - 1 delay tokens, as in `HiggsAudioV2Processor`.

    Args:
        segments: Tokens from `tokenize`.
        stream_lengths: Number of frames F of each clip's audio stream.
        placeholder: Id of `<|AUDIO_OUT|>`.
        delay: Id of the delay token.
        num_codebooks: Number of codebooks K.

    Returns:
        Token ids and labels, int64 [S] each. The label at p is the token at p, or -100.

    Example:
        >>> segments = [TokenSegment(None, True), TokenSegment(np.array([5]), True)]
        >>> ids, labels = expand(segments, [4], placeholder=90, delay=91, num_codebooks=2)
        >>> ids.tolist(), labels.tolist()
        ([90, 90, 90, 91, 5], [-100, -100, -100, -100, 5])
    """
    ids: list[npt.NDArray[np.int64]] = []
    labels: list[npt.NDArray[np.int64]] = []
    lengths = iter(stream_lengths)
    for segment in segments:
        if segment.ids is None:
            tokens = np.full(next(lengths), placeholder, dtype=np.int64)
            tokens[len(tokens) - (num_codebooks - 1) :] = delay
            supervised = False
        else:
            tokens, supervised = segment.ids, segment.supervised
        ids.append(tokens)
        labels.append(tokens if supervised else np.full_like(tokens, IGNORE_INDEX))
    return np.concatenate(ids), np.concatenate(labels)


def as_messages(sample: Sample) -> list[dict[str, Any]] | None:
    """Return a sample as messages for the checkpoint's chat template.

    Returns:
        Messages. None for a sample that the template cannot render.

    Example:
        >>> as_messages(Sample("a", (Turn("user", ("Hi",)),), "m.jsonl:1"))
        [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]
    """
    if not all(map(_template_renders, sample.turns, (*sample.turns[1:], None))):
        return None
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "audio"} if isinstance(part, Clip) else {"type": "text", "text": part} for part in turn.parts
            ],
        }
        for turn in sample.turns
    ]


def _template_renders(turn: Turn, following: Turn | None) -> bool:
    """Return True if the template can render a turn.

    An assistant turn must hold a single clip and nothing else, and no other assistant turn may follow.
    """
    if turn.role == "assistant":
        is_last = following is None or following.role != "assistant"
        return is_last and turn.recipient is None and len(turn.parts) == 1 and isinstance(turn.parts[0], Clip)
    return turn.role == "user" or len(turn.parts) == 1
