"""Tables, lists, folders and data sets as sources, each with a small file of its real layout."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.sample_entry import entry_of
from higgs_audio_trainer.data.sources import Columns, open_source
from higgs_audio_trainer.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    """Create empty files and their folders."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def read(name, **columns):
    """Return id, path, text and speaker of each sample of a source without problems."""
    samples, problems = read_manifest(name, columns=Columns(**columns))
    assert problems == []
    return [shown(sample) for sample in samples]


def shown(sample):
    """Return id, path, text and speaker of a sample in the simple form."""
    return sample.id, os.path.relpath(sample.clips[-1].path), sample.turns[-2].parts[0], sample.speaker


def problems_of(name, **columns):
    """Return the problems of a source."""
    return [str(problem) for problem in read_manifest(name, columns=Columns(**columns))[1]]


def refusal(name, **columns):
    """Return the one message by which a source is refused."""
    with pytest.raises(UserError) as caught:
        read_manifest(name, columns=Columns(**columns))
    (message,) = str(caught.value).splitlines()
    return message


LJSPEECH = (
    'LJ001-0001|Printing, in the "only" sense|Printing, in the "only" sense\n'
    'LJ001-0002|"in 1455|"in fourteen fifty-five\nLJ001-0003|has never been surpassed.|\n'
)


@pytest.mark.parametrize("name", ["metadata.csv", "."])
def test_ljspeech(folder, name):
    """Ids name the recordings in `wavs`, quotes are letters, and the normalized text is read where there is one."""
    touch(*(f"wavs/LJ001-000{number}.wav" for number in (1, 2, 3)))
    Path("metadata.csv").write_text(LJSPEECH, encoding="utf-8")
    assert read(name) == [
        ("LJ001-0001", "wavs/LJ001-0001.wav", 'Printing, in the "only" sense', None),
        ("LJ001-0002", "wavs/LJ001-0002.wav", '"in fourteen fifty-five', None),
        ("LJ001-0003", "wavs/LJ001-0003.wav", "has never been surpassed.", None),
    ]


def test_a_header_of_ljspeech(folder):
    """A header `id|text|normalized` means the same as no header, and a table of two columns needs none."""
    touch("wavs/a.wav", "wavs/b.wav")
    Path("m.csv").write_text("id|text|normalized\na|Dr. X|Doctor X\nb|Bye|\n")
    Path("pairs.csv").write_text("a|Doctor X\nb|Bye\n")
    expected = [("a", "wavs/a.wav", "Doctor X", None), ("b", "wavs/b.wav", "Bye", None)]
    assert read("m.csv") == read("pairs.csv") == expected


VITS = [
    ("DUMMY1/a.wav|Hello there.\nDUMMY1/b.wav|Bye.\n", [None, None]),
    ("DUMMY1/a.wav|3|Hello there.\nDUMMY1/b.wav|14|Bye.\n", ["3", "14"]),
    ("DUMMY1/a.wav|ann|EN|Hello there.\nDUMMY1/b.wav|bob|EN|Bye.\n", ["ann", "bob"]),
    ("DUMMY1/a.wav\tHello there.\nDUMMY1/b.wav\tBye.\n", [None, None]),
    ("DUMMY1/a.wav|Hello there|Hello there.\nDUMMY1/b.wav|Bye|Bye.\n", [None, None]),
]


@pytest.mark.parametrize(("content", "speakers"), VITS, ids=[content.split("\n")[0] for content, _ in VITS])
def test_vits_file_lists(folder, content, speakers):
    """Lists of paths and texts, with a speaker or a speaker and a language between them."""
    touch("DUMMY1/a.wav", "DUMMY1/b.wav")
    Path("train.txt.cleaned").write_text(content)
    texts = zip("ab", ["Hello there.", "Bye."], speakers, strict=True)
    assert read("train.txt.cleaned") == [(f"DUMMY1/{n}", f"DUMMY1/{n}.wav", text, who) for n, text, who in texts]


def test_lists_that_end_with_a_number(folder):
    """Mellotron's lists end with the speaker, CSS10's with the duration, and no number is taken for a text."""
    touch("a.wav", "b.wav")
    Path("mellotron.txt").write_text("a.wav|Hello there.|3\nb.wav|Bye now.|14\n")
    assert [sample[2:] for sample in read("mellotron.txt")] == [("Hello there.", "3"), ("Bye now.", "14")]
    Path("css10.txt").write_text("a.wav|Dr. X ist da.|Doktor X ist da.|1.25\nb.wav|Ja, ja.|ja ja|2\n")
    assert [sample[2:] for sample in read("css10.txt")] == [("Doktor X ist da.", None), ("ja ja", None)]
    samples, _ = read_manifest("css10.txt")
    assert [sample.clips[0].stated_s for sample in samples] == [1.25, 2.0]
    Path("other.txt").write_text("a.wav|Hello there.|Hello|there\n")
    assert "expected a header with the names of the columns, such as audio and text, got 4 " in refusal("other.txt")


