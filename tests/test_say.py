"""The commands `say` and `export-model`: files, messages, and the voice of an adapter in both forms."""

import io
import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import HiggsAudioV2ForConditionalGeneration

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint import speaking_model
from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.tiny_size import TinySize
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.voice import generation
from higgs_audio_trainer.voice.generation import speak as generation_speak
from higgs_audio_trainer.voice.sentences import Sentence, file_names, read_sentences
from tests.families import every_family, training_model


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """Save an adapter that changes the tiny model, as a training does, in a checkpoint of an output directory."""
    folder = tmp_path_factory.mktemp("out")
    base = training_model(open_checkpoint(str(tiny.model_dir)))
    model = add_lora(base, r=4, alpha=8, dropout=0.0, targets=["q_proj", "down_proj"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, part in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(part, std=0.1)
    model.save_pretrained(folder)
    return folder


def say(tiny, capsys, *arguments):
    """Run the command, and return the status, the printed lines and the message on stderr."""
    status = main(["say", "--audio_tokenizer", str(tiny.codec_dir), "--device", "cpu", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.removeprefix("higgs-audio-trainer: ").strip()


@every_family
def test_a_text_is_spoken_to_a_file(tiny, adapter, tmp_path, capsys):
    """The file has the promised seconds, the same seed gives the same file, and the adapter changes the voice."""
    limit = ("--max_seconds", 0.4)
    status, (line,), _ = say(tiny, capsys, adapter, "Hello.", "-o", tmp_path / "a.wav", *limit)
    assert status == 0
    assert line.startswith(f"{tmp_path / 'a.wav'}: 0.4 s, did not stop by itself (--max_seconds), ")
    assert line.endswith("x real time")
    first, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 24_000
    assert 9 * 960 < len(first) <= 10 * 960  # the DAC drops some samples at the end
    say(tiny, capsys, adapter, "Hello.", "-o", tmp_path / "b.flac", *limit)
    assert np.array_equal(soundfile.read(tmp_path / "b.flac")[0], first)
    say(tiny, capsys, "--base_ckpt", tiny.model_dir, "Hello.", "-o", tmp_path / "c.wav", *limit)
    assert not np.array_equal(soundfile.read(tmp_path / "c.wav")[0], first)


def test_a_file_of_sentences_is_spoken_to_a_folder(tiny, clips, tmp_path, capsys):
    """Each sentence has a file with its id, whatever letters the id has, and a voice of its own."""
    lines = [
        {"id": "de/1", "text": "Guten Tag."},
        {"text": "Hello.", "ref_audio": str(clips.parent / "en-1.flac"), "ref_text": "Hm.", "scene": "A hall."},
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ("--text_file", tmp_path / "s.jsonl", "-o", tmp_path / "said", "--max_seconds", 0.2, "--batch_size", 1)
    status, printed, _ = say(tiny, capsys, "--base_ckpt", tiny.model_dir, *more)
    assert (status, len(printed)) == (0, 2)
    assert {path.name for path in (tmp_path / "said").iterdir()} == {"de_1.wav", "2.wav"}
    status, _, err = say(tiny, capsys, "--base_ckpt", tiny.model_dir, *more)
    assert (status, err) == (2, f"{tmp_path}/said/de_1.wav: exists. Pass --force to replace the file")


REFUSED = [
    (["-o", "a.wav"], "expected a text to speak, or --text_file, got neither"),
    (["Hello.", "-o", "a.wav"], "expected the output directory of a training and a text, got ['Hello.']"),
    (["nowhere", "Hi", "-o", "a.wav"], "nowhere: expected the output directory of a training or a checkpoint, got no"),
    ([".", "Hi", "-o", "a.wav"], ".: expected an adapter, or a checkpoint with one, got none. Name the --output_dir"),
    (["out", "Hi", "-o", "a.mp3"], "-o a.mp3: expected a name that ends in .wav or .flac"),
    (["out", "--text_file", "t", "-o", "a.wav"], "-o a.wav: expected a folder for the sentences of --text_file"),
    (["out", "--text_file", "t", "-o", "d"], "--text_file: t: No such file or directory. Name a file of texts."),
    (["out", "Hi", "-o", "a.wav", "--ref_text", "x"], "--ref_text: expected the recording of the text too"),
    (["out", "Hi", "-o", "a.wav", "--ref_audio", "x.wav"], "--ref_audio: expected a file, got 'x.wav', which does not"),
    (["out", "Hi", "-o", "a.wav", "--scene", " "], "--scene: expected a text, got an empty text"),
    (
        ["out", "Hi", "-o", "a.wav", "--ref_text", "x", "--ref_audio", "/"],
        "--ref_audio: expected a file, got '/', which",
    ),
    (["out", " ", "-o", "a.wav"], "TEXT: expected a text, got an empty text"),
    (["out", "a<|eot_id|>", "-o", "a.wav"], "TEXT: expected a text without the markers of a prompt"),
    (["out", "\udcff", "-o", "a.wav"], "TEXT: expected UTF-8, got other bytes"),
    (["out", "Hi", "-o", "/dev/null/a.wav"], "/dev/null: Not a directory. Name another place with -o."),
    (["out", "Hi", "-o", "a.wav", "--temperature", "-1"], "--temperature: expected 0 or more, got -1"),
    (["out", "Hi", "-o", "a.wav", "--top_p", "0"], "--top_p: expected more than 0 and at most 1, got 0"),
    (["out", "Hi", "-o", "a.wav", "--max_seconds", "nan"], "--max_seconds: expected more than 0, got nan"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_wrong_arguments_are_refused_before_a_model_is_loaded(tiny, tmp_path, monkeypatch, capsys, arguments, message):
    """Each has exit status 2 and one line, and no file is written."""
    monkeypatch.chdir(tmp_path)
    status, _, err = say(tiny, capsys, *arguments)
    assert (status, err[: len(message)]) == (2, message)
    assert list(tmp_path.iterdir()) == []


FAULTS = [
    ("", "expected at least one text, got an empty file"),
    ('{"text": "a", "ref_audoi": "x"}', "t:1: expected id, text, ref_audio, ref_text, scene, got 'ref_audoi'"),
    ('{"text": "a"}\n{"id": "b"}', "t:2: text: expected a text, got nothing"),
    ('{"text": "a", "ref_text": "b"}', "t:1: ref_audio: expected the recording of ref_text, got nothing"),
    ('{"text": 5}', "t:1: text: expected a text, got a number"),
    ('{"text": "a", "scene": ["b"]}', "t:1: scene: expected a text, got a list"),
    ('{"text": "a", "id": true}', "t:1: id: expected a text, got a boolean"),
    ('{"text": "a", "id": ""}', "t:1: id: expected a text, got an empty text"),
    ('{"text": " "}', "t:1: text: expected a text, got an empty text"),
    ("one\ntwo <|audio_eos|>", "t:2: text: expected a text without the markers of a prompt, got <|audio_eos|>"),
    ('{"text": "a", "ref_audio": "b.wav"}', "t:1: ref_audio: expected a file, got 'b.wav', which does not exist"),
    ('{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}', "expected unique ids, got '1' twice"),
    ('{"text"', "t:1: expected a JSON object"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS)
def test_faults_of_a_file_of_sentences(tmp_path, monkeypatch, content, message):
    """Each names the line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text(content)
    with pytest.raises(UserError) as error:
        read_sentences(tmp_path / "t")
    assert message in str(error.value)


def test_a_file_of_sentences_from_any_editor(tmp_path):
    """A byte order mark, the line ends of Windows, empty lines, and letters of all scripts."""
    (tmp_path / "t").write_bytes("\ufeff Grüß Gott. \r\n\r\n你好\r\nसुप्रभात\u2028!\r\n\n".encode())
    assert [(sentence.id, sentence.text) for sentence in read_sentences(tmp_path / "t")] == [
        ("1", "Grüß Gott."),
        ("3", "你好"),
        ("4", "सुप्रभात\u2028!"),
    ]


@given(st.lists(st.text(min_size=1) | st.sampled_from(["..", "/", "a/b", "a b", "x" * 300, "é" * 300]), max_size=4))
def test_names_of_files_are_safe(ids):
    """Each stays in the folder, is visible and fits a file system. Ids of one name are refused."""
    names = []
    with suppress(UserError):
        names = file_names([Sentence(name, "a") for name in ids])
        assert len(set(names)) == len(ids)
    for name in names:
        assert name == name.replace("/", "").lstrip(".")
        assert name.endswith(".wav")
        assert len(name.encode()) <= 204
        assert name.isprintable()


def test_ids_of_one_file_name_are_refused(tiny, tmp_path, capsys):
    """Before a model is loaded. Nothing is overwritten."""
    (tmp_path / "t").write_text('{"id": "a/b", "text": "a"}\n{"id": "a b", "text": "b"}\n')
    status, _, err = say(tiny, capsys, "none", "--text_file", tmp_path / "t", "-o", tmp_path / "said")
    assert status == 2
    assert "got 'a/b' and 'a b', which both give a_b.wav" in err
    assert not (tmp_path / "said").exists()


class Stdin:
    def __init__(self, contents):
        self.buffer = io.BytesIO(contents)


def test_texts_come_from_the_standard_input(tiny, tmp_path, monkeypatch, capsys):
    """One text as `-`, or a file of sentences as `--text_file -`."""
    more = ("--base_ckpt", tiny.model_dir, "--max_seconds", 0.1, "--temperature", 0)
    say(tiny, capsys, *more, "Good day.", "-o", tmp_path / "a.wav")
    monkeypatch.setattr("sys.stdin", Stdin(b"\xef\xbb\xbfGood day.\n"))
    assert say(tiny, capsys, *more, "-", "-o", tmp_path / "b.wav")[0] == 0
    monkeypatch.setattr("sys.stdin", Stdin(b"Good day.\n"))
    assert say(tiny, capsys, *more, "--text_file", "-", "-o", tmp_path / "d")[0] == 0
    assert len({(tmp_path / name).read_bytes() for name in ("a.wav", "b.wav", "d/1.wav")}) == 1
    monkeypatch.setattr("sys.stdin", Stdin(b"\xff"))
    assert say(tiny, capsys, *more, "-", "-o", tmp_path / "c.wav")[2].startswith("stdin: expected UTF-8")


@every_family
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_the_same_command_gives_the_same_files(tiny, adapter, clips, tmp_path, capsys, temperature):
    """By the seed; with the most likely codes in batches of any size, whatever the lengths of the prompts."""
    lines = [
        {"text": "Hm."},
        {"text": "A sentence with many more words than the others have."},
        {"text": "Hello.", "ref_audio": str(clips.parent / "en-1.flac"), "ref_text": "So I sound."},
    ]
    (tmp_path / "t").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ("--text_file", tmp_path / "t", "--max_seconds", 1.6, "--temperature", temperature)
    sizes = {"a": 3, "b": 3} if temperature else {"a": 3, "b": 1, "c": 2}
    for name, size in sizes.items():
        assert say(tiny, capsys, adapter, *more, "--batch_size", size, "-o", tmp_path / name)[0] == 0
    for number in "123":
        assert len({(tmp_path / name / f"{number}.wav").read_bytes() for name in sizes}) == 1
    if temperature:
        say(tiny, capsys, adapter, *more, "--batch_size", 3, "-o", tmp_path / "other", "--seed", 1)
        assert (tmp_path / "other" / "1.wav").read_bytes() != (tmp_path / "a" / "1.wav").read_bytes()


def test_a_text_beyond_the_positions_of_the_model_is_refused(tiny, tmp_path, monkeypatch, capsys):
    """Before the weights are loaded; the message counts. So is a recording that is too short or no audio."""
    monkeypatch.setattr(speaking_model, "_load", lambda *_: pytest.fail("the weights were loaded"))
    more = ("--base_ckpt", tiny.model_dir, "-o", tmp_path / "a.wav", "--max_seconds", 1)
    status, _, err = say(tiny, capsys, *more, "word " * 450)
    assert status == 2
    assert "sentence 'speech': expected at most 2048 positions, as the model has, got 2" in err
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 24_000)
    (tmp_path / "text.wav").write_text("no audio")
    for name, message in (
        ("short", "expected at least one codec frame of audio, 40 ms, got 4.2 ms"),
        ("text", "audio"),
    ):
        status, _, err = say(tiny, capsys, *more, "Hm.", "--ref_audio", tmp_path / f"{name}.wav")
        assert status == 2
        assert f"ref_audio: {tmp_path}/{name}.wav: expected" in err
        assert message in err
    status, _, err = say(tiny, capsys, *more, "Hm.", "--audio_tokenizer", tmp_path)
    assert (status, "--audio_tokenizer" in err) == (2, True)
    assert not (tmp_path / "a.wav").exists()


def test_a_training_that_goes_on_speaks_with_its_last_checkpoint(tiny, adapter, tmp_path, monkeypatch, capsys):
    """The command says so on stderr."""
    checkpoint = tmp_path / "out" / "checkpoint-4"
    shutil.copytree(adapter, checkpoint)
    monkeypatch.setattr(speaking_model, "latest_checkpoint", lambda _: (checkpoint, ()))
    status, _, err = say(tiny, capsys, tmp_path / "out", "Hm.", "-o", tmp_path / "a.wav", "--max_seconds", 0.1)
    assert status == 0
    assert f"{tmp_path}/out: no adapter of a training that came to its end. {checkpoint} speaks." in err


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path, capsys):
    """A base of another width, and one with fewer layers, whose adapter would be left out in part."""
    for name, size in (("width", TinySize(hidden_size=64)), ("layers", TinySize(layers=1))):
        model, codec = write_tiny(tmp_path / name, size=size)
        arguments = ["say", str(adapter), "Hm.", "--base_ckpt", str(model), "--audio_tokenizer", str(codec)]
        assert main([*arguments, "-o", str(tmp_path / "a.wav"), "--max_seconds", "0.1", "--device", "cpu"]) == 2
        assert f"{adapter}: the adapter does not fit {model}: " in capsys.readouterr().err
        assert main(["export-model", str(adapter), str(tmp_path / "whole"), "--base_ckpt", str(model)]) == 2
        assert f"{adapter}: the adapter does not fit {model}: " in capsys.readouterr().err
        assert not (tmp_path / "whole").exists()


def test_an_interruption_leaves_finished_files(tiny, tmp_path, monkeypatch, capsys):
    """Ctrl-C has exit status 130, prints nothing and leaves no temporary file. Without memory, a message says so."""
    (tmp_path / "t").write_text("One.\nTwo.\n")
    more = ("--base_ckpt", tiny.model_dir, "--text_file", tmp_path / "t", "--max_seconds", 0.1, "--batch_size", 1)
    for error, expected in ((KeyboardInterrupt(), 130), (torch.OutOfMemoryError(), 2)):
        calls = []

        def speak(*arguments, calls=calls, error=error):
            calls.append(arguments)
            if len(calls) == 2:
                raise error
            return generation_speak(*arguments)

        monkeypatch.setattr(generation, "speak", speak)
        folder = tmp_path / str(expected)
        status, printed, err = say(tiny, capsys, *more, "-o", folder)
        assert (status, len(printed)) == (expected, 1)
        assert [path.name for path in folder.iterdir()] == ["1.wav"]
        assert err == "" if expected == 130 else err.startswith("--device cpu: has no memory left. Pass a lower")


def test_a_place_that_cannot_be_written_is_named(tiny, tmp_path, monkeypatch, capsys):
    """By its own name, not by that of a temporary file; a protected folder before the model is loaded."""
    more = ("--base_ckpt", tiny.model_dir, "Hm.", "--max_seconds", 0.1)
    status, _, err = say(tiny, capsys, *more, "-o", "/proc/a.wav")
    assert (status, err) == (2, "/proc/a.wav: No such file or directory. Name another place with -o.")
    monkeypatch.setattr("os.access", lambda *_: False)
    status, _, err = say(tiny, capsys, *more, "-o", tmp_path / "new" / "a.wav")
    assert (status, err) == (2, f"{tmp_path}: Permission denied. Name another place with -o.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_checkpoint_computes_what_base_and_adapter_compute(tiny, adapter, tmp_path, capsys, dtype):
    """Transformers alone loads it, in the dtype of the base, with tokenizer and both heads."""
    base = tmp_path / "base"
    HiggsAudioForTraining.from_pretrained(tiny.model_dir, dtype=dtype).save_pretrained(base)
    open_tokenizer = open_speaking_model(None, base_ckpt=str(tiny.model_dir), audio_tokenizer=None, device="cpu")
    open_tokenizer.checkpoint.tokenizer.save_pretrained(base)
    assert main(["export-model", str(adapter), str(tmp_path / "whole"), "--base_ckpt", str(base)]) == 0
    merged = HiggsAudioV2ForConditionalGeneration.from_pretrained(tmp_path / "whole", dtype="auto", use_text_head=True)
    assert merged.dtype == dtype
    assert merged.config.architectures == ["HiggsAudioV2ForConditionalGeneration"]
    assert (tmp_path / "whole" / "model.safetensors").stat().st_mode & 0o044
    ours = open_speaking_model(str(adapter), base_ckpt=str(base), audio_tokenizer=None, device="cpu").model
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        expected, got = ours(input_ids=tokens).logits, merged.float()(tokens).logits
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    assert (expected - got).abs().max() < tolerance
    again = open_speaking_model(None, base_ckpt=str(tmp_path / "whole"), audio_tokenizer=None, device="cpu")
    assert again.checkpoint.ids == open_tokenizer.checkpoint.ids
    assert main(["export-model", str(adapter), str(tmp_path / "whole")]) == 2
    assert "expected a folder that does not exist" in capsys.readouterr().err
