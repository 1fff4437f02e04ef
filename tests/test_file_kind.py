"""Files that are given as manifests by mistake."""

import gzip
import json
import os
import threading

import pytest

from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError

LINE = json.dumps({"id": "é", "audio": "a.wav", "text": "Hello."})
FORMS = [
    (gzip.compress(LINE.encode()), "a file compressed with gzip. Unpack the file: gunzip -k m.jsonl"),
    (b"\x28\xb5\x2f\xfd1234", "a file compressed with zstd. Unpack the file: zstd -d m.jsonl"),
    (b"PK\x03\x04zip", "a zip archive or a spreadsheet. Unpack or export the file"),
    (b"PAR1" + bytes(40), "a Parquet file. Convert the file"),
    (bytes(257) + b"ustar", "a tar archive"),
    (b"RIFF" + bytes(40), "a recording. Name recordings in a manifest"),
    (LINE.encode("utf-16"), "a text in UTF-16. Convert the file: iconv -f UTF-16 -t UTF-8 m.jsonl"),
    (LINE.encode("utf-16-le"), "a text in UTF-16"),
    (LINE.encode("utf-16-be"), "a text in UTF-16"),
    (LINE.encode("utf-32"), "a text in UTF-32"),
    (b"\x07\x00\x01rubbish", "a binary file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS. Download the file: git lfs pull"),
    (b"<!DOCTYPE html>\n<html>", "a web page or XML"),
    (f"[{LINE},\n {LINE}]".encode(), "a JSON array of 2 items. Write one item a line: jq -c '.[]' FILE > train.jsonl"),
    (json.dumps([1, 2], indent=1).encode(), "a JSON array of 2 items"),
    (
        json.dumps(json.loads(LINE), indent=2).encode(),
        "JSON objects over several lines. Write one object a line: jq",
    ),
    (2 * json.dumps(json.loads(LINE), indent=2).encode(), "JSON objects over several lines"),
    (b"a|Hello.|Hello.\nb|Bye.|Bye\n", "a table with '|' between the columns, not JSON Lines. Write one JSON object"),
    (b"id\tpath\na\ta.wav\n", "a table with tabs between the columns"),
    (b"id,path\r\na,a.wav\r\n", "a table with commas between the columns"),
    (b"utt1 a.wav\nutt2 b.wav\n", "lines without JSON. Write one JSON object a line"),
]


@pytest.mark.parametrize(("data", "kind"), FORMS, ids=[kind[:40] for _, kind in FORMS])
@pytest.mark.parametrize("times", [1, 500])
def test_another_kind_of_file_is_told_once_with_the_way_out(tmp_path, data, kind, times):
    """One line names the kind of the file, however long the file is."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(data * times if kind.startswith(("a table", "lines")) else data)
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{path}: expected a manifest in JSON Lines, got {kind}")


@pytest.mark.parametrize("data", [f"# comment\n{LINE}", f"{LINE}\nrubbish", '{"id": "a",\nrubbish', f"[]\n{LINE}"])
def test_a_manifest_with_faults_is_still_a_manifest(tmp_path, data):
    """A line with a fault among others is a problem of this line."""
    (tmp_path / "m.jsonl").write_text(data, encoding="utf-8")
    _, problems = read_manifest(tmp_path / "m.jsonl")
    assert {problem.field for problem in problems} >= {"line"}


def test_the_same_fault_of_many_lines_is_folded():
    """The first ten places of each kind are listed, the rest is counted by file, and a few faults stay complete."""
    gone = [InputProblem(f"m.jsonl:{n}", "audio", "a file", f"'{n}.wav', which is gone") for n in range(1, 13_091)]
    parts = [InputProblem(f"e.jsonl:{n}", f"messages[{n}].content", "a text", "nothing") for n in range(1, 12)]
    lines = str(ManifestError([*gone, *parts, InputProblem("m.jsonl:7", "text", "a text", "nothing")])).splitlines()
    assert lines[0] == "m.jsonl:1: audio: expected a file, got '1.wav', which is gone"
    assert lines[10] == "e.jsonl:1: messages[1].content: expected a text, got nothing"
    assert lines[20:] == [
        "m.jsonl:7: text: expected a text, got nothing",
        "m.jsonl: audio: expected a file: 13,080 more lines",
        "e.jsonl: messages[].content: expected a text: 1 more line",
        "13,102 problems. Fix them, or pass --skip_bad_samples to train without these lines.",
    ]


def test_a_manifest_may_come_from_a_pipe(tmp_path):
    """A manifest is read once, from its beginning to its end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.wav").touch()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(LINE, encoding="utf-8"))
    writer.start()
    samples, problems = read_manifest(tmp_path / "pipe")
    writer.join()
    assert ([sample.id for sample in samples], problems) == (["é"], [])
