"""What trackers hold, read back by their own libraries."""

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tests.builders import RUN_ID

NAMES = ("trackio", "tensorboard", "wandb", "mlflow")
PROJECT = "higgs-audio-trainer"


class Tracked(NamedTuple):
    """A run in a tracker: values of each name by step, rows of samples, alerts, and sounds by name and step."""

    scalars: dict
    samples: list
    alerts: list
    sounds: dict


def read(name, folder, run=RUN_ID):
    """Read a run back."""
    return {"trackio": _trackio, "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name](folder, run)


def _trackio(_folder, run):
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import MEDIA_DIR

    scalars, samples, sounds = defaultdict(list), [], {}
    for log in SQLiteStorage.get_logs(PROJECT, run_id=run):
        for name, value in log.items():
            if isinstance(value, dict) and value["_type"] == "trackio.audio":
                sounds[name, log["step"]] = (MEDIA_DIR / value["file_path"]).read_bytes()
            elif isinstance(value, dict):
                samples += value["_value"]
            elif name.startswith(("train/", "eval/", "probe/")) and name != "train/attempt":
                scalars[name].append((log["step"], value))
    alerts = [(a["title"], a["text"]) for a in SQLiteStorage.get_alerts(PROJECT, run_id=run)]
    return Tracked(scalars, samples, alerts, sounds)


def _tensorboard(folder, run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / run)).Reload()  # keeps as few of a tag as TensorBoard does
    scalars = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    samples, alerts = [], []
    for tag in read.Tags()["tensors"]:
        for event in read.Tensors(tag):
            table = _table(event.tensor_proto.string_val[0].decode())
            if "/samples/" in tag:
                samples.append(table)
            elif tag.startswith("alerts/"):
                title = tag.split("/")[1]
                alerts.append((title, table[title]))
    sounds = {
        (tag, event.step): event.encoded_audio_string for tag in read.Tags()["audio"] for event in read.Audio(tag)
    }
    return Tracked(scalars, samples, alerts, sounds)


def _table(markdown):
    rows = (line.removeprefix("| ").removesuffix(" |").split(" | ", 1) for line in markdown.splitlines()[2:])
    return {name: value.replace("\\|", "|") or None for name, value in rows}


def _wandb(folder, _run):
    import wandb

    wandb.teardown()  # what writes the file is a process, and done when it ended
    scalars, samples, alerts, sounds = defaultdict(list), [], [], {}
    for file in sorted(folder.rglob("*.wandb")):
        for record in _wandb_records(file):
            if record.alert.title:
                alerts.append((record.alert.title, record.alert.text))
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in items.items():
                if name == "prediction_samples/path":
                    table = json.loads((file.parent / "files" / value).read_text())
                    samples += [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
                elif name.endswith("/audio/path"):
                    sounds[name.removesuffix("/path"), items["step"]] = (file.parent / "files" / value).read_bytes()
                elif name.startswith(("train/", "eval/", "probe/")) and "/audio/" not in name:
                    scalars[name].append((items["step"], value))
    return Tracked(scalars, samples, alerts, sounds)


def _wandb_records(file):
    """Yield the records of an offline run: a log of LevelDB's, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def _mlflow(folder, run):
    client, found = _mlflow_run(folder, run)
    run_id = found.info.run_id
    scalars = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
        for name in found.data.metrics
    }
    files = Path(found.info.artifact_uri.removeprefix("file://"))
    samples = [json.loads(path.read_text()) for path in files.glob("*/samples/*/*/*.json")]
    alerts = [(path.name.partition("-")[0], path.read_text().partition(": ")[2]) for path in files.glob("alerts/*.txt")]
    sounds = {
        (str(path.parent.relative_to(files)), int(path.name.split("-")[0].removeprefix("step_"))): path.read_bytes()
        for path in files.glob("probe/*/audio/*.wav")
    }
    return Tracked(scalars, samples, alerts, sounds)


def _mlflow_run(folder, run):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(PROJECT).experiment_id
    (found,) = client.search_runs([experiment], f"tags.`higgs_audio_trainer.run` = '{run}'")
    return client, found
