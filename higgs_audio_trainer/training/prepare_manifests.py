"""Manifests made ready for one checkpoint: what `prepare` and `train` share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.clips import ClipLimits, ClipStore
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.data.preparer import Prepared, Preparer
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import Fault, ManifestError
from higgs_audio_trainer.training.base_checkpoint import BaseCheckpoint, check_template
from higgs_audio_trainer.training.progress import encoding_bar

Say = Callable[[str], None]


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
    """Check, encode and tokenize manifests; all of them are checked before anything is encoded.

    Args:
        manifests: paths.
        checkpoint: what will be trained.
        codec_name: a folder, or a name on the Hub.
        codes_dir: cache of codes; None for the user's.
        max_seconds: longest clip.
        skip_bad_samples: leave out samples that have faults.
        device: where to encode.
        say: told what was encoded and what was left out.

    Returns:
        The samples of each manifest.

    Raises:
        UserError: a manifest has faults, or the codec cannot be used.
    """
    cache_root = Path(codes_dir) if codes_dir else default_codes_dir()
    read = [read_manifest(manifest) for manifest in manifests]
    check_template(checkpoint, [sample for samples, _ in read for sample in samples])
    has_audio = any(not clip.encoded for samples, _ in read for sample in samples for clip in sample.clips)
    ids = checkpoint.ids
    preparer = Preparer(
        ClipStore(
            ClipLimits(ids.num_codebooks, ids.stream_bos, max_seconds),
            Codec(codec_name, device=device) if has_audio else None,
            cache_root,
        ),
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
    return ready


def _check_all(
    preparer: Preparer, read: Sequence[tuple[list[Sample], list[Fault]]]
) -> list[tuple[list[PreparedSample], list[Fault]]]:
    checked: list[tuple[list[PreparedSample], list[Fault]]] = []
    faults: list[Fault] = []
    for samples, found in read:
        try:
            checked.append(preparer.check(samples, found))
        except ManifestError as error:
            faults.extend(error.faults)
    if faults:
        raise ManifestError(faults)
    return checked


def _report(manifest: str, prepared: Prepared, cache_root: Path, say: Say) -> None:
    if prepared.encoded:
        say(f"{manifest}: encoded {prepared.encoded} clips to {cache_root}")
    if prepared.problems:
        skipped = len({problem.where for problem in prepared.problems})
        say("\n".join(map(str, prepared.problems)))
        say(f"{manifest}: skipped {skipped} of {skipped + len(prepared.samples)} samples, listed above")


def default_codes_dir() -> Path:
    """Return the user's cache of codes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "higgs-audio-trainer" / "codes"


def quiet_third_parties() -> None:
    """Silence what a user cannot act on; errors still pass."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a warning at every DataLoader fork
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for module in ("transformers", "peft", "torch", "accelerate", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
