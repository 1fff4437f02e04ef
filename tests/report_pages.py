"""Logs for tests of reports."""

import orjson

from tests.builders import record_of


def write_events(path, events):
    """Write events as the lines of a log."""
    path.write_bytes(
        b"".join(orjson.dumps(record_of(event) | {"seq": seq}) + b"\n" for seq, event in enumerate(events))
    )
    return path
