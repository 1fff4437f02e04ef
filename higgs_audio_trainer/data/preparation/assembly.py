"""Checked blocks with the codes of their clips, as rows of a prepared data set."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.clips import FRAME_RATE_HZ, check_codes
from higgs_audio_trainer.data.media_path import shown_name
from higgs_audio_trainer.data.preparation.blocks import Block, SampleRules, job_of, problem_of_length
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.jobs import Job
from higgs_audio_trainer.data.prompt import TokenSegment, sequence_length
from higgs_audio_trainer.data.sample import Clip, unpacked


@dataclass(slots=True)
class Assembled:
    """A block with its codes.

    Attributes:
        rows: Rows of the prepared data set.
        damaged: Clips whose codes in the cache are damaged.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[Job] = field(default_factory=list)


def assemble(block: Block, rules: SampleRules, index: ClipIndex | None) -> Assembled:
    """Return the rows of a checked block with the codes of its clips. Further problems are added to the block."""
    made = Assembled()
    rate = FRAME_RATE_HZ if rules.codec is None else rules.codec.sampling_rate_hz / rules.codec.hop_length
    for row in block.rows:
        codes, about, faults = [], [], 0
        for entry in row["clips"]:
            clip = unpacked(entry["clip"])
            try:
                found, known = _codes_of(clip, entry.get("key"), rules, index)
                if found is None:
                    made.damaged.append(job_of(clip, entry["key"], rules))
            except AudioError as error:
                block.add_problem(row["where"], clip, error)
                faults += 1
                continue
            if found is None:
                continue
            codes.append(found)
            digest = hashlib.blake2b(np.ascontiguousarray(found, dtype="<i2").tobytes(), digest_size=16).hexdigest()
            about.append(
                {
                    "text": entry["text"],
                    "is_reference": entry["is_reference"],
                    "codes": digest,
                    "file": hashlib.blake2b(os.fsencode(clip.path), digest_size=8).hexdigest(),
                    "start_s": clip.offset_s,
                    **known,
                }
            )
            if "channel" in known:
                block.decisions.setdefault("single_channel", []).append(shown_name(clip.path))
        if faults or len(codes) < len(row["clips"]):
            continue
        frames = [codes_KT.shape[1] for codes_KT in codes]
        segments = _segments(row)
        if problem := problem_of_length(segments, frames, rules):
            block.problems.append((row["where"], *problem))
            continue
        made.rows.append(
            {
                **row,
                "tokens": np.asarray(row["tokens"], dtype=np.int32),
                "codes": b"".join(np.ascontiguousarray(codes_KT, dtype="<i2").tobytes() for codes_KT in codes),
                "frames": frames,
                "length": sequence_length(segments, frames, rules.ids),
                "audio_seconds": sum(frames) / rate,
                "clips": orjson.dumps(about),
            }
        )
    return made


def _segments(row: dict[str, Any]) -> list[TokenSegment]:
    segments, at, tokens = [], 0, np.asarray(row["tokens"], dtype=np.int64)
    for length, supervised in zip(row["segments"], row["supervised"], strict=True):
        segments.append(TokenSegment(tokens[at : at + length] if length >= 0 else None, bool(supervised)))
        at += max(length, 0)
    return segments


def _codes_of(clip: Clip, key: str | None, rules: SampleRules, index: ClipIndex | None) -> tuple[Any, dict[str, Any]]:
    """Return the codes of a clip, None for damaged codes, and what is known of the clip."""
    if key is None:
        given_KT = check_codes(clip, rules.clips)
        return given_KT, {"seconds": given_KT.shape[1] / FRAME_RATE_HZ}
    assert index is not None
    row = index.get(key)
    if row is None:
        return None, {}
    if "fault" in row:
        raise AudioError(*row["fault"])
    codes_KT = index.codes(row["codes"])
    return codes_KT, {name: value for name, value in row.items() if name not in ("key", "codes")}
