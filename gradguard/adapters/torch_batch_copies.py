"""Copies of batches that hold tensors: what a write leaves behind is told by the version that torch counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from gradguard.adapters.batch_copies import SPARSE, BatchCopies, Piece, overlapping

__all__ = ["SMALL", "ArgumentCopies", "TorchBatchCopies", "differ", "shared_copies"]

ALIGNED = 16
"""Bytes of the largest entry: any dtype may begin at a multiple of it."""
SMALL = 1 << 16
"""Tensors of at most this many bytes are compared before every call: it costs next to nothing, and no write can be missed."""


class Tensors(Piece):
    """Tensors that overlap in a storage, or one that overlaps with no other; ``low`` and ``high`` are bytes in the storage."""

    def __init__(self, tensors: Sequence[torch.Tensor], low: int, high: int) -> None:
        super().__init__(tensors)
        self.low = low - low % ALIGNED
        self.dense = len(tensors) == 1 and tensors[0].nbytes == high - low
        self.source = tensors[0].detach()
        if not self.dense:
            memory = torch.empty(0, dtype=torch.uint8, device=self.source.device)
            self.source = memory.set_(self.source.untyped_storage(), self.low, (high - self.low,), (1,))

    def lend(self, owner: BatchCopies) -> dict[int, Any]:
        """See the base."""
        assert isinstance(owner, TorchBatchCopies)
        work = self.source.clone() if self.dense else self._bytes()
        made = {id(t): self._like(t, work).requires_grad_(t.requires_grad) for t in self.arrays}
        owner.versions.update((id(copy), copy._version) for copy in made.values())
        return made

    def _bytes(self) -> torch.Tensor:
        size = len(self.source)
        work = torch.empty(size + -size % ALIGNED, dtype=torch.uint8, device=self.source.device)
        work[:size].copy_(self.source)
        return work

    def _like(self, tensor: torch.Tensor, work: torch.Tensor) -> torch.Tensor:
        # Detached: it counts versions with its memory, and is nobody's view where autograd is concerned.
        if self.dense:
            return work.detach()
        start = tensor.storage_offset() - self.low // tensor.element_size()
        return work.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), start).detach()


class TorchBatchCopies(BatchCopies):
    """As its base; that tensors are changed is told by their version. Parameters and modules are handed out as they are.

    NumPy and ``.data`` write without being counted: a large tensor is looked at after the first call of each of the user's
    functions, and where it was changed every call gets its own (``hidden``).
    """

    hidden = False
    by = ""
    """Who was given the batch before, and may have written into it."""

    def __init__(self, batches: Sequence[Any] = ()) -> None:
        super().__init__(batches)
        self.versions: dict[int, int] = {}
        """By the ids of the copies."""
        self.looked: set[tuple[int, str]] = set()
        self.users: dict[int, str] = {}
        """Who was given a batch last, by its id."""

    def of(self, batch: Any, by: str = "loss") -> Any:
        """The batch for one call of one of the user's functions, which ``by`` names."""
        self.by = self.users.get(id(batch), "")
        with unseen():
            made = super().of(batch)
        self.users[id(batch)] = by
        return made

    def unchanged(self, made: Any, array: Any) -> bool:
        """Tensors by their version and flags."""
        if not isinstance(array, torch.Tensor):
            return super().unchanged(made, array)
        flags = made.grad_fn is None and made.requires_grad == array.requires_grad and made.grad is None and not vars(made)
        shaped = made.shape == array.shape and made.stride() == array.stride() and made.dtype == array.dtype
        if self.hidden or not (flags and shaped) or made._version != self.versions.get(id(made)):
            return False
        if array.nbytes > SMALL and (id(array), self.by) in self.looked:
            return True
        self.looked.add((id(array), self.by))
        self.hidden = differ(made.detach(), array.detach())
        return not self.hidden

    def pieces(self, arrays: Sequence[Any]) -> list[Piece]:
        """Tensors by their storages, arrays as in the base."""
        tensors = [a for a in arrays if isinstance(a, torch.Tensor)]
        found = super().pieces([a for a in arrays if not isinstance(a, torch.Tensor)])
        spans = [span_of(t) for t in tensors]
        for group in overlapping(spans):
            low, high = min(spans[i][1] for i in group), max(spans[i][2] for i in group)
            members = [tensors[i] for i in group]
            if high - low <= SPARSE * sum(t.nbytes for t in members) + ALIGNED:
                found.append(Tensors(members, low, high))
        return found

    def is_array(self, value: Any) -> bool:
        """Dense tensors without a graph, too."""
        if type(value) is not torch.Tensor:
            return super().is_array(value)
        plain = value.layout == torch.strided and value.grad_fn is None and not value.is_inference()
        if not plain or value.is_quantized or value.is_nested or value.device.type not in ("cpu", "cuda") or not value.numel():
            return False
        return not (value.is_conj() or value.is_neg() or getattr(value, "__dict__", None))

    def is_whole(self, value: Any) -> bool:
        """Modules and tensors of other kinds, too."""
        kinds = torch.Tensor | torch.nn.Module | torch.optim.Optimizer | torch.Generator
        return isinstance(value, kinds) or super().is_whole(value)

    def whole(self, value: Any) -> Any:
        """Tensors of other kinds are copied for every call, with their graph or as ones of inference mode."""
        if not isinstance(value, torch.Tensor):
            return super().whole(value)
        if value.is_meta or isinstance(value, torch.nn.Parameter):
            return value
        with torch.inference_mode(value.is_inference()), torch.set_grad_enabled(value.grad_fn is not None):
            made = value.clone()
        if type(made) is not type(value):
            made = made.as_subclass(type(value))
        for name, attribute in vars(value).items():
            vars(made).setdefault(name, attribute)
        return made if value.grad_fn is not None else made.requires_grad_(value.requires_grad)


