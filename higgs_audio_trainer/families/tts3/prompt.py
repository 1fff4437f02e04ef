r"""Prompts of Higgs TTS 3, as its servers write them.

    <|tts|> <|ref_text|> TEXT <|ref_audio|> CLIP <|text|> TEXT <|audio|> CLIP

without spaces between the parts. A reference has a clip and perhaps a text, in front of the text to speak. A sample
without a reference begins with `<|tts|><|text|>`.
"""

from __future__ import annotations

from collections.abc import Iterator

from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM
from higgs_audio_trainer.data.prompt import PromptSegment
from higgs_audio_trainer.data.sample import Clip, Sample, Turn

BEGIN, TEXT, AUDIO = "<|tts|>", "<|text|>", "<|audio|>"
REFERENCE_TEXT, REFERENCE_AUDIO = "<|ref_text|>", "<|ref_audio|>"

#: Markers of every prompt. A tokenizer without these tokens is refused.
REQUIRED_TOKENS = (BEGIN, REFERENCE_AUDIO, TEXT, AUDIO)

_SIMPLE = "a text and its recording, perhaps with a reference, as Higgs TTS 3 has no place for more"


def render(sample: Sample, *, with_reference_text: bool = True) -> list[PromptSegment]:
    """Return the segments of a sample's prompt. A text is a segment of its own, so its tokens are those of the text.

    Args:
        sample: The sample.
        with_reference_text: Whether the tokenizer has a marker for the text of a reference. The text is left out
            otherwise.

    Raises:
        BadField: The sample has a part that a prompt of Higgs TTS 3 has no place for.

    Example:
        >>> from pathlib import Path
        >>> said = Turn("assistant", (Clip(Path("a.wav"), encoded=False),), supervised=True)
        >>> sample = Sample("a", (DEFAULT_SYSTEM, Turn("user", ("Hi.",)), said), "m.jsonl:1")
        >>> [segment.content for segment in render(sample)][:4]
        ['<|tts|>', '<|text|>', 'Hi.', '<|audio|>']
    """
    *reference, ask, say = _spoken_turns(sample)
    segments = [PromptSegment(BEGIN, supervised=False)]
    for turn in reference:
        marker = REFERENCE_TEXT if turn.role == "user" else REFERENCE_AUDIO
        if turn.role == "assistant" or with_reference_text:
            segments += [PromptSegment(marker, supervised=False), PromptSegment(turn.parts[0], supervised=False)]
    return [
        *segments,
        PromptSegment(TEXT, supervised=False),
        PromptSegment(ask.parts[0], supervised=True),
        PromptSegment(AUDIO, supervised=False),
        PromptSegment(say.parts[0], supervised=True),
    ]


def _spoken_turns(sample: Sample) -> list[Turn]:
    """Return the turns of the reference, of the text and of the speech.

    Raises:
        BadField: The sample has other turns.
    """
    if sample.is_chat:
        raise BadField("messages", "the simple form, audio and text, as Higgs TTS 3 reads no chat", "ChatML")
    if any(turn.role == "scene" for turn in sample.turns):
        raise BadField("scene", "no scene, as Higgs TTS 3 has no place for one", "a scene")
    turns = [turn for turn in sample.turns if turn != DEFAULT_SYSTEM]
    if problem := next(_problems(turns), None):
        raise BadField("sample", _SIMPLE, problem)
    return turns


def _problems(turns: list[Turn]) -> Iterator[str]:
    """Yield what in turns other than a default system turn has no place in a prompt."""
    if any(turn.role == "system" for turn in turns):
        yield "a system turn of its own"
    if any(turn.recipient is not None for turn in turns):
        yield "a recipient"
    if any(len(turn.parts) != 1 for turn in turns):
        yield "a turn of several parts"
    if any(turn.role == "assistant" and not isinstance(turn.parts[0], Clip) for turn in turns):
        yield "an answer in text"
    roles = [turn.role for turn in turns]
    if roles not in (
        ["user", "assistant"],
        ["assistant", "user", "assistant"],
        ["user", "assistant", "user", "assistant"],
    ):
        yield f"turns of {', '.join(roles) or 'nobody'}"
    if [turn.supervised for turn in turns] != [False] * (len(turns) - 1) + [True]:
        yield "a reference to learn, or a recording that is none"
