"""Check, encode and tokenize manifests for one base checkpoint, for `prepare` and `train` alike."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers

from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.clips import ClipLimits, ClipStore
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.media_path import shown_name
from higgs_audio_trainer.data.preparer import Prepared, Preparer
from higgs_audio_trainer.data.sample import Clip, Sample
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError, listed
from higgs_audio_trainer.pipeline.failure_message import Say
from higgs_audio_trainer.training.base_checkpoint import BaseCheckpoint, check_template
from higgs_audio_trainer.training.progress import encoding_bar

_MOST_NAMES = 5  # of files in a line


def prepare_manifests(
    manifests: Sequence[str],
    checkpoint: BaseCheckpoint,
    *,
    codec_name: str,
    codes_dir: str | None,
    max_seconds: float,
    skip_bad_samples: bool,
    device: str,
    say: Say = print,
) -> list[list[PreparedSample]]:
    """Check, encode and tokenize manifests. All manifests are checked before any clip is encoded.

    Args:
        manifests: Paths of the manifests.
        checkpoint: Base checkpoint of the training.
        codec_name: Folder of the codec, or a name on the Hub.
        codes_dir: Cache of codes. None for the user's cache.
        max_seconds: Longest clip; seconds.
        skip_bad_samples: Leave out samples with problems.
        device: Device of the codec.
        say: Prints the number of encoded clips, the samples that are left out, and what was decided for the user.

    Returns:
        The samples of each manifest.

    Raises:
        UserError: A manifest has problems, or the codec cannot be used.
    """
    read = [read_manifest(manifest, say) for manifest in manifests]
    check_template(checkpoint, [sample for samples, _ in read for sample in samples])
    has_audio = any(not clip.encoded for samples, _ in read for sample in samples for clip in sample.clips)
    ids = checkpoint.ids
    cache_root = Path(codes_dir) if codes_dir else default_codes_dir() if has_audio else Path()
    store = ClipStore(
        ClipLimits(ids.num_codebooks, ids.stream_bos, max_seconds),
        Codec(codec_name, device=device) if has_audio else None,
        cache_root,
    )
    preparer = Preparer(
        store,
        checkpoint.tokenizer,
        num_codebooks=ids.num_codebooks,
        max_length=checkpoint.config.max_position_embeddings,
        skip_bad_samples=skip_bad_samples,
        progress=encoding_bar,
    )
    ready = []
    for manifest, (samples, faults) in zip(manifests, _check_all(preparer, read), strict=True):
        prepared = preparer.encode(samples, faults)
        _report(manifest, prepared, cache_root, say)
        ready.append(prepared.samples)
    _say_decisions(store, say)
    return ready


def _check_all(
    preparer: Preparer, read: Sequence[tuple[list[Sample], list[InputProblem]]]
) -> list[tuple[list[PreparedSample], list[InputProblem]]]:
    checked: list[tuple[list[PreparedSample], list[InputProblem]]] = []
    faults: list[InputProblem] = []
    for samples, found in read:
        try:
            checked.append(preparer.check(samples, found))
        except ManifestError as error:
            faults.extend(error.problems)
    if faults:
        raise ManifestError(faults)
    return checked


def _report(manifest: str, prepared: Prepared, cache_root: Path, say: Say) -> None:
    if prepared.encoded:
        say(f"{manifest}: encoded {prepared.encoded} clips to {cache_root}")
    if prepared.problems:
        skipped = len({problem.where for problem in prepared.problems})
        say("\n".join(listed(prepared.problems)))
        say(f"{manifest}: skipped {skipped} of {skipped + len(prepared.samples)} samples, listed above")


def _say_decisions(store: ClipStore, say: Say) -> None:
    """Print the clips that are not simply the mean of a whole file."""
    if store.shortened:
        say(f"duration without an offset: only the beginning is taken of {_names(store.shortened)}")
    if store.single_channel:
        say(f"channels cancel each other out: only the loudest channel is taken of {_names(store.single_channel)}")


def _names(clips: Sequence[Clip]) -> str:
    names = list(dict.fromkeys(shown_name(clip.path) for clip in clips))
    more = f" and {len(names) - _MOST_NAMES:,} more files" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


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
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "peft", "torch", "accelerate", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
