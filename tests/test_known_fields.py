"""Fields that the manifest's reader knows by another name, refuses or lists."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.sample import Clip, Sample
from tests.samples import write_manifest

SIMPLE = {"id": "a", "audio": "a.wav", "text": "t"}
PART = {"type": "audio", "audio_url": "a.wav"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create the files of the lines below."""
    for name in ("a.wav", "b.wav", "c.npy"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, *entries: Any) -> tuple[list[Sample], list[str], list[str]]:
    """Return the samples, the problems and the printed lines, without the folder and the manifest's name."""
    said: list[str] = []
    path = write_manifest(folder / "m.jsonl", *entries)
    samples, problems = read_manifest(path, said.append)
    return (
        samples,
        [str(problem).removeprefix(f"{path}:") for problem in problems],
        [line.removeprefix(f"{path}: ") for line in said],
    )


def chatml(part: Any = PART, message: Any = None, **line: Any) -> dict[str, Any]:
    """Make a line of ChatML with further fields in the part, the message or the line."""
    assistant = {"role": "assistant", "content": part} | (message or {})
    return {"messages": [{"role": "user", "content": "s"}, assistant], **line}


SAME = [
    {"utt_id": "a", "audio_filepath": "a.wav", "transcription": "t"},
    {"key": "a", "file_name": "a.wav", "sentence": "t"},
    {"ID": "a", "Audio": "a.wav", "Text": "t"},
    {"id": "a", "wav": "a.wav", "normalized_text": "t"},
    {"id": "a", "audioFile": "a.wav", "transcript": "t"},
    {"id": "a", "audios": ["a.wav"], "text": "t"},
    SIMPLE | {"sentence": " t", "path": "./a.wav", "file_name": "a", "utt_id": "other"},
    SIMPLE | {"audio": "file://{folder}/a.wav"},
]


@pytest.mark.parametrize("entry", SAME, ids=str)
def test_other_spellings_of_a_field_are_read(folder, entry):
    """The names of other trainers' manifests mean the same as ours, and equal duplicates do no harm."""
    entry = json.loads(json.dumps(entry).replace("{folder}", str(folder)))
    samples, problems, _ = read(folder, entry)
    assert problems == []
    ((sample,), (plain,)) = samples, read(folder, SIMPLE)[0]
    assert (sample.id, [turn.parts for turn in sample.turns[:-1]]) == ("a", [turn.parts for turn in plain.turns[:-1]])
    assert sample.clips[0].path == plain.clips[0].path


@pytest.mark.parametrize("name", ["reference_audio", "ref_audios", "refAudio", "prompt_wav", "Ref-Audio"])
def test_other_spellings_of_a_reference_are_read_and_told(folder, name):
    """A reference under another name is heard, and one line says how the field is read."""
    value = ["b.wav"] if name.endswith("s") else "b.wav"
    samples, problems, said = read(folder, SIMPLE | {name: value, "reference_text": "hi"})
    assert problems == []
    assert [clip.path.name for clip in samples[0].clips] == ["b.wav", "a.wav"]
    assert said[0].startswith("fields read under another name: ")
    assert f"{name} as ref_audio (1 line)" in said[0]
    assert "reference_text as ref_text (1 line)" in said[0]


STRETCHES = [
    ({"offset": 1, "duration": 0.5}, (1.0, 0.5, None)),
    ({"start": 1, "end": 1.5}, (1.0, 0.5, None)),
    ({"start_time": 1, "end_time": 1.5, "duration": 0.5}, (1.0, 0.5, None)),
    ({"start_ms": 1000, "end_ms": 1500}, (1.0, 0.5, None)),
    ({"offset_seconds": 1.0, "dur": 0.5}, (1.0, 0.5, None)),
    ({"end": 0.5}, (0.0, 0.5, None)),
    ({"offset": 1}, (1.0, None, None)),
    ({"duration": 2}, (0.0, None, 2.0)),
]


@pytest.mark.parametrize(("times", "stretch"), STRETCHES, ids=str)
@pytest.mark.parametrize("in_part", [False, True])
def test_times_cut_a_stretch_in_both_forms(folder, times, stretch, in_part):
    """Offset, end and duration mean the same in the simple form and in a part of a message."""
    entry = chatml(PART | times) if in_part else SIMPLE | times
    (sample,), problems, _ = read(folder, entry)
    assert problems == []
    (clip,) = sample.clips
    assert (clip.offset_s, clip.duration_s, clip.stated_s) == stretch


