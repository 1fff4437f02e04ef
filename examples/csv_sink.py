"""Custom sink that writes learning curves as CSV for a spreadsheet, in one file per rank and attempt.

Usage: `PYTHONPATH=examples higgs-audio-trainer --sinks console,jsonl,csv_sink:make:folder=curves ...`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sinks import Record, SinkContext

COLUMNS = ("step", "epoch", "loss", "text_loss", "audio_loss", "text_accuracy", "learning_rate", "grad_norm")


class CsvSink:
    """Writer of a row per logged step, with `COLUMNS` and the accuracy of each codebook."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)  # flush after every row
        self._rows = csv.writer(self._file)

    def __call__(self, record: Record) -> None:
        """Write a row if the record is a `train_step`. A null figure leaves its cell empty."""
        if record["event"] == "run_start":
            self._rows.writerow([*COLUMNS, *(f"codebook_{k}_accuracy" for k in range(record["num_codebooks"]))])
        elif record["event"] == "train_step":
            self._rows.writerow([*(record[name] for name in COLUMNS), *record["audio_accuracy_per_codebook"]])

    def close(self) -> None:
        """Close the file. The trainer calls `close` at the end of a run, if a sink has the method."""
        self._file.close()


def make(context: SinkContext, *, folder: str = "") -> CsvSink:
    """Return the sink. The trainer calls the factory with facts of the run and the options of `--sinks`."""
    name = f"rank{context.rank:05d}-attempt{context.attempt:03d}.csv"
    return CsvSink(Path(folder or context.output_dir) / name)
