"""What one event costs, from `emit` to the file and to the console, beside a floor and other loggers.

    python -m benchmarks.one_event

To the file: a call returns when the line is with the operating system, so that it outlives the process. The floor is
`os.write` of what orjson made of the finished record. The other loggers write the same record through, each time; they
add what ours adds, a time in UTC, a level and what is bound once. None of them looks for values that no line can hold,
orders threads and signal handlers, numbers what it writes, or notices that its file is gone; ours does.

To the console: the text of the event alone, in colour, without the writing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import sinks
from benchmarks.peer_loggers import CONSOLES, FILES
from benchmarks.peers import Peers
from benchmarks.rows import Row, run_alone
from benchmarks.timing import ratio
from benchmarks.typical_event import typical_event
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.console import text_of
from sinks.terminal.screen import Screen

FLOOR, *_FILE_PEERS = FILES
LATER = "loguru, enqueue"  # hands the record to a thread, which writes it later
_FILE, _CONSOLE = "one event to the file", "one event as text of the console"
_MOST_OF_FLOOR = 2.0
_RICH_IS_SLOWER = 100  # so many times, about


def rows(quick: bool = False) -> list[Row]:
    """Measure ours and each peer by turns; a row of each pair."""
    rounds, calls = (3, 100) if quick else (15, 2_000)
    taken = _measure(rounds, calls)
    made = [Row(FLOOR, 1e6 * median(taken[FLOOR]), "µs")]
    for ours, peers in ((_FILE, [FLOOR, *_FILE_PEERS]), (_CONSOLE, list(CONSOLES))):
        for peer in peers:
            if not taken[peer]:
                continue  # it cannot be had for this Python
            times = ratio(taken[ours], taken[peer])
            limit = _MOST_OF_FLOOR if peer == FLOOR else 1.0
            made.append(
                Row(
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
    """Return seconds a call of ours and of each peer; no round is counted before each was called once."""
    event = typical_event()
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        screen = Screen(nowhere, nowhere)
        memory = sinks.MemorySink()
        Pipeline([("memory", memory)], run_id="0" * 26)(event)
        record = memory.records[0]
        context = sinks.SinkContext(folder, "r", 0, 0, screen, screen.note)
        emit = Pipeline(sinks.build("jsonl", context), run_id="0" * 26)
        ours: dict[str, Callable[[], object]] = {
            _FILE: lambda: emit(event),
            _CONSOLE: lambda: text_of(record, color=True, encoding="utf-8"),
        }
        taken: dict[str, list[float]] = {name: [] for name in (*FILES, *CONSOLES, *ours)}
        with Peers(Path(folder), record) as peers:
            for turn in range(rounds + 1):
                for name, seconds in taken.items():
                    count = max(1, calls // _RICH_IS_SLOWER) if name == "rich" else calls
                    one = _seconds(ours[name], calls) if name in ours else peers.seconds(name, count)
                    if turn and one is not None:
                        seconds.append(one)
        screen.close()
    return taken


def _seconds(call: Callable[[], object], calls: int) -> float:
    began = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - began) / calls


if __name__ == "__main__":
    run_alone(rows, __doc__ or "")
