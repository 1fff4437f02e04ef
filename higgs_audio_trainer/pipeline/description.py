"""Short descriptions of objects that no line can hold. The data of an object is never read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

MAX_DESCRIPTION = 120


def describe(value: object) -> str:
    """Return an object's type and, for an array, shape, dtype and device. Never raises.

    Example:
        >>> describe(b"secret"), describe(ValueError("x"))
        ('<bytes>', '<ValueError>')
    """
    kind = type(value)
    words = []
    for word_of in (_type_word, _shape_word, _dtype_word, _device_word):
        with suppress(Exception):  # an exception of a foreign type costs one word of the description
            words.append(word_of(value, kind))
    return f"<{short(', '.join(filter(None, words)) or 'object', MAX_DESCRIPTION)}>"


def _type_word(_value: object, kind: type) -> str:
    name, module = str(kind.__qualname__), str(kind.__module__)
    return name if module == "builtins" else f"{module}.{name}"


def _shape_word(value: object, kind: type) -> str:
    # Looked up on the type first: an object that makes up attributes may compute them.
    shape: Any = getattr(value, "shape", None) if hasattr(kind, "shape") else None
    if not issubclass(type(shape), tuple):
        return ""
    sizes = tuple.__getitem__(shape, slice(None))
    return f"shape {list(sizes)}" if set(map(type, sizes)) <= {int} else ""


def _dtype_word(value: object, kind: type) -> str:
    return _attribute_word(value, kind, "dtype")


def _device_word(value: object, kind: type) -> str:
    return _attribute_word(value, kind, "device")


def _attribute_word(value: object, kind: type, name: str) -> str:
    found = getattr(value, name, None) if hasattr(kind, name) else None
    # Only a dtype or a device of torch or numpy becomes text. The text of another object may contain a tensor's data.
    if type(found) is str or type(found).__name__.endswith(("dtype", "DType", "device")):
        return f"{name} {found}"
    return ""


def short(text: str, limit: int) -> str:
    r"""Return a text without its middle, if the text is too long. The result is encodable and prints on one line.

    Args:
        text: Any text.
        limit: Most characters of the result, at least 60.

    Example:
        >>> print(short("two\nlines", 100))
        two\nlines
    """
    text = _cut(text, limit)
    return text if text.isprintable() else _cut(ascii(text)[1:-1], limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 60]}...{text[-57:]}"
