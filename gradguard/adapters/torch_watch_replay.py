"""The last calls of a watched loop, once more with every module looked at: where was the first value not finite?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gradguard.adapters.observing_base import Nonfinite
from gradguard.adapters.torch_batch_copies import TorchBatchCopies
from gradguard.adapters.torch_spy import Spy, bad_rows
from gradguard.adapters.torch_spy_cuts import tensors_in
from gradguard.adapters.torch_untouched import clean, preserved_rng

__all__ = ["Call", "call_of", "first_bad"]


@dataclass
class Call:
    """A call from outside: the module, what it was given (without graphs), and the automatic casts around it."""

    module: torch.nn.Module
    args: Any
    kwargs: Any
    casts: tuple[tuple[str, torch.dtype], ...]
    versions: tuple[int, ...] = ()
    """How often each of the tensors had been written into."""

    @property
    def changed(self) -> bool:
        """What it was given has been written into since, by itself or by the loop."""
        return self.versions != versions_of(self.args, self.kwargs)


def call_of(module: torch.nn.Module, args: Any, kwargs: Any) -> Call:
    """The call that is under way."""
    devices = {"cpu", next((p.device.type for p in module.parameters()), "cpu")}
    casts = tuple((d, torch.get_autocast_dtype(d)) for d in sorted(devices) if torch.is_autocast_enabled(d))
    args, kwargs = detached(args), detached(kwargs)
    return Call(module, args, kwargs, casts, versions_of(args, kwargs))


def versions_of(args: Any, kwargs: Any) -> tuple[int, ...]:
    """The tensors' counts of writes; those made in inference mode have none."""
    return tuple(t._version for t in tensors_in((*args, *kwargs.values())) if not t.is_inference())


def detached(value: Any) -> Any:
    """Tensors without their graphs, in tuples, lists and dicts; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach() if value.grad_fn is not None else value
    if type(value) in (tuple, list):
        return type(value)(detached(one) for one in value)
    if type(value) is dict:
        return {key: detached(one) for key, one in value.items()}
    return value


@contextmanager
def borrowed(model: torch.nn.Module) -> Iterator[None]:
    """Calls inside write into copies of the buffers (a graph that waits for its backward may need the originals).

    What modules keep beside parameters and buffers (counters, caches) is restored afterwards, and so are random states.
    """
    copies: dict[int, torch.Tensor] = {}
    kept = [(module, dict(vars(module))) for module in model.modules()]
    try:
        for module, attributes in kept:
            vars(module)["_buffers"] = {
                name: buffer if buffer is None else copies.setdefault(id(buffer), buffer.detach().clone())
                for name, buffer in attributes["_buffers"].items()
            }
        with preserved_rng():
            yield
    finally:
        for module, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)


def eagerly(compiled: bool) -> AbstractContextManager[Any]:
    """Compiled code runs as it was written, and nothing is compiled."""
    if not compiled:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def first_bad(model: torch.nn.Module, calls: Sequence[Call], batch: int, *, compiled: bool) -> tuple[Nonfinite | None, str]:
    """The first place in these calls that is not finite, and why that could not be tried.

    Without gradients, on copies of what was given; random states, buffers and attributes of modules are as before.
    """
    spy, handed = Spy(model, clean), TorchBatchCopies()
    try:
        with ExitStack() as stack:
            for context in (borrowed(model), torch.no_grad(), eagerly(compiled)):
                stack.enter_context(context)
            stack.enter_context(spy.installed())
            for i, call in enumerate(calls):
                args, kwargs = handed.of((call.args, call.kwargs))
                given = [t for t in tensors_in((*args, *kwargs.values())) if t.is_floating_point()]
                bad = next((t for t in given if bool(torch.isnan(t).any())), None)
                if bad is not None and i == 0:
                    if call.changed:  # it may be the call that has put it there
                        return None, "the model writes into its input: it could not be called again to name the module"
                    name = clean(next((n for n, m in model.named_modules() if m is call.module), ""))
                    return Nonfinite(module=name, owner="", batch=batch, where="input", rows=bad_rows(bad)), ""
                with ExitStack() as casts:
                    for device, dtype in call.casts:
                        casts.enter_context(torch.autocast(device, dtype=dtype))
                    call.module(*args, **kwargs)
    except Exception as error:  # the model cannot be called again: the user's loop goes on
        return None, f"the model could not be called again to name the module ({type(error).__name__})"
    if spy.first_bad is None or not (spy.nan or positive(spy)):
        return None, ""
    name, owner, where, before, rows = spy.first_bad
    return Nonfinite(module=name, owner=owner, batch=batch, where=where, before=before, rows=rows), ""


def positive(spy: Spy) -> bool:
    """The last output itself is not finite: infinities that no mask has taken out."""
    return spy.root_output is not None and not bool(torch.isfinite(spy.root_output).all())
