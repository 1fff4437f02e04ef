"""Fixtures of the zoo's tests: trainings with planted faults, on a single thread."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser
from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.families.known import DEFAULT_FAMILY
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.typed import typed
from sinks import MemorySink
from tests.zoo.faults import ALSO, MILDER
from tests.zoo.faults import plant as plant_in
from tests.zoo.runs import alarms, found


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on a single thread, as threads only wait for each other with such small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MemorySink]:
    """Return a function that trains with a planted fault, once for each test file, and returns the events."""
    codes_dir, trained = tmp_path_factory.mktemp("codes"), dict[tuple[str, str], MemorySink]()

    def planted(name: str, family: str = DEFAULT_FAMILY) -> MemorySink:
        if (name, family) not in trained:
            trained[name, family] = plant_in(name, tmp_path_factory.mktemp(name), codes_dir, family=family)
        return trained[name, family]

    return planted


@pytest.fixture
def check_found() -> Callable[..., int]:
    """Return a function that checks the diagnosis of a fault, live and in the log, and returns its first step."""

    def check(name: str, memory: MemorySink) -> int:
        code = FAULTS[name].found_by
        by_it = [event for event in found(memory) if event["code"] == code]
        assert by_it, f"{name} is not found: {[event['code'] for event in found(memory)]}"
        assert {event["severity"] for event in by_it} == {MILDER.get(code, "error")}
        assert {event["code"] for event in alarms(memory)} - {code} <= ALSO.get(name, set())
        assert (code in memory.named("run_end")[0]["diagnoses"]) == (MILDER.get(code) != "note")
        fields = ("step", "code", "severity", "codebook", "message")
        assert _found_in_the_log(memory) == [tuple(event[n] for n in fields) for event in memory.named("diagnosis")]
        return int(by_it[0]["step"])

    return check


def _found_in_the_log(memory: MemorySink) -> list[tuple[Any, ...]]:
    """Return the findings of `diagnose` in the events."""
    diagnoser, events = Diagnoser(), []
    for part in logged_steps(map(typed, memory.records)):
        if isinstance(part, RunStart):
            diagnoser.start(part)
        else:
            events += diagnoser.check(part)
    return [(event.step, event.code, event.severity, event.codebook, event.message) for event in events]
