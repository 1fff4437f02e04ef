"""Prompts as segments and as tokens, with the supervised tokens marked. A family renders samples as segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.sample import Clip
from higgs_audio_trainer.events import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.data.batch import TokenIds


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


def merged(segments: Iterable[PromptSegment]) -> list[PromptSegment]:
    """Return segments in which neighbouring texts with the same supervision are one segment.

    Example:
        >>> merged([PromptSegment("a", False), PromptSegment("b", False), PromptSegment("c", True)])
        [PromptSegment(content='ab', supervised=False), PromptSegment(content='c', supervised=True)]
    """
    result: list[PromptSegment] = []
    for segment in segments:
        previous = result[-1] if result else None
        if (
            previous is not None
            and isinstance(segment.content, str)
            and isinstance(previous.content, str)
            and previous.supervised == segment.supervised
        ):
            result[-1] = PromptSegment(previous.content + segment.content, segment.supervised)
        else:
            result.append(segment)
    return result


def tokenize_all(
    rendered: Sequence[Sequence[PromptSegment]], tokenizer: PreTrainedTokenizerBase
) -> list[list[TokenSegment]]:
    """Return the tokens of the segments of many samples.

    A border between two texts must lie at a special token, where every tokenizer splits, or where generation begins.

    Args:
        rendered: Segments of each sample.
        tokenizer: Tokenizer of the checkpoint.
    """
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


def sequence_length(segments: Iterable[TokenSegment], clip_frames: Iterable[int], ids: TokenIds) -> int:
    """Return the number of tokens of a sample.

    Args:
        segments: Tokens of the sample.
        clip_frames: Number of codec frames T of each clip.
        ids: Token ids of the checkpoint.

    Example:
        >>> from higgs_audio_trainer.data.batch import TokenIds
        >>> segments = [TokenSegment(np.array([1, 2, 3]), False), TokenSegment(None, True)]
        >>> sequence_length(segments, [25], TokenIds(0, 90, 91, stream_bos=1024, stream_eos=1025, num_codebooks=8))
        37
    """
    frames = iter(clip_frames)
    return sum(
        ids.num_frames(next(frames), supervised=segment.supervised) if segment.ids is None else len(segment.ids)
        for segment in segments
    )


def expand(
    segments: Iterable[TokenSegment], stream_lengths: Iterable[int], *, placeholder: int, delay: int, num_codebooks: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the token ids and text labels of a sample, with placeholders for the audio stream of each clip.

    A stream of F frames takes F - (K - 1) placeholders and K - 1 delay tokens, as in `HiggsAudioV2Processor`. A family
    without a delay token has the placeholder in its place.

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
