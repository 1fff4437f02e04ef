"""Nine readers of mutated logs: exit statuses, what `validate` says, no traceback, and little time."""

import json
import subprocess
import sys
import time

import pytest
import torch

import higgs_audio_trainer
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.validation.validate import validate
from tests.bombs import LARGE, SMALL
from tests.builders import record_of, sink_recovered
from tests.damage import flipped_gzip, replaced_bytes
from tests.honest_log import honest, write
from tests.lies import falling_delays, of_another_training, other_label
from tests.measured_readers import READERS, commands, run
from tests.mutations import MUTATIONS, Mutation, nothing
from tests.readme import ROOT
from tests.zoo import healthy
from tests.zoo.runs import train, write_base

_MOST_SECONDS = 10
_MOST_MEGABYTES = 200
#: Mutations that are read in this process.
CHEAP = MUTATIONS | {name: Mutation(nothing, *bomb[1:], bomb.change) for name, bomb in SMALL.items()}


@pytest.fixture(scope="module")
def honest_log(tmp_path_factory):
    """Write the log that the mutations begin with."""
    return write(honest(), tmp_path_factory.mktemp("honest") / "run")


def mutated(name, folder):
    """Write a mutated log."""
    mutation, log = CHEAP[name], honest()
    mutation.change(log)
    write(log, folder)
    mutation.damage(folder)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHEAP)
def test_a_mutated_log(name, tmp_path, honest_log, capfd):
    """Each reader ends with the expected status, in time, and `validate` names the place."""
    log = mutated(name, tmp_path / "run")
    statuses = ""
    for reader in READERS:
        begin = time.process_time()
        statuses += str(run(reader, log, honest_log, tmp_path))
        assert time.process_time() - begin < _MOST_SECONDS, reader
    assert "Traceback" not in capfd.readouterr().err
    assert dict(zip(READERS, statuses, strict=True)) == dict(zip(READERS, CHEAP[name].statuses, strict=True))
    found = [
        f"{'note: ' * (each.severity == 'note')}{each.path}: {str(each).partition(f': {each.path}: ')[2]}"
        for each in validate(log)
    ]
    if CHEAP[name].says:
        assert any(CHEAP[name].says in text for text in found), found
    else:
        assert CHEAP[name].statuses[3] == "1" or not found


@pytest.mark.parametrize("name", ["a bit of a gzip", "a bit of a zstd"])
def test_every_reader_tells_what_the_checksum_says(name, tmp_path, honest_log, capfd):
    """The lines before the damage are read, and a line on stderr names the file."""
    log = mutated(name, tmp_path / "run")
    for reader, command in commands(log, honest_log, tmp_path).items():
        main([str(word) for word in command])
        out, err = capfd.readouterr()
        told = out if reader == "validate" else err
        assert "rank00000-attempt001.jsonl:36 (byte " in told, reader
        assert "expected complete compressed data, got " in told, reader
    problems = []
    assert len(list(higgs_audio_trainer.read(log, on_problem=problems.append))) > 50
    assert problems[-1].expected == "complete compressed data"


def test_damage_is_no_torn_line_of_an_outage(tmp_path):
    """An outage that a later segment reports explains a torn line, and not damage of the compressed data."""
    log = honest()
    records = log[0, 0, 0]
    lost = record_of(sink_recovered(lost=4, first_seq=20, last_seq=23)) | {"attempt": 0, "seq": 24}
    log[0, 0, 1] = [records[0], lost, *records[25:]]
    log[0, 0, 0] = records[:20]
    write(log, tmp_path / "run")
    assert {(each.kind, each.severity) for each in validate(tmp_path / "run")} == {("gap", "note")}
    replaced_bytes(flipped_gzip, attempt=0)(tmp_path / "run")
    assert ("damage", "error") in {(each.kind, each.severity) for each in validate(tmp_path / "run")}


@pytest.mark.parametrize("change", [other_label, falling_delays])
def test_a_training_that_is_not_ours_gets_a_note_once(change, tmp_path):
    """Padding on the left, drawn labels and delays of a model show in each sample; a line tells."""
    log = honest()

    def mutate(log):
        for step in range(2, 7):
            change(log, step)

    of_another_training(mutate if change is other_label else change)(log)
    found = list(validate(write(log, tmp_path / "run")))
    assert [each.severity for each in found] == ["note"]
    assert found[0].got.endswith("Further samples are not listed")


@pytest.mark.parametrize("seed", [0, 4, 7, 11])
def test_nothing_is_found_in_the_log_of_an_honest_training(seed, tmp_path):
    """Neither a finding nor a note: with any codebooks and family, resumed with another batch and window or not."""
    torch.set_num_threads(1)
    drawn = healthy.plan(seed) | {"samples": 4, "frames": (4, 12), "clips": False}
    settings = drawn["settings"] | {"max_steps": 4, "save_steps": 2, "log_steps": 1, "log_codebooks": "all"}
    base = write_base(tmp_path / "base", drawn["codebooks"], seed=seed, family=drawn["family"])
    manifest = healthy.write_manifest(drawn, tmp_path)
    train(base, manifest, tmp_path / "run", **(settings | {"sinks": "jsonl"}))
    if seed % 2 == 0:
        changes = {"max_steps": 6, "batch_size": 2, "log_window": 3, "resume": "latest", "sinks": "jsonl"}
        train(base, manifest, tmp_path / "run", **(settings | changes))
    found = validate(tmp_path / "run")
    assert list(found) == []
    assert len(found.attempts) == 1 + (seed % 2 == 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_a_bomb(name, tmp_path, honest_log):
    """Each reader of a bomb ends with the expected status, in little time and memory. One process runs all readers."""
    log, bomb = write(honest(), tmp_path / "run"), LARGE[name]
    bomb.change(log)
    command = [sys.executable, "-m", "tests.measured_readers", log, honest_log, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=True)
    measured = json.loads(done.stdout)
    assert "".join(str(measured[reader][0]) for reader in READERS) == bomb.statuses
    assert {reader: seconds for reader, (_, seconds, _) in measured.items() if seconds > _MOST_SECONDS} == {}
    assert {reader: peak for reader, (*_, peak) in measured.items() if peak > _MOST_MEGABYTES} == {}
    printed = {reader: (tmp_path / reader).read_text("utf-8") for reader in READERS}
    assert not [reader for reader, text in printed.items() if "Traceback" in text]
    assert bomb.says in printed["validate"]
