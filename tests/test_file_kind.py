"""Files that are given as manifests by mistake."""

import json
import os
import pickle
import threading

import pytest

from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.errors import InputProblem, ManifestError, ProblemList, UserError, listed

LINE = json.dumps({"id": "é", "audio": "a.wav", "text": "Hello."})
FORMS = [
    (b"PK\x03\x04zip", "a zip archive or a spreadsheet. Unpack or export the file"),
    (bytes(257) + b"ustar", "a tar archive"),
    (b"RIFF" + bytes(40), "a recording. Name recordings in a manifest"),
    (LINE.encode("utf-16"), "a text in UTF-16. Convert the file: iconv -f UTF-16 -t UTF-8 m.jsonl"),
    (LINE.encode("utf-16-le"), "a text in UTF-16"),
    (LINE.encode("utf-16-be"), "a text in UTF-16"),
    (LINE.encode("utf-32"), "a text in UTF-32"),
    (b"\x07\x00\x01rubbish", "a binary file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(500), "a spreadsheet or another document of Office. Export the table as CSV"),
    (
        b"file,text\ra.wav,Hi\r",
        "lines that end with a carriage return alone. Convert the file: tr '\\r' '\\n' < m.jsonl",
    ),
    (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS. Download the file: git lfs pull"),
    (b"<!DOCTYPE html>\n<html>", "a web page or XML"),
    (f"[{LINE},\n {LINE}]".encode(), "a JSON array of 2 items. Write one item a line: jq -c '.[]' FILE > train.jsonl"),
    (json.dumps([1, 2], indent=1).encode(), "a JSON array of 2 items"),
    (
        json.dumps(json.loads(LINE), indent=2).encode(),
        "JSON objects over several lines. Write one object a line: jq",
    ),
    (2 * json.dumps(json.loads(LINE), indent=2).encode(), "JSON objects over several lines"),
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
    """Of many faults of a kind, the first 20 are listed and the others counted. The other kinds stay complete."""
    gone = [InputProblem(f"m.jsonl:{n}", "audio", "a file", f"'{n}.wav', which is gone") for n in range(1, 13_101)]
    parts = [InputProblem(f"e.jsonl:{n}", f"messages[{n}].content", "a text", "nothing") for n in range(1, 22)]
    lines = str(ManifestError([*gone, *parts, InputProblem("m.jsonl:7", "text", "a text", "nothing")])).splitlines()
    assert lines[0] == "m.jsonl:1: audio: expected a file, got '1.wav', which is gone"
    assert lines[20] == "and 13,080 more like the last"
    assert lines[21] == "e.jsonl:1: messages[1].content: expected a text, got nothing"
    assert lines[41:] == [
        "and 1 more like the last",
        "m.jsonl:7: text: expected a text, got nothing",
        "13,122 problems. Fix them, or pass --skip_bad_samples to train without these lines.",
    ]


def test_a_few_faults_are_listed_in_the_order_of_the_lines():
    """Faults of several kinds are not sorted by kind where all of them are listed."""
    faults = [InputProblem(f"m.jsonl:{n}", "audio" if n % 2 else "text", "a text", "nothing") for n in range(1, 41)]
    assert listed(faults) == [str(fault) for fault in faults]


def test_faults_are_counted_in_bounded_memory():
    """A list of problems keeps the first of each kind, however many kinds there are, and can be sent."""
    faults = ProblemList()
    for n in range(10_000):
        faults.add(InputProblem(f"m.jsonl:{n}", f"field {chr(0x4E00 + n)}", f"at most {n} s", "more"))
    assert (faults.count, len(faults.kept) < 2_100) == (10_000, True)
    error = ManifestError(faults)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.args[0].splitlines()[-2] == "and 9,880 more like the last"


def test_a_manifest_may_come_from_a_pipe(tmp_path):
    """A manifest is read once, from its beginning to its end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.wav").touch()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(LINE, encoding="utf-8"))
    writer.start()
    samples, problems = read_manifest(tmp_path / "pipe")
    writer.join()
    assert ([sample.id for sample in samples], problems) == (["é"], [])
