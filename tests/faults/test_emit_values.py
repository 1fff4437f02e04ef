"""Values that no line can hold, in every field: the record is still written and names the replaced values."""

import datetime as dt
import enum
import math
import pathlib
import uuid
import warnings
from collections import deque
from dataclasses import fields, replace
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import torch
from jsonschema import Draft202012Validator

from higgs_audio_trainer.events import Window
from higgs_audio_trainer.pipeline.emit import Pipeline
from higgs_audio_trainer.schema import schema_of
from tests.builders import RUN_ID, all_events, fixed_clock, record_of, run_start, text_sample, train_step

DTYPES = sorted({kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}, key=str)


class Touched(BaseException):
    """Error of a read access to a tensor's data. No `except Exception` catches the error."""


def _touch(*_args, **_kwargs):
    raise Touched


class FakeTensor:
    """Tensor on a busy device, with readable shape, dtype and device, and unreadable data."""

    shape = torch.Size([2, 3])
    dtype = torch.bfloat16
    device = torch.device("meta")


_DATA = [
    "__repr__",
    "__str__",
    "__bool__",
    "__len__",
    "__iter__",
    "__getitem__",
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__array__",
    "__contains__",
    "__format__",
    "__reduce_ex__",
    "__bytes__",
    "__add__",
    "__sub__",
    "__mul__",
    "__neg__",
    "__abs__",
    "__round__",
    "__getattr__",
    "item",
    "tolist",
    "numpy",
    "cpu",
]
for _name in _DATA:
    setattr(FakeTensor, _name, _touch)
FakeTensor.__hash__ = object.__hash__


class Guarded(torch.Tensor):
    """Real tensor that allows access to shape, dtype and device and refuses all other operations of torch."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func not in {torch.Tensor.shape.__get__, torch.Tensor.dtype.__get__, torch.Tensor.device.__get__}:
            raise Touched(func)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Colour(enum.Enum):
    RED = 1


class Mute:
    def __repr__(self):
        raise ZeroDivisionError

    __str__ = __iter__ = __len__ = __bool__ = __hash__ = __repr__


def tensor_of(dtype):
    """Return a small tensor of any dtype, on the meta device for a dtype without a constructor."""
    for make in (
        lambda: torch.empty(2, 3, dtype=dtype),
        lambda: torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, dtype),
        lambda: torch.empty(2, 3, dtype=dtype, device="meta"),
    ):
        try:
            return make()
        except (RuntimeError, NotImplementedError, TypeError):
            continue
    pytest.skip(f"torch makes no tensor of {dtype}")


def sparse(layout):
    """Return a sparse tensor without torch's warning about new layouts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layout(torch.eye(3))


def nested():
    """Return a nested tensor, whose shape is not available."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])


def cycle():
    """Return a list that contains the list itself."""
    loop = []
    loop.append(loop)
    return loop


def deep(depth=2000):
    """Return a list that is nested too deeply for recursion."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


#: Values, the JSON that replaces each value, and a word of the mark.
UNENCODABLE = {
    "fake tensor": (FakeTensor, None, "shape [2, 3], dtype torch.bfloat16, device meta"),
    "guarded tensor": (lambda: torch.zeros(2).as_subclass(Guarded), None, "Guarded"),
    "scalar": (lambda: torch.tensor(1.5), None, "shape []"),
    "boolean": (lambda: torch.tensor([True]), None, "torch.bool"),
    "with a gradient": (lambda: torch.ones(2, requires_grad=True) * 2, None, "shape [2]"),
    "parameter": (lambda: torch.nn.Parameter(torch.ones(2)), None, "Parameter"),
    "meta": (lambda: torch.empty(10**9, 10**9, device="meta"), None, "device meta"),
    "sparse": (lambda: sparse(torch.Tensor.to_sparse), None, "torch.Tensor, shape [3, 3]"),
    "sparse rows": (lambda: sparse(torch.Tensor.to_sparse_csr), None, "torch.Tensor, shape [3, 3]"),
    "nested": (nested, None, "torch.Tensor"),
    "array": (lambda: np.zeros((4, 5), np.float16), None, "numpy.ndarray, shape [4, 5], dtype float16"),
    "structured": (lambda: np.zeros(1, [("a", "i4")]), None, "numpy.ndarray"),
    "objects": (lambda: np.array([Mute()], dtype=object), None, "dtype object"),
    "numpy scalar": (lambda: np.int64(3), None, "numpy.int64"),
    "numpy bool": (lambda: np.bool_(True), None, "numpy.bool"),
    "numpy time": (lambda: np.datetime64("2026-01-01"), None, "numpy.datetime64"),
    "huge": (lambda: 2**64, 2**64 - 1, "int of 65 bits"),
    "hugely negative": (lambda: -(10**6000), -(2**63), "int of 19932 bits"),
    "surrogate": (lambda: "a\ud800", "a\\ud800", "text with lone surrogates"),
    "bytes": (lambda: b"\xff", None, "bytes"),
    "memory": (lambda: memoryview(b"x"), None, "memoryview"),
    "set": (lambda: {1}, None, "set"),
    "queue": (lambda: deque([1]), None, "collections.deque"),
    "generator": (lambda: (i for i in range(3)), None, "generator"),
    "time": (lambda: dt.datetime.now(dt.UTC), None, "datetime.datetime"),
    "duration": (lambda: dt.timedelta(1), None, "datetime.timedelta"),
    "uuid": (lambda: uuid.UUID(int=1), None, "uuid.UUID"),
    "path": (lambda: pathlib.PurePosixPath("/a"), None, "pathlib.PurePosixPath"),
    "enum": (lambda: Colour.RED, None, "Colour"),
    "decimal": (lambda: Decimal("NaN"), None, "decimal.Decimal"),
    "complex": (lambda: complex(1, 2), None, "complex"),
    "mute": (Mute, None, "Mute"),
    "namespace": (SimpleNamespace, None, "types.SimpleNamespace"),
    "ellipsis": (lambda: ..., None, "ellipsis"),
    "lambda": (lambda: len, None, "builtin_function_or_method"),
    "type": (lambda: Mute, None, "type"),
    "dtype": (lambda: torch.float32, None, "torch.dtype"),
    "cycle": (cycle, [None], "cycle"),
    "deep": (deep, ..., "nested deeper than"),
}


