"""Sources other than JSON Lines in `prepare` and `train`, with the same codes and samples as JSON Lines."""

import csv
import json

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.config import TrainSettings


@pytest.fixture
def rows(clips):
    """Return three of the bundled clips as lines with absolute paths."""
    lines = [json.loads(line) for line in clips.read_text(encoding="utf-8").splitlines()[:3]]
    return [line | {"audio": str(clips.parent / line["audio"])} for line in lines]


@pytest.fixture
def checkpoint_flags(tiny, tmp_path):
    """Return the flags of the tiny checkpoint and of a cache for the test."""
    flags = {"base_ckpt": tiny.model_dir, "audio_tokenizer": tiny.codec_dir, "codes_dir": tmp_path / "codes"}
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def codes_in(folder):
    """Return the content of each file of codes."""
    return sorted(path.read_bytes() for path in folder.rglob("*.npy"))


def test_prepare_encodes_the_recordings_of_a_parquet_file(rows, checkpoint_flags, tmp_path, capsys):
    """Recordings as bytes in columns of any name give the codes of the same files."""
    with (tmp_path / "m.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert main(["prepare", "--train_manifest", str(tmp_path / "m.jsonl"), *checkpoint_flags]) == 0
    expected = codes_in(tmp_path / "codes")
    (tmp_path / "codes").rename(tmp_path / "first")
    audio = [open(row["audio"], "rb").read() for row in rows]  # noqa: SIM115, PTH123
    pq.write_table(pa.table({"x": audio, "y": [row["text"] for row in rows]}), tmp_path / "m.parquet")
    columns = ["--audio_column", "x", "--text_column", "y"]
    capsys.readouterr()
    assert main(["prepare", "--train_manifest", str(tmp_path / "m.parquet"), *columns, *checkpoint_flags]) == 0
    assert codes_in(tmp_path / "codes") == expected
    assert f"m.parquet: Parquet; recordings are written to {tmp_path}/codes/audio" in capsys.readouterr().out
    assert len([path for path in (tmp_path / "codes" / "audio").rglob("*") if path.is_file()]) == 3


def test_train_reads_a_table(rows, checkpoint_flags, tmp_path):
    """A training on a table logs its samples, and the columns are settings of the run."""
    with (tmp_path / "m.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "said"], *([row["audio"], row["text"]] for row in rows)])
    run = ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--sinks", "jsonl", "--batch_size", "1"]
    flags = ["--train_manifest", str(tmp_path / "m.csv"), "--text_column", "said", "--log_steps", "1"]
    assert main(["train", *flags, *run, *checkpoint_flags]) == 0
    events = [
        orjson.loads(line) for line in (tmp_path / "out/events/rank00000-attempt000.jsonl").read_bytes().splitlines()
    ]
    assert events[0]["config"]["text_column"] == "said"
    assert "audio_column" not in events[0]["config"]
    ids = {event["sample_id"] for event in events if event["event"] == "prediction_sample"}
    assert ids <= {row["audio"].rpartition(".")[0] for row in rows}
    assert ids


def test_columns_are_recorded_if_they_are_given():
    """A log without columns is the same as a log from before these settings."""
    plain = TrainSettings(train_manifest="m", output_dir="o").as_mapping()
    assert not any(name.endswith("_column") for name in plain)
    given = TrainSettings(train_manifest="m", output_dir="o", speaker_column="voice").as_mapping()
    assert given == plain | {"speaker_column": "voice"}
