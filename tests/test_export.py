"""`export` copies a log to each tracker and to Parquet, and repeats no event."""

import json
import shlex
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.parquet import ParquetFiles
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import JsonlSink
from tests.builders import (
    all_events,
    audio_sample,
    diagnosis,
    fixed_clock,
    generation_sample,
    run_start,
    text_sample,
    train_step,
)
from tests.test_trackers import emitted, texts, write_sound
from tests.tracked import NAMES, read

GOLDEN = Path(__file__).parent / "goldens" / "demo.jsonl"
TRAIN_STEPS = "out/event=train_step/rank=0/run.parquet"
EVENTS = [run_start(), train_step(), text_sample(), audio_sample()]


@pytest.fixture
def place(tmp_path, trackio_store, mlflow_store):
    """Make the folders to export to."""
    shutil.copytree(mlflow_store, tmp_path / "to" / "mlflow")
    return tmp_path / "to"


def write_log(folder, events, *, run_id="run"):
    """Write a log of events and return the file."""
    path = folder / "events" / "rank00000-attempt000.jsonl"
    path.unlink(missing_ok=True)
    sink = JsonlSink(path)
    emit = Pipeline([("jsonl", sink)], run_id=run_id, clock=fixed_clock)
    for event in events:
        emit(event, level="warning" if event.name == "diagnosis" else "info")
    sink.close()
    return path


def export(target, log, place, capsys):
    """Export a log and return the exit code and all output."""
    to = [] if target == "trackio" else ["-o", str(place / target)]
    code = main(["export", str(log), "--to", target, *to])
    output = capsys.readouterr()
    return code, output.out + output.err


@pytest.mark.parametrize("name", NAMES)
def test_a_second_export_adds_only_new_events(name, tmp_path, place, capsys):
    """A second export adds only new events. Stepwise exports equal one export."""
    run = f"exported-{name}"
    for count in (2, 4, 4):
        write_log(tmp_path, EVENTS[:count], run_id=run)
        code, output = export(name, tmp_path, place, capsys)
        assert (code, output.startswith(f"run {run}: ")) == (0, True)
    assert name == "trackio" or "nothing new exported" in output
    write_log(tmp_path, [*EVENTS, train_step(step=40), diagnosis(step=40, message="No stop token.")], run_id=run)
    assert export(name, tmp_path, place, capsys)[0] == 0
    found = read(name, place / name, run)
    assert [step for step, _ in found.scalars["train/loss"]] == [20, 40]
    assert len(found.samples) == 2
    assert found.alerts == [("no_stop_label", "No stop token.")]


def test_the_tracker_has_what_its_sink_would_have_written(tmp_path, place, capsys):
    """An export writes the data of the live sink."""
    write_log(tmp_path, EVENTS, run_id="same")
    export("tensorboard", tmp_path, place, capsys)
    exported = read("tensorboard", place / "tensorboard", "same")
    emitted("tensorboard", tmp_path, EVENTS, run_id="same")
    live = read("tensorboard", tmp_path / "tensorboard", "same")
    assert (exported.scalars, texts(exported.samples)) == (live.scalars, texts(live.samples))


@pytest.mark.parametrize("name", NAMES)
def test_sounds_are_exported(name, tmp_path, place, capsys):
    """Speech takes its sound along from the run's folder. A missing sound is reported, and its numbers are exported."""
    sound, run = write_sound(tmp_path), f"spoken-{name}"
    write_log(tmp_path, [run_start(), generation_sample(), generation_sample(step=40, audio="audio/x.wav")], run_id=run)
    for _ in range(2):
        code, output = export(name, tmp_path, place, capsys)
        assert code == 0
    found = read(name, place / name, run)
    assert found.sounds == {("probe/p-1/audio", 20): sound}
    assert found.scalars["probe/p-1/frames"] == [(20, 80.0), (40, 80.0)]
    assert name != "trackio" or output.count("audio/x.wav: No such file or directory. Trackers get the numbers") == 1


