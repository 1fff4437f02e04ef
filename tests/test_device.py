"""The device check runs to the end, whatever a part does. All parts run here on the CPU, small."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import HiggsAudioV2Config

from benchmarks.device import __main__ as check
from benchmarks.device import full_size, part
from benchmarks.device.model_flops import step_flops
from benchmarks.device.part import PARTS, Part, write_rows
from benchmarks.device.plan import Plan
from benchmarks.device.suite import suite
from benchmarks.rows import ResultRow, table
from benchmarks.workload import random_example, token_ids
from higgs_audio_trainer.data.batch import Collator
from higgs_audio_trainer.families.tts3.config import HiggsTts3Config


def small_config():
    """Return a configuration with the real vocabulary and one narrow layer."""
    return HiggsAudioV2Config(
        codebook_size=1026,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )


def small_tts3_config():
    """Return a configuration of TTS 3 with one narrow layer."""
    text = {"vocab_size": 151_936, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True}
    return HiggsTts3Config(text_config=text | heads, audio_encoder_config={"num_codebooks": 8, "vocab_size": 1026})


@pytest.fixture
def plan():
    return Plan(
        device="cpu",
        full=small_config(),
        narrow=small_config(),
        tts3=small_tts3_config(),
        clip_seconds=0.4,
        prompt_tokens=4,
        batch_sizes=(1,),
        checkpointing=(True,),
        rounds=1,
        steps=1,
        demo_steps=2,
        matrix=64,
        trackers=("tensorboard",),
        recordings=Path("/nothing/here"),
        tests=("tests/cuda/test_stopping.py",),
        compiler="eager",
        compiled_layers=(1,),
    )


@pytest.mark.parametrize("measured", PARTS, ids=lambda one: one.name)
def test_a_part_runs_to_the_end(plan, tmp_path, measured):
    """Each part writes rows that the table shows, and no error."""
    file = tmp_path / "rows.jsonl"
    assert write_rows(measured, plan, file), file.read_text()
    rows = [ResultRow(**json.loads(line)) for line in file.read_text().splitlines()]
    assert rows
    assert all((row.holds is not None) == bool(row.target) for row in rows)
    assert len(table(rows).splitlines()) == len(rows) + 2


def test_the_parts_take_less_than_eight_minutes():
    """The times of all parts without `--only`, with the start of the command, are less than 8 minutes."""
    assert sum(one.seconds for one in PARTS if one.is_usual) <= 480
    assert len({one.name for one in PARTS}) == len(PARTS)


def test_out_of_memory_is_a_row(plan, monkeypatch):
    """A step that does not fit into memory has a row, and the other step is measured all the same."""

    def full(self, **batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(full_size.FullSize, "native", full)
    rows = list(full_size.full_size(plan))
    assert any("native forward and loss: out of memory" in row.against and row.figure for row in rows)
    taken = {"ours": None, "native": full_size.Taken([1.0], 5)}
    [row] = full_size.step_rows(taken, "B=8", audio=80.0, flops=1.0, peak=1.0, weights=0)
    assert (row.name, row.figure, row.unit) == ("step, B=8", None, "out of memory")


def test_an_error_keeps_the_rows_before(plan, tmp_path):
    """The rows before an error stay, and the first line of the error follows."""

    def broken(plan):
        yield ResultRow("one", 1.0, "s")
        raise ValueError("expected a card\nmore")

    file = tmp_path / "rows.jsonl"
    assert not write_rows(Part(broken, 1), plan, file)
    first, last = map(json.loads, file.read_text().splitlines())
    assert (first["name"], last["error"]) == ("one", "ValueError: expected a card")


ROW = json.dumps({"name": "one", "figure": 1.0, "unit": "s"})


def process(code):
    """Return the command line of a process that writes a row, then runs some code."""
    return [sys.executable, "-c", f"import sys; open(sys.argv[-1], 'w').write({ROW!r} + '\\n'); {code}"]


def test_the_check_goes_on_after_a_part_that_fails():
    """A part that dies has a row, keeps its rows, and makes the check fail. The next part runs."""
    rows, failed = check.check([("dies", 60, process("sys.exit(7)")), ("works", 60, process(""))])
    assert failed
    assert [(name, row.unit) for name, row in rows] == [("dies", "s"), ("dies", "failed"), ("works", "s")]
    assert rows[1][1].against == "the process ended with status 7"
    assert "| dies | failed | the process ended with status 7 |" in table(row for _, row in rows)


def test_a_part_ends_with_its_time():
    """A part that hangs is ended, and its rows stay."""
    rows, error = check.run_part(process("import time; time.sleep(60)"), 1)
    assert [row.name for row in rows] == ["one"]
    assert error == "the time is used up after 1 s"


def test_a_part_without_time_is_skipped():
    """A part is skipped if earlier parts left no time, and a skipped part is no failure."""
    times = iter([0.0, 0.0, 0.0, 95.0, 95.0])
    commands = [("slow", 60, process("")), ("late", 40, process(""))]
    rows, failed = check.check(commands, clock=lambda: next(times))
    assert not failed
    assert [(name, row.unit) for name, row in rows] == [("slow", "s"), ("late", "skipped")]


def test_without_a_device_there_is_nothing_to_measure(monkeypatch, capsys, tmp_path):
    """The command says so in a line, writes an empty result and exits with 0."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert check.main(["--json", str(tmp_path / "device.json")]) == 0
    assert capsys.readouterr().out == "benchmarks.device: no CUDA device, nothing measured\n"
    assert json.loads((tmp_path / "device.json").read_text()) == {"device": None, "rows": []}


