"""Bounds of what is read: depth, integers, YAML, decompression, empty lines."""

import gzip
import io
import json
import math
import os
import re
from pathlib import Path

import pytest

from higgs_audio_trainer import documents, no_limits, phases, read
from higgs_audio_trainer.bounds import (
    MANIFEST_FLOOR_BYTES,
    MAX_DEPTH,
    MAX_EMPTY_LINES,
    MAX_ENTRY_BYTES,
    MAX_ENTRY_VALUES,
    RATIO_FLOOR_BYTES,
    of_command,
)
from higgs_audio_trainer.cli import main, prepare
from higgs_audio_trainer.cli.train_flags import train_parser
from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.codes import load_codes
from higgs_audio_trainer.data.sources.text_file import TextFile
from higgs_audio_trainer.decompression import zstd
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs import lines, logged_runs
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.lines import parse_line
from higgs_audio_trainer.output_dir.checkpoints import damage_of, step_of

GOLDEN = Path(__file__).parent / "goldens" / "demo.jsonl"
STEP = next(line for line in GOLDEN.read_bytes().splitlines(keepends=True) if b'"train_step"' in line)
PARSERS = {"train": train_parser, "prepare": prepare.parser}
READERS = {
    "show": 0,
    "show --summary": 0,
    "show --raw": 0,
    "validate": 1,
    "merge": 0,
    "diagnose": 0,
    "report -o report.html": 0,
    "export --to parquet -o parquet": 0,
}


def nested(depth):
    """Return an event with lists in lists."""
    return b'{"event":"train_step","x":' + b"[" * depth + b"]" * depth + b"}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (nested(1_000), "$: expected lists and objects nested at most 100 deep"),
        (nested(100_000), "$: expected lists and objects nested at most 100 deep"),
        (STEP.replace(b'"step":', b'"huge":36893488147419103232,"step":'), "$.huge: expected an integer of at most 64"),
    ],
    ids=["deep", "deeper", "wide"],
)
def test_a_line_beyond_a_bound_is_damaged(capfd, command, line, told):
    """Every reader reports the line with its place, and reads the others."""
    Path("run.jsonl").write_bytes(STEP + line + STEP)
    assert main([*command.split(), "run.jsonl"]) == READERS[command]
    printed = "".join(capfd.readouterr())
    assert f"run.jsonl:2 (byte {len(STEP)}): {told}" in printed
    assert "Traceback" not in printed


def test_depth_of_the_bound_is_read():
    """The writer nests less, and text with brackets is not nested."""
    assert not isinstance(parse_line(nested(MAX_DEPTH - 1)), InvalidField)
    assert isinstance(parse_line(nested(MAX_DEPTH)), InvalidField)
    assert not isinstance(parse_line(json.dumps({"event": "x", "text": "[" * 500}).encode()), InvalidField)


@pytest.mark.parametrize("value", ["18446744073709551615", "-9223372036854775808", '"99999999999999999999999"', "1e30"])
def test_integers_of_64_bits_and_other_digits_are_read(value):
    """Text and floats with many digits are no integers."""
    assert not isinstance(parse_line(f'{{"event": "x", "value": {value}}}'.encode()), InvalidField)


@pytest.mark.parametrize("flag", ["--config", "--lora_config"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr: " + "9" * 100_000, "an integer of at most 64 bits, got one of 100,000 characters in line 1, column 5"),
        ("lr: 0x" + "f" * 5_000, "an integer of at most 64 bits"),
        ("lr: " + "[" * 5_000 + "]" * 5_000, "nested at most 100 deep"),
        ("a: &a [" + "x," * 99 + "]\nb: &b [" + "*a," * 99 + "]\nc: [" + "*b," * 99 + "]", "at most 100,000 values"),
        ("a: &a [*a]", "an alias of a complete value"),
        ("a: 2026-99-99", "month must be in 1..12"),
        ("a: " + "x" * 300_000, "at most 262,144 bytes"),
    ],
    ids=["digits", "hexadecimal", "deep", "bomb", "circle", "date", "size"],
)
def test_a_yaml_file_beyond_a_bound_is_refused(capfd, flag, text, told):
    """The message is one line, and the status is that of bad input."""
    Path("file.yaml").write_text(text, encoding="utf-8")
    flags = ["--train_manifest", "m.jsonl", "--output_dir", "out", flag, "file.yaml"]
    assert main(["train", *flags]) == 2
    *_, last = capfd.readouterr().err.splitlines()
    assert last.startswith(f"higgs-audio-trainer: {flag} file.yaml: ")
    assert told in last


