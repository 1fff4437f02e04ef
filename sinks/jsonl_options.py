"""The options of the JSONL file sink, as in `--sinks jsonl:dir=logs:max_bytes=100M`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from sinks.jsonl import KEEP_RANGE, Durability, JsonlSink, option_error
from sinks.option_folder import option_folder
from sinks.protocol import Sink, SinkContext, SinkError
from sinks.segment import SegmentFiles

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)")
_SMALLEST_KIB = {"max_bytes": 4, "max_total_bytes": 64}


def jsonl_sink(
    context: SinkContext,
    *,
    dir: str | None = None,  # noqa: A002 - name of the option on the command line
    durability: str = "none",
    max_bytes: str | None = None,
    keep: str | None = None,
    max_total_bytes: str | None = None,
) -> Sink:
    """Make the file sink of a rank and attempt.

    Args:
        context: Facts about the run.
        dir: Folder of the files, with `~` for the home folder. Defaults to `OUTPUT_DIR/events`.
        durability: `none`, `checkpoint` or `record`; see `JsonlSink`.
        max_bytes: Size of a segment, such as `100M`.
        keep: Number of segments that stay.
        max_total_bytes: Size of all segments together.

    Raises:
        SinkError: An option is wrong, the file cannot be opened, is not a regular file, or belongs to another run.
    """
    folder = Path(context.output_dir) / "events" if dir is None else option_folder(dir, "jsonl")
    path = folder / f"rank{context.rank:05d}-attempt{context.attempt:03d}.jsonl"
    if keep is not None and not re.fullmatch("[0-9]{1,9}", keep):
        raise option_error("keep", KEEP_RANGE, keep)
    for item in SegmentFiles(path).segments() if folder.is_dir() else []:
        if item.size:
            raise _taken_error(item.path)
    sink = JsonlSink(
        path,
        durability=cast("Durability", durability),  # `JsonlSink` checks the value
        max_bytes=_size("max_bytes", max_bytes),
        keep=None if keep is None else int(keep),
        max_total_bytes=_size("max_total_bytes", max_total_bytes),
        say=context.say,
    )
    if not sink.lock():
        sink.close()
        raise _taken_error(path)
    return sink


def bytes_of(text: str) -> int | None:
    """Return the number of bytes of a size, or None for a malformed size.

    Args:
        text: Number with an optional unit K, M or G, in powers of 1024.

    Example:
        >>> bytes_of("4096"), bytes_of("100M"), bytes_of("2 GB")
        (4096, 104857600, None)
    """
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _size(option: str, text: str | None) -> int | None:
    size = None if text is None else bytes_of(text) or 0
    if size is not None and size < _SMALLEST_KIB[option] * 1024:
        expected = f"a number of bytes such as 500K, 100M or 2G, at least {_SMALLEST_KIB[option]}K"
        raise option_error(option, expected, text)
    return size


def _taken_error(path: Path) -> SinkError:
    return SinkError(
        f"jsonl: expected a new file, got {path}, which holds another run's events. "
        "Choose another folder: --sinks console,jsonl:dir=FOLDER"
    )
