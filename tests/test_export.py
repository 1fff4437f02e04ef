"""`export` brings a log to each tracker and into Parquet, and brings it again without doing anything twice."""

import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.logs.parquet import ParquetFiles
from higgs_audio_trainer.logs.reader import read_lines
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import JsonlSink
from tests.builders import all_events, audio_sample, diagnosis, fixed_clock, run_start, text_sample, train_step
from tests.test_trackers import emitted, texts
from tests.tracked import NAMES, read

GOLDEN = Path(__file__).parent / "goldens" / "demo.jsonl"
EVENTS = [run_start(), train_step(), text_sample(), audio_sample()]


@pytest.fixture
def place(tmp_path, trackio_store, mlflow_store):
    """Make the folders that exports go to."""
    shutil.copytree(mlflow_store, tmp_path / "to" / "mlflow")
    return tmp_path / "to"


def write_log(folder, events, *, run_id="run"):
    """Write a log of events; return its file."""
    path = folder / "events" / "rank00000-attempt000.jsonl"
    path.unlink(missing_ok=True)
    sink = JsonlSink(path)
    emit = Pipeline([("jsonl", sink)], run_id=run_id, clock=fixed_clock)
    for event in events:
        emit(event, level="warning" if event.name == "diagnosis" else "info")
    sink.close()
    return path


def export(target, log, place, capsys):
    """Export a log; return the exit code and all that was said."""
    to = [] if target == "trackio" else ["-o", str(place / target)]
    code = main(["export", str(log), "--to", target, *to])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("name", NAMES)
def test_again_adds_what_came_since_and_nothing_twice(name, tmp_path, place, capsys):
    """And a log that was exported step by step is in the tracker as it would be at once."""
    run = f"exported-{name}"
    for count in (2, 4, 4):
        write_log(tmp_path, EVENTS[:count], run_id=run)
        code, said = export(name, tmp_path, place, capsys)
        assert (code, said.startswith(f"run {run}: ")) == (0, True)
    assert name == "trackio" or "nothing new exported" in said
    write_log(tmp_path, [*EVENTS, train_step(step=40), diagnosis(step=40, message="No stop token.")], run_id=run)
    assert export(name, tmp_path, place, capsys)[0] == 0
    found = read(name, place / name, run)
    assert [step for step, _ in found.scalars["train/loss"]] == [20, 40]
    assert len(found.samples) == 2
    assert found.alarms == [("no_stop_label", "No stop token.")]


def test_the_tracker_has_what_its_sink_would_have_written(tmp_path, place, capsys):
    """One code makes both."""
    write_log(tmp_path, EVENTS, run_id="same")
    export("tensorboard", tmp_path, place, capsys)
    exported = read("tensorboard", place / "tensorboard", "same")
    emitted("tensorboard", tmp_path, EVENTS, run_id="same")
    live = read("tensorboard", tmp_path / "tensorboard", "same")
    assert (exported.scalars, texts(exported.samples)) == (live.scalars, texts(live.samples))


def test_trackio_has_an_event_once_that_was_logged_and_exported(tmp_path, place, capsys):
    """A log of a training whose sink lost some of it fills the gaps."""
    emitted("trackio", tmp_path, EVENTS[:3], run_id="gaps")
    write_log(tmp_path, EVENTS, run_id="gaps")
    export("trackio", tmp_path, place, capsys)
    found = read("trackio", None, "gaps")
    assert (len(found.scalars["train/loss"]), len(found.samples)) == (1, 2)


def test_an_interrupted_export_is_not_gone_on_with(tmp_path, place, capsys):
    """What it wrote is not known, and would be there twice."""
    write_log(tmp_path, EVENTS)
    mark = place / "tensorboard" / ".exported" / "run.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("")
    code, said = export("tensorboard", tmp_path, place, capsys)
    assert code == 2
    assert f"{mark}: expected a complete export, got an interrupted export" in said


def test_a_tracker_that_fails_ends_the_export_at_its_line(tmp_path, place, capsys, monkeypatch):
    """And the next export says that this one was interrupted."""
    log = write_log(tmp_path, EVENTS)
    monkeypatch.setattr("sinks.trackers.tensorboard.TensorBoard.log_sample", lambda *_: 1 / 0)
    code, said = export("tensorboard", tmp_path, place, capsys)
    assert code == 2
    assert f"tensorboard: expected no error for {log}:3 (byte " in said
    assert "ZeroDivisionError" in said
    assert "interrupted" in export("tensorboard", tmp_path, place, capsys)[1]


def test_parquet_has_every_field_of_every_event(tmp_path, place, capsys):
    """Columns are typed as the events are; the same log again gives the same files."""
    write_log(tmp_path, all_events())
    for _ in range(2):
        assert export("parquet", tmp_path, place, capsys)[0] == 0
    folder = place / "parquet" / "run"
    assert {path.stem for path in folder.iterdir()} == {event.name for event in all_events()}
    for path in folder.iterdir():
        rows = pq.read_table(path, partitioning=None).to_pylist(maps_as_pydicts="strict")
        records = [line.record for line in read_lines(tmp_path) if line.record["event"] == path.stem]
        assert [without(row, *OF_JSON, "extra") for row in rows] == [without(record, *OF_JSON) for record in records]