def test_trackio_stores_a_logged_and_exported_event_once(tmp_path, place, capsys):
    """An export fills the gaps of a live trackio sink without repeats."""
    emitted("trackio", tmp_path, EVENTS[:3], run_id="gaps")
    write_log(tmp_path, EVENTS, run_id="gaps")
    export("trackio", tmp_path, place, capsys)
    found = read("trackio", None, "gaps")
    assert (len(found.scalars["train/loss"]), len(found.samples)) == (1, 2)


def test_an_interrupted_export_is_refused(tmp_path, place, capsys):
    """An interrupted export is refused, because its events would be exported twice."""
    write_log(tmp_path, EVENTS)
    mark = place / "tensorboard" / ".exported" / "run.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("")
    code, output = export("tensorboard", tmp_path, place, capsys)
    assert code == 2
    assert f"{mark}: expected a complete export, got an interrupted export" in output


def test_a_tracker_that_fails_ends_the_export_at_its_line(tmp_path, place, capsys, monkeypatch):
    """The error of a tracker names the line. The next export reports the interruption."""
    log = write_log(tmp_path, EVENTS)
    monkeypatch.setattr("sinks.trackers.tensorboard.TensorBoard.log_sample", lambda *_: 1 / 0)
    code, output = export("tensorboard", tmp_path, place, capsys)
    assert code == 2
    assert f"tensorboard: expected no error for {log}:3 (byte " in output
    assert "ZeroDivisionError" in output
    assert "interrupted" in export("tensorboard", tmp_path, place, capsys)[1]


def test_parquet_has_every_field_of_every_event(tmp_path, place, capsys):
    """Columns have the types of the events. A second export writes the same files."""
    write_log(tmp_path, all_events())
    for _ in range(2):
        assert export("parquet", tmp_path, place, capsys)[0] == 0
    folder = place / "parquet"
    assert {path.name for path in folder.iterdir()} == {f"event={event.name}" for event in all_events()}
    for path in folder.rglob("*.parquet"):
        rows = pq.read_table(path, partitioning=None).to_pylist(maps_as_pydicts="strict")
        event, rank = (folder.name.partition("=")[2] for folder in (path.parent.parent, path.parent))
        records = [line.record for line in read_lines(tmp_path) if line.record["event"] == event]
        assert {record["rank"] for record in records} == {int(rank)}
        assert [without(row, *OF_JSON, "extra", "ts") for row in rows] == [
            without(record, *OF_JSON, "event", "rank", "ts") for record in records
        ]
        assert [row["ts"] for row in rows] == [datetime.fromisoformat(record["ts"]) for record in records]


OF_JSON = ("config", "evidence", "decoding")  # texts of JSON in Parquet


def without(record, *names):
    """Return a mapping without some names."""
    return {name: value for name, value in record.items() if name not in names}


def test_a_training_of_text_alone(tmp_path, place, capsys):
    """A training of text alone, logged by `PredictionLogger`, has no audio charts and empty audio columns."""
    none = {"audio_loss": 0.0, "audio_loss_per_codebook": (), "audio_accuracy_per_codebook": (), "audio_targets": 0}
    start = run_start(num_codebooks=0, modalities=("text",))
    write_log(tmp_path, [start, train_step(**none, grad_norm=None), text_sample(sample_id="0123456789abcdef")])
    for target in ("tensorboard", "parquet"):
        assert export(target, tmp_path, place, capsys)[0] == 0
    found = read("tensorboard", place / "tensorboard", "run")
    assert [name for name in found.scalars if "audio" in name] == ["train/audio_targets"]
    assert [row["modality"] for row in found.samples] == ["text"]
    (row,) = pq.read_table(place / "parquet/event=train_step/rank=0/run.parquet").to_pylist()
    assert (row["audio_loss_per_codebook"], row["grad_norm"]) == ([], None)