class ArgumentCopies(TorchBatchCopies):
    """Copies of a function's arguments; ``passed`` gives the tensor in the place of one, None where it does not know it."""

    def __init__(self, arguments: Any, passed: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        super().__init__([arguments])
        self.passed, self.grad = passed, True

    def again(self) -> Any:
        """The arguments for one call."""
        self.grad = torch.is_grad_enabled()
        with unseen():
            return self.anew(self.batches[0])

    def is_array(self, value: Any) -> bool:
        """Tensors go through ``passed``."""
        return not isinstance(value, torch.Tensor) and super().is_array(value)

    def whole(self, value: Any) -> Any:
        """What ``passed`` does not know is in an object of the user's own, and is copied for every call."""
        if isinstance(value, torch.Tensor):
            with torch.set_grad_enabled(self.grad):
                given = self.passed(value)
            if given is not None:
                return given
        return super().whole(value)


@contextmanager
def unseen() -> Iterator[None]:
    """Modes that look at what the user's functions do see nothing of ours, and autograd keeps no graph of it."""
    with ExitStack() as stack:
        stack.enter_context(torch._C.DisableTorchFunction())
        if torch._C._len_torch_dispatch_stack():
            stack.enter_context(_disable_current_modes())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


def shared_copies(tensors: Sequence[torch.Tensor], dtype: Callable[[torch.dtype], torch.dtype]) -> dict[int, torch.Tensor]:
    """Copies, in another dtype each, of those tensors that overlap with others of their dtype, by the ids of those."""
    plain = [t for t in tensors if TorchBatchCopies().is_array(t) and not t.requires_grad]
    made: dict[int, torch.Tensor] = {}
    spans = [(*span_of(t), t.dtype) for t in plain]
    with torch.no_grad():
        for group in overlapping([((where, kind), low, high) for where, low, high, kind in spans]):
            members = [plain[i] for i in group]
            low, high = min(spans[i][1] for i in group), max(spans[i][2] for i in group)
            if len(group) == 1 or high - low > SPARSE * sum(t.nbytes for t in members):
                continue
            size = members[0].element_size()
            work = members[0].detach().as_strided(((high - low) // size,), (1,), low // size)
            work = work.to(dtype(work.dtype), copy=True)
            for t in members:
                made[id(t)] = work.as_strided(t.shape, t.stride(), t.storage_offset() - low // size).detach()
    return made


def differ(tensor: torch.Tensor, saved: torch.Tensor) -> bool:
    """Whether values differ; NaN is like NaN, and what torch cannot compare differs."""
    with unseen(), suppress(RuntimeError):
        return not torch.equal(tensor, saved) and not torch.allclose(tensor, saved, rtol=0.0, atol=0.0, equal_nan=True)
    return True


def span_of(tensor: torch.Tensor) -> tuple[Any, int, int]:
    """The storage of a tensor, and its first byte and the one after its last in there."""
    size = tensor.element_size()
    last: int = sum(stride * (extent - 1) for stride, extent in zip(tensor.stride(), tensor.shape, strict=True))
    start = int(tensor.storage_offset())
    return (tensor.device, tensor.untyped_storage().data_ptr()), start * size, (start + last + 1) * size
