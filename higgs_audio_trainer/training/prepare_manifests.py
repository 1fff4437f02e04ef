"""Preparation of manifests for one base checkpoint, for `prepare` and `train` alike."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from huggingface_hub.utils.tqdm import enable_progress_bars

from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.data.clips import ClipLimits
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.preparation.blocks import SampleRules
from higgs_audio_trainer.data.preparation.crew import CrewSettings
from higgs_audio_trainer.data.preparation.prepare import PreparedData, PrepareSettings, prepare
from higgs_audio_trainer.data.preparation.progress import Report
from higgs_audio_trainer.data.preparation.samples_table import text_of
from higgs_audio_trainer.data.sources import Columns, open_source
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.family import BaseCheckpoint
from higgs_audio_trainer.pipeline.failure_message import Say

_NO_COLUMNS = Columns()


def prepare_manifests(
    manifests: Sequence[str],
    checkpoint: BaseCheckpoint,
    *,
    columns: Columns = _NO_COLUMNS,
    codec_name: str,
    codes_dir: str | None,
    max_seconds: float,
    skip_bad_samples: bool,
    devices: Sequence[str],
    workers: int | None = None,
    say: Say = print,
    report: Report = lambda _progress: None,
) -> PreparedData:
    """Check, encode and tokenize manifests. All manifests are checked before any clip is encoded.

    All processes that call this function with one cache share the work.

    Args:
        manifests: Names of the manifests, see `open_source`.
        checkpoint: Base checkpoint of the training.
        columns: Names of the columns with texts, recordings and speakers.
        codec_name: Folder of the codec, or a name on the Hub.
        codes_dir: Cache of codes. None for the user's cache.
        max_seconds: Longest clip; seconds.
        skip_bad_samples: Leave out samples with problems.
        devices: Devices of the codec. This process encodes on the first.
        workers: Processes on each device. None for as many as keep the device busy.
        say: Prints the number of encoded clips, the samples that are left out, and what was decided for the user.
        report: Takes reports of the progress.

    Returns:
        The prepared data set of each manifest, and the audit of all.

    Raises:
        UserError: A manifest has problems, or the codec cannot be used.
    """
    family, ids = checkpoint.family, checkpoint.ids
    limits = ClipLimits(ids.num_codebooks, ids.stream_bos, max_seconds)

    folder, homeless = _cache_folder(codes_dir)

    def rules(has_audio: bool) -> SampleRules:
        if has_audio and homeless is not None:
            raise homeless
        codec = Codec(codec_name, device=devices[0], num_codebooks=ids.num_codebooks) if has_audio else None
        return SampleRules(
            limits, checkpoint.max_length, family.name, family.render, checkpoint.tokenizer, checkpoint.ids, codec
        )

    settings = PrepareSettings(
        folder,
        CrewSettings(devices, workers, report, say),
        skip_bad_samples=skip_bad_samples,
        say=say,
        audits_tokens=not getattr(checkpoint.config, RANDOM_WEIGHTS, False),
        check_samples=lambda samples: family.check_samples(checkpoint, samples),
    )
    return prepare(
        [open_source(manifest, columns, audio_folder=folder / "audio") for manifest in manifests], rules, settings
    )


def _cache_folder(codes_dir: str | None) -> tuple[Path, UserError | None]:
    """Return the folder of the cache. A user without a home gets a temporary folder, and the error for audio."""
    try:
        folder = Path(codes_dir) if codes_dir else default_codes_dir()
    except UserError as error:
        temporary = tempfile.mkdtemp(prefix="higgs-audio-trainer-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary), error
    if text_of(str(folder.absolute())) != str(folder.absolute()):
        raise UserError(f"--codes_dir: expected a folder with a name in UTF-8, as Arrow requires, got {str(folder)!a}")
    return folder, None


def default_codes_dir() -> Path:
    """Return the user's cache of codes, below XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: The user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "higgs-audio-trainer" / "codes"
    except RuntimeError as error:
        raise UserError(
            f"--codes_dir: expected a home folder for the cache of codes, {base}, got none for this user. Name a "
            "folder with --codes_dir, or set HOME."
        ) from error


def quiet_third_parties() -> None:
    """Silence warnings of libraries that a user cannot act on. Errors still appear."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # prevents a warning at every fork of a DataLoader
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # phases show the loading of weights
    if not HF_HUB_DISABLE_PROGRESS_BARS:  # a variable of the environment
        enable_progress_bars()  # downloads take minutes; the bars are drawn on terminals alone
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # types that its products convert
    for module in ("transformers", "peft", "torch", "accelerate", "huggingface_hub", "bitsandbytes"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
