"""Contents of hostile files: logs, manifests, tables, codes, recordings, configurations and states of checkpoints.

Each strategy begins with an honest file and changes values, fields, lines or bytes. What is nested deeper, larger or of
another type than an honest value stands in `_scalars`.
"""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import numpy as np
import orjson
import soundfile
from hypothesis import strategies as st
from safetensors.numpy import save

from higgs_audio_trainer.decompression import zstd
from tests.builders import all_events, record_of
from tests.honest_log import attempt_of

_CODES = np.arange(24, dtype=np.int32).reshape(3, 8)
_GONE = object()


class _Literal(str):
    """Text of JSON that orjson cannot write."""

    __slots__ = ()


_INTEGERS = (0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -1.0, 0.5, 1e-320, 1e300, 1.7e308, -1.7e308)
_TEXTS = ("", "\0", "\x1b[2J", "-", "../x", "nan", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "a" * 300)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70).map(str).map(_Literal),
    st.sampled_from(
        ("[" * 98 + "]" * 98, "[" * 1_000 + "]" * 1_000, "[" * 2_000 + "]" * 2_000, "9" * 5_000, "1e400", "-1e-400")
    ).map(_Literal),
    st.sampled_from(_INTEGERS),
    st.floats(allow_nan=False),
    st.sampled_from(_TEXTS),
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)
_changes = _values | st.sampled_from(([], {}, _GONE))


def _json(value: object) -> bytes:
    """Return JSON in which integers may be of any size."""
    if isinstance(value, _Literal):
        return value.encode()
    if isinstance(value, dict):
        return b"{" + b",".join(orjson.dumps(name) + b":" + _json(item) for name, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_json, value)) + b"]"
    return orjson.dumps(value)


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of values: all of an object, and the first and the last of a list."""
    if isinstance(value, list):
        items = list(enumerate(value))[:: max(1, len(value) - 1)]
    else:
        items = list(value.items()) if isinstance(value, dict) else []
    return [path, *(found for name, item in items for found in _paths(item, (*path, name)))]


def _replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """Return a value with a part replaced, or removed by `_GONE`."""
    if not path:
        return {} if new is _GONE else new
    copy = value.copy()
    if len(path) == 1 and new is _GONE:
        del copy[path[0]]
    else:
        copy[path[0]] = _replaced(copy[path[0]], path[1:], new)
    return copy


def _of_the_same_type(value: Any) -> st.SearchStrategy[Any]:
    """Return other values of the type of a value, which a schema accepts."""
    others: Any = {int: _INTEGERS, float: _FLOATS, str: _TEXTS, bool: (True, False)}.get(type(value))
    if isinstance(value, list):
        others = [], value[:1], value[::-1], value + value, [None] * len(value)
    if isinstance(value, dict):
        others = {}, dict.fromkeys(value), value | {"other": 1}
    return st.sampled_from(others or (0, 0.5, "", [], {}))


def _part(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def _mutated(draw: st.DrawFn, record: dict[str, Any], most: int) -> dict[str, Any]:
    for _ in range(draw(st.integers(0, most))):
        if not isinstance(record, dict):
            break
        if draw(st.integers(0, 4)) == 0:  # a field that no schema knows
            record = record | {"other": draw(_changes.filter(lambda value: value is not _GONE))}
            continue
        path = draw(st.sampled_from(_paths(record)))
        new = draw(_of_the_same_type(_part(record, path)) if draw(st.booleans()) else _changes)
        record = _replaced(record, path, new)
    return record


def _lines_of(records: list[Any]) -> bytes:
    return b"".join(_json(record) + b"\n" for record in records)


@st.composite
def _few_records(draw: st.DrawFn, objects: list[dict[str, Any]], most: int = 4) -> bytes:
    """Draw a few records of which each may have lost, gained or changed values."""
    chosen = draw(st.lists(st.sampled_from(objects), min_size=1, max_size=most))
    return _lines_of([_mutated(draw, record, 3) for record in chosen])


@st.composite
def _logs(draw: st.DrawFn) -> bytes:
    """Draw a complete log of two attempts in which a few lines changed, went, came twice or changed places."""
    records = [*_ATTEMPTS]
    for _ in range(draw(st.integers(1, 3))):
        at, to = (draw(st.integers(0, len(records) - 1)) for _ in range(2))
        match draw(st.sampled_from(("change", "change", "remove", "repeat", "move", "add"))):
            case "change":
                records[at] = _mutated(draw, records[at], 2)
            case "remove":
                del records[at]
            case "repeat":
                records.insert(to, records[at])
            case "move":
                records[at], records[to] = records[to], records[at]
            case "add":
                records.insert(at, _mutated(draw, draw(st.sampled_from(_EVENTS)), 1))
    return _lines_of(records)


@st.composite
def _damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Draw a content of which some bytes went, came or changed, or whose end is missing."""
    data = bytearray(draw(contents))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, min(len(data), 2_000) - 1)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.integers(0, 9)) == 0 else bytes(data)