OF_JSON = ("config", "evidence")  # texts of JSON in Parquet


def without(record, *names):
    """Leave fields out."""
    return {name: value for name, value in record.items() if name not in names}


def test_a_training_of_text_alone(tmp_path, place, capsys):
    """As `PredictionLogger` logs a foreign one: no audio is drawn, and its columns are there and empty."""
    none = {"audio_loss": 0.0, "audio_loss_per_codebook": (), "audio_accuracy_per_codebook": (), "audio_targets": 0}
    start = run_start(num_codebooks=0, modalities=("text",))
    write_log(tmp_path, [start, train_step(**none, grad_norm=None), text_sample(sample_id="0123456789abcdef")])
    for target in ("tensorboard", "parquet"):
        assert export(target, tmp_path, place, capsys)[0] == 0
    found = read("tensorboard", place / "tensorboard", "run")
    assert [name for name in found.scalars if "audio" in name] == ["train/audio_targets"]
    assert [row["modality"] for row in found.samples] == ["text"]
    (row,) = pq.read_table(place / "parquet/run/train_step.parquet").to_pylist()
    assert (row["audio_loss_per_codebook"], row["grad_norm"]) == ([], None)


def test_parquet_keeps_what_this_version_does_not_know(tmp_path, place, capsys):
    """A field goes into `extra`, an event into `other`."""
    log = write_log(tmp_path, [train_step()])
    line = log.read_text()
    log.write_text(line.replace('"step":', '"new":[1],"step":', 1) + line.replace("train_step", "later"))
    export("parquet", tmp_path, place, capsys)
    (known,) = pq.read_table(place / "parquet/run/train_step.parquet").to_pylist()
    (other,) = pq.read_table(place / "parquet/run/other.parquet").to_pylist()
    assert known["extra"] == '{"new": [1]}'
    assert '"event": "later"' in other["record"]


def test_parquet_is_written_in_groups(tmp_path):
    """Rows do not wait in memory for the end of the log."""
    write_log(tmp_path, [train_step(step=step) for step in range(1, 101)])
    with ParquetFiles(tmp_path / "out", group_bytes=20_000) as files:
        for line in read_lines(tmp_path):
            files.add(line)
    written = pq.ParquetFile(tmp_path / "out" / "train_step.parquet")
    assert written.metadata.num_rows == 100
    assert 2 <= written.metadata.num_row_groups <= 5


def test_parquet_is_replaced_when_it_is_complete(tmp_path):
    """An error leaves the files of before, and nothing beside them."""
    write_log(tmp_path, [train_step()])
    (line,) = read_lines(tmp_path)
    with ParquetFiles(tmp_path / "out") as files:
        files.add(line)
    before = (tmp_path / "out" / "train_step.parquet").read_bytes()
    with suppress(ZeroDivisionError), ParquetFiles(tmp_path / "out") as files:
        files.add(line)
        raise ZeroDivisionError
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [before]


def test_a_golden_goes_into_parquet_alone(place, capsys):
    """It has no run, attempt or time, by which trackers order what they have."""
    assert export("parquet", GOLDEN, place, capsys)[0] == 0
    assert pq.read_table(place / "parquet" / "golden" / "train_step.parquet").num_rows == 3
    code, said = export("tensorboard", GOLDEN, place, capsys)
    assert code == 2
    assert "expected a log of a run, with run_id, attempt, rank, seq, ts in each line, got a golden" in said


@pytest.mark.parametrize("run_id", ["../up", "/abs", ".hidden", "a b", ""])
def test_a_run_whose_name_is_no_folder_is_refused(run_id, tmp_path, place, capsys):
    """A log may come from anywhere, and must not say where files are written."""
    write_log(tmp_path, EVENTS, run_id=run_id)
    code, said = export("parquet", tmp_path, place, capsys)
    assert code == 2
    assert "run_id: expected letters, digits" in said


def test_bad_input_is_said(tmp_path, capsys):
    """No log, an empty one, no such target."""
    assert main(["export", str(tmp_path / "none"), "--to", "parquet"]) == 2
    write_log(tmp_path, [])
    assert main(["export", str(tmp_path), "--to", "parquet"]) == 2
    assert main(["export", str(tmp_path), "--to", "csv"]) == 2
    said = capsys.readouterr().err
    assert "expected events, got none" in said
    assert "invalid choice: 'csv'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("target", ["parquet", "tensorboard", "wandb", "mlflow"])
def test_a_place_that_cannot_be_written(tmp_path, capsys, target):
    """A file is where the folder should be: said, without a traceback."""
    log = write_log(tmp_path, EVENTS)
    (tmp_path / "file").write_text("")
    assert main(["export", str(log), "--to", target, "-o", str(tmp_path / "file" / "store")]) == 2
    assert "file" in capsys.readouterr().err


def test_the_default_place_is_beside_the_log(tmp_path, capsys):
    """In the run's output directory, apart from what a live sink writes there."""
    write_log(tmp_path, EVENTS)
    assert main(["export", str(tmp_path), "--to", "parquet"]) == 0
    assert (tmp_path / "exported" / "parquet" / "run" / "train_step.parquet").is_file()
    assert str(tmp_path / "exported" / "parquet") in capsys.readouterr().out
