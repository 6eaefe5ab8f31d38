"""The size of every module's output at several widths of one model, before and after a few steps of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradguard.adapters.base import Counts, Settings
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_training import TorchTraining
from gradguard.adapters.torch_untouched import clean, preserved_rng, untouched
from gradguard.adapters.widths_base import ModuleSize
from gradguard.blocks import Block
from gradguard.errors import UsageError
from gradguard.scenarios import Scenario

__all__ = ["TorchWidths"]


class TorchWidths:
    """See :class:`gradguard.adapters.widths_base.WidthProblem`; a scenario is built per width and seed."""

    def __init__(self, build: Callable[[int], Scenario], widths: Sequence[int], *, seeds: int) -> None:
        self.build, self.widths, self.seeds = build, tuple(widths), seeds
        self.blocks: tuple[Block, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.counts, self.path = Counts(), f"{seeds} seeds"

    def sizes(self, width: int, seed: int, steps: int) -> tuple[ModuleSize, ...]:
        """Mean magnitudes on the first batch, of every module that returns a tensor; infinite after steps that are not finite.

        Raises:
            UsageError: the scenario of that width cannot be built or trained.
        """
        with preserved_rng(seed):
            scenario = self._built(width)
        training = TorchTraining(scenario, Settings(seed=seed, steps=max(1, steps)))
        if not training.optimizer.name:
            raise UsageError("the scenario has no optimizer", where=f"build({width})", todo="gg.Scenario(..., optimizer=...)")
        training.counts = self.counts
        before = self._outputs(training, training.fresh(), seed)
        lost = bool(training.run(steps, seed=seed, keep="after").stopped)
        after = self._outputs(training, training.sessions.pop("after"), seed)
        return tuple(
            ModuleSize(
                module=name, width=width, seed=seed, before=float(value.abs().mean()),
                after=math.inf if lost else float(after[name].abs().mean()),
                change=math.inf if lost else float((after[name] - value).abs().mean()),
            )
            for name, value in before.items() if name in after and after[name].shape == value.shape
        )

    def _built(self, width: int) -> Scenario:
        scenario = self.build(width)
        if not isinstance(scenario, Scenario):
            raise UsageError(
                f"build({width}) returned {type(scenario).__name__}, not a gg.Scenario",
                where="build", todo="return gg.Scenario(model=..., batches=..., loss=..., optimizer=...)",
            )
        if not isinstance(scenario.model, torch.nn.Module):
            raise UsageError("widths are checked for torch models", where=f"build({width})", todo="give a torch.nn.Module")
        return scenario

    def _outputs(self, training: TorchTraining, session: Session, seed: int) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.is_floating_point():
                    found[name] = output.detach().double()

            return hook

        handles = [
            module.register_forward_hook(keep(clean(name)))
            for name, module in session.model.named_modules() if not list(module.children())
        ]
        try:
            with untouched(training.scenario.model), preserved_rng(seed), torch.no_grad():
                session.loss(training.batches[0])
        finally:
            for handle in handles:
                handle.remove()
        return found
