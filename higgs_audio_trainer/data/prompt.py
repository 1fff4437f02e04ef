r"""A sample as tokens: the prompt that the chat template renders, and which of its tokens are supervised.

The format, turn by turn (https://huggingface.co/docs/transformers/model_doc/higgs_audio_v2):

    <|begin_of_text|>
    <|start_header_id|>ROLE<|end_header_id|>\n\n CONTENT <|eot_id|>

with `<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>` for speech, `<|eom_id|>` in place of `<|eot_id|>` between two
assistant turns in a row, and `RECIPIENT<|recipient|>` before the content where an assistant turn has one. A scene
is part of the system turn: `\n\n<|scene_desc_start|>\nSCENE\n<|scene_desc_end|>`.
"""

from __future__ import annotations

from collections.abc import Iterable
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

#: Without these in its vocabulary a tokenizer cannot write the prompt.
REQUIRED_TOKENS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    _END_OF_TURN,
    _AUDIO_BOS,
    AUDIO_PLACEHOLDER,
    _AUDIO_EOS,
)

#: Markers that only some samples need: two assistant turns in a row, a recipient, a scene.
OPTIONAL_TOKENS = (_END_OF_MESSAGE, "<|recipient|>", "<|scene_desc_start|>", "<|scene_desc_end|>")

#: Tokens that end a turn or the text: what a model must learn to say in order to stop.
STOP_TOKENS = (_END_OF_TURN, _END_OF_MESSAGE, "<|end_of_text|>")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the prompt: text, or a clip. Its tokens are all supervised or all masked."""

    content: str | Clip
    supervised: bool


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """The same as tokens: ids, int64 [N], or None where a clip's frames go."""

    ids: npt.NDArray[np.int64] | None
    supervised: bool


def render(sample: Sample) -> list[Segment]:
    """Render a sample as segments; neighbours with the same supervision are one text."""
    segments: list[Segment] = []
    for segment in _raw_segments(sample.turns):
        previous = segments[-1] if segments else None
        if (
            previous is not None
            and isinstance(segment.content, str)
            and isinstance(previous.content, str)
            and previous.supervised == segment.supervised
        ):
            segments[-1] = Segment(previous.content + segment.content, segment.supervised)
        else:
            segments.append(segment)
    return segments


def _raw_segments(turns: tuple[Turn, ...]) -> Iterable[Segment]:
    yield Segment("<|begin_of_text|>", supervised=False)
    for turn, following in zip(turns, (*turns[1:], None), strict=True):
        if turn.role == "scene":
            yield Segment(f"\n\n<|scene_desc_start|>\n{turn.parts[0]}\n<|scene_desc_end|>", supervised=False)
        else:
            yield Segment(f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n", supervised=False)
            yield from _content(turn)
        if following is None or following.role != "scene":
            goes_on = turn.role == "assistant" and following is not None and following.role == "assistant"
            yield Segment(_END_OF_MESSAGE if goes_on else _END_OF_TURN, turn.supervised)


def _content(turn: Turn) -> Iterable[Segment]:
    if turn.recipient is not None:
        yield Segment(f"{turn.recipient}<|recipient|>", turn.supervised)
    for part in turn.parts:
        if isinstance(part, Clip):
            yield Segment(_AUDIO_BOS, turn.supervised)
            yield Segment(part, turn.supervised)
            yield Segment(_AUDIO_EOS, turn.supervised)
        else:
            yield Segment(part, turn.supervised)


def render_text(sample: Sample) -> str:
    """Render a sample as one text, with one placeholder a clip: what the chat template gives."""
    return "".join(
        segment.content if isinstance(segment.content, str) else AUDIO_PLACEHOLDER for segment in render(sample)
    )


def tokenize(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[TokenSegment]:
    """Tokenize a sample, segment by segment.

    Segments begin and end at special tokens, where a tokenizer splits in any case; the one other border, between
    an assistant turn's header and its text, is where generation begins.
    """
    return [
        TokenSegment(
            None
            if isinstance(segment.content, Clip)
            else np.asarray(tokenizer.encode(segment.content, add_special_tokens=False), dtype=np.int64),
            segment.supervised,
        )
        for segment in render(sample)
    ]


def sequence_length(segments: Iterable[TokenSegment], clip_frames: Iterable[int], num_codebooks: int) -> int:
    """Length of the token sequence whose clips have these numbers of codec frames."""
    frames = iter(clip_frames)
    return sum(
        num_stream_frames(next(frames), num_codebooks) if segment.ids is None else len(segment.ids)
        for segment in segments
    )


def expand(
    segments: Iterable[TokenSegment], stream_lengths: Iterable[int], *, placeholder: int, delay: int, num_codebooks: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Put the placeholders of each clip's audio stream in its place.

    A stream of F frames takes F - (K - 1) placeholders and K - 1 delay tokens, as in `HiggsAudioV2Processor`.

    Args:
        segments: what `tokenize` gave.
        stream_lengths: F of each clip.
        placeholder: id of `<|AUDIO_OUT|>`.
        delay: id of the delay token.
        num_codebooks: K.

    Returns:
        Token ids and labels, int64 [S] each; the label at p is the token at p, or -100.
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
    """Write a sample as the messages that the checkpoint's chat template takes.

    Returns:
        The messages, or None where the template cannot render the sample.
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
    """Whether the template takes a turn: in an assistant turn one clip, nothing else, and no such turn behind it."""
    if turn.role == "assistant":
        is_last = following is None or following.role != "assistant"
        return is_last and turn.recipient is None and len(turn.parts) == 1 and isinstance(turn.parts[0], Clip)
    return turn.role == "user" or len(turn.parts) == 1
