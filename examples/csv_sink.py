"""A sink of one's own: the learning curves as CSV, for a spreadsheet. One file a rank and attempt.

Use it as `PYTHONPATH=examples higgs-audio-trainer --sinks console,jsonl,csv_sink:make:folder=curves ...`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sinks import Record, SinkContext

COLUMNS = ("step", "epoch", "loss", "text_loss", "audio_loss", "text_accuracy", "learning_rate", "grad_norm")


class CsvSink:
    """Writes one row a logged step: `COLUMNS`, then the accuracy of each codebook."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)  # each row goes out at once
        self._rows = csv.writer(self._file)

    def __call__(self, record: Record) -> None:
        """Take one record; a figure that is null leaves its cell empty."""
        if record["event"] == "run_start":
            self._rows.writerow([*COLUMNS, *(f"codebook_{k}_accuracy" for k in range(record["num_codebooks"]))])
        elif record["event"] == "train_step":
            self._rows.writerow([*(record[name] for name in COLUMNS), *record["audio_accuracy_per_codebook"]])

    def close(self) -> None:
        """Close the file; the trainer calls this at the end, if a sink has it."""
        self._file.close()


def make(context: SinkContext, *, folder: str = "") -> CsvSink:
    """Make the sink: the trainer calls this with what is known of the run and the options given."""
    name = f"rank{context.rank:05d}-attempt{context.attempt:03d}.csv"
    return CsvSink(Path(folder or context.output_dir) / name)