def test_common_voice(folder):
    """The TSV of a release has its recordings in `clips`, speakers as client ids, and quotes of two kinds."""
    touch(*(f"clips/common_voice_en_{number}.mp3" for number in (1, 2, 3)))
    names = ["client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes"]
    names += ["age", "gender", "accents", "variant", "locale", "segment"]
    texts = ["It's “quoted”.", '"""No,"" she said."', '"Whole."']
    rows = [
        dict.fromkeys(names, "")
        | {"client_id": f"c{n}", "path": f"common_voice_en_{n}.mp3", "sentence": text, "up_votes": "2", "locale": "en"}
        for n, text in enumerate(texts, start=1)
    ]
    lines = ["\t".join(names), *("\t".join(row.values()) for row in rows)]
    Path("train.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert [sample[2:] for sample in read("train.tsv")] == [
        ("It's “quoted”.", "c1"),
        ('"No," she said.', "c2"),
        ('"Whole."', "c3"),
    ]
    assert "got recordings alone and train.tsv. Name such a file" in refusal(".")


def test_tables_that_are_quoted_throughout(folder):
    """Quotes around all of a header are no letters, with any separator, and quotes of a first text are."""
    touch("a.wav")
    for separator in "|\t,;":
        Path("q.csv").write_text(f'"path"{separator}"text"\n"a.wav"{separator}"Say ""{separator}""."\n')
        assert read("q.csv") == [("a", "a.wav", f'Say "{separator}".', None)]
    Path("l.txt").write_text('a.wav|"Hi" he said.\n')
    assert read("l.txt")[0][2] == '"Hi" he said.'


def test_lines_of_one_column_are_no_table(folder):
    """A text without a separator is refused, whatever columns are named."""
    Path("m.csv").write_text("a\nb\n")
    assert "got lines without JSON. Write one JSON object a line" in refusal("m.csv", text="a", audio="a")


def test_windows_paths_in_a_table(folder):
    """Backslashes separate folders, below the usual folders too."""
    touch("wavs/ann/a.wav", "b/c.wav")
    Path("m.csv").write_text("path,text\nann\\a.wav,Hi\nb\\c.wav,Bye\n")
    assert [path for _, path, _, _ in read("m.csv")] == ["wavs/ann/a.wav", "b/c.wav"]


