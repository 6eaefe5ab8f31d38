"""Copies of a batch: what is in it, how it hangs together, and how often memory is copied."""

from __future__ import annotations

import types
import weakref
from collections import UserDict, deque, namedtuple
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from gradguard.adapters.batch_copies import BatchCopies
from gradguard.adapters.torch_batch_copies import SMALL, TorchBatchCopies

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Frozen:
    x: Any
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(slots=True)
class Slotted:
    x: Any


class Attributes(dict[str, Any]):
    """A dict whose keys are its attributes."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__ = self


class Private:
    """Slots, one of them with a private name."""

    __slots__ = ("__x", "y")

    def __init__(self, x: Any) -> None:
        self.__x = x  # the other slot stays empty

    @property
    def x(self) -> Any:
        return self.__x


def wrapped(x: Any) -> list[Any]:
    """One thing in every kind of container."""
    return [
        x, (x, 1), {"x": x}, Pair(x, [x]), Frozen(x), Slotted(x), Attributes(x=x), UserDict(x=x), deque([x]), Private(x),
        types.SimpleNamespace(x=x),
    ]


def inside(batch: list[Any]) -> list[Any]:
    """What ``wrapped`` has put there."""
    plain, pair, mapping, named, frozen, slotted, attributes, user, queue, private, space = batch
    found = [plain, pair[0], mapping["x"], named.x, named.y[0], frozen.x, slotted.x]
    return [*found, attributes.x, attributes["x"], user["x"], queue[0], private.x, space.x]


@pytest.mark.parametrize("value", [torch.arange(6.0), np.arange(6.0)], ids=["torch", "numpy"])
def test_what_is_in_many_containers_is_one_copy_in_all_of_them(value: Any) -> None:
    given = wrapped(value)
    copied = TorchBatchCopies([given]).of(given)
    assert [type(part) for part in copied] == [type(part) for part in given]
    assert not any(a is b for a, b in zip(copied, given, strict=True))
    first, *others = inside(copied)
    assert first is not value
    assert all(one is first for one in others)
    first[:] = 0
    copied[2].clear()
    copied[4].names.append("b")
    copied[6].more = 1
    copied[8].clear()
    assert all(one is value for one in inside(given))
    assert value[5] == 5
    assert given[4].names == ["a"]
    assert copied[6]["more"] == 1
    assert "more" not in given[6]


def test_a_batch_may_hold_itself() -> None:
    given: list[Any] = [torch.zeros(2)]
    given.append(given)
    copied = TorchBatchCopies([given]).of(given)
    assert copied[1] is copied is not given


def test_models_code_generators_and_what_cannot_be_copied_are_handed_out_as_they_are() -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.x = torch.zeros(2)

        def __copy__(self) -> Stubborn:
            raise RuntimeError("no")

    given = [
        torch.nn.Linear(2, 1), torch.nn.Parameter(torch.zeros(2)), torch.Generator(), np.random.default_rng(0), Stubborn(), len,
        "text", 7, (1, "a"), (i for i in range(3)), torch.empty(2, device="meta"),
    ]
    copied = TorchBatchCopies([given]).of(given)
    assert all(a is b for a, b in zip(given, copied, strict=True))


def test_what_refuses_to_be_filled_is_handed_out_as_it_is() -> None:
    class Slot:
        __slots__ = ("x",)

        def __copy__(self) -> Slot:
            return type(self)()

    class Shadowed(Slot):
        @property  # type: ignore[override]
        def x(self) -> Any:
            return torch.zeros(2)

    given = [Shadowed(), torch.zeros(2)]
    copied = TorchBatchCopies([given]).of(given)
    assert copied[0] is given[0]
    assert copied[1] is not given[1]


def test_objects_are_opened_three_deep() -> None:
    class Link:
        def __init__(self, to: Any) -> None:
            self.to = to

    x = torch.zeros(2)
    given = Link([Link(Link(Link(x))), Link(Link(x))])
    copied = TorchBatchCopies([given]).of(given)
    assert copied.to[0].to is not given.to[0].to
    assert copied.to[0].to.to is given.to[0].to.to
    assert copied.to[1].to.to is not x


class Sub(Pair):
    """A named tuple with an attribute besides."""


class Two(tuple[Any, ...]):
    """A tuple that is made of two things."""

    def __new__(cls, x: Any, y: Any) -> Two:
        return tuple.__new__(cls, (x, y))


@pytest.mark.parametrize("kind", [Sub, Two])
def test_tuples_keep_their_attributes(kind: Any) -> None:
    given = kind(torch.zeros(2), 1)
    given.mask = torch.ones(2)
    copied = TorchBatchCopies([given]).of(given)
    assert type(copied) is kind
    assert copied[0] is not given[0]
    assert copied.mask.tolist() == [1, 1]
    assert copied.mask is not given.mask


def test_objects_that_refuse_while_they_are_half_made_are_copied() -> None:
    class Delegating:
        def __init__(self) -> None:
            self.data = {"x": torch.zeros(2)}

        def __getattr__(self, name: str) -> Any:
            return self.data[name]

    class Fixed:
        __slots__ = ("x",)

        def __init__(self) -> None:
            object.__setattr__(self, "x", torch.zeros(2))

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError("fixed")

    given = [Delegating(), Fixed()]
    for a, b in zip(given, TorchBatchCopies([given]).of(given), strict=True):
        b.x.add_(1)
        assert (a.x.tolist(), b.x.tolist()) == ([0, 0], [1, 1])


class Store:
    """What a graph keeps its tensors in; it knows the graph."""

    def __init__(self, parent: Graph, mapping: dict[str, Any]) -> None:
        self.parent, self.mapping = weakref.ref(parent), mapping


class Graph:
    """It makes its own copies, whose stores know them."""

    def __init__(self, mapping: dict[str, Any]) -> None:
        self.store = Store(self, mapping)

    def __copy__(self) -> Graph:
        return Graph(dict(self.store.mapping))


@pytest.mark.parametrize("within", [lambda g: g, lambda g: types.SimpleNamespace(g=g), lambda g: {"g": g}])
def test_what_a_class_copies_itself_is_kept(within: Any) -> None:
    graph = Graph({"x": torch.zeros(2), "y": torch.ones(2)})
    copied = TorchBatchCopies().of(within(graph))
    other = copied if isinstance(copied, Graph) else copied["g"] if isinstance(copied, dict) else copied.g
    assert other.store.parent() is other
    other.store.mapping["x"].add_(1)
    other.store.mapping["z"] = 0
    assert graph.store.mapping["x"].tolist() == [0, 0]
    assert [value.tolist() for value in list(other.store.mapping.values())[:2]] == [[1, 1], [1, 1]]
    assert "z" not in graph.store.mapping


def test_objects_that_close_something_marks_and_objects_of_one_state_are_handed_out_as_they_are() -> None:
    closed: list[int] = []

    class File:
        def __init__(self) -> None:
            self.number = 3

        def __del__(self) -> None:
            closed.append(self.number)

    class Mark:
        pass

    class OneState:
        state: ClassVar[dict[str, Any]] = {"x": torch.zeros(2)}

        def __new__(cls) -> OneState:
            made = super().__new__(cls)
            made.__dict__ = cls.state
            return made

    given = [File(), Mark(), MISSING, OneState()]
    copied = TorchBatchCopies([given]).of(given)
    assert all(a is b for a, b in zip(given, copied, strict=True))
    assert not closed


def test_an_empty_part_of_an_array_has_no_memory_to_copy() -> None:
    table = np.arange(12.0).reshape(3, 4)
    given = [table[3:], table]
    copies = BatchCopies([given])
    assert [a.tolist() for a in copies.of(given)] == [[], table.tolist()]
    assert not copies.is_array(given[0])


def test_a_file_that_is_only_read_is_not_copied_to_memory(tmp_path: Path) -> None:
    np.arange(6.0).tofile(tmp_path / "x")
    given = [np.memmap(tmp_path / "x", mode=mode, dtype=float) for mode in ("r", "c")]
    copied = BatchCopies([given]).of(given)
    assert copied[0] is given[0]
    copied[1][:] = 0
    assert given[1][5] == 5


def test_a_table_of_a_class_of_its_own_is_copied() -> None:
    class Table(pd.DataFrame):
        @property
        def _constructor(self) -> type[Table]:
            return Table

    given = Table({"x": [1.0, 2.0]})
    copied = BatchCopies([given]).of(given)
    copied.loc[0, "x"] = 9
    assert type(copied) is Table
    assert given["x"].tolist() == [1.0, 2.0]


def test_tables_and_arrays_of_objects_are_copied() -> None:
    ragged = np.empty(2, dtype=object)
    ragged[0], ragged[1] = np.arange(2.0), [1, 2]
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    given = {"table": pd.DataFrame({"x": [1.0, 2.0]}), "ragged": ragged, "masked": masked}
    copied = BatchCopies([given]).of(given)
    copied["table"]["x"] *= 2
    copied["ragged"][0][:] = 9
    copied["ragged"][1].append(3)
    copied["masked"][1] = 9
    assert given["table"]["x"].tolist() == [1.0, 2.0]
    assert ragged[0].tolist() == [0.0, 1.0]
    assert ragged[1] == [1, 2]
    assert masked.tolist() == [None, 2.0]


def test_tensors_that_share_memory_still_do() -> None:
    table = torch.arange(44.0).reshape(4, 11)
    given = [table[:, :10], table[:, 10], table[1], table[:1].expand(5, 11), table.view(torch.int32)[2:], torch.zeros(3)]
    copied = TorchBatchCopies([given]).of(given)
    for a, b in zip(given, copied, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
        assert a.dtype == b.dtype
    copied[2].fill_(-1)
    assert copied[0][1].tolist() == [-1.0] * 10
    assert copied[1][1] == -1
    assert table[1, 0] == 11


def test_a_slice_of_a_large_table_does_not_copy_the_table() -> None:
    table = torch.zeros(100_000, 20)
    given = [table[5:9], table[5:9, 3], table[:, 0][:8]]
    copied = TorchBatchCopies([given]).of(given)
    assert max(c.untyped_storage().nbytes() for c in copied) < 4000


def test_arrays_that_share_memory_still_do() -> None:
    table = np.arange(44.0).reshape(4, 11)
    once = np.broadcast_to(np.float64(3.0), (4, 4))
    given = [table[:, :10], table[:, 10], table[::-1], np.arange(3), once]
    copied = BatchCopies([given]).of(given)
    assert all(np.array_equal(a, b) for a, b in zip(given, copied, strict=True))
    assert not copied[4].flags.writeable
    copied[2][0] = -1
    assert copied[0][3].tolist() == [-1.0] * 10
    assert table[3, 0] == 33


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_tensors_of_all_kinds_keep_what_they_are() -> None:
    class Marked(torch.Tensor):
        pass

    marked = torch.zeros(2).as_subclass(Marked)
    marked.label = "a"  # type: ignore[attr-defined]
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        inferred = torch.ones(2)
    given = [
        marked, torch.ones(2, requires_grad=True), 2 * weight, torch.ones(2, dtype=torch.complex64).conj(), inferred,
        torch.eye(3).to_sparse(), torch.zeros(0, 3), torch.zeros(2, 3, 4).permute(2, 0, 1), torch.tensor(True),
        torch.tensor([float("nan")], dtype=torch.bfloat16), torch.ones(3).to(torch.float8_e5m2),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    ]
    copied = TorchBatchCopies([given]).of(given)
    for a, b in zip(given, copied, strict=True):
        assert a is not b
        assert (type(a), a.dtype, a.layout, a.requires_grad) == (type(b), b.dtype, b.layout, b.requires_grad)
        assert a.is_nested or a.shape == b.shape
    assert copied[0].label == "a"
    assert copied[1].is_leaf
    copied[2].sum().backward()
    assert weight.grad is not None
    assert copied[4].is_inference()
    assert copied[7].stride() == given[7].stride()
    for a, b in zip(given[-2:], copied[-2:], strict=True):
        b.mul_(2)
        assert [part.sum().item() for part in a.unbind()] == [2, 3]
        assert [part.sum().item() for part in b.unbind()] == [4, 6]


LARGE = SMALL // 4 + 1
"""Entries of float32."""


def test_a_large_tensor_is_copied_once_where_nobody_changes_it() -> None:
    given = {"x": torch.randn(LARGE)}
    copies = TorchBatchCopies([given])
    seen = [copies.of(given)["x"] for _ in range(5)]
    assert len({x.data_ptr() for x in seen} - {given["x"].data_ptr()}) == 1
    assert len(set(map(id, seen))) == 1
    for change in (torch.Tensor.requires_grad_, lambda x: x.unsqueeze_(0), lambda x: setattr(x, "mark", 1)):
        change(copies.of(given)["x"])
        again = copies.of(given)["x"]
        assert not again.requires_grad
        assert again.shape == (LARGE,)
        assert not vars(again)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.mul_(2),
        lambda x: x[3:].zero_(),
        lambda x: x.data.mul_(2),
        lambda x: np.negative(x.numpy(), out=x.numpy()),
        lambda x: torch.relu_(x.detach()),
    ],
    ids=["method", "view", "data", "numpy", "detached"],
)
@pytest.mark.parametrize("size", [LARGE, 8], ids=["large", "small"])
def test_the_next_call_gets_the_values_of_the_first(write: Any, size: int) -> None:
    given = [torch.randn(size), torch.randn(size)]
    kept = [x.clone() for x in given]
    copies = TorchBatchCopies([given])
    for _ in range(4):
        x, y = copies.of(given)
        assert torch.equal(x, kept[0])
        assert torch.equal(y, kept[1])
        write(x)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_a_write_in_a_later_call_is_seen_too() -> None:
    given = torch.randn(LARGE)
    copies = TorchBatchCopies([given])
    for call in range(6):
        x = copies.of(given)
        assert torch.equal(x, given)
        if call % 2:
            x.neg_()


def test_the_first_call_of_another_function_is_looked_at_too() -> None:
    given = torch.randn(LARGE)
    copies = TorchBatchCopies([given])
    for by in ("loss", "loss", "outputs", "loss", "outputs", "loss"):
        x = copies.of(given, by)
        assert torch.equal(x, given)
        if by == "outputs":
            x.data.neg_()


def test_the_first_call_of_another_function_is_looked_at_where_other_batches_come_between() -> None:
    given, other = torch.randn(LARGE), torch.randn(LARGE)
    copies = TorchBatchCopies([given, other])
    for by in ("loss", "loss", "outputs", "loss"):
        x = copies.of(given, by)
        assert torch.equal(x, given)
        if by == "outputs":
            x.data.neg_()
        copies.of(other, "loss")


def test_the_graph_of_one_call_outlives_the_next() -> None:
    weight = torch.randn(LARGE, requires_grad=True)
    given = torch.randn(LARGE)
    copies = TorchBatchCopies([given])
    copies.of(given).mul_(2)
    first = (weight * copies.of(given).mul_(2)).sum()
    copies.of(given).mul_(2)
    first.backward()
    assert torch.equal(weight.grad, 2 * given)  # type: ignore[arg-type]


def test_a_weight_may_be_multiplied_into_it() -> None:
    weight = torch.ones(3, requires_grad=True)
    table = torch.ones(2, 3)
    given = [table[0], table]
    x, _ = TorchBatchCopies([given]).of(given)
    x.mul_(weight).sum().backward()
    assert weight.grad is not None