def _compressed(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return contents.map(lambda data: gzip.compress(data, mtime=0)) | contents.map(lambda data: zstd().compress(data))


@st.composite
def _tables(draw: st.DrawFn) -> bytes:
    """Draw a table with any separator, header or not, and odd cells."""
    separator = draw(st.sampled_from(",;\t|"))
    cells = st.sampled_from(
        (
            "a",
            "a.wav",
            "Hello.",
            '"Hello."',
            '"',
            "",
            "1.5",
            "-1",
            "9" * 400,
            "1e400",
            "nan",
            "\0",
            "\ufeff",
            "x" * 200_000,
        )
    )
    width = draw(st.integers(1, 5))
    names = st.sampled_from(("id", "audio", "text", "speaker", "start", "end", "codes", "duration", "path", "sep="))
    rows = [draw(st.lists(names, min_size=width, max_size=width))] if draw(st.booleans()) else []
    rows += draw(st.lists(st.lists(cells, min_size=max(1, width - 1), max_size=width + 1), max_size=4))
    end = draw(st.sampled_from(("\n", "\r\n", "\r")))
    return end.join(separator.join(row) for row in rows).encode()


def _saved(array: np.ndarray, write: Any = np.save) -> bytes:
    file = io.BytesIO()
    write(file, array)
    return file.getvalue()


_arrays = st.builds(
    lambda kind, shape: np.resize(_CODES, shape).astype(kind),
    st.sampled_from(("u1", ">i2", "<i4", "i8", "f2", "f8", "?", "c8", "U1", "M8[s]", "V4")),
    st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.just((3, 8)),
)


def _is_safe(array: np.ndarray) -> bool:
    return array.dtype.kind in "iufb"


@st.composite
def _npy_headers(draw: st.DrawFn) -> bytes:
    """Draw a file of numpy by the text of its header, which numpy parses as Python."""
    shape = st.sampled_from(("(3, 8)", "(3, -8)", "(3,)", "()", "(3, 2**62)", f"(3, {2**62})", "(0, 8)", "(3, 0)", "3"))
    kind = st.sampled_from(("'<i4'", "'|O'", "'<i99'", "['<i4']", "[('a', '<i4')]", "None", "'<U9'", "1"))
    order = st.sampled_from(("False", "True", "None", "'x'"))
    text = f"{{'descr': {draw(kind)}, 'fortran_order': {draw(order)}, 'shape': {draw(shape)}}}"
    text = draw(st.sampled_from((text, text, text, "(" * 300 + ")" * 300, "{" + text, f"{text}  #", "")))
    header = text.encode().ljust(118) + b"\n"
    version = draw(st.sampled_from((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00")))
    size = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + header + draw(st.sampled_from((_CODES.tobytes(), b"")))


@st.composite
def _safetensors(draw: st.DrawFn) -> bytes:
    """Draw a file of safetensors by the JSON of its header."""
    entry = {"dtype": "I32", "shape": [3, 8], "data_offsets": [0, 96]}
    header = _json(_mutated(draw, {"codes": entry, "__metadata__": {"a": "b"}}, 2))
    length = draw(st.sampled_from((len(header), len(header), 0, 2**40, 2**64 - 1)))
    return length.to_bytes(8, "little") + header + _CODES.tobytes()


def _recordings() -> st.SearchStrategy[bytes]:
    wave_TC = np.linspace(-0.5, 0.5, 400, dtype=np.float32)
    made = []
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ):
        file = io.BytesIO()
        soundfile.write(file, wave_TC, 16_000, format=kind, subtype=subtype)
        made.append(file.getvalue())
    return st.sampled_from(made)


_NUMBERS = ("1", "1e-4", ".inf", ".nan", "1.0e+400", "0x" + "f" * 40, "9" * 5_000, "1:1:1", "1:1" * 99 + ".5", "1:60")
_OTHERS = ("~", "yes", "''", '"\\0"', "2026-01-01", "2026-99-99", "\x00", "\x85", "|\n  x", "- a", "? [a]", "{<<: [1]}")
_NESTED = ("[a, [b]]", "[" * 200 + "]" * 200, "{a: 1}", "*a", "&a [*a]", "{<<: [*a, *a]}", "{1: 2, [a]: 3}")
_TAGS = (
    "binary x",
    "binary YQ==",
    "timestamp x",
    "bool x",
    "int _",
    "float x",
    "int ''",
    "set {a}",
    "omap [a]",
    "null x",
)
_yaml_values = st.sampled_from(
    (*_NUMBERS, *_OTHERS, *_NESTED, *(f"!!{tag}" for tag in _TAGS), "!!python/object:os.system x", "!x y", "!", "<<")
)


@st.composite
def _configurations(draw: st.DrawFn) -> bytes:
    """Draw a YAML file of settings with odd values, anchors and merges."""
    names = st.sampled_from(
        ("lr", "max_steps", "output_dir", "sinks", "lora_r", "seed", "log_steps", "deepspeed", "<<")
    )
    lines = [f"{draw(names)}: {draw(_yaml_values)}" for _ in range(draw(st.integers(1, 5)))]
    return ("a: &a {lr: 1}\n" * draw(st.integers(0, 1)) + "\n".join(lines) + "\n").encode()


_ATTEMPTS = [*attempt_of(0, range(1, 3), None), *attempt_of(1, range(3, 5), 2)]
_EVENTS = [json.loads(json.dumps(record_of(event) | {"seq": seq})) for seq, event in enumerate(all_events())]
_WITHOUT_ENVELOPE = [
    {name: value for name, value in record.items() if name not in ("ts", "run_id", "attempt", "seq")}
    for record in _EVENTS
]
_SIMPLE = {"id": "a", "audio": "a.wav", "text": "Hello.", "speaker": "b", "start": 0.0, "end": 1.0, "duration": 1.0}
_PART = {"type": "audio", "audio_url": "a.wav", "raw_audio": "", "offset": 0.5, "duration": 1.0}
_CHAT = {
    "messages": [
        {"role": "system", "content": "Speak."},
        {"role": "user", "content": [{"type": "text", "text": "Hello."}, _PART]},
        {"role": "assistant", "content": [_PART], "recipient": "all"},
    ],
    "start_index": 1,
    "speaker": "b",
    "misc": {},
}
_CODED = {
    "id": "c",
    "codes": "c.npy",
    "ref_codes": "c.npy",
    "ref_text": "Hello.",
    "text": "Good day.",
    "scene": "Quiet.",
}
_SETTINGS = {"lora_r": 8, "lr": 0.1, "lora_targets": ["q_proj"], "seed": 0, "load_in_4bit": False}
_ADAPTER = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA"}
_STATE = {
    "global_step": 4,
    "max_steps": 8,
    "epoch": 1.0,
    "log_history": [{"loss": 1.0, "step": 1}],
    "best_metric": None,
    "total_flos": 1e18,
    "stateful_callbacks": {},
}
_logs_of_a_file = _few_records(_EVENTS) | _few_records(_WITHOUT_ENVELOPE) | _logs()
#: Contents by the name of the file. The beginning of the name is that of a reader.
CONTENTS: dict[str, st.SearchStrategy[bytes]] = {
    "log.jsonl": _damaged(_logs_of_a_file) | _logs_of_a_file,
    "log-packed.jsonl": _damaged(_compressed(_logs_of_a_file)),
    "manifest.jsonl": _damaged(_few_records([_SIMPLE, _CHAT, _CODED])) | _few_records([_SIMPLE, _CHAT, _CODED]),
    "manifest-table.csv": _damaged(_tables()) | _tables(),
    "codes.npy": _npy_headers() | _damaged(_arrays.map(_saved)),
    "codes.safetensors": _safetensors()
    | _damaged(_arrays.filter(_is_safe).map(lambda array: save({"codes": np.ascontiguousarray(array)}))),
    "recording.wav": _damaged(_recordings()),
    "config.yaml": _configurations() | _damaged(_configurations()),
    "lora.json": _damaged(_few_records([_ADAPTER], 1)),
    "state.json": _damaged(_few_records([_STATE], 1)),
    "settings.json": _damaged(_few_records([_SETTINGS], 1)),
}
