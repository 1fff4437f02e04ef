"""Check of lines without msgspec: accepts nothing that the exact check refuses, and commands start fast."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.events import EVENTS
from higgs_audio_trainer.logs import light_check
from higgs_audio_trainer.logs.conversion import InvalidField
from higgs_audio_trainer.logs.light_check import LightCheck, fits
from higgs_audio_trainer.logs.typed import typed
from tests.builders import all_events, record_of

GOLDEN = Path(__file__).parent.parent / "examples" / "ci" / "golden.jsonl"
RECORDS = {event.name: orjson.loads(orjson.dumps(record_of(event))) for event in all_events()}
VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1, 2**64 - 1, 0.5, 1.0, "", "train", "audio", "info", "note", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "positions"]), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("name", RECORDS)
def test_accepts_what_is_written(name):
    """A record as the pipeline writes records needs no exact check."""
    assert fits(RECORDS[name])
    assert set(RECORDS) == set(EVENTS)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_accepts_no_more_than_the_exact_check(data):
    """A record with any values or missing fields that fits has no invalid field by the exact check."""
    record = orjson.loads(orjson.dumps(RECORDS[data.draw(st.sampled_from(sorted(RECORDS)))]))
    places = [record, *(value for value in record.values() if isinstance(value, dict))]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places))
        name = data.draw(st.sampled_from([*place, "unknown"]))
        if data.draw(st.booleans()):
            place[name] = data.draw(VALUES)
        else:
            place.pop(name, None)
    if not isinstance(record.get("event"), str):
        return
    exact = typed(record)
    if fits(record):
        assert not isinstance(exact, InvalidField)
    assert LightCheck()(record) == (exact if isinstance(exact, InvalidField) else None)


def test_long_logs_take_the_exact_check(monkeypatch):
    """After the first lines, msgspec is worth its import."""
    monkeypatch.setattr(light_check, "_MOST_LINES", 1)
    seen = []
    monkeypatch.setattr(light_check, "fits", lambda record: seen.append(record) or True)
    check = LightCheck()
    assert [check(RECORDS["checkpoint"]) for _ in range(3)] == [None] * 3
    assert len(seen) == 1


@pytest.mark.parametrize("command", [["diff", str(GOLDEN), str(GOLDEN)], ["show", str(GOLDEN)], ["merge", str(GOLDEN)]])
def test_small_logs_need_no_msgspec(command):
    """Commands that compare, show and copy a small log import neither msgspec nor zstd nor the training's settings."""
    code = (
        "import sys; from higgs_audio_trainer.cli import main; status = main(sys.argv[1:])\n"
        "print(status, sorted({'msgspec', 'backports.zstd', 'higgs_audio_trainer.config'} & set(sys.modules)),"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"