def test_a_large_checkpoint_is_not_called_damaged(tmp_path, monkeypatch):
    """A long training that logs each step has a large state, and the message names the way to resume."""
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": [{"step": 1}] * 20}))
    monkeypatch.setattr(documents, "MAX_JSON_VALUES", 30)
    with of_command():
        told = damage_of(tmp_path)
        assert told == "trainer_state.json: expected at most 30 values, got more; to resume: --no-limits reads on"
        with no_limits():
            assert step_of(tmp_path) == 4
    monkeypatch.setattr(documents, "MAX_JSON_BYTES", 100)
    assert "expected at most 100 bytes, got 295; to resume: with higgs_audio_trainer.no_limits()" in str(
        damage_of(tmp_path)
    )
    with no_limits():
        assert step_of(tmp_path) == 4


def test_a_deep_configuration_of_a_checkpoint_is_damage(tmp_path):
    """A file of a checkpoint that is nested too deep counts as truncated."""
    (tmp_path / "trainer_state.json").write_text('{"global_step": ' + "[" * 5_000 + "]" * 5_000 + "}")
    assert damage_of(tmp_path) == "trainer_state.json is incomplete"


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("compress", [gzip.compress, lambda data: zstd().compress(data)], ids=["gzip", "zstd"])
@pytest.mark.parametrize(
    ("filling", "told"),
    [
        (b"\n", f"at most {MAX_EMPTY_LINES:,} empty lines in a row"),
        (b"\0", "data that grow at most 200-fold"),
    ],
    ids=["empty lines", "one line"],
)
def test_a_bomb_is_read_to_a_bound(capfd, command, compress, filling, told):
    """What stands before is read, and the end of the reading is told with the flag that lifts the bound."""
    Path("run.jsonl").write_bytes(compress(STEP + filling * (2 * RATIO_FLOOR_BYTES) + b"\n" + STEP))
    assert main([*command.split(), "run.jsonl"]) == READERS[command]
    printed = "".join(capfd.readouterr())
    assert told in printed
    assert "The rest is not read; --no-limits reads on" in printed


@pytest.mark.parametrize("filling", [b"{}\n", b"1\n", b"\0\n", b"x\n\n"], ids=["objects", "ones", "nulls", "mixed"])
@pytest.mark.parametrize("gap", [9_000, 30_000], ids=["between events", "in a row"])
def test_lines_without_an_event_are_read_to_a_bound(capfd, filling, gap):
    """Few problems are printed, however many lines have no event, and events in between do not help for long."""
    lines = filling * (gap // filling.count(b"\n")) + STEP
    Path("run.jsonl").write_bytes(STEP + lines * 4)
    for command in ("show", "validate", "merge"):
        assert main([command, "run.jsonl"]) == READERS[command]
        out, err = capfd.readouterr()
        assert "at most 100 lines without an event for each event, or 20,000" in out + err
        assert len(err.splitlines()) < 30


def test_lines_without_an_event_that_are_few_are_read(capfd):
    """A program may print beside its events, however long the log is."""
    Path("run.jsonl").write_bytes((b"loading\n" * 100 + STEP) * 300)
    assert main(["merge", "run.jsonl"]) == 0
    out, err = capfd.readouterr()
    assert out.encode() == STEP * 300
    assert "30,000 problems, of which 20 are shown" in err


def test_a_program_lifts_the_bounds_for_a_block():
    """The message names the function, and the bounds hold again after the block."""
    Path("run.jsonl").write_bytes(STEP + b"\n" * (MAX_EMPTY_LINES + 1) + STEP)
    problems = []
    assert len(list(read("run.jsonl", on_problem=problems.append))) == 1
    assert problems[-1].got == "more. The rest is not read; with higgs_audio_trainer.no_limits(): reads on"
    with no_limits():
        assert len(list(read("run.jsonl"))) == 2
    assert len(list(read("run.jsonl"))) == 1


def test_no_limits_lifts_the_bounds(capfd):
    """All lines are read, and the bounds hold again for the next command."""
    Path("run.jsonl").write_bytes(gzip.compress(STEP + b"\n" * (MAX_EMPTY_LINES + 1) + STEP))
    assert main(["merge", "run.jsonl"]) == 0
    assert capfd.readouterr().out.encode() == STEP
    assert main(["merge", "run.jsonl", "--no-limits"]) == 0
    out, err = capfd.readouterr()
    assert out.encode() == 2 * STEP
    assert "9,991 more empty lines" in err
    assert main(["merge", "run.jsonl"]) == 0
    assert capfd.readouterr().out.encode() == STEP


def test_a_giant_window_is_refused(capfd):
    """A frame of zstd with a window of 1 GiB takes no memory."""
    window, block = bytes([0, (30 - 10) << 3]), (len(STEP) << 3 | 1).to_bytes(3, "little")
    Path("run.jsonl").write_bytes(b"\x28\xb5\x2f\xfd" + window + block + STEP)
    assert main(["show", "run.jsonl"]) == 2
    assert "a window of zstd of at most 128 MiB" in capfd.readouterr().err
    assert main(["show", "run.jsonl", "--no-limits"]) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{}\n" + b"\n" * 20_000, "empty lines in a row"),
        (b"{}\n" * 300_000, "compressed data of at most 16 lines for each byte, got"),
        (b"{}\n" + b"x" * (MANIFEST_FLOOR_BYTES + 1), "grow at most 200-fold"),
    ],
    ids=["empty lines", "objects", "one line"],
)
def test_a_compressed_manifest_has_bounds(capfd, content, told):
    """A compressed manifest that grows without bound is refused."""
    Path("m.jsonl.gz").write_bytes(gzip.compress(content))
    assert main(["manifest", "m.jsonl.gz", "-o", "out.jsonl"]) == 2
    printed = capfd.readouterr().err
    assert told in printed
    assert "--no-limits reads on" in printed


