"""Other loggers, each set up to write a given record as a line of JSON or to render the record for a console.

    PYTHON benchmarks/peer_loggers.py FOLDER < requests

The script runs in the peers' environment and imports nothing of this project. FOLDER has the record in `record.json`
and receives a file per logger. A request is a line with the name of a logger and the number of records. The answer is
a line with the seconds from the first call until the last line is in the file, or `-` if the logger is not installed or
does not support this Python.

Each logger adds the same values as our pipeline, a UTC time, a level and the bound fields, and flushes each record.
Only `loguru, enqueue` passes the record to a thread that writes later.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Write = Callable[[], object]  # writes the record once
Done = Callable[[], object]  # waits until the last line is in the file
BOUND = ("v", "run_id", "attempt", "rank")  # bound fields; the logger adds `ts` and `level`


def floor(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Encode the record with orjson and write the line, the floor of all loggers."""
    import orjson

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return lambda: os.write(descriptor, orjson.dumps(record) + b"\n"), nothing


def structlog_bytes(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up structlog for speed, with orjson and bytes, as documented by structlog."""
    import orjson
    import structlog

    bound, payload, event = parts(record)
    log = structlog.wrap_logger(
        structlog.BytesLogger(path.open("ab")),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return lambda: log.info(event, **payload), nothing


class JsonFormatter(logging.Formatter):
    """Formatter as commonly written with the standard library alone."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        line = {"event": record.msg, "ts": datetime.now(UTC).isoformat(), "level": record.levelname.lower()}
        return json.dumps(line | record.__dict__["payload"])


def stdlib_json(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up the standard library with `logging` and `json`."""
    bound, payload, event = parts(record)
    return _stdlib(path, "stdlib", JsonFormatter(), event, {"payload": bound | payload}), nothing


def python_json_logger(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up python-json-logger with the orjson formatter."""
    from pythonjsonlogger.orjson import OrjsonFormatter

    bound, payload, event = parts(record)
    formatter = OrjsonFormatter("%(message)s %(levelname)s", timestamp="ts")
    return _stdlib(path, "python-json-logger", formatter, event, bound | payload), nothing


def _stdlib(path: Path, name: str, formatter: logging.Formatter, event: str, extra: dict[str, Any]) -> Write:
    handler = logging.FileHandler(path)  # flushes every record
    handler.setFormatter(formatter)
    log = logging.getLogger(name)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    return lambda: log.info(event, extra=extra)


def picologging_json(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up picologging (records in C) with an orjson formatter."""
    import orjson
    import picologging

    bound, payload, event = parts(record)

    class Formatter(picologging.Formatter):
        def format(self, record: Any) -> str:
            line = {"event": record.msg, "ts": datetime.now(UTC).isoformat(), "level": record.levelname.lower()}
            return orjson.dumps(line | payload_of(record.args)).decode()

    handler = picologging.FileHandler(str(path))
    handler.setFormatter(Formatter())
    log = picologging.Logger("picologging", picologging.INFO)
    log.addHandler(handler)
    payload = bound | payload
    return lambda: log.info(event, payload), nothing  # picologging has no `extra`


def payload_of(args: Any) -> dict[str, Any]:
    """Return the mapping in the arguments of a log call.

    Example:
        >>> payload_of(({"step": 1},))
        {'step': 1}
    """
    return args if isinstance(args, dict) else args[0]


def loguru_plain(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up loguru with `serialize`."""
    return _loguru(path, record, enqueue=False)


def loguru_enqueue(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up loguru with a queue. A call returns before the line is in the file."""
    return _loguru(path, record, enqueue=True)


def _loguru(path: Path, record: dict[str, Any], *, enqueue: bool) -> tuple[Write, Done]:
    import loguru

    bound, payload, event = parts(record)
    loguru.logger.remove()
    logger = copy.deepcopy(loguru.logger)  # as documented for independent loggers
    logger.add(path, serialize=True, enqueue=enqueue, level="INFO", buffering=1, encoding="utf-8")
    log = logger.bind(**bound)
    return lambda: log.info(event, **payload), logger.complete


def eliot_json(path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up eliot with a file destination."""
    import eliot

    bound, payload, event = parts(record)
    eliot.add_destinations(eliot.FileDestination(path.open("ab")))
    return lambda: eliot.log_message(event, **bound, **payload), nothing


def structlog_console(_path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up the console renderer of structlog, in color, without the write."""
    import structlog

    render = structlog.dev.ConsoleRenderer(colors=True)
    return lambda: render(None, "info", record.copy()), nothing


def rich_console(_path: Path, record: dict[str, Any]) -> tuple[Write, Done]:
    """Set up the console of rich, in color, into memory."""
    import rich.console

    def render() -> str:
        text = io.StringIO()
        console = rich.console.Console(file=text, force_terminal=True, color_system="standard", width=120)
        console.print(record)
        return text.getvalue()

    return render, nothing


def parts(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the bound fields, the payload and the event name of a record.

    Example:
        >>> record = {"event": "train_step", "v": 1, "run_id": "r", "attempt": 0, "rank": 0, "ts": "", "step": 20}
        >>> parts(record)
        ({'v': 1, 'run_id': 'r', 'attempt': 0, 'rank': 0}, {'step': 20}, 'train_step')
    """
    bound = {key: record[key] for key in BOUND}
    payload = {key: value for key, value in record.items() if key not in {*BOUND, "event", "ts", "level"}}
    return bound, payload, record["event"]


def nothing() -> None:
    """Return immediately, for loggers whose line is in the file when the call returns."""


CONSOLES = {
    "structlog ConsoleRenderer": structlog_console,
    "rich": rich_console,
}
FILES = {
    "os.write of orjson.dumps": floor,
    "structlog, orjson, BytesLogger": structlog_bytes,
    "logging, json": stdlib_json,
    "python-json-logger": python_json_logger,
    "picologging": picologging_json,
    "loguru": loguru_plain,
    "loguru, enqueue": loguru_enqueue,
    "eliot": eliot_json,
}
PEERS = FILES | CONSOLES


def main() -> None:
    """Answer the requests on stdin."""
    folder = Path(sys.argv[1])
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    ready: dict[str, tuple[Write, Done]] = {}
    for request in sys.stdin:
        name, count = request.rsplit(maxsplit=1)
        try:
            if name not in ready:
                ready[name] = PEERS[name](folder / f"{name}.jsonl", record)
        except ImportError:
            print("-", flush=True)
            continue
        write, done = ready[name]
        began = time.perf_counter()
        for _ in range(int(count)):
            write()
        done()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
