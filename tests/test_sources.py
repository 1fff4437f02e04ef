"""Forms of sources, each with a small file of its real layout."""

import gzip
import json
import os
from pathlib import Path

import pytest

from higgs_audio_trainer.data.manifest import read_manifest, read_samples
from higgs_audio_trainer.data.sources import Columns, open_source
from higgs_audio_trainer.decompression import zstd
from higgs_audio_trainer.errors import ManifestError, UserError

LINES = '{"id": "a", "audio": "a.wav", "text": "Hello."}\n{"id": "b", "audio": "b.wav", "text": "Bye."}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder with two recordings."""
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("compress", [gzip.compress, zstd().compress])
@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz"])
def test_compressed_json_lines(folder, compress, name):
    """The first bytes, not the name, say that a manifest is compressed."""
    (folder / name).write_bytes(compress(LINES.encode()))
    said: list[str] = []
    samples, problems = read_manifest(folder / name, said.append)
    assert ([sample.id for sample in samples], problems) == (["a", "b"], [])
    assert samples[1].where == f"{folder / name}:2"
    kind = "zstd" if compress is not gzip.compress else "gzip"
    assert said == [f"{folder / name}: JSON Lines, compressed with {kind}"]


@pytest.mark.parametrize("compress", [gzip.compress, zstd().compress])
def test_truncated_compressed_data_are_refused(folder, compress):
    """A file that was cut off gives one message, and no sample is lost without a word."""
    (folder / "m.gz").write_bytes(compress(LINES.encode() * 1_000)[:-9])
    with pytest.raises(UserError, match=r"m\.gz: expected whole compressed data: .*\. Copy the file again\."):
        read_manifest(folder / "m.gz")


def test_missing_ids_are_made_of_the_audio_and_are_unique(folder):
    """An id is the audio's path without its ending, with a number where the path was used before. Scalars are ids."""
    entries = [{"audio": "./a.wav"}, {"audio": "a.wav", "offset": 1}, {"audio": "a.wav"}, {"id": "b", "audio": "a.wav"}]
    entries += [{"audio": "b.wav"}, {"id": 1.5, "audio": "a.wav"}, {"id": False, "audio": "b.wav"}]
    (folder / "m.jsonl").write_text("".join(json.dumps(entry | {"text": "t"}) + "\n" for entry in entries))
    samples, problems = read_manifest(folder / "m.jsonl")
    assert problems == []
    assert [sample.id for sample in samples] == ["a", "a-2", "a-3", "b", "b-2", "1.5", "false"]


def test_an_id_that_was_made_before_is_no_error(folder):
    """A number is appended to an id that an earlier line without an id got. Two lines with the same id are an error."""
    lines = [{"audio": "a.wav"}, {"id": "a", "audio": "b.wav"}, {"id": "a-2", "audio": "b.wav"}]
    (folder / "m.jsonl").write_text("".join(json.dumps(line | {"text": "t"}) + "\n" for line in lines))
    said: list[str] = []
    samples, problems = read_manifest(folder / "m.jsonl", said.append)
    assert ([sample.id for sample in samples], problems) == (["a", "a-2", "a-2-2"], [])
    assert said == [f"{folder}/m.jsonl: a number is appended to ids that occur more than once (2 lines)"]
    with (folder / "m.jsonl").open("a") as file:
        file.write('{"id": "a", "audio": "b.wav", "text": "t"}\n')
    _, problems = read_manifest(folder / "m.jsonl")
    assert [str(problem) for problem in problems] == [
        f"{folder}/m.jsonl:4: id: expected a unique id, got 'a', as in line 2"
    ]


def test_a_named_column_settles_what_is_read(folder):
    """With `--text_column`, an unknown field that may be a text is listed and not read."""
    (folder / "m.jsonl").write_text('{"audio": "a.wav", "said": "Hi", "text_spoken": "hi"}\n')
    said: list[str] = []
    ((sample,), problems) = read_manifest(folder / "m.jsonl", said.append, columns=Columns(text="said"))
    assert (sample.turns[1].parts, problems) == (("Hi",), [])
    assert said == [f"{folder}/m.jsonl: fields that are not used: text_spoken (1 line, nearest known field: text)"]


