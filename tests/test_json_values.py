"""Conversion of values for a line of JSON: unchanged values, replaced values, and the marks."""

import enum
import math
from collections import ChainMap, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.events import to_mapping
from higgs_audio_trainer.pipeline.description import describe
from higgs_audio_trainer.pipeline.json_values import MAX_CONTAINERS, MAX_DEPTH, MAX_MARKS, to_json_values
from tests.builders import all_events

Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind is meant


class Text(str):
    __slots__ = ()

    def __str__(self):
        raise AssertionError("what a subclass overrides is not called")

    encode = isascii = __iter__ = __repr__ = __str__


class Number(int):
    def __int__(self):
        raise AssertionError("what a subclass overrides is not called")

    __index__ = __lt__ = __le__ = __gt__ = __ge__ = __repr__ = __str__ = __int__


class Level(enum.IntEnum):
    HIGH = 3


class Words(enum.StrEnum):
    YES = "yes"


class Listed(list):
    def __iter__(self):
        raise AssertionError("what a subclass overrides is not called")

    copy = __len__ = __iter__


def one(value):
    """Return the conversion of one value, and the marks."""
    record, count = to_json_values({"x": value})
    orjson.dumps(record)
    replaced, nonfinite = record.pop("replaced", {}), record.pop("nonfinite", [])
    assert count >= len(replaced) + len(nonfinite)
    return record["x"], replaced or nonfinite


