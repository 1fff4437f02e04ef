"""Kinds of files that are given as manifests by mistake."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence

import orjson

from higgs_audio_trainer.bounds import MAX_ENTRY_BYTES, MAX_ENTRY_VALUES
from higgs_audio_trainer.documents import are_many_values

_ONE_LINE = 'Write one JSON object a line: {"id": "a", "audio": "a.wav", "text": "Hello."}'
#: Kind of a text that is perhaps a table.
LINES_WITHOUT_JSON = f"lines without JSON. {_ONE_LINE}"
_UNPACK = "Unpack the file: {} {}"
_MAGIC = (
    (b"BZh", "a file compressed with bzip2", _UNPACK.format("bunzip2 -k", "{name}")),
    (b"\xfd7zXZ", "a file compressed with xz", _UNPACK.format("unxz -k", "{name}")),
    (b"\x04\x22\x4d\x18", "a file compressed with lz4", _UNPACK.format("lz4 -d", "{name}")),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "Unpack or export the file"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet or another document of Office", "Export the table as CSV in UTF-8"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack the file"),
    (b"Rar!", "a rar archive", "Unpack the file"),
    (b"ARROW1", "an Arrow file", "Name the folder of the data set: hf:FOLDER"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "Name the folder of the data set: hf:FOLDER"),
    (b"\x89HDF", "an HDF5 file", f"Convert the file. {_ONE_LINE}"),
    (b"SQLite format 3", "an SQLite database", f"Convert the file. {_ONE_LINE}"),
    (b"\x93NUMPY", "a NumPy array", "Name codes in a manifest"),
    *(
        (magic, "a recording", "Name recordings in a manifest")
        for magic in (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM")
    ),
    (b"version https://git-lfs", "a pointer of Git LFS", "Download the file: git lfs pull"),
    (b"<", "a web page or XML", "Download the file itself"),
)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SAMPLED_LINES = 100


def kind_of_file(head: bytes, name: str) -> str | None:
    r"""Return what a file is, and the way to a manifest, from the first bytes of the file. None for texts in UTF-8.

    Args:
        head: First bytes, at least 512 where the file has so many.
        name: Name of the file.

    Example:
        >>> kind_of_file(b"BZh9", "m.jsonl.bz2")
        'a file compressed with bzip2. Unpack the file: bunzip2 -k m.jsonl.bz2'
    """
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic):
            return f"{kind}. {advice.replace('{name}', name)}"
    if head[257:262] == b"ustar":
        return "a tar archive. Unpack the file"
    if head.startswith(_UTF_32):
        return f"a text in UTF-32. Convert the file: iconv -f UTF-32 -t UTF-8 {name}"
    if head.startswith(_UTF_16) or _is_utf_16(head):
        return f"a text in UTF-16. Convert the file: iconv -f UTF-16 -t UTF-8 {name}"
    if b"\r" in head.strip() and b"\n" not in head:
        return f"lines that end with a carriage return alone. Convert the file: tr '\\r' '\\n' < {name} > new_{name}"
    return "a binary file. Name a text with one JSON object a line" if b"\0" in head else None


def _is_utf_16(head: bytes) -> bool:
    """Return True for ASCII letters with a zero byte each, in UTF-16 without a byte order mark."""
    even, odd = head[: len(head) // 2 * 2 : 2], head[1::2]
    return len(head) > 1 and any(even) != any(odd) and (all(even) or all(odd))


def other_encoding(data: bytes, name: str) -> str:
    """Return what data are that are no text in UTF-8, and the way to such a text.

    Args:
        data: Data, at least the first line.
        name: Name of the file.

    Example:
        >>> other_encoding("café".encode("latin-1"), "a.txt")
        'bytes of another encoding. Convert the file, perhaps with iconv -f WINDOWS-1252 -t UTF-8 a.txt'
    """
    advice = f"Convert the file, perhaps with iconv -f WINDOWS-1252 -t UTF-8 {name}"
    return kind_of_file(data, name) or f"bytes of another encoding. {advice}"


def kind_of_text(lines: Sequence[bytes], whole: Callable[[], bytes]) -> str | None:
    r"""Return what a text is, and the way to a manifest. None if a line may be a JSON object.

    Args:
        lines: First lines that are not blank.
        whole: Reads the whole text.

    Example:
        >>> kind_of_text([b"[1, 2]"], lambda: b"[1, 2]")[:25]
        'a JSON array of 2 items. '
        >>> kind_of_text([b'{"id": "a"}'], bytes) is None
        True
    """
    lines = lines[:_SAMPLED_LINES]
    if not lines or (lines[0].lstrip().startswith(b"{") and _loaded(lines[0]) is not None):
        return None
    start = lines[0].lstrip()[:1]
    text = whole() if start in (b"[", b"{") else b""
    is_large = len(text) > MAX_ENTRY_BYTES or are_many_values(text, MAX_ENTRY_VALUES)
    entries = _loaded(text) if start == b"[" and not is_large else None
    if start == b"[" and (is_large or isinstance(entries, list)):
        count = f" of {len(entries):,} items" if isinstance(entries, list) else ""
        return f"a JSON array{count}. Write one item a line: jq -c '.[]' FILE > train.jsonl"
    if start == b"{" and not is_large and _spans_lines(text):
        return "JSON objects over several lines. Write one object a line: jq -c . FILE > train.jsonl"
    if any(line.lstrip().startswith(b"{") for line in lines) or start == b"[":
        return None
    return LINES_WITHOUT_JSON


def _loaded(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _spans_lines(data: bytes) -> bool:
    """Return True if the text begins with a JSON object over several lines."""
    text = data.decode("utf-8", "replace").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]
