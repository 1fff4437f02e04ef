"""Bombs: small files that unpack, nest or count to much. Each takes the place of an attempt of an honest log."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.builders import RUN_ID
from tests.damage import lines, packed, replaced_bytes, runs
from tests.honest_log import file_of

_MEMBER_BYTES = 2**24
_TS = b"2026-01-02T03:04:05.000060Z"
_STEP = b'"event":"train_step"'
Change = Callable[[Path], None]


def unpacked(piece: bytes, size: int, *, behind: bool = False) -> Change:
    """Return a change of a file into gzip of a repeated piece, alone or behind the honest lines.

    A member of 16 MiB is compressed once. Many members in a row are valid gzip too.
    """
    member = gzip.compress(piece * (_MEMBER_BYTES // len(piece)), 9, mtime=0)
    bomb = member * (size // _MEMBER_BYTES)
    return replaced_bytes(lambda content: (gzip.compress(content, mtime=0) if behind else b"") + bomb)


def giant_window(content: bytes) -> bytes:
    """Return a zstd frame with a window of 1 GiB and the content in raw blocks. Source: RFC 8878, 3.1.1.1.2."""
    block = content[: 2**16]
    return b"\x28\xb5\x2f\xfd" + bytes([0, (30 - 10) << 3]) + (len(block) << 3 | 1).to_bytes(3, "little") + block


def zstd_of_zeros(content: bytes) -> bytes:
    """Return zstd of honest lines and then of a gigabyte of null characters."""
    return packed(content) + packed(bytes(_MEMBER_BYTES)) * 64


def nested_gzip(content: bytes) -> bytes:
    """Return gzip of gzip of a gigabyte of newlines."""
    return gzip.compress(gzip.compress(b"\n" * _MEMBER_BYTES, 9, mtime=0) * 64 + content, 9, mtime=0)


def deep(depth: int, *, member: str | None = None, event: bytes = b"train_step") -> Change:
    """Return a change that nests lists in an unknown field or in a field of the first event of a kind."""
    nested = b"[" * depth + b"]" * depth

    def change(old: list[bytes]) -> list[bytes]:
        at = next(index for index, line in enumerate(old) if b'"event":"%s"' % event in line)
        line = old[at].replace(b'{"', b'{"deep":%s,"' % nested, 1)
        if member is not None:
            line = old[at].replace(b'"%s":' % member.encode(), b'"%s":%s,"was":' % (member.encode(), nested), 1)
        return [*old[:at], line, *old[at + 1 :]]

    return lines(change)


def value(name: str, new: str, event: str = "train_step") -> Change:
    """Return a change of a number, a text or null in the first event of a kind. A missing member is added."""

    def change(old: list[bytes]) -> list[bytes]:
        at = next(index for index, line in enumerate(old) if b'"event":"%s"' % event.encode() in line)
        before, found, after = old[at].partition(b'"%s":' % name.encode())
        if not found:
            before, after = old[at][:1], b"0," + old[at][1:]
        end = min(place for place in (after.find(b","), after.find(b"}"), after.find(b"]")) if place >= 0)
        line = before + b'"%s":' % name.encode() + new.encode() + after[end:]
        return [*old[:at], line, *old[at + 1 :]]

    return lines(change)


def every(name: str, new: str) -> Change:
    """Return a change of a text in all lines."""
    return replaced_bytes(lambda content: content.replace(name.encode(), new.encode()))


def many_ranks(count: int) -> Change:
    """Return a change that repeats a line for many ranks."""
    return lines(lambda old: old + [old[1].replace(b'"rank":0', b'"rank":%d' % rank) for rank in range(1, count)])


def many_attempts(count: int) -> Change:
    """Return a change that adds empty files of many attempts."""

    def change(folder: Path) -> None:
        for number in range(3, count):
            file_of(folder, number).touch()

    return change


def many_small_events(count: int) -> Change:
    """Return a change that adds lines of events with names of their own."""
    line = '{"event":"e%d","v":1,"ts":"%s","run_id":"%s","attempt":1,"rank":0,"seq":%d,"level":"info"}\n'
    made = [(line % (number, _TS.decode(), RUN_ID, 100 + number)).encode() for number in range(count)]
    return lines(lambda old: old + made)


class Bomb(NamedTuple):
    """A bomb with the expected exit status of each reader.

    Attributes:
        change: Change of the files of an honest log.
        statuses: Exit status of each of `READERS`.
        says: Part of a finding of `validate`.
    """

    change: Change
    statuses: str
    says: str


_GIB = 2**30
_EMPTY, _RATIO = "empty lines in a row", "data that grow at most 200-fold"
_DEEP, _WIDE = "nested at most 100 deep", "an integer of at most 64 bits"

#: Bombs that take time or memory, each read in a process of its own.
LARGE: dict[str, Bomb] = {
    "empty lines": Bomb(unpacked(b"\n", 2 * _GIB), "001100000", _EMPTY),
    "empty lines behind honest lines": Bomb(unpacked(b"\n", 2 * _GIB, behind=True), "000100000", _EMPTY),
    "empty objects": Bomb(unpacked(b"{}\n", 2 * _GIB), "001100000", "the name of an event"),
    "one line": Bomb(unpacked(b"x", 2 * _GIB), "001100000", _RATIO),
    "one line behind honest lines": Bomb(unpacked(b" ", 2 * _GIB, behind=True), "000100000", _RATIO),
    "null characters": Bomb(unpacked(b"\0", 2 * _GIB), "001100000", _RATIO),
    "zstd of null characters": Bomb(replaced_bytes(zstd_of_zeros), "000100000", _RATIO),
    "giant window": Bomb(replaced_bytes(giant_window), "001100000", "a window of zstd of at most 128 MiB"),
    "gzip in gzip": Bomb(replaced_bytes(nested_gzip), "000100000", "not JSON"),
    "attempts": Bomb(many_attempts(10_000), "000100000", ""),
    "ranks": Bomb(many_ranks(20_000), "001100200", ""),
    "events": Bomb(many_small_events(10_000), "001100000", ""),
    "runs": Bomb(lines(lambda old: old + runs(10_000, old[1])), "000120200", "10001 runs"),
}

_LONG, _MEGABYTE = "x" * 900_000, "x" * 2**20  # within the longest line, and beyond
#: Bombs of one line, which cost little.
SMALL: dict[str, Bomb] = {
    "1,000 deep": Bomb(deep(1_000), "001100000", _DEEP),
    "100,000 deep": Bomb(deep(100_000), "001100000", _DEEP),
    "deep labels": Bomb(deep(1_000, member="first", event=b"prediction_sample"), "001100000", _DEEP),
    "deep config": Bomb(deep(100_000, member="config", event=b"run_start"), "000100000", _DEEP),
    "wide step": Bomb(value("step", str(2**65)), "001100000", _WIDE),
    "wide unknown field": Bomb(value("huge", str(-(2**70))), "001100000", _WIDE),
    "wide count in a map": Bomb(value("prompt", "9" * 5_000, "token_counts"), "001100000", "number is infinity"),
    "wide seed": Bomb(value("seed", "9" * 100_000, "run_start"), "000100000", "number is infinity"),
    "unsigned integer": Bomb(value("text_targets", str(2**64 - 1)), "001100000", ""),
    "largest float": Bomb(value("loss", "1e308"), "001100010", ""),
    "infinite float": Bomb(value("loss", "1e400"), "001100000", ""),
    "negative infinite float": Bomb(value("grad_norm", "-1e400"), "001100000", ""),
    "huge integer step": Bomb(value("step", str(2**63 - 1)), "001100010", ""),
    "negative step": Bomb(value("step", "-1"), "001100000", ""),
    "huge position": Bomb(value("positions", f"[{2**62}", "prediction_sample"), "001100000", ""),
    "huge world_size": Bomb(value("world_size", str(2**62), "run_start"), "000100000", "$.world_size: expected"),
    "huge num_codebooks": Bomb(value("num_codebooks", str(2**62), "run_start"), "000100000", ""),
    "negative log_steps": Bomb(value("log_steps", "-5", "run_start"), "000100000", "$.config.log_steps: expected"),
    "huge log_steps": Bomb(value("log_steps", str(2**62), "run_start"), "000100000", ""),
    "huge resumed step": Bomb(value("resumed_from_step", str(2**62), "run_start"), "000100000", ""),
    "huge attempt": Bomb(value("attempt", str(2**62)), "000100000", ""),
    "huge rank": Bomb(value("rank", str(2**62)), "001100000", ""),
    "huge seq": Bomb(value("seq", str(2**62)), "000100000", ""),
    "last year": Bomb(every("2026-01-02T", "9999-12-31T"), "000000000", "note: $.ts: expected "),
    "first year": Bomb(every("2026-01-02T", "0001-01-01T"), "000000000", "note: $.ts: expected "),
    "no such day": Bomb(every("2026-01-02T", "2026-02-30T"), "000100000", "an existing date and time"),
    "run id of a megabyte": Bomb(value("run_id", f'"{_LONG}"'), "001100200", ""),
    "long run id": Bomb(value("run_id", f'"{_MEGABYTE}"'), "001100000", ""),
    "event of a megabyte": Bomb(value("event", f'"{_LONG}"'), "001100000", ""),
    "sample id of a megabyte": Bomb(value("sample_id", f'"{_LONG}"', "prediction_sample"), "001100010", ""),
    "control characters": Bomb(every("en-1", r"\u001b[2J\u0000\u202e\u009b31m"), "001000010", ""),
    "lone surrogates": Bomb(every("en-1", r"\ud800"), "001100000", ""),
    "a key twice": Bomb(value("loss", '4.0,"loss":5.0'), "001100000", "twice"),
}
