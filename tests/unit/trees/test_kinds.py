"""State comes back equal and of the same types, or is refused by its path before anything is written."""

from __future__ import annotations

import datetime
import enum
import json
import math
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.trees.class_kinds import Classes
from ckptd.trees.flatten import check_classes, flatten, read_outline, rebuild
from ckptd.trees.outline import OUTLINE_NAME, decode_outline, encode_outline


class Schedule(str, enum.Enum):
    COSINE = "cosine"
    LINEAR = "linear"


class Level(enum.IntEnum):
    LOW = 1


class Colour(enum.Enum):
    RED = (1, 2)


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Config:
    rate: float
    name: str = "a"
    layers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    kind: Schedule

    def __post_init__(self):
        ran.append(self)


Pair = namedtuple("Pair", ["left", "right"])

ran: list[Frozen] = []
CLASSES = [Schedule, Level, Colour, Access, Config, Frozen, Pair]


def stored(state, **options):
    return flatten(state, lambda value: False, stores_classes=True, **options)


def loaded(arrays, classes=CLASSES):
    tree = read_outline(arrays[OUTLINE_NAME])
    known = Classes(classes)
    check_classes(tree, known)
    read = {
        name: value if isinstance(value, (np.ndarray, np.generic)) else as_read(value) for name, value in arrays.items()
    }
    return rebuild(tree, read.__getitem__, lambda array: array, classes=known)


def as_read(value):
    """A string as a reader gives it."""
    return np.array(value.encode() if isinstance(value, str) else value, object)


def same(one, other):
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, enum.Enum):
        return one is other
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, dict):
        return (
            len(one) == len(other)
            and getattr(one, "default_factory", None) is getattr(other, "default_factory", None)
            and all(same(k, j) and same(v, w) for (k, v), (j, w) in zip(one.items(), other.items(), strict=True))
        )
    if isinstance(one, (list, tuple, deque)):
        return (
            len(one) == len(other)
            and getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
            and all(same(v, w) for v, w in zip(one, other, strict=True))
        )
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(v, w) for w in other) for v in one)
    if isinstance(one, (Config, Frozen)):
        return same(vars(one), vars(other))
    if isinstance(one, (datetime.datetime, datetime.time)):
        return one == other and one.fold == other.fold and one.tzinfo == other.tzinfo
    return one == other


zones = st.none() | st.builds(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)), st.integers(-1439, 1439)
)
hashables = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from([*Schedule, *Level, *Colour, Access.READ, Access.READ | Access.WRITE])
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.builds(
        lambda parts: pathlib.Path("/".join(parts)), st.lists(st.sampled_from(["a", "b c", "..", "é"]), max_size=3)
    )
    | st.sampled_from([pathlib.PureWindowsPath("c:/a"), range(1, 9, 2), 1 << 70, np.dtype("<f4")])
)
scalars = (
    hashables
    | st.floats()
    | st.complex_numbers()
    | st.sampled_from(
        [np.float32(1), np.int8(-1), np.arange(3), np.float64(-0.0), np.dtype(ml_dtypes.bfloat16), slice(1, None)]
    )
)
keys = hashables | st.text("ab/", max_size=3)


def containers(inner):
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
        st.dictionaries(keys, st.integers(), max_size=3).map(Counter),
        st.dictionaries(keys, inner, max_size=3).map(lambda one: defaultdict(list, one)),
        st.lists(inner, max_size=3).map(lambda one: deque(one, 5)),
        st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Config, st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
        st.builds(Frozen, st.sampled_from(Schedule)),
    )


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.recursive(scalars, containers, max_leaves=8), max_size=3)
)
def test_state_comes_back_as_it_was_or_is_refused(state):
    try:
        arrays = stored(state)
    except InvalidRequestError:
        return
    assert same(loaded(arrays), state)


TAKEN = {
    "a str enum": Schedule.COSINE,
    "an enum in a list": [Schedule.COSINE, "cosine"],
    "an enum as a key": {Schedule.COSINE: 1},
    "an int enum": Level.LOW,
    "an enum with a value that is not plain": Colour.RED,
    "flags": Access.READ | Access.WRITE,
    "a Counter": Counter({3: 2}),
    "a Counter of enums": Counter({Schedule.LINEAR: 2}),
    "an OrderedDict": OrderedDict(b=1, a=2),
    "a defaultdict": defaultdict(int, a=1),
    "a deque": deque([1, 2], 3),
    "a set": {1, "a", None},
    "a path": pathlib.Path("/a/b"),
    "paths in a list": [pathlib.Path("a"), "b"],
    "a path as a key": {pathlib.Path("a"): np.arange(2)},
    "a moment": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc, fold=1),
    "a duration": datetime.timedelta(days=-1, microseconds=1),
    "a large number": 10**5000,
    "complex": 1 + 2j,
    "a dtype": np.dtype("float32"),
    "numpy's scalars": {"a": np.float64(-0.0), "b": np.bool_(True), "c": np.int8(3)},
    "a dataclass": Config(0.5, "b", [1]),
    "a named tuple": Pair(np.arange(2), {"a": Level.LOW}),
    "text without UTF-8": "\ud800",
    "a time zone": datetime.timezone.utc,
    "a time zone with an offset": datetime.timezone(datetime.timedelta(hours=-3, microseconds=1)),
    "a time zone with a name": datetime.timezone(datetime.timedelta(hours=3), "MSK"),
    "a bytearray": bytearray(b"a\0"),
    "numpy's text that ends in NUL": np.str_("a\0"),
    "numpy's bytes that end in NUL": np.bytes_(b"a\0"),
    "an array of bytes": np.array([b"ab", b"c\0"]),
    "an array of texts as objects": np.array(["a", "bc\0"], object),
    "an array of bytes as objects": np.array([b"a\0"], object),
    "an array of big-endian floats": np.arange(3, dtype=">f4"),
    "an array of big-endian integers": np.array(5, ">i8"),
    "nested": {"a": [{"b": deque([OrderedDict(c=frozenset({1}))])}]},
}


