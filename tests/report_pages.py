"""Logs for tests of reports."""

import orjson

from tests.builders import record_of


def write_events(path, events):
    """Write events, or records of events, as the lines of a log."""
    records = [event if isinstance(event, dict) else record_of(event) for event in events]
    path.write_bytes(b"".join(orjson.dumps(record | {"seq": seq}) + b"\n" for seq, record in enumerate(records)))
    return path
