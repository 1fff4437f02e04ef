"""Shared fixtures of all tests: a tiny checkpoint that is written once, the bundled clips, and no network access."""

import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import higgs_audio_trainer.demo
import sinks.terminal.phase_lines
from tests.readme import call

with suppress(ModuleNotFoundError):  # tests/cuda runs on machines without the development packages
    from hypothesis import settings

    # The same examples each time. To look for new ones: HYPOTHESIS_PROFILE=explore pytest
    settings.register_profile("deterministic", derandomize=True, deadline=None)
    settings.register_profile("explore", deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))

# Not in a fixture, because libraries read these variables at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers have all cores busy, and tiny models gain nothing by more

# On a busy machine any phase may last over a second, and tests compare standard error. See also `preloaded.py`.
sinks.terminal.phase_lines.PATIENCE_S = 3_600.0

# The suite as a job in the background, or under nohup, inherits ignored signals.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the imported modules from garbage collection.

    A scan of the modules takes half of a short training. Accelerate collects at the end of each training. The
    collection otherwise takes 0.3 s of 0.65 s, and the import takes 4.8 s instead of 3.9 s.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class Tiny(NamedTuple):
    """Folders of the tiny base checkpoint and the tiny codec."""

    model_dir: Path
    codec_dir: Path


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep this process and all processes that a test starts out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="session")
def trackio_store(tmp_path_factory: pytest.TempPathFactory, environment: None) -> Path:
    """Place the store of trackio, which reads the setting at import, outside the user's store."""
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    return Path(os.environ["TRACKIO_DIR"])


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with MLflow's empty database for tests to copy, because the database takes seconds to make."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Return a function that returns the tiny checkpoint and codec of a family, written once."""
    from higgs_audio_trainer.demo.tiny import write_tiny

    written: dict[str, Tiny] = {}

    def tiny(family: str) -> Tiny:
        if family not in written:
            written[family] = Tiny(*write_tiny(tmp_path_factory.mktemp(family), family=family))
        return written[family]

    return tiny


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest, tiny_of: Callable[[str], Tiny]) -> Tiny:
    """Write the tiny checkpoint and codec. Tests read the folders and write nothing there.

    A test marked with `tests.families.every_family` runs for each family.
    """
    return tiny_of(getattr(request, "param", "higgs-audio-v2"))


@pytest.fixture(scope="session")
def tiny_higgs(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Write the tiny checkpoint and a codec of the Higgs codec's class. Tests read the folders and write nothing."""
    from higgs_audio_trainer.demo.tiny import write_tiny

    return Tiny(*write_tiny(tmp_path_factory.mktemp("tiny-higgs"), codec="higgs"))


@pytest.fixture(scope="session")
def clips() -> Path:
    """Return the manifest of the bundled clips."""
    return Path(higgs_audio_trainer.demo.__file__).parent / "clips" / "manifest.jsonl"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """Run the demo once, like a user. Return the working folder and the printed text.

    Each worker of a parallel run gets a separate copy.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "demo-of-all"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            folder = tmp_path_factory.mktemp("demo-run")
            command = [sys.executable, "-m", "higgs_audio_trainer", "demo"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
            (folder / "done.pickle").write_bytes(pickle.dumps(done))
            folder.rename(shared)
    copy = tmp_path_factory.mktemp("demo") / "copy"
    shutil.copytree(shared, copy)
    done = pickle.loads((copy / "done.pickle").read_bytes())
    (copy / "done.pickle").unlink()
    return copy, done


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[[str, Path], str]:
    """Return a function that runs a command line in this process, like a user in a folder, and returns the output."""

    def run(command: str, cwd: Path) -> str:
        capfd.readouterr()
        call(command, cwd)
        return capfd.readouterr().out

    return run


@pytest.fixture
def compiler_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with torch's own settings of the compiler, and restore them as torch does.

    pytest's monkeypatch would leave them hidden, and a later compilation would fail.
    """
    import torch
    from torch.fx.experimental import _config as shapes

    monkeypatch.delenv("ACCELERATE_DYNAMO_USE_DYNAMIC", raising=False)
    with torch._dynamo.config.patch(specialize_float=False), shapes.patch(use_duck_shape=True):
        yield
