"""JSON and YAML from files of others, with bounds of depth, size and integers. A violation is a ValueError."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any, BinaryIO

from higgs_audio_trainer.bounds import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_INTEGER,
    MAX_JSON_BYTES,
    MAX_JSON_VALUES,
    MAX_YAML_BYTES,
    MIN_INTEGER,
    are_in_force,
    is_too_deep,
)

TOO_DEEP = f"lists and objects nested at most {MAX_DEPTH} deep", "deeper nesting"
LONGEST_INTEGER = len("-0b") + 64 + 32  # characters of 64 bits; YAML may separate digits
_MANY_DIGITS = b"0" * 19  # 2**63 has as many
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_MOST_SHOWN = 80  # characters of a value in a message


class TooLargeError(ValueError):
    """A document beyond a bound of size, which may be whole."""


def read_document(path: Path, most: int) -> bytes:
    """Return the content of a file or pipe.

    Args:
        path: The file.
        most: Largest size, bytes.

    Raises:
        OSError: The file cannot be read.
        TooLargeError: The file is larger.
    """
    with path.open("rb") as file:
        return read_within(file, most)


def read_within(file: BinaryIO, most: int) -> bytes:
    """Return the content of an open file, whose device or pipe may have no end.

    Raises:
        TooLargeError: The content is larger than `most`, bytes.
    """
    content = file.read(most + 1)
    if len(content) > most:
        raise TooLargeError(f"expected at most {most:,} bytes, got more")
    return content


def read_json(path: Path) -> Any:
    """Return the value of a JSON file of a checkpoint or a cache.

    Raises:
        OSError: The file cannot be read, or is a pipe or a device.
        ValueError: See `load_json`.

    Example:
        >>> read_json(Path("/dev/zero"))
        Traceback (most recent call last):
        OSError: [Errno 22] Not a file: '/dev/zero'
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):  # a pipe without a writer would never open
        raise OSError(errno.EINVAL, "Not a file", str(path))
    if about.st_size > MAX_JSON_BYTES and are_in_force():
        raise TooLargeError(f"expected at most {MAX_JSON_BYTES:,} bytes, got {about.st_size:,}")
    return load_json(read_document(path, max(MAX_JSON_BYTES, about.st_size)))


def are_many_values(data: bytes | str, most: int) -> bool:
    """Return True if a JSON text has more than `most` values, counted by commas and opening brackets."""
    if len(data) <= most:
        return False
    counts = map(data.count, ",[{") if isinstance(data, str) else map(data.count, b",[{")
    return sum(counts) > most


def load_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is no JSON, or goes beyond a bound of size, depth or integers.

    Example:
        >>> load_json('{"r": 16}')
        {'r': 16}
        >>> load_json("[" * 500 + "]" * 500)
        Traceback (most recent call last):
        ValueError: expected lists and objects nested at most 100 deep, got deeper nesting
    """
    if are_in_force() and are_many_values(data, MAX_JSON_VALUES):
        raise TooLargeError(f"expected at most {MAX_JSON_VALUES:,} values, got more")
    try:
        value = json.loads(data, parse_int=_integer)
    except RecursionError:
        is_deep = True
    else:
        is_deep = is_too_deep(value) if isinstance(value, (dict, list)) else False
    if is_deep:
        raise ValueError("expected {}, got {}".format(*TOO_DEEP))
    return value


def load_yaml(data: bytes | str) -> Any:
    r"""Return the value of a YAML text.

    Raises:
        ValueError: The text is no YAML, or goes beyond a bound.

    Example:
        >>> load_yaml("lr: 0.1")
        {'lr': 0.1}
        >>> load_yaml("steps: " + "9" * 100_000)
        Traceback (most recent call last):
        ValueError: expected an integer of at most 64 bits, got one of 100,000 characters in line 1, column 8
        >>> load_yaml("lr: 1\nlr: 2")
        Traceback (most recent call last):
        ValueError: expected each key once, got 'lr' twice in line 2, column 1
        >>> load_yaml("a: &a [*a]")
        Traceback (most recent call last):
        ValueError: expected an alias of a complete value, got an alias within its own value in line 1, column 8
    """
    import yaml  # slow, and few commands read YAML

    from higgs_audio_trainer.yaml_loader import YamlLoader

    if len(data) > MAX_YAML_BYTES:
        raise ValueError(f"expected at most {MAX_YAML_BYTES:,} bytes, got {len(data):,}")
    try:
        return yaml.load(data, Loader=YamlLoader)  # noqa: S506 - a safe loader with bounds
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("expected {}, got {}".format(*TOO_DEEP)) from None


def wide_integer(line: bytes) -> tuple[str, str, str] | None:
    """Return the path of an integer beyond 64 bits in a JSON object, what was expected, and what is there; or None.

    orjson reads such an integer as a float, and no column of a table holds it.

    Args:
        line: Valid JSON within the bound of depth.

    Example:
        >>> wide_integer(b'{"step": 1, "first": {"labels": [7, 36893488147419103232]}}')
        ('$.first.labels[1]', 'an integer of at most 64 bits', 'one of 20 digits')
    """
    if not _has_many_digits(line):  # as in nearly every line
        return None
    marked = json.loads(line, parse_int=lambda text: _Wide(text) if _is_wide(text) else 0)
    waiting: list[tuple[str, Any]] = [("$", marked)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, _Wide):
            return path, "an integer of at most 64 bits", f"one of {len(value.lstrip('-')):,} digits"
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}", item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item) for index, item in reversed(list(enumerate(value)))]
    return None


def _has_many_digits(line: bytes) -> bool:
    """Return True if a line may have an integer beyond 64 bits. Digits of a fraction do not count.

    Example:
        >>> _has_many_digits(b'{"loss": 0.0001234567890123456}'), _has_many_digits(b"[12345678901234567890]")
        (False, True)
    """
    zeros = line.translate(_DIGITS_AS_ZEROS)
    at = zeros.find(_MANY_DIGITS)
    while at >= 0 and zeros[at - 1 : at] == b".":
        at = zeros.find(_MANY_DIGITS, at + len(_MANY_DIGITS))
    return at >= 0


class _Wide(str):
    """Digits of an integer beyond 64 bits."""

    __slots__ = ()


def _is_wide(text: str) -> bool:
    return len(text) > LONGEST_INTEGER or not MIN_INTEGER <= int(text) <= MAX_INTEGER


def shown(value: object) -> str:
    """Return a value for a message, cut where it is long.

    Example:
        >>> shown("fast"), len(shown("9" * 100_000))
        ("'fast'", 83)
    """
    text = repr(value[: 2 * _MOST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"expected integers of at most {MAX_DIGITS} digits, got one of {len(text):,} characters")
    return int(text)
