"""What the tests of the zoo share: trainings with a mistake, on one thread."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.diagnoses.diagnoser import Diagnoser
from higgs_audio_trainer.events import RunStart
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.typed import typed
from sinks import MemorySink
from tests.zoo.faults import ALSO, MILDER
from tests.zoo.faults import plant as plant_in
from tests.zoo.runs import alarms, found


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: for matrices this small, others wait for each other and no more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], MemorySink]:
    """Train with a mistake and return the events; once for all tests of a file."""
    codes_dir, trained = tmp_path_factory.mktemp("codes"), dict[str, MemorySink]()

    def planted(name: str) -> MemorySink:
        if name not in trained:
            trained[name] = plant_in(name, tmp_path_factory.mktemp(name), codes_dir)
        return trained[name]

    return planted


@pytest.fixture
def check_found() -> Callable[[str, MemorySink], int]:
    """Check that a fault was found as it is to be, by `diagnose` too; return the step at which it was found first."""

    def check(name: str, memory: MemorySink) -> int:
        code = FAULTS[name].found_by
        by_it = [event for event in found(memory) if event["code"] == code]
        assert by_it, f"{name} is not found: {[event['code'] for event in found(memory)]}"
        assert {event["severity"] for event in by_it} == {MILDER.get(code, "error")}
        assert {event["code"] for event in alarms(memory)} - {code} <= ALSO.get(name, set())
        assert (code in memory.named("run_end")[0]["diagnoses"]) == (MILDER.get(code) != "note")
        told = ("step", "code", "severity", "codebook", "message")
        assert _found_in_the_log(memory) == [tuple(event[n] for n in told) for event in memory.named("diagnosis")]
        return int(by_it[0]["step"])

    return check


def _found_in_the_log(memory: MemorySink) -> list[tuple[Any, ...]]:
    """Look through the events as `diagnose` does."""
    diagnoser, events = Diagnoser(), []
    for part in logged_steps(map(typed, memory.records)):
        if isinstance(part, RunStart):
            diagnoser.start(part)
        else:
            events += diagnoser.check(part)
    return [(event.step, event.code, event.severity, event.codebook, event.message) for event in events]
