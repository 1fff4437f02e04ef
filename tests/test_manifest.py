"""Manifests in both forms, and every problem with its place."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM_PROMPT, read_manifest
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError
from tests.samples import write_manifest

SYSTEM = Turn("system", (DEFAULT_SYSTEM_PROMPT,))
SPEECH = {"type": "audio", "audio_url": "a.wav"}
SAID = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": SPEECH}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder with the files of the lines below. Reading a manifest only checks that the files exist."""
    for name in ("a.wav", "b.wav", "c.npy"):
        (tmp_path / name).touch()
    return tmp_path


def read_one(folder: Path, entry: dict[str, Any]) -> Sample:
    """Return the sample of a manifest with a single good line."""
    samples, faults = read_manifest(write_manifest(folder / "m.jsonl", entry))
    assert not faults
    return samples[0]


def faults_of(folder: Path, *entries: Any) -> list[str]:
    """Return the problems of a manifest as printed, without the folder."""
    _, faults = read_manifest(write_manifest(folder / "m.jsonl", *entries))
    return [str(fault).replace(f"{folder}/", "") for fault in faults]


def test_the_simple_form_is_a_user_asking_and_an_assistant_speaking(folder):
    """`text` is the user's request, and `audio` the only supervised turn."""
    sample = read_one(folder, {"id": "one", "audio": "a.wav", "text": " Say it. ", "speaker": "ann", "lang": "en"})
    assert sample == Sample(
        "one",
        (
            SYSTEM,
            Turn("user", ("Say it.",)),
            Turn("assistant", (Clip(folder / "a.wav", encoded=False),), supervised=True),
        ),
        f"{folder}/m.jsonl:1",
        speaker="ann",
    )


def test_reference_speech_and_scene_come_before_and_are_not_supervised(folder):
    """A reference is an earlier exchange, and a scene belongs to the system turn."""
    sample = read_one(
        folder,
        {"id": 7, "audio": "a.wav", "text": "t", "ref_audio": "b.wav", "ref_text": "heard", "scene": "A quiet room."},
    )
    assert sample.id == "7"
    assert sample.turns == (
        SYSTEM,
        Turn("scene", ("A quiet room.",)),
        Turn("user", ("heard",)),
        Turn("assistant", (Clip(folder / "b.wav", encoded=False, field="ref_audio"),)),
        Turn("user", ("t",)),
        Turn("assistant", (Clip(folder / "a.wav", encoded=False),), supervised=True),
    )
    assert [clip.path.name for clip in sample.clips] == ["b.wav", "a.wav"]


def test_a_reference_needs_no_text(folder):
    """Reference speech alone is an assistant turn without a question."""
    sample = read_one(folder, {"id": "a", "audio": "a.wav", "text": "t", "ref_audio": "b.wav"})
    assert [turn.role for turn in sample.turns] == ["system", "assistant", "user", "assistant"]


def test_codes_stand_in_place_of_audio_in_the_simple_form(folder):
    """Speech and reference may be given as codes."""
    sample = read_one(folder, {"id": "a", "codes": "c.npy", "ref_codes": "c.npy", "text": "t"})
    assert sample.clips == [
        Clip(folder / "c.npy", encoded=True, field="ref_codes"),
        Clip(folder / "c.npy", encoded=True, field="codes"),
    ]


def test_null_is_the_same_as_nothing(folder):
    """Fields with null change nothing."""
    fields = ("codes", "ref_audio", "ref_codes", "ref_text", "scene", "speaker", "messages", "start_index")
    entry = {"id": "a", "audio": "a.wav", "text": "t"}
    assert read_one(folder, entry | dict.fromkeys(fields)) == read_one(folder, entry)
    empty = {"role": "assistant", "content": SPEECH | {"raw_audio": None, "offset": None, "duration": None}}
    chatml = {"id": None, "messages": [SAID[0], empty | {"recipient": None}], "start_index": None}
    assert read_one(folder, chatml) == read_one(folder, {"messages": SAID})


def test_chatml_content_may_be_a_text_an_object_or_a_list_of_them(folder):
    """The three ways of writing content mean the same."""
    contents = ["Hi", {"type": "text", "text": "Hi"}, ["Hi"], [{"type": "text", "text": "Hi"}]]
    turns = {read_one(folder, {"messages": [{"role": "user", "content": c}, SAID[1]]}).turns for c in contents}
    assert len(turns) == 1