def test_with_a_device_the_table_names_the_card(monkeypatch, capsys, tmp_path):
    """The table has the rows of all parts, the JSON file the part of each row, and a failed part the exit code 1."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(check, "machine", lambda: {"card": "NVIDIA H100"})
    made = [("demo", ResultRow("demo", 1.0, "s")), ("suite", ResultRow("suite", None, "failed", against="why"))]
    monkeypatch.setattr(check, "check", lambda commands: (made, True))
    assert check.main(["--quick", "--json", str(tmp_path / "device.json")]) == 1
    assert capsys.readouterr().out.startswith("card NVIDIA H100, seconds 0\n\n| name |")
    assert [row["part"] for row in json.loads((tmp_path / "device.json").read_text())["rows"]] == ["demo", "suite"]


def test_chosen_parts(monkeypatch, capsys):
    """`--only` runs some parts, in the order of all parts. An unknown part is named with those that there are."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(check, "machine", dict)
    ran = []
    monkeypatch.setattr(check, "check", lambda commands: (ran.extend(name for name, _, _ in commands), ([], False))[1])
    assert check.main(["--only", "compiled", "demo"]) == 0
    assert ran == ["demo", "compiled"]
    with pytest.raises(SystemExit):
        check.main(["--only", "demos"])
    assert "choose from" in capsys.readouterr().err


def test_the_suite_ends_with_its_time(plan):
    """Tests for which there is no time are missing among the passed, and the other tests count."""
    *_, row = suite(replace(plan, deadline=0.0))
    assert (row.figure, row.holds) == (1, False)
    assert "passed of" in row.name


def test_the_suite_names_failed_and_skipped_tests(plan, tmp_path):
    """A failed and a skipped test have rows with the reason."""
    file = tmp_path / "test_three.py"
    file.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\ndef test_c(): pytest.skip('no card')\n"
    )
    measured = suite(replace(plan, tests=("--rootdir", str(tmp_path), str(file))))
    rows = list(islice(measured, 3))
    with pytest.raises(RuntimeError, match="ended with status 1"):
        next(measured)
    assert [(row.name, row.unit) for row in rows[:2]] == [("test test_b", "failed"), ("test test_c", "skipped")]
    assert "1 == 2" in rows[0].against
    assert "no card" in rows[1].against
    assert (rows[2].figure, rows[2].holds) == (1, False)


def test_the_operations_of_a_step():
    """The operations of a batch are the sums over its samples, without the padding."""
    config = small_config()
    ids = token_ids(config)
    examples = [random_example(ids, prompt=20, frames=frames, seed=frames) for frames in (30, 10)]
    alone = [step_flops(config, Collator(ids)([example]), 16) for example in examples]
    assert step_flops(config, Collator(ids)(examples), 16) == sum(alone)
    assert part.error_line(RuntimeError("")) == "RuntimeError: "
