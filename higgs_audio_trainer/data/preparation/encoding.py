"""Encoding of clips by all processes of a cache of codes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.clips import ClipLimits, decode_audio, encode_audio
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from higgs_audio_trainer.data.codec import Codec
    from higgs_audio_trainer.data.preparation.claims import Claims
    from higgs_audio_trainer.data.preparation.clip_index import ClipIndex, Row
    from higgs_audio_trainer.data.preparation.jobs import Job

_POLL_S = 0.2  # between looks at the work of other processes


def encode_jobs(
    jobs: Iterable[Job],
    index: ClipIndex,
    claims: Claims,
    codec: Codec,
    limits: ClipLimits,
    after_each: Callable[[], None],
) -> None:
    """Encode clips together with other processes, until the index has a row for each clip.

    An unreadable clip gets a row with a fault.

    Args:
        jobs: Clips of the manifests, the longest first, in the same order in every process.
        index: Index of the codec.
        claims: Claims of this process, in the folder of the index.
        codec: Codec on the device of this process.
        limits: Limits for clips.
        after_each: Called after each clip, and while the process waits for others.

    Raises:
        UserError: The codec does not fit the model, or the cache cannot be written.
    """
    rest = jobs
    held: set[str] = set()

    def flush() -> None:
        index.flush()
        claims.release(held)  # only now, so that no process sees neither the claim nor the row
        held.clear()

    while rest:
        left, worked = [], False
        for job in rest:
            if job.key in index:
                continue
            if job.claim not in held:
                if not claims.take(job.claim):
                    left.append(job)
                    continue
                held.add(job.claim)
                index.refresh()  # another process may have encoded the clip since the last look
            if job.key not in index:
                index.add(job.key, _row(job, index, codec, limits))
                worked = True
            if index.is_full():
                flush()
            after_each()
        flush()
        rest = left
        if left and not worked:
            time.sleep(_POLL_S)
            after_each()
        index.refresh()


def content_key(audio: str) -> str:
    """Return the key of a recording in the index, whatever its file.

    Args:
        audio: Hash of the decoded recording.
    """
    return hashlib.blake2b(f"recording:{audio}".encode(), digest_size=16).hexdigest()


def _row(job: Job, index: ClipIndex, codec: Codec, limits: ClipLimits) -> Row:
    if job.has_changed():
        return {"fault": ["a file that stays as it is", "a file that changed after its check. Start again"]}
    try:
        decoded = decode_audio(job.clip, codec.sampling_rate_hz)
    except AudioError as error:
        return {"fault": [error.expected, error.got]}
    key = content_key(decoded.row["facts"]["content_hash"])
    known = index.get(key)
    place: list[Any] | None = known["codes"] if known else None
    if place is None or index.codes(place) is None:
        place = index.add_codes(encode_audio(decoded.waveform, codec, limits))
        index.add(key, {"codes": place})
    shortened = {"shortened": True} if job.shortened else {}
    return {**decoded.row, **shortened, "codes": place}


def cache_error(error: OSError, folder: Path) -> UserError:
    """Return the error of a failed write to the cache."""
    path = error.filename2 or error.filename or folder  # the name of a link is the second
    reason = os.strerror(error.errno) if error.errno else error  # Arrow adds words of its own
    return UserError(f"--codes_dir: {path}: {reason}. Name another folder, or free space.")