def test_chatml_keeps_its_turns_and_supervises_from_start_index_on(folder):
    """Assistant turns before `start_index` are prompt; text, speech and recipient stay in their order."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "scene", "content": [{"type": "text", "text": "A hall."}]},
        {"role": "assistant", "content": ["Before.", SPEECH], "recipient": "narrator"},
        {"role": "user", "content": ["One.", "Two."]},
        {"role": "assistant", "content": {"type": "audio", "codes": "c.npy"}},
    ]
    sample = read_one(folder, {"messages": messages, "start_index": 3, "speaker": "ann", "misc": {"x": 1}})
    speech = Clip(folder / "a.wav", encoded=False, field="messages[2].content[1].audio_url")
    codes = Clip(folder / "c.npy", encoded=True, field="messages[4].content.codes")
    assert sample.id == "line-1"
    assert sample.turns == (
        Turn("system", ("Be brief.",)),
        Turn("scene", ("A hall.",)),
        Turn("assistant", ("Before.", speech), recipient="narrator"),
        Turn("user", ("One.", "Two.")),
        Turn("assistant", (codes,), supervised=True),
    )


def test_chatml_without_a_system_turn_gets_the_default_one(folder):
    """The chat template requires a system turn first, and indexes stay as written."""
    sample = read_one(folder, {"messages": SAID, "start_index": 1})
    assert sample.turns[0] == SYSTEM
    assert [turn.supervised for turn in sample.turns] == [False, False, True]


def test_a_stretch_of_a_file_is_cut_with_offset_and_duration(folder):
    """Boson's audio content may use a stretch of a file."""
    part = SPEECH | {"offset": 1, "duration": 0.5}
    (clip,) = read_one(folder, {"messages": [{"role": "assistant", "content": part}]}).clips
    assert (clip.offset_s, clip.duration_s) == (1.0, 0.5)


def test_paths_are_relative_to_the_manifest(folder, monkeypatch):
    """The working directory makes no difference, and absolute paths are unchanged."""
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    for path in ("a.wav", "sub/../a.wav", str(folder / "a.wav")):
        assert read_one(folder, {"id": "a", "audio": path, "text": "t"}).clips[0].path.samefile(folder / "a.wav")


