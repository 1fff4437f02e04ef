"""Fuzzing of what reads files of others: logs, manifests, codes, recordings, configurations and checkpoints.

`python -m tests.fuzz` reads the same examples each time, about a minute. `--minutes N` reads new examples for N
minutes. An example that a reader fails on is kept as a small file in `tests/corpus`, and `tests/test_corpus.py` reads
every file there.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from hypothesis import HealthCheck, Verbosity, given, seed, settings

import higgs_audio_trainer
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.audio import AudioError, load_audio
from higgs_audio_trainer.data.codes import load_codes
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import damage_of, trained_precision
from tests.fuzzed_files import CONTENTS

CORPUS = Path(__file__).parent / "corpus"
_GOLDEN = Path(__file__).parent / "goldens" / "demo.jsonl"
_ROUNDS = 16  # of all kinds of files without --minutes: the same on each machine, a minute on one core
_MOST_SECONDS = 240  # of these rounds
_BATCH = 20  # examples of a kind of file in a round
_WITH_TORCH = ("lora.json",)  # whose import takes a tenth of the minute, so that --minutes alone reads them
_MOST_CPU_SECONDS = 10  # of all readers of a file
_MOST_MEMORY = 2**33  # bytes of addresses; torch alone has half as many
_SMALLER_SECONDS = 20  # of the search for a smaller file after a failure

Reader = Callable[[Path], None]


class _EnoughError(BaseException):
    """End of the search for a smaller file."""


def read_log(path: Path) -> None:
    """Read a log by all commands that read logs, and by `read`."""
    target = path.parent / "out"
    _check("validate", path)
    _check("show", path)
    _check("show", "--summary", path)
    _check("show", "--raw", path)
    _check("merge", path)
    _check("diagnose", path)
    _check("diff", path, _GOLDEN)
    _check("diff", path, path)
    _check("report", path, "-o", target.with_suffix(".html"))
    _check("export", path, "--to", "parquet", "-o", target)
    try:
        for _ in higgs_audio_trainer.read(path, on_problem=lambda problem: None):
            pass
    except UserError:
        return


def read_manifest(path: Path) -> None:
    """Read a manifest by the command that only reads. The files that it names exist."""
    soundfile.write(path.with_name("a.wav"), np.zeros(800), 16_000)
    np.save(path.with_name("c.npy"), np.zeros((3, 8), dtype=np.int32))
    _check("manifest", path, "-o", path.parent / "out.jsonl", "--force", "--skip_bad_samples")


def read_codes(path: Path) -> None:
    """Read codes, or refuse the file with an error of its own."""
    try:
        codes_KT = load_codes(path, num_codebooks=3, num_codes=1024)
    except AudioError:
        return
    assert codes_KT.shape[0] == 3
    assert codes_KT.shape[1] > 0
    assert codes_KT.min() >= 0
    assert codes_KT.max() < 1024


def read_recording(path: Path) -> None:
    """Read a recording, or refuse the file with an error of its own."""
    null, stderr = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(null, 2)  # libmpg123 prints notes
    try:
        load_audio(path)
    except AudioError:
        return
    finally:
        os.dup2(stderr, 2)
        os.close(null)
        os.close(stderr)


def read_config(path: Path) -> None:
    """Read settings without a training."""
    _check("train", "--config", path, "--train_manifest", "m.jsonl", "--output_dir", "out", "--print_config")


def read_lora(path: Path) -> None:
    """Read a configuration of LoRA, whose training then lacks a manifest."""
    _check("train", "--lora_config", path, "--train_manifest", "no-such.jsonl", "--output_dir", path.parent / "out")


def read_state(path: Path) -> None:
    """Look for the damage of a checkpoint with this state."""
    _in_checkpoint(path, "trainer_state.json")


def read_settings(path: Path) -> None:
    """Look for the damage of a checkpoint with these settings."""
    _in_checkpoint(path, "training_settings.json")


def _in_checkpoint(path: Path, name: str) -> None:
    (path.parent / "trainer_state.json").write_text('{"global_step": 4}', encoding="utf-8")
    (path.parent / name).write_bytes(path.read_bytes())
    damage = damage_of(path.parent)
    assert damage is None or "\n" not in damage
    trained_precision(path.parent)


def _check(*words: object) -> None:
    """Run a command in this process, and check that no bug ended it."""
    printed = io.StringIO()
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stderr(printed), redirect_stdout(output):
        status = main([str(word) for word in words])
    assert status in (0, 1, 2), status
    assert "Traceback" not in printed.getvalue(), f"{words[0]}: {printed.getvalue()[-2_000:]}"


#: Beginning of a file's name in the corpus, and its reader.
READERS: dict[str, Reader] = {
    "log": read_log,
    "manifest": read_manifest,
    "codes": read_codes,
    "recording": read_recording,
    "config": read_config,
    "lora": read_lora,
    "state": read_state,
    "settings": read_settings,
}


def read(path: Path) -> None:
    """Read a file by the reader of its name, and check that the reading takes no long time."""
    begun = time.process_time()
    READERS[path.name.partition(".")[0].partition("-")[0]](path)
    used = time.process_time() - begun
    assert used < _MOST_CPU_SECONDS, f"{path.name}: {used:.0f} s"


def fuzz(name: str, number: int, examples: int = _BATCH) -> None:
    """Read examples of a kind of file.

    Args:
        name: Name of the file in `CONTENTS`.
        number: Seed of the examples.
        examples: Number of examples.

    Raises:
        Exception: A reader failed. A small file on which it fails is in the corpus, and is named in a note.
    """
    failures: list[tuple[bytes, BaseException]] = []
    first_at: list[float] = []

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(CONTENTS[name])
    def check(content: bytes) -> None:
        if first_at and time.monotonic() - first_at[0] > _SMALLER_SECONDS:
            raise _EnoughError
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                read(path)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic of a library in Rust is no Exception
                failures.append((content, error))
                first_at.append(time.monotonic())
                raise

    try:
        check()
    except BaseException:
        if not failures:
            raise
        content, failure = min(failures, key=lambda each: len(each[0]))
        kept = _keep(name, content)
        failure.add_note(
            f"{kept} fails, found with the seed {number}. To repeat: pytest tests/test_corpus.py -n 0 -k {kept.name}"
        )
        raise failure from None


def _keep(name: str, content: bytes) -> Path:
    """Write a file to the corpus and return its path."""
    kind, _, suffix = name.partition(".")
    path = CORPUS / f"{kind}-{blake2b(content, digest_size=4).hexdigest()}.{suffix}"
    path.write_bytes(content)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Read hostile files with every reader, and keep those that a reader fails on in tests/corpus.",
        epilog="exit status: 0 no reader failed, 1 a reader failed. The last line has the seeds, for --seed.",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="read new examples for N minutes")
    parser.add_argument("--seed", type=int, metavar="N", help="first seed [0; the time with --minutes]")
    parser.add_argument("--only", choices=CONTENTS, metavar="FILE", help=f"one kind of file: {', '.join(CONTENTS)}")
    given = parser.parse_args()
    is_long = given.minutes is not None
    first = given.seed if given.seed is not None else time.time_ns() % 2**32 if is_long else 0
    begun, limit = time.monotonic(), 60 * given.minutes if is_long else _MOST_SECONDS
    if sys.platform == "linux":  # a reader that takes all memory then fails, and is no victim of the system
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    warnings.simplefilter("ignore")  # `read` warns of problems
    names = [given.only] if given.only else [name for name in CONTENTS if is_long or name not in _WITH_TORCH]
    failed = []
    number = read_files = 0
    while names and time.monotonic() - begun < limit and (is_long or number < _ROUNDS):
        for name in names[:]:
            read_files += _BATCH
            try:
                fuzz(name, first + number)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                traceback.print_exception(error)
                sys.stderr.write(f"{name}: failed in round {number + 1}, after {time.process_time():.0f} s\n")
                failed.append(name)
                names.remove(name)  # a bug is found in nearly every batch
        number += 1
    found = f"a reader failed on {', '.join(failed)}" if failed else "no reader failed"
    sys.stdout.write(f"about {read_files:,} files read, {found}; seeds {first} to {first + number - 1}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main())