REFUSED = [
    (SIMPLE | {"frame_offset": 100}, "frame_offset", "offset"),
    (SIMPLE | {"segment_start": 1.5}, "segment_start", "offset"),
    (SIMPLE | {"ofset": 1.5}, "ofset", "offset"),
    (SIMPLE | {"durations": 1.5}, "durations", "duration"),
    (SIMPLE | {"audioo": "a.wav"}, "audioo", "audio"),
    (SIMPLE | {"source_audio": "b.wav"}, "source_audio", "audio"),
    (SIMPLE | {"ref_adio": "b.wav"}, "ref_adio", "ref_audio"),
    (SIMPLE | {"reference": "b.wav"}, "reference", "ref_audio"),
    (SIMPLE | {"voice_prompt": ["b.wav"]}, "voice_prompt", "ref_audio"),
    (SIMPLE | {"voice": "b.wav"}, "voice", "ref_audio"),
    (SIMPLE | {"channel": 1}, "channel", "audio with this channel alone"),
    (SIMPLE | {"txet": "t"}, "txet", "text"),
    (SIMPLE | {"text_prefix": "t"}, "text_prefix", "text"),
    (SIMPLE | {"Scenes": "t"}, "Scenes", "scene"),
    (SIMPLE | {"system": "t"}, "system", "messages with a system turn"),
    (SIMPLE | {"conversations": [{}]}, "conversations", "messages"),
    (chatml(audios=["a.wav"]), "audios", "audio_url in the content of a message"),
    (chatml(ref_audio="b.wav"), "ref_audio", "audio_url in the content of a message"),
    (chatml(offset=1.0), "offset", "offset in the content of a message"),
    (chatml(text="t"), "text", "content of a message"),
    (chatml(strat_index=1), "strat_index", "start_index"),
    (chatml(message={"audio": "b.wav"}), "messages[1].audio", "content"),
    (chatml(message={"loss": False}), "messages[1].loss", "start_index"),
    (chatml(message={"recipent": "x"}), "messages[1].recipent", "recipient"),
    (chatml(PART | {"ofset": 1}), "messages[1].content.ofset", "offset"),
    (chatml([PART | {"reference": "b.wav"}]), "messages[1].content[0].reference", "audio_url"),
]


@pytest.mark.parametrize(("entry", "field", "near"), REFUSED, ids=[f"{field}-{near}" for _, field, near in REFUSED])
def test_an_unknown_field_about_sound_or_text_is_a_problem(folder, entry, field, near):
    """A field that may change what is heard or said is never dropped, at any level."""
    samples, problems, said = read(folder, entry)
    assert (samples, said) == ([], [])
    assert problems == [
        (
            f"1: {field}: expected a known field (nearest: {near}), got an unknown field about sound or text. "
            "Rename or remove the field"
        )
    ]


def test_notes_are_listed_once_with_the_number_of_lines(folder):
    """Fields that cannot change the sound are listed once, with the nearest known field where there is a near name."""
    notes = {"lang": "en", "dnsmos": 3.2, "text_language": "en", "audio_id": "x", "channel": "BBC", "speeker": "ann"}
    first = SIMPLE | notes | {"raw_text": "T", "is_train": True, "empty": "", "nothing": None, "a\nb": 1}
    samples, problems, said = read(folder, first, SIMPLE | {"id": "b", "lang": "ar", "speaker": "ann", "spk_id": 3})
    assert problems == []
    assert samples[0].turns == read(folder, SIMPLE)[0][0].turns
    assert said == [
        (
            r"fields that are not used: 'a\nb' (1 line), audio_id (1 line), channel (1 line), dnsmos (1 line), "
            "is_train (1 line), lang (2 lines), raw_text (1 line), speeker (1 line, nearest known field: speaker), "
            "text_language (1 line)"
        )
    ]


def test_notes_in_messages_are_listed_without_their_places(folder):
    """The same field of many messages is one entry of the list."""
    entry = chatml([PART | {"lang": "en"}, PART | {"lang": "en"}], {"name": "ann"}, misc={"x": 1}, speaker="ann")
    _, problems, said = read(folder, entry, entry)
    assert problems == []
    assert said == ["fields that are not used: messages[].content[].lang (2 lines), messages[].name (2 lines)"]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"transcript": "T"}, "transcript: expected text once, or the same as in text, got 't' and 'T'"),
        ({"path": "b.wav"}, "path: expected audio once, or the same as in audio, got 'a.wav' and 'b.wav'"),
        ({"offset": 1, "start": 2}, "start: expected offset once, or the same as in offset, got 1 and 2"),
        ({"offset": 1, "duration": 1, "end": 3}, "end: expected 2, as offset and duration say, got 3"),
        ({"start": 2, "end": 1}, "end: expected a time after the offset, 2 s, got 1"),
        ({"start": "1"}, "start: expected seconds, at least 0, got '1'"),
        ({"ref_audios": ["a.wav", "b.wav"]}, "ref_audios: expected a list of one, got a list of 2"),
        ({"reference_audio": "no.wav"}, "reference_audio: expected a file, got 'no.wav', which does not exist"),
        (
            {"text": "<audio>"},
            "text: expected audio as an object of type audio, not in the text, got <audio>",
        ),
    ],
    ids=str,
)
def test_contradictions_name_both_values_and_the_fields_own_name(folder, more, fault):
    """Two spellings with different values, and times that contradict each other, are problems."""
    assert read(folder, SIMPLE | more)[1] == [f"1: {fault}"]