class TestPasses:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(2**63),
            2**64 - 1,
            0.1,
            -0.0,
            "",
            "نص عربي 🎧 \x00\x1b",
            (),
            (1, None, True),
            (0.5, None),
            ("a", "b"),
            ["ب"],
            [1, "a", 0.5, [None]],
            {"": {}, "ب": [{}]},
        ],
        ids=repr,
    )
    def test_as_it_is(self, value):
        """A value that a line can represent keeps the type and has no mark."""
        assert repr(one(value)) == repr((value, []))

    def test_a_long_tuple_is_not_copied(self):
        """Token ids are passed on, not copied."""
        for value in (tuple(range(10**6)), tuple(None if i % 3 else i for i in range(1000)), (0.5,) * 1000):
            assert one(value)[0] is value

    def test_a_list_is_copied(self):
        """A list is copied, so that a later change by the owner has no effect."""
        value = {"list": [1, 2]}
        copied, _ = one(value)
        value["list"].append(3)
        assert copied == {"list": [1, 2]}

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (Text("a"), "a"),
            (Number(7), 7),
            (Level.HIGH, 3),
            (Words.YES, "yes"),
            (np.float64(0.5), 0.5),
            (np.str_("a"), "a"),
            (Point(1, 2), (1, 2)),
            (Listed([1]), [1]),
            (OrderedDict(a=1), {"a": 1}),
            (defaultdict(list, a=1), {"a": 1}),
            (MappingProxyType({"a": 1}), {"a": 1}),
            (UserDict({"a": 1}), {"a": 1}),
            (ChainMap({"a": 1}), {"a": 1}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_subclass_becomes_the_builtin(self, value, plain):
        """A subclass of a builtin becomes the builtin without a mark, by the builtin's own methods."""
        copied, marks = one(value)
        assert (copied, type(copied), marks) == (plain, type(plain), [])
        assert one([value])[0] == [plain]

    def test_scalar_keys(self):
        """Keys that every writer of JSON converts to text are converted without a mark."""
        assert one({1: "a", None: "b", 0.5: "c", 2**70: 1}) == (
            {"1": "a", "None": "b", "0.5": "c", "<int of 71 bits>": 1},
            {"x.<int of 71 bits>": "<int of 71 bits, as key>"},
        )


class TestReplaced:
    @pytest.mark.parametrize(
        ("value", "fallback", "what"),
        [
            (2**64, 2**64 - 1, "<int of 65 bits>"),
            (-(2**63) - 1, -(2**63), "<int of 64 bits>"),
            (10**5000, 2**64 - 1, "<int of 16610 bits>"),
            (Number(2**64), 2**64 - 1, "<int of 65 bits>"),
            ("\ud800 ب", "\\ud800 ب", "<text with lone surrogates>"),
            (Text("\ud83d\ude00"), "\\ud83d\\ude00", "<text with lone surrogates>"),
            (b"x", None, "<bytes>"),
            ({1}, None, "<set>"),
            (1j, None, "<complex>"),
            (range(3), None, "<range>"),
            (Decimal(1), None, "<decimal.Decimal>"),
            (len, None, "<builtin_function_or_method>"),
            (int, None, "<type>"),
            (np.float32(1), None, "<numpy.float32, shape [], dtype float32, device cpu>"),
            (np.zeros((2, 3), np.int16), None, "<numpy.ndarray, shape [2, 3], dtype int16, device cpu>"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_fallback(self, value, fallback, what):
        """A value that a line cannot represent becomes the nearest possible value, with a mark for the original."""
        assert one(value) == (fallback, {"x": what})
        assert one([0, value]) == ([0, fallback], {"x[1]": what})
        assert one((0, value)) == ([0, fallback], {"x[1]": what})
        assert one({"a.b": {"c": value}}) == ({"a.b": {"c": fallback}}, {"x.a.b.c": what})

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
    def test_nonfinite(self, value):
        """NaN and infinities are null and named by their path."""
        assert one(value) == (None, ["x"])
        assert one((1.0, value, 2)) == ([1.0, None, 2], ["x[1]"])
        assert one((1.0, value)) == ([1.0, None], ["x[1]"])

    def test_cycles(self):
        """A list or mapping that contains itself is null there. A repeated list or mapping is written twice."""
        loop, shared = [1], {"a": 1}
        loop.append({"again": loop})
        assert one(loop) == ([1, {"again": None}], {"x[1].again": "<cycle>"})
        assert one([shared, shared]) == ([{"a": 1}, {"a": 1}], [])

    def test_depth(self):
        """What is nested deeper than any reader follows is null."""
        value = 1
        for _ in range(1000):
            value = [value]
        copied, marks = one(value)
        path = "x" + "[0]" * (MAX_DEPTH - 1)
        assert list(marks.values()) == [f"<nested deeper than {MAX_DEPTH}>"]
        assert next(iter(marks)).startswith(path[:100])
        assert str(copied).count("[") == MAX_DEPTH - 1

    def test_lists_that_share_lists(self):
        """A hundred small lists that would expand to 2**100 values take bounded work."""
        value = ["x"]
        for _ in range(40):
            value = [value, value]
        copied, _ = one(value)
        assert len(orjson.dumps(copied)) < 10 * MAX_CONTAINERS

    @pytest.mark.parametrize("value", [math.nan, b"", "\ud800"])
    def test_marks_are_bounded(self, value):
        """However many values are replaced, the marks stay short; the counter is exact."""
        record, count = to_json_values({"x": [value] * 100_000, "y": {"k" * 10**6: value}})
        marks = record.get("replaced") or record["nonfinite"]
        assert count == 100_001
        assert len(marks) == MAX_MARKS + 1
        assert list(marks)[-1] == "..."
        assert len(orjson.dumps(marks)) < 64 * 1024

    def test_long_paths(self):
        """A long path is cut in the middle, not dropped."""
        (_, marks) = one({"k" * 10**6: {"end": b""}})
        assert [len(path) for path in marks] == [200]
        assert next(iter(marks)).endswith(".end")


class TestKeys:
    def test_collisions_lose_nothing(self):
        """Keys with equal text become distinct, and are marked."""
        copied, marks = one({1: "a", "1": "b", "1 (2)": "c", b"x": "d", b"y": "e"})
        assert sorted(copied.values()) == ["a", "b", "c", "d", "e"]
        assert copied["1"] == "a"
        assert set(marks.values()) == {"<a key like another's>", "<bytes, as key>"}

    def test_many_collisions(self):
        """A hundred thousand keys with equal text take no quadratic time."""
        copied, marks = one({object(): index for index in range(100_000)})
        assert (len(copied), len(marks)) == (100_000, MAX_MARKS + 1)

    def test_surrogates(self):
        """A lone surrogate in a key is escaped, in the marks too."""
        assert one({"\udc80": "\udc80"}) == (
            {"\\udc80": "\\udc80"},
            {"x.\\udc80": "<text with lone surrogates, as key>, <text with lone surrogates>"},
        )

    def test_a_subclass_of_text(self):
        """A key of a subclass becomes plain text, by str's own methods."""
        copied, marks = one({Text("a"): 1})
        assert ([type(key) for key in copied], marks) == ([str], [])


class Endless(Mapping):
    """A mapping without an end."""

    def __getitem__(self, key):
        return key

    def __len__(self):
        return 1

    def __iter__(self):
        number = 0
        while True:
            yield number
            number += 1


class Broken(Endless):
    def __iter__(self):
        raise ZeroDivisionError


class Hostile:
    """An object that raises at every access."""

    def _touched(self, *_args):
        raise AssertionError("touched")

    __repr__ = __str__ = __bool__ = __len__ = __iter__ = __eq__ = __index__ = __float__ = __getattribute__ = _touched
    __hash__ = object.__hash__
    shape = dtype = device = property(_touched)


class TestForeign:
    @pytest.mark.parametrize("kind", [Endless, Broken, Hostile, type("Odd\u202e\x1b", (), {})], ids=range(4))
    def test_is_marked(self, kind):
        """Mappings that do not end or that raise, and objects that cannot be accessed, are null and described."""
        copied, marks = one(kind())
        assert copied is None
        assert list(marks) == ["x"]
        assert marks["x"].isprintable()

    def test_description_survives_what_it_cannot_read(self):
        """What cannot be asked is left out of the description."""
        assert describe(Hostile()) == "<tests.test_json_values.Hostile>"

    def test_a_foreign_type(self):
        """A type whose very name raises is an object."""

        def refuse(*_args):
            raise ZeroDivisionError

        meta = type("Meta", (type,), {"__module__": property(refuse), "__subclasscheck__": refuse})
        odd = meta("Odd", (), {})
        assert one(odd()) == (None, {"x": "<object>"})

    def test_keys_that_raise(self):
        """A mapping whose keys raise in comparisons is null or copied, without an exception."""

        class Key:
            armed = False

            def __hash__(self):
                return 1

            def __eq__(self, other):
                if Key.armed:
                    raise ZeroDivisionError
                return self is other

        value = {Key(): index for index in range(20)}
        for key in list(value)[::2]:
            del value[key]
        Key.armed = True
        one(value)


BUILTINS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(
            st.text(st.characters(), max_size=3) | st.integers() | st.none() | st.binary(), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def leaves(value):
    """Count the values that are no container."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, (list, tuple)) else 1


@given(BUILTINS)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_anything_can_be_written(value):
    """Whatever is given can be written and read back, keeps every leaf, and is not changed."""
    before = repr(value)
    copied, _ = one(value)
    assert repr(value) == before
    assert leaves(copied) == leaves(value)
    again, more = one(copied)
    assert (again, more) == (copied, [])


@pytest.mark.parametrize("event", all_events(), ids=lambda event: event.name)
def test_events_pass(event):
    """Events of the trainer are unchanged."""
    mapping = to_mapping(event)
    converted, replaced = to_json_values(mapping)
    assert (orjson.dumps(converted), replaced) == (orjson.dumps(mapping), 0)
