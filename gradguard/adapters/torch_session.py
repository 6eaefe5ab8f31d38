"""The user's model, borrowed: lifted while we measure, and given back bit for bit, also when something raises."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from gradguard.adapters.torch_attributes import Attributes
from gradguard.adapters.torch_lift import LiftMode, lifted_dtype

__all__ = ["Habits", "RandomState", "Session", "is_generator"]


class RandomState:
    """The state of every random generator that a model may draw from: torch on each device, Python, NumPy, its own."""

    def __init__(self, own: Sequence[Any] = ()) -> None:
        self.own = [(generator, _own_state(generator)) for generator in own]
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
        self.mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self.python = random.getstate()
        numpy = sys.modules.get("numpy")
        self.numpy = numpy.random.get_state() if numpy is not None else None

    def restore(self) -> None:
        """Put the state back."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        self.restore_own()

    def restore_own(self) -> None:
        """Put the state of the model's own generators back, and leave the others."""
        for generator, state in self.own:
            _set_own_state(generator, state)

    def drawn_since(self) -> bool:
        """Whether something has been drawn since this state was taken."""
        if any(not _same_state(state, _own_state(generator)) for generator, state in self.own):
            return True
        now = RandomState()
        if not torch.equal(self.cpu, now.cpu) or self.python != now.python:
            return True
        if (
            self.cuda is not None
            and now.cuda is not None
            and any(not torch.equal(a, b) for a, b in zip(self.cuda, now.cuda, strict=True))
        ):
            return True
        if self.mps is not None and now.mps is not None and not torch.equal(self.mps, now.mps):
            return True
        if self.numpy is None or now.numpy is None:
            return False
        # (name, key array, position, has_gauss, cached_gaussian): a draw moves the position.
        return bool(self.numpy[2:] != now.numpy[2:] or (self.numpy[1] != now.numpy[1]).any())


def is_generator(value: Any) -> bool:
    """Whether a value is a random generator of torch, NumPy or Python."""
    numpy = sys.modules.get("numpy")
    kinds = (torch.Generator, random.Random, *((numpy.random.Generator, numpy.random.RandomState) if numpy is not None else ()))
    return isinstance(value, kinds)


def _own_state(generator: Any) -> Any:
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _same_state(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else pickle.dumps(a) == pickle.dumps(b)


def _set_own_state(generator: Any, state: Any) -> None:
    if hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


@dataclass
class Habits:
    """What a function is known to do in a pass, so that the rest can be left out: assume everything until it is seen."""

    lift_forward: bool
    lift_backward: bool
    draws: bool = True
    drifts: bool = True
    drawn: torch.dtype | None = None
    """The precision that the model itself draws in, where that is below float64."""

    def mode(self, *, backward: bool = False) -> AbstractContextManager[Any]:
        """A context in which operators compute in float64, where that is needed."""
        return LiftMode(self.drawn) if (self.lift_backward if backward else self.lift_forward) else nullcontext()


class Session:
    """Borrows modules and leaf tensors for the length of a check.

    On entry: the random state is saved; with ``lift``, every floating tensor among the parameters and buffers gets
    float64 data (the same objects, so closures, ties and hooks stay as they are). On exit, also after an exception:
    data, buffers, attributes, train/eval, ``.grad``, ``requires_grad`` and random states are as they were.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        leaves: Sequence[torch.Tensor],
        *,
        lift: bool,
        seed: int,
        generators: Sequence[Any] = (),
        drawn: torch.dtype | None = None,
    ) -> None:
        self.modules = list(dict.fromkeys(inner for module in modules for inner in module.modules()))
        found: dict[int, torch.Tensor] = {}
        for module in self.modules:
            for tensor in [*module._parameters.values(), *module._buffers.values()]:
                if tensor is not None:
                    found.setdefault(id(tensor), tensor)
        for leaf in leaves:
            found.setdefault(id(leaf), leaf)
        self.tensors = list(found.values())
        held = [v for module in self.modules for v in module.__dict__.values() if is_generator(v)]
        self.generators = list({id(g): g for g in [*generators, *held]}.values())
        self.lift = lift
        self.seed = seed
        self.drawn = drawn
        self.moved: set[int] = set()
        """Ids of the leaves that are not at the point now."""
        self.native = {id(t): t.dtype for t in self.tensors}
        self.hooks: set[int] = set()
        """Ids of our own hooks on the modules: a reset before a pass leaves them."""

    def __enter__(self) -> Session:
        self._random = RandomState(self.generators)
        self._outer = Attributes(self.modules)
        self._grads = [(t, t.grad) for t in self.tensors if t.is_leaf]
        self._flags = [(t, t.requires_grad) for t in self.tensors if t.is_leaf]
        self._data = [(t, t.data) for t in self.tensors]
        try:
            for tensor in self.tensors:
                if tensor.is_floating_point() or tensor.is_complex():
                    wanted = lifted_dtype(tensor.dtype) if self.lift else tensor.dtype
                    tensor.data = tensor.data.to(wanted) if wanted != tensor.dtype else tensor.data.clone()
            self.original = {id(t): data for t, data in self._data}
            torch.manual_seed(self.seed)
            random.seed(self.seed)
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                numpy.random.seed(self.seed % 2**32)
            self._start = RandomState(self.generators)
            self._inner = Attributes(self.modules, self.hooks)
            frozen = [t for t in self.tensors if isinstance(t, torch.nn.Parameter) and not t.requires_grad]
            self._frozen = {id(t): (t, t._version) for t in frozen}
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for tensor, data in self._data:
            tensor.data = data
        self._outer.restore()
        for tensor, flag in self._flags:
            if tensor.requires_grad != flag:
                tensor.requires_grad_(flag)
        for tensor, grad in self._grads:
            if tensor.grad is not grad:
                tensor.grad = grad
        self._random.restore()

    def own(self, handle: RemovableHandle) -> RemovableHandle:
        """A hook of ours, to be removed by its handle only."""
        self.hooks.add(handle.id)
        return handle

    def reset(self, habits: Habits) -> None:
        """Before every pass: random state, buffers and attributes as at the first."""
        if habits.draws:
            self._start.restore()
        if habits.drifts:
            self._restore()

    def _restore(self) -> bool:
        """Buffers, attributes and frozen parameters as at the first pass; tells whether anything had changed."""
        changed = self._inner.restore()
        for tensor, version in list(self._frozen.values()):
            if tensor._version != version and not tensor.requires_grad:  # a momentum encoder that follows in forward
                with torch.no_grad():
                    tensor.copy_(self.original[id(tensor)])
                self._frozen[id(tensor)] = (tensor, tensor._version)
                changed = True
        return changed

    def learn(self, habits: Habits) -> None:
        """After a pass: does the model draw random numbers, does it change its buffers? If not, resets are free."""
        habits.draws = self._start.drawn_since()
        habits.drifts = self._restore()
        if habits.draws:
            self._start.restore()

    def call(self, function: Callable[[], Any], habits: Habits, *, grad: bool) -> Any:
        """One pass from the same state."""
        self.reset(habits)
        with habits.mode(), torch.set_grad_enabled(grad):
            return function()

    @contextmanager
    def learning(self, habits: Habits, *, backward: bool = False) -> Iterator[None]:
        """The first pass, lifted whatever it does: where nothing had to be changed, later passes need no mode."""
        if not self.lift:
            yield
            return
        mode = LiftMode(self.drawn)
        if backward:
            habits.lift_backward = False  # of two modes, only the inner one would see what has to be changed
        with mode:
            yield
        if backward:
            habits.lift_backward = mode.changed
        else:
            habits.lift_forward = mode.changed
