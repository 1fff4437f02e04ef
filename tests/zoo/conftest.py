"""What the tests of the zoo share: trainings with a mistake, on one thread."""

from collections.abc import Callable, Iterator

import pytest
import torch

from sinks import MemorySink
from tests.zoo.faults import plant as plant_in


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