@pytest.mark.parametrize("value", TAKEN.values(), ids=TAKEN.keys())
def test_taken(value):
    assert same(loaded(stored({"x": value, "list": [value]})), {"x": value, "list": [value]})


class Text(str):
    pass


class Attributes(dict):
    pass


class Numbers(list):
    pass


@dataclass
class Both(dict):
    a: int = 1


class GrownPair(Pair):
    pass


grown = Config(1.0)
grown.more = 3


def _grown_pair():
    pair = GrownPair(1, 2)
    pair.more = 3
    return pair


def _shrunk():
    config = Config(1.0)
    del config.rate
    return config


def _nested(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    return nested


REFUSED = {
    "a kind of str": (Text("a"), r"Text can't be saved .*save str\("),
    "a kind of dict": (Attributes(a=1), r"Attributes can't be saved .*save dict\("),
    "a kind of list": (Numbers([1]), r"Numbers can't be saved .*save list\("),
    "an object": (object(), "save what it is made of"),
    "a function": (len, "save what it is made of"),
    "a class": (Config, "save what it is made of"),
    "a mapping": (type(Config.__dict__)({}), r"save dict\("),
    "a factory of one's own": (defaultdict(lambda: 1), "factory"),
    "a zone with a name": (
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(), "home")),
        "zone",
    ),
    "more than the fields": (grown, "more"),
    "a tuple as a key": ({(1, 2): 3}, "key of type tuple"),
    "numpy's number as a key": ({np.float64(1): 3}, "key of type float64"),
    "a record array": (np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), r"save numpy.asarray\("),
    "a matrix": (np.asmatrix(np.ones((1, 2))), r"save numpy.asarray\("),
    "an array of texts and bytes": (np.array(["a", b"a"], object), "stored alike"),
    "a dataclass that is a dict": (Both(), "it is a dict, too"),
    "a named tuple with more": (_grown_pair(), "it has more beside its fields"),
    "a field that is not set": (_shrunk(), "it lacks its fields rate: set them"),
    "too deep a list": (_nested(3000), "nests deeper than 200 levels"),
    "keys that become one": ({"a": 1, pathlib.Path("a"): 2}, "two keys"),
}


@pytest.mark.parametrize(("value", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_its_path(value, told):
    for state, path in (({"here": value}, "here"), ({"list": [value]}, "list/0")):
        with pytest.raises(InvalidRequestError, match=told) as refusal:
            stored(state)
        assert refusal.value.key.startswith(path)


@pytest.mark.parametrize("value", [Schedule.COSINE, Config(1.0), Pair(1, 2), Frozen(Schedule.LINEAR)])
def test_a_class_is_asked_for_by_its_path_and_never_imported(value):
    arrays = stored({"x": value})
    with pytest.raises(InvalidRequestError, match=rf"classes=\[{type(value).__name__}\]") as told:
        loaded(arrays, [])
    assert told.value.key == "x"
    with pytest.raises(InvalidRequestError, match="can't be saved"):
        flatten({"x": value}, lambda _: False)


def test_nothing_of_a_class_runs_when_it_is_loaded():
    arrays = stored({"x": Frozen(Schedule.LINEAR)})
    ran.clear()
    assert loaded(arrays)["x"].kind is Schedule.LINEAR
    assert ran == []


def test_a_class_that_has_changed_is_refused():
    arrays = stored({"x": Config(1.0)})
    changed = dataclass(type("Config", (), {"__annotations__": {"rate": float}, "__module__": "elsewhere"}))
    with pytest.raises(InvalidRequestError, match="other fields"):
        loaded(arrays, [changed])
    other = enum.Enum("Schedule", {"COSINE": "another"}, type=str)
    with pytest.raises(InvalidRequestError, match="another value"):
        loaded(stored({"x": Schedule.COSINE}), [other])


def test_an_outline_of_plain_values_is_the_same_as_ever_and_older_versions_read_the_plain_form():
    plain = {"a": [1, {"b": (None, 0.5, "c")}], 3: True}
    document = json.loads(stored(plain)[OUTLINE_NAME])
    assert list(document) == ["version", "state"]
    document = json.loads(stored({"a": Counter(b=1), "c": [Schedule.COSINE]})[OUTLINE_NAME])
    assert document["version"] == 1
    assert document["state"] == {"dict": [["a", {"dict": [["b", {"leaf": "int"}]]}], ["c", {"list": ["cosine"]}]]}


@pytest.mark.parametrize(
    "kinds", [{}, [[]], [[[0], 3, None]], [[[0], "Counter"]], [["x", "Counter", None]], [[[0], "date", None]], 7]
)
def test_a_damaged_list_of_kinds_is_corruption(kinds):
    document = json.loads(encode_outline({"a": [1]}))
    document["kinds"] = kinds
    if kinds in ({}, [["x", "Counter", None]]):  # of places that are not there
        assert decode_outline(json.dumps(document).encode()) == {"a": [1]}
        return
    with pytest.raises(CorruptionError):
        rebuild(decode_outline(json.dumps(document).encode()), {}.__getitem__, lambda array: array)


def test_a_kind_of_a_newer_version_or_of_a_framework_is_named():
    document = json.loads(encode_outline({"a": "float32"}))
    document["kinds"] = [[[0], "frame.dtype", None]]
    tree = decode_outline(json.dumps(document).encode())
    with pytest.raises(InvalidRequestError, match=r"a: .*import ckptd\.frame"):
        rebuild(tree, {}.__getitem__, lambda array: array)