def written(event):
    """Return a record as read back from a file. The pipeline must deliver the record without loss."""
    line = orjson.dumps(record_of(event))
    line.decode()
    return orjson.loads(line)


def places(event):
    """Yield functions that put a value into each field and depth of an event, with the path of the value."""
    for item in fields(event):
        old = getattr(event, item.name)
        yield (lambda value, name=item.name: replace(event, **{name: value})), item.name
        if isinstance(old, tuple):
            yield (lambda value, name=item.name: replace(event, **{name: (1, value, None)})), f"{item.name}[1]"
        if isinstance(old, dict):
            yield (lambda value, name=item.name: replace(event, **{name: {"k": [{"x": value}]}})), f"{item.name}.k[0].x"
        if isinstance(old, Window):
            for inner in fields(Window):
                yield (
                    (
                        lambda value, old=old, name=item.name, inner=inner: replace(
                            event, **{name: replace(old, **{inner.name: value})}
                        )
                    ),
                    f"{item.name}.{inner.name}",
                )


def at(record, path):
    """Return a record's value at a path."""
    for part in path.replace("[", ".").replace("]", "").split("."):
        record = record[int(part) if isinstance(record, list) else part]
    return record


@pytest.mark.parametrize("name", UNENCODABLE)
@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_in_every_field(event, name):
    """Fault: a value that JSON cannot hold, in each field of each event.

    Expected: the line exists and names the value.
    """
    make, fallback, what = UNENCODABLE[name]
    for put, path in places(event):
        record = written(put(make()))
        marks = record["replaced"]
        assert any(what in mark for mark in marks.values()), marks
        if fallback is not ...:
            assert at(record, path) == fallback
            assert next(iter(marks)).startswith(path)
        assert len(orjson.dumps(marks)) < 1024


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns about new and old dtypes
def test_every_dtype(dtype):
    """Fault: a tensor of each dtype of torch. Expected: null, and a mark with the dtype."""
    record = written(train_step(loss=tensor_of(dtype), audio_loss_per_codebook=(0.5, tensor_of(dtype))))
    assert (record["loss"], record["audio_loss_per_codebook"]) == (None, [0.5, None])
    assert set(record["replaced"]) == {"loss", "audio_loss_per_codebook[1]"}
    assert f"dtype {dtype}" in record["replaced"]["loss"]


@pytest.mark.parametrize("make", [FakeTensor, lambda: torch.zeros(2).as_subclass(Guarded)], ids=["fake", "real"])
def test_data_is_not_touched(make):
    """Fault: a tensor whose data raises on access.

    Expected: no access, whether the tensor is a value, element or key.
    """
    record = written(run_start(config={"x": make(), "y": [1, make()], "z": {make(): make()}, "t": (make(),)}))
    assert len(record["replaced"]) == 4
    assert all("Tensor" in what or "Guarded" in what for what in record["replaced"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**64, torch.tensor(1.0), "\ud800"], ids=repr)
def test_fits_the_schema(value):
    """Fault: a value that no line can hold, in a field of type float or text. Expected: the line fits the schema."""
    if isinstance(value, str):
        events = [text_sample(sample_id=value, first=replace(text_sample().first, predicted_text=value))]
    else:
        events = [
            train_step(loss=value, grad_norm=value, audio_loss_per_codebook=(value, 1.0), text_accuracy=value),
            text_sample(epoch=value, accuracy=value),
        ]
    for event in events:
        Draft202012Validator(schema_of(event.name)).validate(written(event))


@pytest.mark.parametrize("name", ["run_id", "attempt", "rank"])
def test_in_the_envelope(name):
    """Fault: the run's own context cannot be written. Expected: the line exists and names the field."""
    records = []
    settings = {"run_id": RUN_ID, name: "\ud800" if name == "run_id" else 2**80}
    Pipeline([("a", records.append)], clock=fixed_clock, **settings)(train_step())
    assert name in orjson.loads(orjson.dumps(records[0]))["replaced"]


class Shrinking(dict):
    """Mapping that another thread changes at every access."""

    def items(self):
        for key in list(self):
            yield key, self[key]
            self.clear()

    keys = __iter__ = items


def test_a_mapping_that_changes():
    """Fault: a mapping changes during the write. Expected: the line holds the content from the start of the write."""
    assert written(run_start(config=Shrinking(a=1, b=2)))["config"] == {"a": 1, "b": 2}


def test_thousands_of_bad_values():
    """Fault: a field full of values that cannot be written. Expected: a line of bounded size, and an exact counter."""
    emit = Pipeline([("a", (records := []).append)], run_id=RUN_ID)
    emit(train_step(audio_loss_per_codebook=(object(),) * 50_000 + (math.nan,) * 50_000))
    assert emit.replaced == 100_000
    assert len(records[0]["replaced"]) == len(records[0]["nonfinite"]) == 101
