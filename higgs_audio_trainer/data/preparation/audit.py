"""Audit of prepared data sets, kept in the cache so that the next start does not audit again."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.data.audio_facts import AudioFacts
from higgs_audio_trainer.data.audit.audit import audit_samples
from higgs_audio_trainer.data.audit.columns import SPLITS
from higgs_audio_trainer.data.audit.rows import AuditedClip, AuditedSample
from higgs_audio_trainer.data.audit.texts import control_tokens
from higgs_audio_trainer.data.byte_tokens import partial_tokens
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.events import DatasetAudit, to_mapping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 2


def audit_path(datasets: Sequence[PreparedDataset], folder: Path, *, with_tokens: bool) -> Path:
    """Return the file of the audit of some data sets.

    Args:
        datasets: Data set to train on, and data set to evaluate on if there is one.
        folder: Folder of the cache.
        with_tokens: Whether the audit looks at the tokens of characters.
    """
    facts = (_FORMAT, with_tokens, [(dataset.folder.name, dataset.fingerprint, dataset.name) for dataset in datasets])
    return folder / "audits" / f"{hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()}.json"


def audit_of(
    datasets: Sequence[PreparedDataset], tokenizer: PreTrainedTokenizerBase, *, with_tokens: bool
) -> DatasetAudit:
    """Audit data sets.

    Args:
        datasets: Data set to train on, and data set to evaluate on if there is one.
        tokenizer: Tokenizer of the checkpoint.
        with_tokens: Whether the audit looks at the tokens of characters.
    """
    partial = partial_tokens(tokenizer) if with_tokens else None
    vocabulary = tokenizer.get_vocab()
    samples = [audited_samples(dataset, vocabulary, partial) for dataset in datasets]
    problems = zip(SPLITS, datasets, strict=False)
    left_out = ((split, problem) for split, dataset in problems for problem in dataset.problems)
    return audit_samples(*samples, left_out=left_out)


def store_audit(path: Path, audit: DatasetAudit) -> None:
    """Write an audit to the file from `audit_path`.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(orjson.dumps(to_mapping(audit)))


def read_audit(path: Path) -> DatasetAudit | None:
    """Read an audit. Return None if the file is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=DatasetAudit)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def audited_samples(
    dataset: PreparedDataset, vocabulary: Container[str], partial: npt.NDArray[np.bool_] | None
) -> Iterator[AuditedSample]:
    """Yield what the audit looks at of each sample.

    Args:
        dataset: A prepared data set.
        vocabulary: Tokens of the tokenizer.
        partial: Which tokens are parts of characters, bool [V]. None if the tokens are not looked at.
    """
    columns = dataset.columns("id", "where", "clips", "speaker", "tokens")
    for name, where, clips, speaker, tokens in columns:
        yield AuditedSample(
            name,
            dataset.place(where),
            tuple(_clip(clip, vocabulary) for clip in orjson.loads(clips)),
            speaker,
            None if partial is None else int(partial[tokens].sum()),
        )


def _clip(clip: dict[str, object], vocabulary: Container[str]) -> AuditedClip:
    given = clip.get("facts")
    facts = AudioFacts(**given) if isinstance(given, dict) else None
    return AuditedClip(
        clip["text"],  # type: ignore[arg-type]
        clip["seconds"],  # type: ignore[arg-type]
        facts.content_hash if facts else None,
        clip["codes"],  # type: ignore[arg-type]
        facts,
        bool(clip["is_reference"]),
        clip.get("file"),  # type: ignore[arg-type]
        clip.get("start_s", 0.0),  # type: ignore[arg-type]
        tuple(token for token in control_tokens(str(clip["text"] or "")) if token not in vocabulary),
    )