def test_parquet_keeps_what_this_version_does_not_know(tmp_path, place, capsys):
    """Unknown fields go to `extra`, unknown events to `other`."""
    log = write_log(tmp_path, [train_step()])
    line = log.read_text()
    log.write_text(line.replace('"step":', '"new":[1],"step":', 1) + line.replace("train_step", "later"))
    export("parquet", tmp_path, place, capsys)
    (known,) = pq.read_table(place / "parquet/event=train_step/rank=0/run.parquet").to_pylist()
    (other,) = pq.read_table(place / "parquet/event=other/rank=0/run.parquet").to_pylist()
    assert known["extra"] == '{"new": [1]}'
    assert '"event": "later"' in other["record"]


def test_parquet_keeps_a_line_with_a_number_too_large_for_its_column(tmp_path, place, capsys):
    """The line is JSON in `extra`, and the other lines have their columns."""
    for step, loss in ((2**63, 1.0), (5, 2**60 + 1), (6, 1.0)):
        path = write_log(tmp_path, [train_step(step=step, loss=loss)])
        with (tmp_path / "all.jsonl").open("ab") as log:
            log.write(path.read_bytes())
        path.unlink()
    assert export("parquet", tmp_path / "all.jsonl", place, capsys)[0] == 0
    rows = pq.read_table(place / "parquet/event=train_step/rank=0/run.parquet").to_pylist()
    assert [row["step"] for row in rows] == [None, None, 6]
    assert json.loads(rows[0]["extra"])["step"] == 2**63
    assert json.loads(rows[1]["extra"])["loss"] == 2**60 + 1


def test_parquet_is_written_in_groups(tmp_path):
    """Rows are written in groups before the end of the log, to bound memory."""
    write_log(tmp_path, [train_step(step=step) for step in range(1, 101)])
    with ParquetFiles(tmp_path / "out", group_bytes=20_000) as files:
        for line in read_lines(tmp_path):
            files.add("run", line)
    written = pq.ParquetFile(tmp_path / TRAIN_STEPS)
    assert written.metadata.num_rows == 100
    assert 2 <= written.metadata.num_row_groups <= 5


def test_parquet_is_replaced_when_it_is_complete(tmp_path):
    """An error keeps the earlier files and leaves no temporary file."""
    write_log(tmp_path, [train_step()])
    (line,) = read_lines(tmp_path)
    with ParquetFiles(tmp_path / "out") as files:
        files.add("run", line)
    before = (tmp_path / TRAIN_STEPS).read_bytes()
    with suppress(ZeroDivisionError), ParquetFiles(tmp_path / "out") as files:
        files.add("run", line)
        raise ZeroDivisionError
    assert [path.read_bytes() for path in (tmp_path / TRAIN_STEPS).parent.iterdir()] == [before]


def test_a_golden_goes_into_parquet_alone(place, capsys):
    """Trackers refuse a golden, because a golden lacks run, attempt and time."""
    assert export("parquet", GOLDEN, place, capsys)[0] == 0
    assert pq.read_table(place / "parquet/event=train_step/rank=0/golden.parquet").num_rows == 3
    code, output = export("tensorboard", GOLDEN, place, capsys)
    assert code == 2
    assert "expected a log of a run, with run_id, attempt, rank, seq, ts in each line, got a golden" in output


@pytest.mark.parametrize("run_id", ["../up", "/abs", ".hidden", "a b", ""])
def test_a_run_whose_name_is_no_folder_is_refused(run_id, tmp_path, place, capsys):
    """A run id from a log cannot choose another folder."""
    write_log(tmp_path, EVENTS, run_id=run_id)
    code, output = export("parquet", tmp_path, place, capsys)
    assert code == 2
    assert "run_id: expected letters, digits" in output


def test_bad_input(tmp_path, capsys):
    """A missing log, an empty log and an unknown target are errors without a traceback."""
    assert main(["export", str(tmp_path / "none"), "--to", "parquet"]) == 2
    log = write_log(tmp_path, EVENTS)
    log.write_bytes(b"")
    assert main(["export", str(tmp_path), "--to", "parquet"]) == 2
    assert main(["export", str(tmp_path), "--to", "csv"]) == 2
    output = capsys.readouterr().err
    assert "expected events, got none" in output
    assert "--to: expected one of trackio, tensorboard, wandb, mlflow, parquet, got 'csv'" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("target", ["parquet", "tensorboard", "wandb", "mlflow"])
