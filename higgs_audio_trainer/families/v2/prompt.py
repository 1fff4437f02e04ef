r"""Prompts of Higgs Audio v2, as the chat template renders them.

The format of each turn (https://huggingface.co/docs/transformers/model_doc/higgs_audio_v2):

    <|begin_of_text|>
    <|start_header_id|>ROLE<|end_header_id|>\n\n CONTENT <|eot_id|>

with `<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>` for speech, `<|eom_id|>` in place of `<|eot_id|>` between two
assistant turns in a row, and `RECIPIENT<|recipient|>` before the content where an assistant turn has one. A scene
is part of the system turn: `\n\n<|scene_desc_start|>\nSCENE\n<|scene_desc_end|>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from higgs_audio_trainer.data.prompt import PromptSegment, merged
from higgs_audio_trainer.data.sample import Clip, Sample, Turn

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


def render(sample: Sample) -> list[PromptSegment]:
    """Return the segments of a sample's prompt. Neighbouring texts with the same supervision are merged.

    Example:
        >>> sample = Sample("a", (Turn("user", ("Hi",)), Turn("assistant", ("Hello.",), supervised=True)), "m.jsonl:1")
        >>> [segment.content for segment in render(sample) if segment.supervised]
        ['Hello.<|eot_id|>']
    """
    return merged(_raw_segments(sample.turns))


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