def test_a_fingerprint_follows_content_place_and_columns(folder):
    """The same bytes give the same fingerprint; other bytes, another folder or other columns another."""
    (folder / "m.jsonl").write_text(LINES)
    first = open_source(folder / "m.jsonl").fingerprint
    assert open_source(folder / "m.jsonl").fingerprint == first
    (folder / "sub").mkdir()
    (folder / "sub" / "m.jsonl").write_text(LINES)
    others = [open_source(folder / "sub" / "m.jsonl"), open_source(folder / "m.jsonl", Columns(text="id"))]
    (folder / "m.jsonl").write_text(LINES.replace("Bye", "bye"))
    others.append(open_source(folder / "m.jsonl"))
    assert len({first, *(source.fingerprint for source in others)}) == 4


def test_columns_choose_among_fields(folder):
    """A named column is read in place of the field's other spellings. A missing column is an error."""
    entry = {"audio": "a.wav", "path": "b.wav", "text": "raw", "caption": "Said.", "voice": "ann"}
    (folder / "m.jsonl").write_text(json.dumps(entry))
    columns = Columns(text="caption", audio="path", speaker="voice")
    (sample,), problems = read_manifest(folder / "m.jsonl", columns=columns)
    assert problems == []
    assert (sample.turns[1].parts, sample.clips[0].path, sample.speaker) == (("Said.",), folder / "b.wav", "ann")
    with pytest.raises(UserError) as caught:
        read_manifest(folder / "m.jsonl", columns=Columns(text="captoin"))
    assert str(caught.value) == (
        f"{folder}/m.jsonl:1: --text_column: expected one of the columns audio, path, text, caption, voice, "
        "got 'captoin'. Did you mean caption?"
    )


@pytest.mark.parametrize("content", [LINES, "audio,text\na.wav,Hello.\nb.wav,Bye.\n"])
def test_paths_of_a_pipe_are_relative_to_the_working_folder(folder, monkeypatch, content):
    """A pipe has no folder of its own. Its name does not count, as a shell gives another one each time."""
    monkeypatch.chdir(folder)
    fingerprints = set()
    for _ in range(2):
        reader, writer = os.pipe()
        os.write(writer, content.encode())
        os.close(writer)
        source = open_source(f"/dev/fd/{os.dup(reader)}")
        fingerprints.add(source.fingerprint)
        samples = list(read_samples(source, str, pytest.fail))
        assert [sample.clips[0].path for sample in samples] == [folder / "a.wav", folder / "b.wav"]
    assert len(fingerprints) == 1


def test_a_dash_is_standard_input(folder, monkeypatch):
    """`-` reads standard input, as the commands that read logs do."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("higgs_audio_trainer.data.sources.opening._STDIN", "stdin")
    Path("stdin").write_text(LINES)
    assert open_source("-").name == "stdin"


def test_a_source_may_be_a_url_of_a_file(folder):
    """`file://` names a manifest too."""
    (folder / "m 1.jsonl").write_text(LINES)
    for start in ("file://", "file:", "hf:file://"):
        assert len(read_manifest(f"{start}{folder}/m%201.jsonl")[0]) == 2


@pytest.mark.parametrize("content", ["audio,text\n", "audio|text\n\n"])
def test_a_header_without_rows(folder, content):
    """A table without samples is no empty file, and has no line that could be skipped."""
    (folder / "m.csv").write_text(content)
    _, problems = read_manifest(folder / "m.csv")
    assert str(ManifestError(problems)) == (
        f"{folder}/m.csv:1: manifest: expected at least one sample, got none\n1 problem. Fix it."
    )


def test_bytes_of_another_encoding_have_a_way_out(folder):
    """The message of a line names the command that converts the file."""
    (folder / "m.jsonl").write_bytes('{"audio": "a.wav", "text": "café"}'.encode("latin-1"))
    (problem,) = read_manifest(folder / "m.jsonl")[1]
    assert problem.got.endswith(
        "bytes of another encoding. Convert the file, perhaps with iconv -f WINDOWS-1252 -t UTF-8 m.jsonl"
    )


@pytest.mark.parametrize("name", ["", " ", "hf:"])
def test_an_empty_name_is_no_source(name):
    """The working folder is read only if it is named."""
    with pytest.raises(UserError, match="expected the name of a file, a folder or a data set as the source, got '"):
        open_source(name)