def test_a_place_that_cannot_be_written(tmp_path, capsys, target):
    """A file in the place of the folder is an error without a traceback."""
    log = write_log(tmp_path, EVENTS)
    (tmp_path / "file").write_text("")
    assert main(["export", str(log), "--to", target, "-o", str(tmp_path / "file" / "store")]) == 2
    assert "file" in capsys.readouterr().err


def test_the_default_place_is_beside_the_log(tmp_path, capsys):
    """The default folder is in the output directory, apart from the folders of live sinks."""
    write_log(tmp_path, EVENTS)
    assert main(["export", str(tmp_path), "--to", "parquet"]) == 0
    assert (tmp_path / "exported/parquet/event=train_step/rank=0/run.parquet").is_file()
    assert str(tmp_path / "exported" / "parquet") in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["my runs", "it's", 'say "x"', "-dash", "~home", "\u00e4\u0639", "$HOME", "a;b", "a'b''c", "run[1]", "100%"]
)
def test_the_printed_command_works_for_any_path(name, tmp_path, monkeypatch, capsys):
    """The command to look at the data can be typed as it is, whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / name, EVENTS)
    for target in ("parquet", "tensorboard"):
        assert main(["export", f"./{name}", "--to", target]) == 0
        command = capsys.readouterr().out.partition("To look at it: ")[2].strip()
        where = shlex.split(command)[2]
        if target == "tensorboard":
            assert Path(where).is_dir()
            assert not where.startswith(("-", "~"))
        else:
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
            assert (done.returncode, "step" in done.stdout, done.stderr) == (0, True, "")


@pytest.mark.parametrize("text", [b"{", b"[1]", b'{"rank00000-attempt000": "x"}', b"\xff", b"null"])
def test_a_damaged_file_of_progress_is_refused(text, tmp_path, place, capsys):
    """A damaged file of progress is named in one line with the way out, and stays as it is."""
    write_log(tmp_path, EVENTS)
    assert export("tensorboard", tmp_path, place, capsys)[0] == 0
    progress = place / "tensorboard/.exported/run.json"
    progress.write_bytes(text)
    code, output = export("tensorboard", tmp_path, place, capsys)
    assert (code, len(output.splitlines())) == (2, 1)
    assert f"{progress}: expected the last exported seq of each rank and attempt, got " in output
    assert "Remove its run and this file, or export to another place with -o" in output
    assert progress.read_bytes() == text


@pytest.mark.parametrize("target", ["parquet", "tensorboard"])
def test_a_file_in_place_of_a_folder_is_named(target, tmp_path, capsys):
    """Where the folder to write is a file, or lies below a file, that file is named."""
    write_log(tmp_path, EVENTS)
    (tmp_path / "file").touch()
    for folder in ("file", "file/below/it"):
        assert main(["export", str(tmp_path), "--to", target, "-o", str(tmp_path / folder)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert f"{tmp_path / 'file'}: Not a directory. Name another folder with -o" in output.err


def test_a_home_that_does_not_exist_is_named(tmp_path, capsys):
    """A `~` of an unknown user ends in one line."""
    write_log(tmp_path, EVENTS)
    assert main(["export", str(tmp_path), "--to", "parquet", "-o", "~no-such-user/x"]) == 2
    assert "--output: expected a path, got '~no-such-user/x', whose home folder is unknown." in capsys.readouterr().err


def test_the_changes_of_a_resumed_run_are_a_text_in_parquet(tmp_path):
    """A mapping that may be null is JSON like every mapping with values of any type."""
    changes = {"max_steps": [4, 6]}
    log = write_log(tmp_path, [run_start(resumed_from_step=4, resume_changes=changes), train_step()])
    assert main(["export", str(log), "--to", "parquet", "-o", str(tmp_path / "out")]) == 0
    [row] = pq.read_table(tmp_path / "out/event=run_start/rank=0/run.parquet", partitioning=None).to_pylist()
    assert json.loads(row["resume_changes"]) == changes