def test_a_part_has_the_fields_of_its_type(folder):
    """Audio beside a text, and a text beside audio, would not be heard or said."""
    faults = [
        *read(folder, chatml({"type": "text", "text": "t", "offset": 1}))[1],
        *read(folder, chatml(PART | {"text": "t"}))[1],
    ]
    assert faults == [
        "1: messages[1].content.offset: expected no such field in a part of type text, got 1",
        "1: messages[1].content.text: expected no such field in a part of type audio, got 't'",
    ]


def test_codes_have_no_stretch_and_may_state_their_length(folder):
    """Codes are read whole."""
    codes = {"id": "a", "codes": "c.npy", "text": "t"}
    assert read(folder, codes | {"offset": 0, "duration": 2})[0][0].clips == [
        Clip(folder / "c.npy", encoded=True, stated_s=2.0, field="codes")
    ]
    fault = "1: codes: expected codes without offset and end, as codes are read whole, got both"
    assert read(folder, codes | {"start": 0.5})[1] == [fault]


def test_paths_below_home_and_file_urls_are_found(folder, monkeypatch):
    """A tilde and a file URL name the same file as a plain path, and other URLs are refused."""
    monkeypatch.setenv("HOME", str(folder))
    (folder / "with space").mkdir()
    shutil.copy(folder / "a.wav", folder / "with space" / "a.wav")
    for audio in ("~/a.wav", f"file://{folder}/with%20space/a.wav"):
        assert read(folder, SIMPLE | {"audio": audio})[0][0].clips[0].path.is_file()
    for audio in (f"file:{folder}/a.wav", f"FILE://localhost{folder}/a.wav", "file://with%20space/a.wav"):
        assert read(folder, SIMPLE | {"audio": audio})[0][0].clips[0].path.is_file()
    for audio in ("file:///C:/a.wav", "file://C:/a.wav"):
        assert f"got {audio!r}, a path on a Windows drive" in read(folder, SIMPLE | {"audio": audio})[1][0]
    assert read(folder, SIMPLE | {"audio": "https://host/a.wav"})[1] == [
        "1: audio: expected a file, got the URL 'https://host/a.wav'. Download the file and give its path"
    ]
    assert read(folder, SIMPLE | {"audio": "file://a["})[1] == [
        "1: audio: expected a file, got 'file://a[', which is no URL (Invalid IPv6 URL)"
    ]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", ["text", "sentence"])
def test_a_normalized_text_is_read_in_place_of_another_text(folder, other, order):
    """LJSpeech and NeMo give a text as written and a text as spoken. The spoken text is read, and one line says so."""
    fields = {other: "Dr. Smith", "normalized_text": "Doctor Smith"}
    entry = {"id": "a", "audio": "a.wav", **dict(list(fields.items())[::order])}
    samples, problems, said = read(folder, entry)
    assert problems == []
    assert samples[0].turns[1].parts == ("Doctor Smith",)
    assert "normalized_text as text (1 line)" in said[0]


@pytest.mark.parametrize("name", ["raw_transcription", "text_no_preprocessing", "raw_text"])
def test_a_text_before_its_preparation_is_not_read(folder, name):
    """Columns of FLEURS and HiFi-TTS with a text as it was are listed, and are no problem."""
    samples, problems, said = read(folder, SIMPLE | {name: "DR. X"})
    assert (samples[0].turns[1].parts, problems) == ((SIMPLE["text"],), [])
    assert said == [f"fields that are not used: {name} (1 line)"]


def test_british_spellings_of_a_normalized_text_are_read(folder):
    """The normalised text is the normalized one."""
    samples, problems, _ = read(folder, SIMPLE | {"transcription_normalised": "Doctor X"})
    assert (samples[0].turns[1].parts, problems) == (("Doctor X",), [])


def test_windows_paths_are_found(folder):
    """Backslashes separate folders where no file has such a name, and a drive is named as that."""
    (folder / "wavs").mkdir()
    (folder / "wavs" / "x.wav").touch()
    (folder / "b\\c.wav").touch()
    assert [read(folder, SIMPLE | {"audio": audio})[0][0].clips[0].path for audio in ("wavs\\x.wav", "b\\c.wav")] == [
        folder / "wavs" / "x.wav",
        folder / "b\\c.wav",
    ]
    assert read(folder, SIMPLE | {"audio": "C:\\data\\a.wav"})[1] == [
        (
            r"1: audio: expected a file, got 'C:\\data\\a.wav', a path on a Windows drive. "
            "Give paths relative to the manifest"
        )
    ]


def test_the_speaker_is_kept(folder):
    """The speaker of a line, under any of its names and as any scalar, is an attribute of the sample."""
    named = [{"speaker": " ann "}, {"spk": 3}, {"client_id": "f00"}, {"speaker": ""}, {"speaker": ["x"]}, {}]
    samples, problems, _ = read(folder, *(SIMPLE | {"id": str(n)} | fields for n, fields in enumerate(named)))
    assert problems == []
    assert [sample.speaker for sample in samples] == ["ann", "3", "f00", None, None, None]
    assert read(folder, chatml(speaker="bea"))[0][0].speaker == "bea"