@pytest.mark.parametrize("level", [3, 19])
def test_an_honest_manifest_that_grows_a_thousandfold_is_read(level):
    """Samples may repeat a long system prompt, and samples of one word differ in a number alone."""
    prompt = "You are a careful assistant. " * 60
    for text, number in ((prompt, 5_000), ("", 150_000)):
        content = b"".join(
            b'{"audio":"wavs/%06d.wav","text":"yes","scene":"%s"}\n' % (n, text.encode()) for n in range(number)
        )
        compressed = zstd().compress(content, level if text else 1)
        Path("m.jsonl.zst").write_bytes(compressed)
        assert sum(1 for _ in TextFile(Path("m.jsonl.zst")).lines()) == number
        assert not text or len(content) > 400 * len(compressed)


def test_an_integer_too_large_for_a_tracker_is_refused(capfd):
    """The message names the line, the path of the value and another target, whatever the tracker would say."""
    run = b'"v":1,"run_id":"a1b2","attempt":0,"seq":0,"ts":"2026-01-02T03:04:05.000006Z",'
    Path("run.jsonl").write_bytes(STEP.replace(b'"v":1,', run).replace(b'"step":1', b'"step":18446744073709551615'))
    assert main(["export", "run.jsonl", "--to", "tensorboard", "-o", "tensorboard"]) == 2
    assert "run.jsonl:1 (byte 0): $.step: expected an integer from -9223372036854775808" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n".join([b"{}", b'{"id": "' + b"a" * MAX_ENTRY_BYTES + b'"}']), "a line of at most 67,108,864 bytes"),
        (b"{}\n" + b" " * (MAX_ENTRY_BYTES + 1), "a line of at most 67,108,864 bytes"),
        (b'{"x": [' + b"[]," * MAX_ENTRY_VALUES + b"1]}\n", "line: expected at most 2,000,000 values, got more"),
        (b"[" + b"[]," * MAX_ENTRY_VALUES + b"1]", "got a JSON array. Write one item a line"),
        (b'{\n"x": [' + b"[]," * MAX_ENTRY_VALUES + b"1]}", "m.jsonl:1: line: expected a JSON object"),
    ],
    ids=["line", "spaces", "values", "array", "object over lines"],
)
def test_a_line_of_a_manifest_is_bounded(capfd, content, told):
    """A sample has some values, and perhaps a recording."""
    Path("m.jsonl").write_bytes(content)
    assert main(["manifest", "m.jsonl", "-o", "out.jsonl"]) == 2
    assert told in capfd.readouterr().err


