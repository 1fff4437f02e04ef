"""Damage of the files of a log: changes of bytes, of lines and of compressed data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from higgs_audio_trainer.logs.source import zstd
from tests.builders import RUN_ID
from tests.honest_log import Record, file_of


def replaced_bytes(change: Callable[[bytes], bytes], attempt: int = 1) -> Callable[[Path], None]:
    """Return a mutation of the bytes of a file."""

    def mutate(folder: Path) -> None:
        path = file_of(folder, attempt)
        path.write_bytes(change(path.read_bytes()))

    return mutate


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    """Return a mutation of the lines of a file."""
    return replaced_bytes(lambda content: b"".join(change(content.splitlines(keepends=True))))


def runs(count: int, line: bytes) -> list[bytes]:
    """Return a line in many runs."""
    return [line.replace(RUN_ID.encode(), str(number).encode()) for number in range(count)]


def stored(content: bytes) -> bytes:
    """Pack by gzip without compression, so that a flipped bit leaves the rest as it is."""
    return gzip.compress(content, 0, mtime=0)


def packed(content: bytes, *, checksum: bool = True) -> bytes:
    """Compress by zstd, with or without a checksum."""
    return bytes(zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: checksum}))


def flipped_gzip(content: bytes) -> bytes:
    """Pack by gzip and flip a bit of a loss. Every line stays valid, and the data end well."""
    data = bytearray(stored(content))
    data[data.index(b'"grad_norm":1.') + len(b'"grad_norm":')] ^= 2
    return bytes(data)


def flipped_zstd(content: bytes, *, checksum: bool = True) -> bytes:
    """Compress by zstd and flip a bit of a value. Every line stays valid, and the frame ends well."""
    data, honest = packed(content, checksum=False), [json.loads(line) for line in content.splitlines()]
    lasting = list(map(_lasting, honest))
    for place in range(len(data) // 2, len(data)):
        other = flipped(data, place)
        try:
            records = [json.loads(line) for line in zstd.decompress(other).splitlines()]
        except (zstd.ZstdError, ValueError):
            continue
        if list(map(list, records)) == list(map(list, honest)) and list(map(_lasting, records)) != lasting:
            return flipped(packed(content), place) if checksum else other  # the frames differ in flag and end alone
    raise AssertionError("no bit leaves the frame valid")


def _lasting(record: Record) -> Record:
    """Return slots of a sample, whose changes `diff` never tolerates; nothing for another record."""
    return {name: record[name] for name in ("first", "last") if record["event"] == "prediction_sample"}


def flipped(data: bytes, place: int) -> bytes:
    """Flip the lowest bit of a byte."""
    return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