def test_hugging_face_audiofolder(folder):
    """`metadata.csv` and `metadata.jsonl` of an audio folder, with quoted commas, quotes and line breaks in a text."""
    touch("train/a.wav", "train/sub/b.wav")
    texts = ['Hello, "you".', "Two\nlines."]
    with Path("train/metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [["file_name", "transcription", "duration"], ["a.wav", texts[0], "1.5"], ["sub/b.wav", texts[1], ""]]
        )
    expected = [("a", "train/a.wav", texts[0], None), ("sub/b", "train/sub/b.wav", texts[1], None)]
    assert read("train") == read("train/metadata.csv") == expected
    (first, second), _ = read_manifest("train")
    assert (first.clips[0].stated_s, first.where, second.where) == (1.5, "train/metadata.csv:2", "train/metadata.csv:3")
    lines = [{"file_name": "a.wav", "text": texts[0]}, {"file_name": "sub/b.wav", "text": texts[1]}]
    Path("train/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read("train") == expected


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_tables_with_a_header(folder, separator, newline, bom):
    """The separator is the one that makes known names of the header."""
    touch("a.wav", "b.flac")
    rows = [["speaker", "wav", "text"], ["ann", "a.wav", "Hello: one"], ["", "b.flac", "Bye"]]
    Path("m.csv").write_bytes((bom + newline.join(separator.join(row) for row in rows)).encode())
    assert read("m.csv") == [("a", "a.wav", "Hello: one", "ann"), ("b", "b.flac", "Bye", None)]


@pytest.mark.parametrize("line", ["sep=;", "SEP=;\r", '"sep=;"'])
def test_the_separator_line_of_a_spreadsheet(folder, line):
    """Excel's first line names the separator, and is neither a header nor a row."""
    touch("a.wav")
    Path("m.csv").write_text(f"{line}\nfile;text\na.wav;Hi, you\n")
    assert read("m.csv") == [("a", "a.wav", "Hi, you", None)]
    assert read_manifest("m.csv")[0][0].where == "m.csv:3"


def test_columns_of_tables(folder):
    """Names choose columns of a header, and numbers columns without a header."""
    touch("a.wav")
    Path("h.csv").write_text("file,caption,text,voice\na.wav,Said.,Written.,ann\n")
    assert read("h.csv", text="caption", speaker="voice") == [("a", "a.wav", "Said.", "ann")]
    Path("n.csv").write_text("ann|a.wav|Said.\n")
    assert read("n.csv", text="3", audio="2", speaker="1") == [("a", "a.wav", "Said.", "ann")]
    assert "--text_column: expected one of the columns 1, 2, 3, got 'text'" in refusal("n.csv", text="text")


REFUSED_TABLES = [
    ("file,caption\na.wav,Hi\n", "expected a column of texts, such as text, got the columns file, caption. Name the "),
    ("who,text\nann,Hi\n", "expected a column of recordings, such as audio, got the columns who, text. Name the "),
    ("a|b|c|d|e\n", "expected a header with the names of the columns, such as audio and text, got 5 columns without "),
    ("b.wav|Hi\nc.wav|Bye\n", ", or in a folder wavs, wav, clips, audio, audios, recordings, sounds, data there, got "),
    (
        f"audio,text\na.wav,Hi\na.wav,{'x' * 140_000}\n",
        "expected cells of at most 131,072 characters, got a longer one",
    ),
    ("audio,text,text\na.wav,Hi,Bye\n", "expected one column 'text', got 2. Rename the others in the header."),
    ('audio,text\na.wav,"Hi\na.wav,Bye\n', "expected quotes around whole texts, with doubled quotes inside, got "),
]


@pytest.mark.parametrize(("content", "message"), REFUSED_TABLES, ids=[message[:40] for _, message in REFUSED_TABLES])
def test_a_table_that_cannot_be_read_gets_one_message(folder, content, message):
    """What is wrong with the whole table is found in its first rows."""
    touch("a.wav")
    Path("m.csv").write_text(content)
    assert message in refusal("m.csv")


def test_problems_of_rows(folder):
    """A row of another width, another encoding, without a text or without a recording is a problem of its line."""
    touch("a.wav")
    rows = [b"audio,text", b"a.wav,Hi, you", b"a.wav", b"a.wav,caf\xe9", b"a.wav,", b"no.wav,Hi", b"a.wav,Bye"]
    Path("m.csv").write_bytes(b"\n".join(rows))
    assert problems_of("m.csv") == [
        "m.csv:2: line: expected 2 columns, as in the header, got 3. Put texts with commas into quotes",
        "m.csv:3: line: expected 2 columns, as in the header, got 1",
        (
            "m.csv:4: line: expected a text in UTF-8, got bytes of another encoding. "
            "Convert the file, perhaps with iconv -f WINDOWS-1252 -t UTF-8 m.csv"
        ),
        "m.csv:5: text: expected a text, got nothing",
        "m.csv:6: audio: expected a file, got 'no.wav', which does not exist",
    ]


def test_recordings_in_several_places(folder):
    """Each recording is searched in the usual folders and with the usual endings."""
    touch("wavs/a.wav", "clips/b.mp3", "c.FLAC", "wavs/d.flac")
    Path("m.csv").write_text("id,text\na,A\nb,B\nd,D\nc.FLAC,C\n")
    assert [path for _, path, _, _ in read("m.csv")] == ["wavs/a.wav", "clips/b.mp3", "wavs/d.flac", "c.FLAC"]


def test_lists_in_a_folder_of_their_own(folder, monkeypatch):
    """Paths are relative to the list, to the folder in which we work, or to the folder above the list."""
    touch("vits/wavs/a.wav", "vits/wavs/b.wav", "empty/x")
    Path("vits/filelists").mkdir()
    Path("vits/filelists/train.txt").write_text("wavs/a.wav|Hi\n")
    Path("ids.csv").write_text("id,text\nb,Bye\n")
    pq.write_table(pa.table({"audio": ["wavs/b.wav"], "text": ["Bye"]}), "vits/filelists/m.parquet")
    for work in ("vits", "empty"):
        monkeypatch.chdir(folder / work)
        for name, letter in {"train.txt": "a", "m.parquet": "b"}.items():
            (sample,), problems = read_manifest(folder / "vits/filelists" / name)
            assert (problems, sample.clips[0].path) == ([], folder / f"vits/wavs/{letter}.wav")
            assert sample.id == f"wavs/{letter}"
    assert f"of column 'id' below {folder}, {folder}/empty, {folder.parent}, or in" in refusal(folder / "ids.csv")
    monkeypatch.chdir(folder / "vits")
    assert read(folder / "ids.csv")[0][1] == "wavs/b.wav"


def write_texts(**texts):
    """Write text files, with `__` for a folder and `_` for a dot in each name."""
    for name, text in texts.items():
        path = Path(name.replace("__", "/").replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_folder_of_recordings_with_texts(folder):
    """Folders below are read too, in a fixed order; hidden files and files without a recording are not."""
    touch("d/b.wav", "d/a.flac", "d/sub/c.WAV", "d/.hidden.wav", "d/__MACOSX/x.wav", "d/.git/y.wav")
    write_texts(d__b_txt="Bye.\n", d__a_lab="Hello\nthere.", d__sub__c_txt="\ufeffSee.", d__README_txt="x")
    assert read("d") == [
        ("a", "d/a.flac", "Hello there.", None),
        ("b", "d/b.wav", "Bye.", None),
        ("sub/c", "d/sub/c.WAV", "See.", None),
    ]


def test_libritts_and_mfa(folder):
    """The normalized text goes before the original, and the folders at the top are the speakers."""
    touch("libri/84/1/84_1_0.wav", "libri/174/2/174_2_0.wav")
    for name in ("libri/84/1/84_1_0", "libri/174/2/174_2_0"):
        Path(f"{name}.normalized.txt").write_text("Doctor.")
        Path(f"{name}.original.txt").write_text("Dr.")
    assert [(text, who) for _, _, text, who in read("libri")] == [("Doctor.", "174"), ("Doctor.", "84")]
    touch("mfa/ann/a.wav", "mfa/bob/b.wav")
    write_texts(mfa__ann__a_lab="Hi", mfa__bob__b_lab="Bye")
    assert [who for *_, who in read("mfa")] == ["ann", "bob"]
    assert "speakers from the folders ann, bob" in open_source("mfa").decisions[0]


def test_librispeech(folder):
    """Lists `*.trans.txt` hold the texts of a folder."""
    touch("l/84/121123/84-121123-0000.flac", "l/84/121123/84-121123-0001.flac")
    Path("l/84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n")
    assert [text for _, _, text, _ in read("l")] == ["GO DO YOU HEAR", "BUT"]


@pytest.mark.parametrize("splits", [["train-clean-100"], ["train-clean-100", "dev-clean"]])
def test_speakers_below_the_names_of_splits(folder, splits):
    """The root of LibriTTS has splits at the top, and the speakers below."""
    for split in splits:
        for speaker in ("84", "174"):
            touch(f"d/{split}/{speaker}/1/{speaker}_1.wav")
            Path(f"d/{split}/{speaker}/1/{speaker}_1.normalized.txt").write_text("Hi")
    assert [who for *_, who in read("d")] == ["174", "84"] * len(splits)
    assert open_source("d").decisions == ("speakers from the folders 174, 84",)
    (folder / "d" / splits[0] / "x.wav").touch()
    assert open_source("d").decisions == ()


def test_texts_in_a_folder_of_their_own(folder):
    """VCTK has its texts in a folder `txt` with the same folders and names, and a recording for each microphone."""
    touch("v/wav48/ann/001_mic1.wav", "v/wav48/bob/001_mic2.wav", "w/wav/a.wav", "w/b.wav")
    write_texts(v__txt__ann__001_txt="Hi", v__txt__bob__001_txt="Bye", w__Text__a_lab="A", w__Text__b_lab="B")
    assert [sample[2:] for sample in read("v")] == [("Hi", "ann"), ("Bye", "bob")]
    assert [(path, text) for _, path, text, _ in read("w")] == [("w/b.wav", "B"), ("w/wav/a.wav", "A")]
    touch("n/wav/a.wav")
    write_texts(n__prompts__a_txt="A")
    assert refusal("n").endswith(
        "got recordings alone and prompts/a.txt. Name such a file if it holds all texts, or put each text beside its "
        "recording."
    )


@pytest.mark.parametrize("names", [["train", "test"], ["wavs", "more"], ["ann"], ["0001", "0000"], ["9", "10"]])
def test_folders_that_are_no_speakers(folder, names):
    """Names of splits and of media, a single folder, and numbers in a row are no speakers."""
    for name in names:
        touch(f"d/{name}/a.wav")
        Path(f"d/{name}/a.txt").write_text("Hi")
    assert {who for *_, who in read("d")} == {None}


def test_problems_of_folders(folder):
    """A recording without a text, with a text in another encoding or with labels of times is a problem."""
    touch("d/a.wav", "d/b.wav", "d/c.wav", "d/ok.wav")
    write_texts(d__ok_txt="Hi", d__c_lab="0 500000 sil\n500000 900000 h\n")
    Path("d/b.txt").write_bytes(b"caf\xe9")
    assert problems_of("d") == [
        "d/a.wav:1: text: expected a text beside the recording, got neither a.txt nor a.lab",
        (
            "d/b.wav:1: text: expected a text in UTF-8, got bytes of another encoding. "
            "Convert the file, perhaps with iconv -f WINDOWS-1252 -t UTF-8 b.txt"
        ),
        "d/c.wav:1: text: expected the spoken text, got labels with times in c.lab",
    ]
    for encoding in ("utf-16", "utf-16-le"):
        Path("d/b.txt").write_bytes("Hi".encode(encoding))
        assert problems_of("d")[1].endswith("got a text in UTF-16. Convert the file: iconv -f UTF-16 -t UTF-8 b.txt")
    touch("alone/a.wav")
    assert "expected a text beside each recording, such as a.txt or a.lab beside a.wav, got recordings" in refusal(
        "alone"
    )
    touch("none/readme.md")
    assert "got a folder without recordings. Name a manifest or a folder with recordings" in refusal("none")


def test_names_that_are_not_utf_8(folder):
    """A recording with such a name has a message of its own, and no manifest with another name is written."""
    for name in (b"d/a.wav", b"d/caf\xe9.wav"):
        touch(os.fsdecode(name))
        Path(os.fsdecode(name.replace(b"wav", b"txt"))).write_text("Hi")
    (sample,), (problem,) = read_manifest("d")
    assert (sample.id, problem.got) == (
        "a",
        (
            r"'caf\xe9.wav', whose name is not in UTF-8. "
            "Rename the file, perhaps with convmv -f WINDOWS-1252 -t UTF-8 --notest"
        ),
    )
    Path("d").rename(os.fsdecode(b"\xe9"))
    samples, _ = read_manifest(os.fsdecode(b"\xe9"))
    with pytest.raises(UserError, match=r"\\xe9/a\.wav: expected a path in UTF-8, .*\. Rename the folder, "):
        entry_of(samples[0], folder)
    assert entry_of(samples[0], folder / os.fsdecode(b"\xe9"))["audio"] == "a.wav"


def test_a_fingerprint_of_a_folder_follows_its_files(folder):
    """A new, changed or renamed file changes the fingerprint, and another read does not."""
    touch("d/a.wav")
    write_texts(d__a_txt="Hi")
    seen = {open_source("d").fingerprint, open_source("d").fingerprint}
    write_texts(d__a_txt="Hi!")
    seen.add(open_source("d").fingerprint)
    touch("d/b.wav")
    seen.add(open_source("d").fingerprint)
    os.utime("d/b.wav", (1, 1))
    seen.add(open_source("d").fingerprint)
    assert len(seen) == 4


def write_kaldi(**files):
    """Write the files of a Kaldi folder."""
    for name, content in files.items():
        path = Path("k", name.replace("_", "."))
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


def test_kaldi(folder):
    """Utterances are joined by their keys, in whatever order, with paths relative to the folder or to where we work."""
    touch("k/a.wav", "sub/b.wav")
    write_kaldi(wav_scp="a a.wav\nb\tsub/b.wav\n", text="b  Bye now.\na Hello.\n", utt2spk="a ann\nb bob\n")
    assert read("k") == [
        ("b", "sub/b.wav", "Bye now.", "bob"),
        ("a", "k/a.wav", "Hello.", "ann"),
    ]


def test_kaldi_segments(folder):
    """Segments cut stretches of recordings. A negative end is the recording's end."""
    touch("k/long.wav", "k/other.wav")
    write_kaldi(
        wav_scp="long long.wav\nother other.wav\n",
        segments="u1 long 0.5 1.25\nu2 other 0 2\nu3 long 2 -1\n",
        text="u1 One\nu2 Two\nu3 Three\n",
    )
    samples, problems = read_manifest("k")
    assert problems == []
    assert [(s.clips[0].path.name, s.clips[0].offset_s, s.clips[0].duration_s) for s in samples] == [
        ("long.wav", 0.5, 0.75),
        ("other.wav", 0.0, 2.0),
        ("long.wav", 2.0, None),
    ]


def test_problems_of_kaldi(folder):
    """Commands are refused, and an utterance without a recording is a problem of its line in `text`."""
    touch("k/a.wav")
    write_kaldi(wav_scp="a a.wav\nc sph2pipe x.sph |\n", text="a Hi\nb Bye\nc Ho\n")
    assert problems_of("k") == [
        "k/text:2: audio: expected a recording in wav.scp, got nothing",
        "k/text:3: audio: expected the path of a recording in wav.scp, got the command 'sph2pipe x.sph |'",
    ]
    write_kaldi(wav_scp="c sph2pipe -f wav x.sph |\n")
    assert refusal("k") == (
        "k/wav.scp: expected paths of recordings, got the command 'sph2pipe -f wav x.sph |'. "
        "Write the recordings to files, and name these files in wav.scp."
    )
    for name in ("k/wav.scp", "k/text"):
        assert refusal(name) == f"{name}: expected a manifest, got a file of Kaldi. Name its folder: k"


def test_a_repeated_utterance_of_kaldi(folder):
    """An utterance that occurs twice in `text` is named as that, with recordings and with segments."""
    touch("k/a.wav")
    write_kaldi(wav_scp="a a.wav\nb a.wav\n", text="a Hi\na Ho\nb Bye\nc No\n")
    expected = [
        "k/text:2: id: expected a unique utterance, got 'a', as in line 1",
        "k/text:4: audio: expected a recording in wav.scp, got nothing",
    ]
    assert problems_of("k") == expected
    write_kaldi(segments="a a 0 1\nb a 0 1\n")
    expected[1] = "k/text:4: segments: expected the utterance in segments, got nothing"
    assert problems_of("k") == expected


AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path, audio, kind, **columns):
    """Write a Parquet file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": pa.array(audio, kind), **columns}), path)


def test_parquet_with_paths_and_bytes(folder):
    """Recordings are paths, bytes, or objects of both as Hugging Face writes them. Bytes become files by content."""
    touch("a.wav")
    wav = b"RIFF" + bytes(60)
    audio = [{"bytes": wav, "path": "x.wav"}, {"bytes": wav, "path": None}, {"bytes": None, "path": "a.wav"}]
    texts = {"text": ["One", "Two", "Three"], "speaker_id": [1, 2, 2], "file": ["/gone.wav"] * 3, "vector": [[1.0]] * 3}
    write_parquet("m.parquet", audio, AUDIO, **texts)
    samples, problems = read_manifest("m.parquet", audio_folder=folder / "audio")
    assert problems == []
    assert [shown(sample)[0] for sample in samples] == ["x", "row-2", "a"]
    assert [shown(sample)[2:] for sample in samples] == [("One", "1"), ("Two", "2"), ("Three", "2")]
    (written,) = (folder / "audio").rglob("*.wav")
    assert written.read_bytes() == wav
    assert [sample.clips[0].path for sample in samples] == [written, written, folder / "a.wav"]
    assert samples[2].where == "m.parquet:3"
    decisions = open_source("m.parquet", audio_folder=folder / "audio").decisions
    assert decisions == ("columns that are not used: file, vector", f"recordings are written to {folder}/audio")
    assert "got recordings as bytes. Name a folder with --codes_dir." in refusal("m.parquet")


@pytest.mark.parametrize("name", ["data/*.parquet", "data", ".", "data/**/*.parquet"])
def test_several_parquet_files_are_one_source(folder, name):
    """A pattern and a folder name all files, in the order of their names."""
    touch("data/a.wav", "data/b.wav")
    for number, letter in enumerate("ab"):
        write_parquet(f"data/train-{number}.parquet", [f"{letter}.wav"], pa.string(), sentence=[letter])
    assert [text for _, _, text, _ in read(name)] == ["a", "b"]


def test_splits_of_parquet_files_are_never_joined(folder):
    """A folder with files of several splits needs the name of one, as training and evaluation would be mixed."""
    touch("d/data/a.wav")
    for split in ("train", "test"):
        for part in range(2):
            name = f"d/data/{split}-{part:05d}-of-00002.parquet"
            write_parquet(name, ["a.wav"], pa.string(), text=[f"{split} {part}"])
    assert [text for _, _, text, _ in read("d:train")] == ["train 0", "train 1"]
    assert [text for _, _, text, _ in read("hf:d:test")] == ["test 0", "test 1"]
    assert refusal("d") == (
        "d: expected one of the splits test, train, got none. Name the split, d:test, or a pattern, 'd/data/*.parquet'."
    )
    assert "got dev" in refusal("d:dev")
    assert len(read("d/data/*.parquet")) == 4


@pytest.mark.parametrize("name", ["d", "hf:d", "d:train"])
def test_configurations_of_a_data_set_are_named(folder, name):
    """A folder of configurations is no source, and the message names the first."""
    for configuration in ("en", "de"):
        write_parquet(f"d/{configuration}/train-00000-of-00001.parquet", ["a.wav"], pa.string(), text=["Hi"])
    assert refusal(name) == (
        f"{name}: expected a folder of Parquet files, got the folders de, en with such files. Name one of these: d/de"
    )


def test_conversations_and_references_in_parquet(folder):
    """A column of messages is read as ChatML, and a second column of recordings may be the reference."""
    touch("a.wav")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    pq.write_table(pa.table({"messages": [messages], "start_index": [1]}), "m.parquet")
    ((sample,), problems) = read_manifest("m.parquet")
    assert (problems, [turn.role for turn in sample.turns]) == ([], ["system", "user", "assistant"])
    notes = {"prompt": ["Hi"], "system": ["Be"], "text": ["Hi"], "reference": ["b.wav"]}
    pq.write_table(pa.table({"messages": [messages], "start_index": [1], **notes}), "m.parquet")
    (problem,) = problems_of("m.parquet")
    assert problem.startswith("m.parquet:1: reference: expected a known field (nearest: audio_url in the content of a ")
    references = pa.array([{"bytes": b"OggS1", "path": None}], AUDIO)
    write_parquet("r.parquet", ["a.wav"], pa.string(), ref_audio=references, text=["Hi"])
    ((sample,), problems) = read_manifest("r.parquet", audio_folder=folder / "audio")
    assert (problems, [clip.path.suffix for clip in sample.clips]) == ([], [".ogg", ".wav"])


REFUSED_ROWS = [
    ({"clip": AUDIO, "mic": AUDIO, "text": pa.string()}, {}, "expected one column of recordings, got clip, mic"),
    ({"a": AUDIO, "said": pa.string()}, {}, "expected a column of texts, such as text, got the columns a, said. Name"),
    (
        {"audio": pa.list_(pa.float32()), "text": pa.string()},
        {},
        "expected a column of recordings, as paths or files, got ",
    ),
    ({"x": pa.list_(pa.float32()), "text": pa.string()}, {"audio": "x"}, "got x of type list<"),
    ({"audio": pa.string(), "words": pa.list_(pa.string())}, {"text": "words"}, "of texts, got words of type list<"),
    ({"x": pa.list_(pa.float32()), "text": pa.string()}, {}, "expected a column of recordings, such as audio, got the"),
    ({"a": AUDIO, "said": pa.string()}, {"text": "siad"}, "expected one of the columns a, said, got 'siad'. Did you "),
]


@pytest.mark.parametrize(("schema", "columns", "message"), REFUSED_ROWS, ids=[row[2][:45] for row in REFUSED_ROWS])
def test_missing_and_ambiguous_columns_list_the_columns(folder, schema, columns, message):
    """A schema shows before the first row what is missing."""
    pq.write_table(pa.schema(schema.items()).empty_table(), "m.parquet")
    assert message in refusal("m.parquet", **columns)


def test_views_are_texts_and_bytes(folder):
    """Arrow's newer types of texts and bytes, as other libraries write them, are read like the older."""
    touch("a.wav")
    for audio, kind in ((["a.wav"], pa.string_view()), ([b"RIFF"], pa.binary_view())):
        write_parquet("m.parquet", audio, kind, text=pa.array(["Hi"], pa.string_view()))
        (sample,), problems = read_manifest("m.parquet", audio_folder=folder / "audio")
        assert (problems, sample.turns[1].parts) == ([], ("Hi",))


def test_a_column_occurs_once(folder):
    """Two columns of the same name are refused if they are read, and other columns may share a name."""
    touch("a.wav")
    for name in ("text", "x"):
        table = pa.Table.from_arrays([pa.array(["a.wav"])] * 4, ["audio", "text", name, "x"])
        pq.write_table(table, f"{name}.parquet")
    assert "expected one column 'text', got 2" in refusal("text.parquet")
    assert read("x.parquet")[0][2] == "a.wav"
    Path("m.csv").write_text("audio,text,note,note\na.wav,Hi,1,2\n")
    assert read("m.csv")[0][2] == "Hi"


def test_a_column_of_any_name_is_named(folder):
    """Columns choose recordings and texts under names that say nothing."""
    table = pa.table({"x": pa.array([b"fLaC1"]), "y": ["Said."], "text": ["Other."], "z": ["ann"]})
    pq.write_table(table, "m.parquet")
    columns = Columns(text="y", audio="x", speaker="z")
    (sample,), problems = read_manifest("m.parquet", columns=columns, audio_folder=folder / "audio")
    assert problems == []
    assert (sample.turns[1].parts, sample.speaker, sample.clips[0].path.suffix) == (("Said.",), "ann", ".flac")


def rows_of(folder, audio, **columns):
    """Return what is said of a Parquet file with recordings as bytes, and its samples, after a check for problems."""
    write_parquet("m.parquet", [{"bytes": value.encode(), "path": None} for value in audio], AUDIO, **columns)
    said = []
    samples, problems = read_manifest("m.parquet", said.append, audio_folder=folder / "audio")
    assert problems == []
    return said, samples


@pytest.mark.parametrize("name", ["recording", "clip", "waveform", "mp3", "voice"])
def test_the_only_column_of_recordings_may_have_any_name(folder, name):
    """The column is read as the recordings, and is listed neither as unused nor as unknown."""
    table = pa.table({name: pa.array([{"bytes": b"RIFF", "path": "x.wav"}], AUDIO), "text": ["Hi"]})
    pq.write_table(table, "m.parquet")
    said = []
    (sample,), problems = read_manifest("m.parquet", said.append, audio_folder=folder / "audio")
    assert (problems, sample.id) == ([], "x")
    assert said == [f"m.parquet: Parquet; recordings are written to {folder}/audio"]


def test_unknown_columns_of_a_data_set_are_notes(folder):
    """Nobody renames the columns of another's data set: they are listed once. A reference or a stretch is a problem."""
    others = {"text_description": ["Low."], "prompt": ["Say"], "raw_transcription": ["HI"], "instruct": ["Act"]}
    said, (sample,) = rows_of(folder, ["RIFF"], transcription=["Hi"], **others)
    assert sample.turns[1].parts == ("Hi",)
    for name in others:
        assert f"{name} (1 line" in said[-1]
    touch("a.wav")
    write_parquet("p.parquet", ["a.wav"], pa.string(), text=["Hi"], segment_offset=[1.5], voice_sample=["b.wav"])
    assert [problem.partition(", got")[0] for problem in problems_of("p.parquet")] == [
        "p.parquet:1: segment_offset: expected a known field (nearest: offset)",
        "p.parquet:1: voice_sample: expected a known field (nearest: ref_audio)",
    ]


def test_times_of_recordings_before_the_cut_are_not_used(folder):
    """GigaSpeech and MLS state where a clip was cut out. A clip in the data set is whole; a path has a stretch."""
    times = {"begin_time": [100.0], "end_time": [101.0]}
    said, (sample,) = rows_of(folder, ["RIFF"], text=["Hi"], audio_duration=[1.0], **times)
    assert (sample.clips[0].offset_s, sample.clips[0].stated_s) == (0, 1.0)
    assert "not used where the recording is in the data set: begin_time, end_time" in said[0]
    touch("a.wav")
    write_parquet("p.parquet", ["a.wav"], pa.string(), text=["Hi"], **times)
    ((sample,), _) = read_manifest("p.parquet")
    assert (sample.clips[0].offset_s, sample.clips[0].duration_s) == (100, 1)


def test_ids_of_sentences_in_a_data_set(folder):
    """FLEURS numbers sentences that several speakers read. A number makes the ids unique, and this is said once."""
    said, samples = rows_of(folder, ["RIFF1", "RIFF2", "RIFF3"], text=["A", "A", "B"], id=[7, 7, 8])
    assert [sample.id for sample in samples] == ["7", "7-2", "8"]
    assert "m.parquet: a number is appended to ids that occur more than once (1 line)" in said


def test_damaged_parquet_is_refused(folder):
    """A file that was cut off gives one message."""
    Path("m.parquet").write_bytes(b"PAR1" + bytes(50))
    assert refusal("m.parquet").startswith("m.parquet: expected a Parquet file, got ")
    assert refusal("no*.parquet") == "no*.parquet: expected Parquet files, got no file of such a name"
    touch("b.csv")
    assert refusal("*.csv") == "*.csv: expected Parquet files, got b.csv"


def test_saved_data_sets(folder):
    """`hf:FOLDER` reads a data set from `save_to_disk` without decoding, and a split of several."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    Path("a.wav").write_bytes(b"RIFF" + bytes(60))
    columns = {"audio": ["a.wav", "a.wav"], "text": ["One", "Two"], "normalized_text": ["one", "two"]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    dataset.save_to_disk("one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk("both")
    for name, texts in {"hf:one": ["one", "two"], "one": ["one", "two"], "hf:both:test": ["two"]}.items():
        samples, problems = read_manifest(name, audio_folder=folder / "audio")
        assert (problems, [sample.turns[1].parts[0] for sample in samples]) == ([], texts)
        assert samples[-1].clips[0].path.read_bytes() == b"RIFF" + bytes(60)
    assert samples[0].where == "hf:both:test:1"
    assert refusal("hf:one:train") == (
        "hf:one:train: expected no split, as the folder has none, got train. Name the folder: hf:one"
    )
    assert refusal("hf:both") == (
        "hf:both: expected one of the splits train, test, got none. Name the split: hf:both:train"
    )
    assert "expected one of the splits train, test, got dev" in refusal("hf:both:dev")
    Path("both/train/state.json").write_text("{}")
    assert "both/train: expected a data set from save_to_disk, got " in refusal("hf:both:train")


def test_names_on_the_hub(folder, monkeypatch):
    """A name with a split is loaded by `datasets`, with a configuration if one is named, and errors are told."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        if arguments[0] == "ann/gone":
            raise ValueError("Unknown split 'train'.\nmore")
        return datasets.Dataset.from_dict({"audio": [str(folder / "a.wav")], "text": ["One"]})

    touch("a.wav")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name in ("hf:ann/speech:train", "ann/speech:train", "hf:ann/speech:en:train"):
        assert read(name)[0][1:3] == ("a.wav", "One")
    assert asked == [
        (("ann/speech", None), {"split": "train"}),
        (("ann/speech", None), {"split": "train"}),
        (("ann/speech", "en"), {"split": "train"}),
    ]
    assert refusal("hf:ann/gone:train") == (
        "hf:ann/gone:train: expected a data set on the Hub, got ValueError: Unknown split 'train'. "
        "Check the name, the split and the network, or name a folder."
    )
    assert "with its split, such as hf:ann/speech:train" in refusal("hf:ann/speech")
    assert refusal("ann/speech") == "ann/speech: No such file or directory. Name a manifest (JSON Lines)."