def test_a_device_without_an_end_is_no_manifest(capfd):
    """Neither a manifest nor texts."""
    assert main(["manifest", "/dev/zero", "-o", "out.jsonl"]) == 2
    assert "/dev/zero: expected at most 1,048,576 bytes, got more. Name a file." in capfd.readouterr().err
    assert main(["say", "--base_ckpt", "base", "--text_file", "/dev/zero", "-o", "out"]) == 2
    assert "/dev/zero: expected at most 16,777,216 bytes, got more. Split the file." in capfd.readouterr().err


def test_more_texts_than_one_speaks_are_refused(capfd):
    """Each text takes seconds to speak."""
    Path("texts.txt").write_text("a\n" * 200_000)
    assert main(["say", "--base_ckpt", "base", "--text_file", "texts.txt", "-o", "out"]) == 2
    assert "texts.txt: expected at most 100,000 lines, got 200,001" in capfd.readouterr().err


def test_a_number_too_large_for_its_column_is_told(capfd):
    """Parquet has signed integers, and the whole line is kept as JSON."""
    Path("run.jsonl").write_bytes(STEP + STEP.replace(b'"step":1', b'"step":18446744073709551615'))
    assert main(["export", "run.jsonl", "--to", "parquet", "-o", "parquet"]) == 0
    told = f"run.jsonl:2 (byte {len(STEP)}): $.step: expected a value that fits the column"
    assert told in capfd.readouterr().err


def sparse(path, start, size):
    """Write a file of many zeros that takes no space."""
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def npy(shape, header=b""):
    """Return the start of an array of version 2.0."""
    header = header or repr({"descr": "<i8", "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header


def safetensors(shape):
    """Return the start of a file with the tensor codes."""
    header = json.dumps({"codes": {"dtype": "I64", "shape": shape, "data_offsets": [0, 8 * math.prod(shape)]}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "start", "size", "told"),
    [
        ("a.npy", npy((8, 10**9)), 8 * 8 * 10**9 + 500, "at most 8,388,608 codes"),
        ("a.npy", b"\x93NUMPY\x02\0" + (2**31).to_bytes(4, "little"), 2**32, "a header of at most 65,536 bytes"),
        ("a.safetensors", safetensors([8, 10**9]), 8 * 8 * 10**9 + len(safetensors([8, 10**9])), "at most 8,388,608"),
        ("a.safetensors", (90 * 2**20).to_bytes(8, "little"), 2**27, "a header of at most 65,536 bytes"),
    ],
    ids=["npy", "npy header", "safetensors", "safetensors header"],
)
def test_a_sparse_file_of_codes_is_refused(tmp_path, name, start, size, told):
    """Neither the header nor the codes are read into memory."""
    with pytest.raises(AudioError, match=re.escape(told)):
        load_codes(sparse(tmp_path / name, start, size), num_codebooks=8, num_codes=1024)


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_a_bomb_as_a_manifest_names_the_flag(capfd, command):
    """The check before any download refuses the manifest, and the flag of the command reads on."""
    Path("m.jsonl.gz").write_bytes(gzip.compress((b" " * 2**20 + b"\n") * (MANIFEST_FLOOR_BYTES // 2**20)))
    with pytest.raises(UserError, match=r"grow at most 200-fold, got .* --no-limits reads on"), of_command():
        list(TextFile(Path("m.jsonl.gz")).lines())
    assert any("--no-limits" in action.option_strings for action in PARSERS[command]("x")._actions)


def test_few_messages_are_printed_about_many_runs(capfd, monkeypatch):
    """The runs of a pipe are met one by one."""
    lines = b"".join(b'{"event":"x","run_id":"%d"}\n' % number for number in range(1_000))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert main(["merge", "-"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1_000
    assert len(err.splitlines()) == 21
    assert err.splitlines()[-1].endswith("are not printed")


@pytest.mark.parametrize("command", [*READERS, "diff run.jsonl", "show --event run_end"])
def test_each_reader_reads_within_a_phase(monkeypatch, command):
    """A phase tells how far the reading is, also where events are yielded one by one."""
    seen = []
    monkeypatch.setattr(lines, "_LINES_TOLD", 1)
    monkeypatch.setattr(lines, "tell", lambda _detail: seen.append(phases.current()))
    monkeypatch.setattr(logged_runs, "tell", lambda _detail: seen.append(phases.current()))
    Path("run.jsonl").write_bytes(STEP * 3)
    main([*command.split(), "run.jsonl"])
    assert len(seen) > 3
    assert None not in seen
