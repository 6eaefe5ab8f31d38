"""Nested containers as named leaves, and back."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.adapters.nesting import argument_names, flatten, rebuild

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Layer:
    weight: object
    bias: object


class Custom(dict):
    pass


def objects(*values: object) -> np.ndarray:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


ROWS = [
    # tree, name, the names of its leaves
    (1.0, "x", ["x"]),
    ({"W1": 1, "b1": 2}, "params", ["params.W1", "params.b1"]),
    ({"W1": 1, "b1": 2}, "", ["W1", "b1"]),
    ([{"W": 1}, {"W": 2}], "layers", ["layers[0].W", "layers[1].W"]),
    ((1, (2, 3)), "x", ["x[0]", "x[1][0]", "x[1][1]"]),
    (Point(1, [2]), "p", ["p.x", "p.y[0]"]),
    (Layer(1, 2), "layer", ["layer.weight", "layer.bias"]),
    ({0: 1, "a.b": 2}, "m", ["m[0]", "m.a.b"]),
    ({"enc": {"fc": [1, 2]}, "dec": 3}, "net", ["net.enc.fc[0]", "net.enc.fc[1]", "net.dec"]),
    (OrderedDict(a=1), "o", ["o.a"]),
    (MappingProxyType({"a": 1}), "o", ["o.a"]),
    (Custom(a=1), "o", ["o.a"]),
    (objects(1, 2), "w", ["w[0]", "w[1]"]),
    ({}, "empty", []),
    ([], "empty", []),
    (None, "x", ["x"]),
    ("text", "x", ["x"]),
]


@pytest.mark.parametrize(("tree", "name", "names"), ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_leaves_are_named_in_order_and_put_back(tree: object, name: str, names: list[str]) -> None:
    leaves = flatten(tree, name)
    assert [leaf.name for leaf in leaves] == names
    again = rebuild(tree, [leaf.value for leaf in leaves])
    assert [leaf.value for leaf in flatten(again, name)] == [leaf.value for leaf in leaves]
    if not isinstance(tree, MappingProxyType):  # which cannot be written to, and comes back as a dict
        assert type(again) is type(tree)


def test_rebuild_leaves_the_original_alone() -> None:
    tree = {"a": [1, 2], "b": Layer(3, 4), "c": objects(5, 6)}
    again = rebuild(tree, [10, 20, 30, 40, 50, 60])
    assert again["a"] == [10, 20]
    assert again["b"] == Layer(30, 40)
    assert list(again["c"]) == [50, 60]
    assert tree["a"] == [1, 2]
    assert tree["b"] == Layer(3, 4)
    assert list(tree["c"]) == [5, 6]


def test_a_number_array_is_a_leaf_and_object_arrays_hold_arrays() -> None:
    plain = np.ones((2, 3))
    weights = objects(np.ones(2), np.ones((3, 1)))
    assert [leaf.name for leaf in flatten(plain, "x")] == ["x"]
    again = rebuild(weights, [np.zeros(2), np.zeros((3, 1))])
    assert again[1].shape == (3, 1)
    assert not again[1].any()
    assert weights[1].all()


@pytest.mark.parametrize("count", [1, 3])
def test_the_wrong_number_of_leaves_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="leaves than the container holds"):
        rebuild([0, 0], [1] * count)


trees = st.recursive(
    st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner),
    max_leaves=12,
)


@given(trees)
def test_rebuild_inverts_flatten(tree: object) -> None:
    assert rebuild(tree, [leaf.value for leaf in flatten(tree)]) == tree


def takes_all(*arrays: object) -> None: ...


def two(params: object, /, batch: object = None, *, flag: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("function", "count", "names"),
    [
        (lambda W, b: None, 2, ["W", "b"]),
        (lambda x: None, 1, ["x"]),
        (two, 2, ["params", "batch"]),
        (takes_all, 2, ["arrays[0]", "arrays[1]"]),
        (max, 1, ["input"]),  # without a signature
        (lambda x: None, 2, ["input[0]", "input[1]"]),
    ],
)
def test_arguments_are_named_as_the_signature_says(function: object, count: int, names: list[str]) -> None:
    assert argument_names(function, count) == names
