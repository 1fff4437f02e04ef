"""The command `manifest`: any source as JSON Lines, divided and with references."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM, read_manifest
from higgs_audio_trainer.data.references import paired
from higgs_audio_trainer.data.sample import Clip, Sample, Turn
from higgs_audio_trainer.data.sample_entry import entry_of
from tests.samples import write_manifest

NUM = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Create 40 recordings of three speakers, of which the third has one recording, and work in the folder."""
    monkeypatch.chdir(tmp_path)
    Path("wavs").mkdir()
    entries = []
    for number in range(NUM):
        name = f"wavs/{number}.wav"
        Path(name).write_bytes(b"RIFF" + bytes([number]) * 50)
        speaker = "cy" if number == 7 else ("ann", "bob")[number % 2]
        entries.append({"id": str(number), "audio": name, "text": f"Text {number}.", "speaker": speaker})
    write_manifest(tmp_path / "all.jsonl", *entries)
    return tmp_path


def run(capsys, *arguments):
    """Run the command and return the status, the printed lines and the message on stderr."""
    status = main(["manifest", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.removeprefix("higgs-audio-trainer: ").rstrip()


def lines_of(path):
    """Return the objects of a manifest."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def test_writes_a_manifest_that_reads_the_same(folder, capsys):
    """The written manifest has the same samples, and the last line is the next command."""
    status, out, _ = run(capsys, "all.jsonl", "-o", "out/train.jsonl")
    assert (status, out) == (
        0,
        [
            "all.jsonl: 40 samples, 3 speakers",
            "out/train.jsonl: 40 samples",
            "next: higgs-audio-trainer prepare --train_manifest out/train.jsonl",
        ],
    )
    assert lines_of("out/train.jsonl")[0]["audio"] == str(folder / "wavs/0.wav")  # not below the manifest's folder
    (before, _), (after, problems) = read_manifest("all.jsonl"), read_manifest("out/train.jsonl")
    assert problems == []
    assert [(s.id, s.speaker, s.clips[0].path.resolve()) for s in before] == [
        (s.id, s.speaker, s.clips[0].path) for s in after
    ]
    assert run(capsys, "all.jsonl", "-o", "train.jsonl")[0] == 0
    assert lines_of("train.jsonl")[0]["audio"] == "wavs/0.wav"


@pytest.mark.parametrize(("size", "count"), [("5%", 2), ("0.1%", 1), ("13", 13)])
def test_an_evaluation_is_drawn_by_the_seed(folder, capsys, size, count):
    """The same seed gives the same division, another seed another, and no sample is lost or doubled."""
    status, out, _ = run(capsys, "all.jsonl", "-o", "train.jsonl", "--eval", size)
    assert status == 0
    assert out[-1] == "next: higgs-audio-trainer prepare --train_manifest train.jsonl --eval_manifest train.eval.jsonl"
    train, evaluation = lines_of("train.jsonl"), lines_of("train.eval.jsonl")
    assert (len(train), len(evaluation)) == (NUM - count, count)
    assert {line["id"] for line in train + evaluation} == set(map(str, range(NUM)))
    again = ["-o", "again.jsonl", "--eval", size, "--eval_output", "again.eval.jsonl"]
    assert run(capsys, "all.jsonl", *again)[0] == 0
    assert lines_of("again.eval.jsonl") == evaluation
    assert run(capsys, "all.jsonl", *again, "--seed", 1, "--force")[0] == 0
    assert lines_of("again.eval.jsonl") != evaluation


def test_a_recording_is_in_one_part(folder, capsys):
    """Copies, links and stretches of a recording are on the same side, whatever their names, ids and texts."""
    entries = []
    for number in range(10):
        source = Path(f"wavs/{number}.wav")
        Path(f"copy{number}.wav").write_bytes(source.read_bytes())
        os.link(source, f"hard{number}.wav")
        Path(f"soft{number}.wav").symlink_to(source)
        names = [source, f"copy{number}.wav", f"hard{number}.wav", f"soft{number}.wav"]
        entries += [{"id": f"{number} {name}", "audio": str(name), "text": str(name)} for name in names]
        entries.append({"id": f"{number} part", "audio": str(source), "offset": 0.1, "text": "part"})
    write_manifest(folder / "m.jsonl", *entries)
    for seed in range(3):
        assert run(capsys, "m.jsonl", "-o", f"{seed}.jsonl", "--eval", "30%", "--seed", seed)[0] == 0
        train, evaluation = lines_of(f"{seed}.jsonl"), lines_of(f"{seed}.eval.jsonl")
        assert len(evaluation) == 15
        assert {line["id"][0] for line in train}.isdisjoint(line["id"][0] for line in evaluation)


def test_references_are_other_recordings_of_the_speaker_in_the_same_part(folder, capsys):
    """Each sample gets audio and text of another recording of its speaker, within its part, drawn by the seed."""
    arguments = ["all.jsonl", "-o", "train.jsonl", "--eval", "25%", "--pair_references"]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "no reference for 1 sample without another recording of the speaker in its part: cy" in out
    assert "references added to 39 of 40 samples" in out
    for path in ("train.jsonl", "train.eval.jsonl"):
        lines = lines_of(path)
        by_audio = {line["audio"]: line for line in lines}
        for line in lines:
            if line["speaker"] == "cy":
                assert "ref_audio" not in line
                continue
            other = by_audio[line["ref_audio"]]
            assert other is not line
            assert (other["speaker"], other["text"]) == (line["speaker"], line["ref_text"])
    first = Path("train.jsonl").read_bytes()
    assert run(capsys, *arguments, "--force")[0] == 0
    assert Path("train.jsonl").read_bytes() == first
    assert run(capsys, *arguments, "--force", "--seed", 3)[0] == 0
    assert Path("train.jsonl").read_bytes() != first
    assert read_manifest("train.jsonl")[1] == []


def test_a_reference_is_never_a_copy_of_the_recording(folder, capsys):
    """A speaker with one recording under two names has no reference."""
    Path("copy.wav").write_bytes(Path("wavs/0.wav").read_bytes())
    names = ["wavs/0.wav", "copy.wav"]
    write_manifest(folder / "m.jsonl", *({"audio": name, "text": "t", "speaker": "ann"} for name in names))
    assert run(capsys, "m.jsonl", "-o", "train.jsonl", "--pair_references")[0] == 0
    assert not any("ref_audio" in line for line in lines_of("train.jsonl"))


def test_references_are_drawn_in_linear_time():
    """A speaker with one other recording among many stretches needs no search for each sample."""
    num = 100_000
    groups, usable = [0] * (num - 1) + [1], [1] * num
    references = paired([0] * num, [0] * num, groups, usable, seed=0)
    assert set(references[:-1]) == {num - 1}
    assert references[-1] == 0


def test_references_that_are_given_stay_and_stretches_are_none(folder, capsys):
    """A given reference is kept, and a stretch of a file is no reference, because references are whole files."""
    entries = [
        {"audio": "wavs/0.wav", "text": "t", "ref_audio": "wavs/9.wav"},
        {"audio": "wavs/1.wav", "text": "u", "offset": 0.5},
        {"audio": "wavs/2.wav", "text": "v"},
    ]
    write_manifest(folder / "m.jsonl", *entries)
    arguments = ["m.jsonl", "-o", "train.jsonl", "--pair_references", "--speaker", "ann"]
    assert run(capsys, *arguments)[0] == 0
    lines = lines_of("train.jsonl")
    assert [line.get("ref_audio") for line in lines[::2]] == ["wavs/9.wav", "wavs/0.wav"]
    assert lines[1]["ref_audio"] in ("wavs/0.wav", "wavs/2.wav")
    assert {line["speaker"] for line in lines} == {"ann"}


REFUSED = [
    (["--eval", "1.5"], "--eval: expected a share such as 5%, or a number of samples such as 200, got '1.5'"),
    (["--eval", "x%"], "--eval: expected a share such as 5%, or a number of samples such as 200, got 'x%'"),
    (["--eval", "nan%"], "--eval: expected a share such as 5%, or a number of samples such as 200, got 'nan%'"),
    (["--eval", "-1"], "--eval: expected a share such as 5%, or a number of samples such as 200, got '-1'"),
    (["--eval", "0"], "--eval: expected a share such as 5%, or a number of samples such as 200, got '0'"),
    (["--eval", ""], "--eval: expected a share such as 5%, or a number of samples such as 200, got ''"),
    (["--eval", "0%"], "--eval: expected a share such as 5%, or a number of samples such as 200, got '0%'"),
    (["--eval", "100%"], "--eval: expected fewer than all 40 samples, got 100%"),
    (["--eval_output", "e.jsonl"], "--eval_output: expected --eval with the size of the evaluation too"),
    (["--eval", "1", "--eval_output", "train.jsonl"], "--eval_output: expected another file than train.jsonl"),
    (["--eval", "1", "--eval_output", "wavs/../train.jsonl"], "--eval_output: expected another file than train.jsonl"),
    (["--eval", "1", "--eval_output", "wavs"], "wavs: expected a file, got a folder. Name a file with --eval_output"),
    (["-o", ""], ".: expected a file, got a folder. Name a file with -o, such as train.jsonl"),
    (["-o", "-"], "-: expected a file, got a device or a pipe. Name a file with -o"),
    (["-o", "/"], "/: expected a file, got a folder. Name a file with -o, such as train.jsonl"),
    (["-o", "a" * 300], f"{'a' * 300}: File name too long. Name another file with -o."),
    (["--speaker", " "], "--speaker: expected the name of a speaker, got ' '"),
    (["--speaker", "\udcff"], "--speaker: expected the name of a speaker, got '\\udcff'"),
    (["-o", "train.csv"], "train.csv: expected the name of a file in JSON Lines, such as train.jsonl"),
    (["-o", "wavs"], "wavs: expected a file, got a folder"),
    (["-o", "all.jsonl/train.jsonl"], "all.jsonl: Not a directory. Name another file with -o."),
    (["--text_column", "txet"], "all.jsonl:1: --text_column: expected one of the columns id, audio, text, speaker"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_wrong_arguments_write_nothing(folder, capsys, more, message):
    """Each wrong argument has its own message, exit status 2, and no manifest is left behind."""
    status, _, err = run(capsys, "all.jsonl", "-o", "train.jsonl", *more)
    assert (status, err[: len(message)]) == (2, message)
    assert {path.name for path in folder.iterdir()} == {"all.jsonl", "wavs"}


def test_speakers_are_required_for_references(folder, capsys):
    """Without a speaker, nothing says whose recordings belong together."""
    write_manifest(folder / "m.jsonl", {"audio": "wavs/0.wav", "text": "t"}, {"audio": "wavs/1.wav", "text": "u"})
    status, _, err = run(capsys, "m.jsonl", "-o", "train.jsonl", "--pair_references")
    assert status == 2
    assert err == (
        "--pair_references: expected samples with a speaker, got none. Name the column with --speaker_column, or the "
        "speaker of all samples with --speaker."
    )


def test_one_recording_cannot_be_divided(folder, capsys):
    """Stretches of one long recording stay together."""
    entries = [{"audio": "wavs/0.wav", "offset": n, "text": "t"} for n in range(4)]
    write_manifest(folder / "m.jsonl", *entries)
    status, _, err = run(capsys, "m.jsonl", "-o", "train.jsonl", "--eval", "2")
    assert status == 2
    assert err == (
        "--eval: expected recordings for 2 of 4 samples, each in one part alone, got 1 recording with at least 4 "
        "samples. Name a larger number, or a manifest of its own with --eval_manifest."
    )


def test_another_manifest_is_kept_without_force(folder, capsys):
    """An existing file is replaced with --force alone, and the same samples are no conflict."""
    assert run(capsys, "all.jsonl", "-o", "train.jsonl", "--eval", "2")[0] == 0
    assert run(capsys, "all.jsonl", "-o", "train.jsonl", "--eval", "2")[0] == 0
    before = {name: Path(name).read_bytes() for name in ("train.jsonl", "train.eval.jsonl")}
    status, _, err = run(capsys, "all.jsonl", "-o", "train.jsonl", "--eval", "3")
    assert status == 2
    assert err.endswith(": exists with other samples. Pass --force to replace the file")
    assert before == {name: Path(name).read_bytes() for name in before}
    assert run(capsys, "all.jsonl", "-o", "train.jsonl", "--eval", "3", "--force")[0] == 0
    assert len(lines_of("train.eval.jsonl")) == 3
    assert len(list(folder.iterdir())) == 4


def test_bad_samples_stop_the_command_or_are_skipped(folder, capsys):
    """Problems are listed once per kind, and --skip_bad_samples leaves the samples out."""
    bad = [{"audio": f"no{number}.wav", "text": ""} for number in range(30)]
    write_manifest(folder / "m.jsonl", *bad, {"audio": "wavs/0.wav", "text": "t"})
    status, _, err = run(capsys, "m.jsonl", "-o", "train.jsonl")
    assert (status, Path("train.jsonl").exists()) == (2, False)
    assert err.splitlines()[20::21][:2] == ["and 10 more like the last", "and 10 more like the last"]
    assert err.splitlines()[-1].startswith("60 problems. Fix them, or pass --skip_bad_samples")
    status, out, _ = run(capsys, "m.jsonl", "-o", "train.jsonl", "--skip_bad_samples")
    assert (status, len(lines_of("train.jsonl"))) == (0, 1)
    assert "m.jsonl: skipped 30 of 31 samples, above" in out


def test_conversations_are_copied(folder, capsys):
    """A conversation keeps its messages and start index, with paths of the new manifest, and gets no reference."""
    Path("sub").mkdir()
    speech = {"type": "audio", "audio_url": "wavs/0.wav", "offset": 0.5}
    alone = {"messages": [{"role": "assistant", "content": [speech, "Hi"]}], "speaker": "ann"}
    write_manifest(folder / "m.jsonl", alone, {"audio": "wavs/1.wav", "text": "t", "speaker": "ann"})
    status, out, _ = run(capsys, "m.jsonl", "-o", "sub/train.jsonl", "--pair_references")
    assert (status, out[2]) == (0, "references added to 0 of 2 samples")
    lines = lines_of("sub/train.jsonl")
    assert lines[0] == {
        "id": "line-1",
        "messages": [
            {"role": "system", "content": "Generate audio following instruction."},
            {
                "role": "assistant",
                "content": [
                    {"type": "audio", "audio_url": str(folder / "wavs/0.wav"), "offset": 0.5},
                    {"type": "text", "text": "Hi"},
                ],
            },
        ],
        "start_index": 1,
        "speaker": "ann",
    }
    assert "ref_audio" not in lines[1]


TEXTS = st.text("ab c", min_size=1, max_size=5).map(str.strip).filter(bool)
TIMES = st.sampled_from([0.0, 0.5, 2.0])
CLIPS = st.builds(
    lambda path, kind, offset, duration: Clip(
        Path(path),
        encoded=kind == "codes",
        offset_s=offset if kind == "stretch" else 0.0,
        duration_s=duration if kind == "stretch" else None,
        stated_s=duration if kind in ("codes", "stated") else None,
    ),
    st.sampled_from(["a.wav", "sub/b.wav"]),
    st.sampled_from(["codes", "stretch", "stated", "whole"]),
    TIMES,
    st.none() | st.sampled_from([1.0, 1.5]),
)


@st.composite
def conversations(draw):
    """Draw the turns of a sample in either form."""
    ask, say = Turn("user", (draw(TEXTS),)), Turn("assistant", (draw(CLIPS),), supervised=True)
    scene = [Turn("scene", (draw(TEXTS),))] if draw(st.booleans()) else []
    before = [Turn("user", (draw(TEXTS),))] if draw(st.booleans()) else []
    before += [Turn("assistant", (draw(CLIPS),))] if draw(st.booleans()) else []
    more = draw(st.lists(st.just(Turn("assistant", (draw(TEXTS), draw(CLIPS)), supervised=True)), max_size=2))
    system = draw(st.sampled_from([DEFAULT_SYSTEM, Turn("system", ("Be brief.",))]))
    who = draw(st.none() | st.just("narrator"))
    return (system, *scene, *before, ask, Turn(say.role, say.parts, supervised=True, recipient=who), *more)


@settings(max_examples=200, deadline=None)
@given(turns=conversations(), speaker=st.none() | TEXTS)
def test_any_sample_is_written_and_read(tmp_path_factory, turns, speaker):
    """Reading is the inverse of writing, for samples of both forms."""
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("a.wav", "sub/b.wav"):
        (folder / name).touch()
    turns = tuple(
        Turn(t.role, tuple(_below(folder, part) for part in t.parts), t.supervised, t.recipient) for t in turns
    )
    path = write_manifest(folder / "m.jsonl", entry_of(Sample("a", turns, "", speaker), folder))
    (sample,), problems = read_manifest(path)
    assert problems == []
    assert (sample.id, sample.speaker) == ("a", speaker)
    plain = [Turn(t.role, tuple(map(_plain, t.parts)), t.supervised, t.recipient) for t in sample.turns]
    assert plain == [Turn(t.role, tuple(map(_plain, t.parts)), t.supervised, t.recipient) for t in turns]


def _below(folder, part):
    return part if isinstance(part, str) else Clip(folder / part.path, part.encoded, *_times(part))


def _plain(part):
    return part if isinstance(part, str) else (part.path, part.encoded, *_times(part))


def _times(clip):
    return clip.offset_s, clip.duration_s, clip.stated_s
