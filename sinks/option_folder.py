"""The folder that an option of a sink names."""

from __future__ import annotations

from pathlib import Path

from sinks.protocol import SinkError


def option_folder(given: str, sink: str) -> Path:
    """Return the folder of an option `dir`, with the home folder in place of `~` or `~user` at the beginning.

    Args:
        given: Value of the option.
        sink: Name of the sink, for the message.

    Raises:
        SinkError: The value is empty, or the home folder is unknown.

    Example:
        >>> option_folder("logs/a", "jsonl").as_posix()
        'logs/a'
        >>> option_folder("~nobody-here/logs", "jsonl")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        sinks.protocol.SinkError: --sinks: jsonl: dir: expected a folder, got '~nobody-here/logs', whose home folder ...
    """
    if not given:
        raise SinkError(f"--sinks: {sink}: dir: expected a folder, got nothing")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise SinkError(
            f"--sinks: {sink}: dir: expected a folder, got {given!r}, whose home folder is unknown. Write the path "
            "without ~"
        ) from error
