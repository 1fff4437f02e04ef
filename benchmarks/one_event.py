"""Cost of one event, from `emit` to the file and to console text, beside a floor and other loggers.

    python -m benchmarks.one_event

File: a call returns after the operating system has the line, so the line survives the death of the process. The floor
is `os.write` of the finished record, encoded by orjson. The other loggers write the same record and flush each line.
Each logger adds the same values, a UTC time, a level and the bound fields. Only our pipeline replaces values without a
JSON form, orders threads and signal handlers, numbers the lines and detects a deleted file.

Console: the colored text of the event, without the write.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import sinks
from benchmarks.peer_loggers import CONSOLES, FILES
from benchmarks.peers import Peers
from benchmarks.pipelines import hidden_pipeline
from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import ratio, seconds_of
from benchmarks.typical_event import typical_event
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.record_text import RecordText

FLOOR, *_FILE_PEERS = FILES
LATER = "loguru, enqueue"  # a thread writes the record after the call has returned
_FILE, _CONSOLE = "one event to the file", "one event as console text"
_MOST_OF_FLOOR = 2.0
_RICH_IS_SLOWER = 100  # approximate factor, to keep the round short


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure our pipeline and each peer in turns, with a row per pair."""
    rounds, calls = (3, 100) if quick else (15, 2_000)
    taken = _measure(rounds, calls)
    made = [ResultRow(FLOOR, 1e6 * median(taken[FLOOR]), "µs")]
    for ours, peers in ((_FILE, [FLOOR, *_FILE_PEERS]), (_CONSOLE, list(CONSOLES))):
        for peer in peers:
            if not taken[peer]:
                continue  # not available for this Python
            times = ratio(taken[ours], taken[peer])
            limit = _MOST_OF_FLOOR if peer == FLOOR else 1.0
            made.append(
                ResultRow(
                    name=ours,
                    figure=1e6 * median(taken[ours]),
                    unit="µs",
                    against=f"{peer} ({1e6 * median(taken[peer]):.1f} µs)",
                    ratio=times,
                    target="" if peer == LATER else f"<= {limit:g}" if peer == FLOOR else "< 1",
                    holds=None if peer == LATER else times <= limit,
                )
            )
    return made


def _measure(rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the seconds of a call by logger. A warm-up round is not counted."""
    event = typical_event()
    memory = sinks.MemorySink()
    Pipeline([("memory", memory)], run_id="0" * 26)(event)
    record = memory.records[0]
    with tempfile.TemporaryDirectory() as folder, hidden_pipeline(folder, "jsonl") as emit:
        text_of = RecordText(color=True, encoding="utf-8")
        ours: dict[str, Callable[[], object]] = {
            _FILE: lambda: emit(event),
            _CONSOLE: lambda: text_of(record),
        }
        taken: dict[str, list[float]] = {name: [] for name in (*FILES, *CONSOLES, *ours)}
        with Peers(Path(folder), record) as peers:
            for turn in range(rounds + 1):
                for name, seconds in taken.items():
                    count = max(1, calls // _RICH_IS_SLOWER) if name == "rich" else calls
                    one = seconds_of(ours[name], calls) if name in ours else peers.seconds(name, count)
                    if turn and one is not None:
                        seconds.append(one)
    return taken


if __name__ == "__main__":
    run_alone(rows, __doc__)
