"""Ends of audio files: is a file as long as its header says? libsndfile reads a file that was cut off without an error.

The formats: WAV (RIFF, RIFX, RF64, BW64), AIFF and AIFC, 8SVX and 16SV, AU, Wave64, CAF, NIST SPHERE and Ogg. The
decoders of FLAC and MP3 notice the end themselves.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

CUT_OFF = "the file may be cut off"
_FIRST_PAGE, _LAST_PAGE = 2, 4  # flags of an Ogg page
_LARGEST = 2**32 - 2**12  # sizes above mean an unknown length
_STREAMED = range(2**31 - 2**13, 2**31 + 1)  # sizes by which sox and arecord mean an unknown length
_UNKNOWN_32 = 2**32 - 1


class Fault(NamedTuple):
    """Reason why a file is refused: the expectation and the observation."""

    expected: str
    got: str


class _Sound(NamedTuple):
    """Place of the samples in a file, as the header says.

    Attributes:
        size_at: Position of the field with the number of bytes.
        start: Position of the first byte of sound.
        size: Number of bytes of sound.
    """

    size_at: int
    start: int
    size: int


class Header(NamedTuple):
    """What the header of a file says about the end of the file.

    Attributes:
        fault: Reason why the file was cut off or cannot be read as a whole, or None. A file whose writer did not know
            the length, such as a WAV file from a pipe, has none.
        size_at: Position of a field without the number of bytes, which libsndfile needs, or None. A writer to a pipe
            leaves 0 in a WAV or AU file, which libsndfile takes for an empty file.
    """

    fault: Fault | None = None
    size_at: int | None = None


def read_header(file: BinaryIO) -> Header:
    """Read the header of an audio file.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np, soundfile
        >>> from pathlib import Path
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.wav"
        ...     soundfile.write(path, np.zeros(24_000), 24_000)
        ...     _ = path.write_bytes(path.read_bytes()[:-2])
        ...     with path.open("rb") as file:
        ...         read_header(file).fault
        Fault(expected='48000 bytes of sound, as its header says', got='47998: the file may be cut off')
    """
    size = os.fstat(file.fileno()).st_size
    start = _start(file)
    kind = _at(file, start, 4)
    if kind == b"OggS":
        return Header(_ogg_fault(file, start, size))
    sound = _sound(file, start)
    if sound is None:
        return Header()
    if sound.size == 0 and sound.start < size and kind in (b"RIFF", b"RIFX", b".snd"):
        is_empty = _at(file, sound.start, 4) in (b"LIST", b"fact", b"id3 ", b"bext", b"PEAK")  # with further chunks
        return Header() if is_empty else Header(size_at=sound.size_at)
    if _is_unknown(sound.size) or sound.start + sound.size <= size:
        return Header()
    promised = f"{sound.size} bytes of sound, as its header says"
    return Header(Fault(promised, f"{max(0, size - sound.start)}: {CUT_OFF}"))


def with_length(path: Path, size_at: int) -> BinaryIO:
    """Return a copy of a file whose header has an unknown length, as libsndfile knows it.

    Args:
        path: File.
        size_at: Position of the field from `read_header`.
    """
    data = bytearray(path.read_bytes())
    data[size_at : size_at + 4] = _UNKNOWN_32.to_bytes(4)
    return io.BytesIO(data)


def _is_unknown(size: int) -> bool:
    return size == 0 or size in _STREAMED or (size >= _LARGEST and size.bit_length() in (32, 63, 64))


def _start(file: BinaryIO) -> int:
    """Return the position after an ID3 tag, which some programs write in front of any format."""
    tag = _unpack(file, 0, ">3s3x4B")
    if tag is None or tag[0] != b"ID3":
        return 0
    length = 0
    for seven_bits in tag[1:]:
        length = length << 7 | seven_bits
    return 10 + length


def _sound(file: BinaryIO, start: int) -> _Sound | None:
    """Return the place of the samples, or None for another format and for a header without a length."""
    sound = None
    match _at(file, start, 4), _at(file, start + 8, 4):
        case (b"RIFF" | b"RF64" | b"BW64" | b"RIFX") as kind, b"WAVE":
            sound = _riff_sound(file, start + 12, ">4sI" if kind == b"RIFX" else "<4sI")
        case b"FORM", _:
            sound = _iff_sound(file, start + 12)
        case (b".snd" | b"dns.") as kind, _:
            sound = _au_sound(file, start, ">II" if kind == b".snd" else "<II")
        case b"riff", _:
            sound = _wave64_sound(file, start + 40)
        case b"caff", _:
            sound = _caf_sound(file, start + 8)
        case b"NIST", _:
            sound = _nist_sound(file, start)
    return sound


def _riff_sound(file: BinaryIO, position: int, layout: str) -> _Sound | None:
    long_size = _UNKNOWN_32
    while chunk := _unpack(file, position, layout):
        name, size = chunk
        if name == b"ds64" and (sizes := _unpack(file, position + 16, "<Q")):
            (long_size,) = sizes
        if name == b"data":
            return _Sound(position + 4, position + 8, long_size if size == _UNKNOWN_32 else size)
        position += 8 + size + size % 2
    return None


def _au_sound(file: BinaryIO, start: int, layout: str) -> _Sound | None:
    header = _unpack(file, start + 4, layout)
    return None if header is None else _Sound(start + 8, start + header[0], header[1])


def _iff_sound(file: BinaryIO, position: int) -> _Sound | None:
    while chunk := _unpack(file, position, ">4sI"):
        name, size = chunk
        if name in (b"SSND", b"BODY"):
            return _Sound(position + 4, position + 8, size)
        position += 8 + size + size % 2
    return None


def _wave64_sound(file: BinaryIO, position: int) -> _Sound | None:
    while chunk := _unpack(file, position, "<4s12xQ"):
        name, size = chunk
        if name == b"data":
            return _Sound(position + 16, position + 24, max(0, size - 24))
        position += max(24, size + 7 & ~7)
    return None


def _caf_sound(file: BinaryIO, position: int) -> _Sound | None:
    """Return the last chunk. The table of the packets, which a reader needs, follows the sound."""
    last = None
    while chunk := _unpack(file, position, ">4sQ"):
        last = _Sound(position + 4, position + 12, chunk[1])
        position += 12 + chunk[1]
    return last


def _nist_sound(file: BinaryIO, start: int) -> _Sound | None:
    lines = _at(file, start, 1024).decode("latin-1").split("\n")
    values = dict(line.split(" -i ", 1) for line in lines if " -i " in line)
    try:
        size = int(values["sample_count"]) * int(values["sample_n_bytes"]) * int(values.get("channel_count", "1"))
        return _Sound(start, start + int(lines[1]), size)
    except (KeyError, ValueError, IndexError):  # a header without a length
        return None


def _ogg_fault(file: BinaryIO, start: int, size: int) -> Fault | None:
    """Check that the last page ends the stream and that no second stream follows. libsndfile reads the first alone."""
    pages = list(_pages(file, start, size))
    if pages[-1].end > size or not pages[-1].flags & _LAST_PAGE:
        return Fault(
            "an Ogg file up to its last page",
            f"a file without the page that ends the stream: {CUT_OFF}, or encode it again",
        )
    if any(page.flags & _LAST_PAGE and following.flags & _FIRST_PAGE for page, following in pairwise(pages)):
        return Fault("an Ogg file with one stream", "streams one after another: encode them again as one stream")
    return None


class _Page(NamedTuple):
    flags: int
    end: int


def _pages(file: BinaryIO, position: int, size: int) -> Iterator[_Page]:
    """Yield the pages of an Ogg file. The end of an incomplete page lies behind the file's end."""
    while _at(file, position, 4) == b"OggS":
        header = _unpack(file, position + 4, ">xB20xB")
        flags, num_segments = header or (0, 0)
        segments = _at(file, position + 27, num_segments)
        is_complete = header is not None and len(segments) == num_segments
        position += 27 + num_segments + sum(segments)
        yield _Page(flags, position if is_complete else size + 1)


def _unpack(file: BinaryIO, position: int, layout: str) -> tuple[Any, ...] | None:
    """Return the values at a position, or None at the end of the file."""
    data = _at(file, position, struct.calcsize(layout))
    return struct.unpack(layout, data) if len(data) == struct.calcsize(layout) else None


def _at(file: BinaryIO, position: int, length: int) -> bytes:
    if position >= 2**63:  # after a chunk of unknown length
        return b""
    file.seek(position)
    return file.read(length)