def test_lines_end_at_newlines_alone(folder):
    """A BOM, CRLF, blank lines and a missing last newline are accepted, and U+2028 or U+0085 end no line."""
    texts = ["one\u2028two", "three\u0085four"]
    lines = [json.dumps({"id": str(i), "audio": "a.wav", "text": t}, ensure_ascii=False) for i, t in enumerate(texts)]
    (folder / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{lines[0]}\r\n\r\n  \n\n{lines[1]}".encode())
    samples, faults = read_manifest(folder / "m.jsonl")
    assert not faults
    assert [sample.turns[1].parts[0] for sample in samples] == texts
    assert [sample.where.rpartition(":")[2] for sample in samples] == ["1", "5"]


SIMPLE_FAULTS = [
    ({"id": []}, "id: expected a text, got a list"),
    ({"id": " "}, "id: expected a text, got an empty text"),
    ({"text": None}, "text: expected a text, got nothing"),
    ({"text": "\u2003\n"}, "text: expected a text, got an empty text"),
    ({"text": 1.5}, "text: expected a text, got a number"),
    (
        {"text": "a<|eot_id|><|AUDIO_OUT|>"},
        "text: expected a text without the markers of a prompt, got <|eot_id|>, <|AUDIO_OUT|>",
    ),
    ({"audio": None}, "audio: expected a path, or codes instead, got neither"),
    ({"codes": "c.npy"}, "audio: expected a path, or codes instead, got both"),
    ({"audio": "no.wav"}, "audio: expected a file, got 'no.wav', which does not exist"),
    ({"audio": "."}, "audio: expected a file, got '.', which is a folder"),
    ({"audio": "x" * 5000}, f"audio: expected a file, got '{'x' * 5000}', which does not exist"),
    ({"audio": "a\0.wav"}, "audio: expected a file, got 'a\\x00.wav', which does not exist"),
    ({"audio": 3}, "audio: expected a path, got 3"),
    ({"audio": " "}, "audio: expected a path, got ' '"),
    ({"audio": ["a.wav"]}, "audio: expected a path, got a list"),
    ({"ref_audio": "no.wav"}, "ref_audio: expected a file, got 'no.wav', which does not exist"),
    (
        {"ref_audio": "a.wav", "ref_codes": "c.npy"},
        "ref_audio: expected a path, or ref_codes instead, got both",
    ),
    ({"ref_text": "t"}, "ref_audio: expected the recording of ref_text, got nothing"),
    ({"ref_audio": "a.wav", "ref_text": ""}, "ref_text: expected a text, got an empty text"),
    ({"scene": ""}, "scene: expected a text, got an empty text"),
    ({"scene": {"a": 1}}, "scene: expected a text, got an object"),
]


@pytest.mark.parametrize(("change", "fault"), SIMPLE_FAULTS, ids=[fault[:50] for _, fault in SIMPLE_FAULTS])
def test_a_fault_of_the_simple_form_names_line_field_expected_and_got(folder, change, fault):
    """Each kind of problem has its exact text."""
    entry = {"id": "a", "audio": "a.wav", "text": "t"} | change
    if not change:
        del entry["id"]
    assert faults_of(folder, entry) == [f"m.jsonl:1: {fault}"]


def user(content: Any, **more: Any) -> dict[str, Any]:
    """Return a ChatML sample with a user turn before the speech."""
    return {"messages": [{"role": "user", "content": content} | more, SAID[1]]}


def spoken(**audio: Any) -> dict[str, Any]:
    """Make a ChatML sample whose speech is as given."""
    return {"messages": [SAID[0], {"role": "assistant", "content": {"type": "audio"} | audio}]}


SYSTEM_TURN = {"role": "system", "content": "s"}
SCENE = {"role": "scene", "content": "room"}
ONLY_TEXT = "expected text, as Higgs Audio v2 takes speech only in assistant turns"
CHATML_FAULTS = [
    ({"messages": []}, "messages: expected a list of messages, got an empty list"),
    ({"messages": "hi"}, "messages: expected a list of messages, got a text"),
    ({"messages": [1, *SAID]}, "messages[0]: expected an object with role and content, got a number"),
    (
        {"messages": [{"content": "x"}, *SAID]},
        "messages[0].role: expected system, scene, user or assistant, got nothing",
    ),
    (
        {"messages": [{"role": "bot", "content": "x"}, *SAID]},
        "messages[0].role: expected system, scene, user or assistant, got 'bot'",
    ),
    (
        {"messages": [*SAID, SYSTEM_TURN]},
        "messages[2].role: expected a system turn only at the beginning, got a later system turn",
    ),
    (
        {"messages": [SCENE, *SAID]},
        "messages[0].role: expected a scene right after the system turn, got a scene elsewhere",
    ),
    (
        {"messages": [SYSTEM_TURN, *SAID, SCENE]},
        "messages[3].role: expected a scene right after the system turn, got a scene elsewhere",
    ),
    (
        {"messages": [SYSTEM_TURN, SCENE | {"content": ["a", "b"]}, *SAID]},
        "messages[1].content: expected one text, got 2 parts",
    ),
    (
        {"messages": [SYSTEM_TURN, SCENE | {"content": SPEECH}, *SAID]},
        f"messages[1].content: {ONLY_TEXT}, got audio in a scene turn",
    ),
    (
        user([SPEECH]),
        f"messages[0].content: {ONLY_TEXT}, got audio in a user turn",
    ),
    (user(None), "messages[0].content: expected a text, or an object of type text or audio, got nothing"),
    (user([]), "messages[0].content: expected a text or audio, got an empty list"),
    (user(["a", ""]), "messages[0].content[1]: expected a text, got an empty text"),
    (
        user({"type": "image"}),
        "messages[0].content: expected a text, or an object of type text or audio, got 'image'",
    ),
    (user({"type": "text"}), "messages[0].content.text: expected a text, got nothing"),
    (
        user("a<|eom_id|>"),
        "messages[0].content: expected a text without the markers of a prompt, got <|eom_id|>",
    ),
    (
        user("t", recipient="x"),
        "messages[0].recipient: expected a recipient only in assistant turns, got a user turn",
    ),
    (
        {"messages": [SAID[1] | {"recipient": 1}]},
        "messages[0].recipient: expected a text, got a number",
    ),
    (spoken(), "messages[1].content.audio_url: expected a path, or codes instead, got neither"),
    (
        spoken(audio_url="a.wav", codes="c.npy"),
        "messages[1].content.audio_url: expected a path, or codes instead, got both",
    ),
    (spoken(audio_url="no.wav"), "messages[1].content.audio_url: expected a file, got 'no.wav', which does not exist"),
    (
        spoken(audio_url="a.wav", raw_audio="UklGRg=="),
        "messages[1].content.raw_audio: expected a path in audio_url, as inline audio is not read, got inline audio",
    ),
    (
        spoken(audio_url="a.wav", offset=-1),
        "messages[1].content.offset: expected seconds, at least 0, got -1",
    ),
    (
        spoken(audio_url="a.wav", duration="2"),
        "messages[1].content.duration: expected seconds, at least 0, got '2'",
    ),
    (
        spoken(codes="c.npy", offset=1.5),
        "messages[1].content.codes: expected codes without offset and end, as codes are read whole, got both",
    ),
    ({"messages": SAID, "start_index": 2}, "start_index: expected an integer from 0 to 1, got 2"),
    ({"messages": SAID, "start_index": -1}, "start_index: expected an integer from 0 to 1, got -1"),
    ({"messages": SAID, "start_index": True}, "start_index: expected an integer from 0 to 1, got True"),
    ({"messages": SAID, "start_index": "1"}, "start_index: expected an integer from 0 to 1, got '1'"),
    (
        {"messages": [*SAID, SAID[0]], "start_index": 2},
        "start_index: expected an assistant turn at or after it, got 2",
    ),
    ({"messages": [SAID[0]]}, "start_index: expected an assistant turn at or after it, got 0"),
]


@pytest.mark.parametrize(("entry", "fault"), CHATML_FAULTS, ids=[fault[:60] for _, fault in CHATML_FAULTS])
def test_a_fault_of_chatml_names_line_field_expected_and_got(folder, entry, fault):
    """Each kind of problem has its exact text, with the path to the message and the part."""
    assert faults_of(folder, entry) == [f"m.jsonl:1: {fault}"]


LINE_FAULTS = [
    (b"{", "line: expected a JSON object in UTF-8, got "),
    (b'{"id": "a", "text": NaN}', "line: expected a JSON object in UTF-8, got "),
    (b'{"id": "a\xff"}', "line: expected a JSON object in UTF-8, got str is not valid UTF-8"),
    (b'{"id": "\\ud800"}', "line: expected a JSON object in UTF-8, got "),
    (b"[1]", "line: expected a JSON object, got a list"),
    (b'"x"', "line: expected a JSON object, got a text"),
    (b"null", "line: expected a JSON object, got nothing"),
]


@pytest.mark.parametrize(("line", "fault"), LINE_FAULTS)
def test_a_line_that_is_no_json_object_is_a_fault_of_that_line(folder, line, fault):
    """The other lines are still read."""
    good = [orjson.dumps({"id": name, "audio": "a.wav", "text": "t"}) for name in "ab"]
    (folder / "m.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]))
    samples, faults = read_manifest(folder / "m.jsonl")
    assert [sample.id for sample in samples] == ["a", "b"]
    (only,) = map(str, faults)
    assert only.startswith(f"{folder}/m.jsonl:2: {fault}")


def test_an_id_is_used_once(folder):
    """A repeated id names the first line, for numbers and texts, even if the first line has other problems."""
    good = {"audio": "a.wav", "text": "t"}
    faults = faults_of(folder, {"id": "7", "text": "t"}, good | {"id": 7}, good | {"id": "8"}, good | {"id": "7"})
    assert faults == [
        "m.jsonl:1: audio: expected a path, or codes instead, got neither",
        "m.jsonl:2: id: expected a unique id, got '7', as in line 1",
        "m.jsonl:4: id: expected a unique id, got '7', as in line 1",
    ]


def test_all_faults_of_all_lines_are_found_at_once(folder):
    """A problem of a line or a field hides no later problem."""
    simple = {"text": "", "audio": "no.wav", "ref_text": 3, "ref_audio": "no.wav", "scene": []}
    bad_parts = {"role": "assistant", "content": ["", SPEECH | {"audio_url": "no.wav"}]}
    chatml = {"messages": [{"role": "user", "content": 1}, bad_parts, {"role": "bot"}], "start_index": 9}
    assert [fault.rpartition(": expected")[0] for fault in faults_of(folder, simple, chatml)] == [
        "m.jsonl:1: scene",
        "m.jsonl:1: ref_text",
        "m.jsonl:1: ref_audio",
        "m.jsonl:1: text",
        "m.jsonl:1: audio",
        "m.jsonl:2: start_index",
        "m.jsonl:2: messages[0].content",
        "m.jsonl:2: messages[1].content[0]",
        "m.jsonl:2: messages[1].content[1].audio_url",
        "m.jsonl:2: messages[2].role",
    ]


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_manifest_is_a_fault(folder, content):
    """A manifest without samples is a problem."""
    (folder / "m.jsonl").write_bytes(content)
    samples, faults = read_manifest(folder / "m.jsonl")
    assert not samples
    assert [str(f) for f in faults] == [
        f"{folder}/m.jsonl:1: manifest: expected at least one sample, got an empty file"
    ]


def test_a_manifest_that_does_not_exist_is_a_user_error(folder):
    """The error is the operating system's."""
    with pytest.raises(UserError, match=r"no\.jsonl: No such file or directory\. Name a manifest \(JSON Lines\)"):
        read_manifest(folder / "no.jsonl")


def test_a_manifest_error_lists_every_fault_and_counts_them():
    """The message has a line for each problem, and advice."""
    faults = [InputProblem("m.jsonl:1", "text", "a text", "nothing"), InputProblem("m.jsonl:3", "audio", "a path", "3")]
    assert str(ManifestError(faults)).splitlines() == [
        "m.jsonl:1: text: expected a text, got nothing",
        "m.jsonl:3: audio: expected a path, got 3",
        "2 problems. Fix them, or pass --skip_bad_samples to train without these lines.",
    ]


NAMES = """
    id audio codes text ref_audio ref_codes ref_text scene messages start_index
    role content type audio_url raw_audio offset duration recipient start end wav sentence reference_audio audios lang
"""
KEYS = st.sampled_from(NAMES.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["a.wav", "c.npy", "text", "audio", "user", "assistant", "system", "scene", "<|eot_id|>"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner),
    max_leaves=20,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "scene"]), "content": VALUES | st.just(SPEECH)}
    ),
    max_size=4,
)
ENTRIES = (
    VALUES
    | st.dictionaries(KEYS, VALUES)
    | st.fixed_dictionaries({"messages": MESSAGES}, optional={"start_index": VALUES})
)


