"""Samples as objects of JSON Lines, the inverse of reading. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.errors import UserError

_FEWEST_TURNS = 3  # system, text and speech


def entry_of(sample: Sample, folder: Path) -> dict[str, Any]:
    """Return the object of a sample, in the simple form if the sample has one, else as Boson's ChatML.

    Args:
        sample: The sample.
        folder: Folder of the manifest. Paths below are relative to the folder, other paths are absolute.

    Example:
        >>> from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM
        >>> said = Turn("assistant", (Clip(Path("/data/a.wav"), encoded=False),), supervised=True)
        >>> entry_of(Sample("a", (DEFAULT_SYSTEM, Turn("user", ("Hello.",)), said), "m:1", "ann"), Path("/data"))
        {'id': 'a', 'audio': 'a.wav', 'text': 'Hello.', 'speaker': 'ann'}
    """
    speaker = {} if sample.speaker is None else {"speaker": sample.speaker}
    body = _simple(sample.turns, folder) or _chatml(sample.turns, folder)
    return {"id": sample.id, **body, **speaker}


def path_in(folder: Path, path: Path) -> str:
    """Return the path of a file in a manifest, in UTF-8 whatever the encoding of the system.

    Raises:
        UserError: The name of a folder above the file is not in UTF-8.

    Example:
        >>> path_in(Path("/data"), Path("/data/wavs/a.wav")), path_in(Path("/data"), Path("/else/a.wav"))
        ('wavs/a.wav', '/else/a.wav')
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - keeps the names of links
    prefix = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    name = os.fsencode(absolute.removeprefix(prefix))
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name.decode('utf-8', 'backslashreplace')}: expected a path in UTF-8, as every path of a manifest, got "
            "bytes of another encoding. Rename the folder, perhaps with convmv -f WINDOWS-1252 -t UTF-8 --notest"
        ) from error


def _simple(turns: Sequence[Turn], folder: Path) -> dict[str, Any] | None:
    """Return the fields of the simple form, or None for turns in another form."""
    if len(turns) < _FEWEST_TURNS:
        return None
    first, *middle = turns[:-2]
    scene, middle = (middle[0], middle[1:]) if middle and middle[0].role == "scene" else (None, middle)
    ask, say = turns[-2:]
    roles = [turn.role for turn in middle]
    parts = [part for turn in (*middle, ask, say) for part in turn.parts]
    is_simple = (
        first == DEFAULT_SYSTEM
        and (ask.role, say.role, say.supervised) == ("user", "assistant", True)
        and roles in ([], ["assistant"], ["user", "assistant"])
        and not any(turn.supervised for turn in middle)
        and not any(turn.recipient for turn in turns)
        and len(parts) == len(middle) + 2
        and isinstance(say.parts[0], Clip)
        and (not middle or (isinstance(middle[-1].parts[0], Clip) and is_whole(middle[-1].parts[0])))
    )
    if not is_simple:
        return None
    speech, text = say.parts[0], ask.parts[0]
    assert isinstance(speech, Clip)
    entry = {"codes" if speech.encoded else "audio": path_in(folder, speech.path), **_stretch(speech), "text": text}
    for turn in middle:
        part = turn.parts[0]
        entry |= reference(part, folder) if isinstance(part, Clip) else {"ref_text": part}
    return entry | ({"scene": scene.parts[0]} if scene else {})


def reference(clip: Clip, folder: Path) -> dict[str, str]:
    """Return the field of a reference."""
    return {"ref_codes" if clip.encoded else "ref_audio": path_in(folder, clip.path)}


def is_whole(clip: Clip) -> bool:
    """Return True if a clip is a whole file, as the references of the simple form are."""
    return clip.offset_s == 0 and clip.duration_s is None and clip.stated_s is None


def _stretch(clip: Clip) -> dict[str, float]:
    if clip.stated_s is not None:
        return {"duration": clip.stated_s}
    if clip.offset_s == 0 and clip.duration_s is None:
        return {}
    return {"offset": clip.offset_s, **({} if clip.duration_s is None else {"duration": clip.duration_s})}


def _chatml(turns: Sequence[Turn], folder: Path) -> dict[str, Any]:
    supervised = [index for index, turn in enumerate(turns) if turn.supervised]
    return {"messages": [_message(turn, folder) for turn in turns], "start_index": supervised[0]}


def _message(turn: Turn, folder: Path) -> dict[str, Any]:
    parts = [_part(part, folder) for part in turn.parts]
    content = turn.parts[0] if len(parts) == 1 and isinstance(turn.parts[0], str) else parts
    return {"role": turn.role, "content": content, **({"recipient": turn.recipient} if turn.recipient else {})}


def _part(part: str | Clip, folder: Path) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "audio", "codes" if part.encoded else "audio_url": path_in(folder, part.path), **_stretch(part)}
