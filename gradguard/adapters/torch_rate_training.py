"""Training copies whose loss falls where training goes well, also for an optimizer that climbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gradguard.adapters.base import Settings
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_observe import TorchHealth
from gradguard.scenarios import Scenario

__all__ = ["RateTraining"]


class RateTraining(TorchHealth):
    """As its base; but what ``maximize=True`` climbs is descended with the other sign, which makes the same steps.

    Not where that is a loss of predictions and labels, which nobody means to climb: it is left to be seen rising.
    """

    turned = False

    def __init__(self, scenario: Scenario, settings: Settings) -> None:
        super().__init__(scenario, settings)
        groups = getattr(scenario.optimizer, "param_groups", [])
        if groups and all(group.get("maximize") for group in groups):
            outputs = self.look("start", seed=settings.seed, batches=1).outputs
            if outputs is None or not outputs.negated:
                self.scenario = replace(scenario, loss=_turned(scenario.loss))
                self.turned = True
                self.notes = (*self.notes, "what is maximised is shown with the other sign")

    def fresh(self, rate_scale: float = 1.0) -> Session:
        """A new copy of model and optimizer in the user's state, that descends."""
        session = super().fresh(rate_scale)
        if self.turned:
            for group in session.groups:
                group["maximize"] = False
        return session


def _turned(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def turned(model: Any, batch: Any) -> Any:
        value = loss(model, batch)
        return -value if isinstance(value, torch.Tensor) else value  # what is no loss is told as such

    return turned