@settings(max_examples=150, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=3))
def test_any_json_is_a_sample_or_a_fault(tmp_path_factory, entries):
    """No value makes reading fail in another way, and every line is accounted for."""
    folder = tmp_path_factory.getbasetemp() / "any-json"
    folder.mkdir(exist_ok=True)
    for name in ("a.wav", "c.npy"):
        (folder / name).touch()
    check_all_accounted_for(write_manifest(folder / "m.jsonl", *entries), len(entries))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80) | st.lists(st.binary(max_size=20)).map(b"\n".join))
def test_any_bytes_are_samples_or_faults(tmp_path_factory, data):
    """Any file is read to its end."""
    path = tmp_path_factory.getbasetemp() / "any-bytes.jsonl"
    path.write_bytes(data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    check_all_accounted_for(path, len(lines))


def check_all_accounted_for(path: Path, num_lines: int) -> None:
    """Check that each line gave a sample or at least one problem, or that one message says what the file is."""
    if (message := _refusal(path)) is not None:
        assert message.startswith(f"{path}:")
        assert "\n" not in message
        return
    samples, faults = read_manifest(path)
    assert {type(s) for s in samples} <= {Sample}
    assert {type(f) for f in faults} <= {InputProblem}
    places = {sample.where for sample in samples} | {fault.where for fault in faults}
    assert len(samples) + len({fault.where for fault in faults}) == len(places) == max(num_lines, 1)
    assert all("\n" not in str(fault) for fault in faults)


def _refusal(path: Path) -> str | None:
    try:
        read_manifest(path)
    except UserError as error:
        return str(error)
    return None
