"""What torch's optimizers do with a gradient, read from their settings and their state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gradguard.curvature.stability import StepRule

__all__ = ["coupled_decay", "denominator", "is_adaptive", "step_rule"]

Group = Mapping[str, Any]
State = Mapping[str, Any]
Scale = torch.Tensor | float


def step_rule(optimizer: torch.optim.Optimizer, group: Group) -> StepRule | None:
    """The linear iteration that this optimizer makes once its preconditioner is fixed; None where it is unknown.

    Only torch's own classes are known; a subclass that has its own ``step`` is not, because it may do something else.
    """
    for known, rule in RULES.items():
        # torch wraps a class's step when its first instance is made
        if isinstance(optimizer, known) and inspect.unwrap(type(optimizer).step) is inspect.unwrap(known.step):
            return rule(group)
    return None


def _sgd(group: Group) -> StepRule:
    # The first step's buffer is the undamped gradient; after that each gradient counts 1 - dampening.
    share = 1.0 - group["dampening"] if group["momentum"] else 1.0
    return StepRule(momentum=float(group["momentum"]), share=share, nesterov=bool(group["nesterov"]))


def _adam(group: Group) -> StepRule:
    beta = float(group["betas"][0])
    return StepRule(momentum=beta, share=1.0 - beta, decay=_decoupled(group))


def _nadam(group: Group) -> StepRule:
    beta = float(group["betas"][0])
    return StepRule(momentum=beta, share=1.0 - beta, nesterov=True, decay=_decoupled(group))


def _rmsprop(group: Group) -> StepRule:
    return StepRule(momentum=float(group["momentum"]))


def _plain(group: Group) -> StepRule:
    return StepRule()


def _decoupled(group: Group) -> float:
    return float(group["weight_decay"]) if group.get("decoupled_weight_decay") else 0.0


RULES: dict[type[torch.optim.Optimizer], Callable[[Group], StepRule]] = {
    torch.optim.AdamW: lambda group: _adam({**group, "decoupled_weight_decay": True}),
    torch.optim.Adam: _adam,
    torch.optim.NAdam: _nadam,
    torch.optim.RAdam: _adam,
    torch.optim.Adamax: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _plain,
    torch.optim.Adadelta: _plain,
    torch.optim.SGD: _sgd,
}
ADAPTIVE = tuple(kind for kind in RULES if kind is not torch.optim.SGD)


def coupled_decay(optimizer: torch.optim.Optimizer, group: Group) -> float:
    """Weight decay that is added to the gradient, and so to the Hessian's diagonal; decoupled decay is in the rule."""
    if isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay"):
        return 0.0
    return float(group.get("weight_decay", 0.0))


def is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the size of a step depends on earlier gradients' sizes, so that a fresh state says nothing yet."""
    return isinstance(optimizer, ADAPTIVE)


def denominator(optimizer: torch.optim.Optimizer, group: Group, state: State) -> Scale:
    """By what a step divides the gradient (or its average), entry by entry, at this state.

    Bias correction of the second moment is applied as of the last step; that of the first moment tends to 1 within
    1 / (1 - beta1) steps and is left out.
    """
    if isinstance(optimizer, torch.optim.SGD):
        return 1.0
    if not state:
        return float("inf")  # no gradient ever came: the entry does not move
    step = float(state["step"])
    if isinstance(optimizer, torch.optim.Adamax):
        return as_scale(state["exp_inf"].detach().clone())
    if isinstance(optimizer, torch.optim.RMSprop):
        centre = state["grad_avg"].square() if group["centered"] else 0.0
        return as_scale((state["square_avg"] - centre).clamp_min(0).sqrt() + group["eps"])
    if isinstance(optimizer, torch.optim.Adagrad):
        slowed = 1.0 + (step - 1.0) * group["lr_decay"]
        return as_scale((state["sum"].sqrt() + group["eps"]) * slowed)
    if isinstance(optimizer, torch.optim.Adadelta):
        reach = (state["acc_delta"] + group["eps"]).sqrt()
        return as_scale((state["square_avg"] + group["eps"]).sqrt() / reach)
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    corrected = second / (1.0 - group["betas"][1] ** step)
    if isinstance(optimizer, torch.optim.RAdam):
        return _rectified(group, step, corrected)
    return as_scale(corrected.sqrt() + group["eps"])


def as_scale(value: Any) -> torch.Tensor:
    """A state's value, which torch does not type, as the tensor that it is."""
    return torch.as_tensor(value)


def _rectified(group: Group, step: float, corrected: torch.Tensor) -> Scale:
    """RAdam's (Liu et al. 2020, algorithm 2): without a preconditioner for the first steps, rectified afterwards."""
    beta = group["betas"][1]
    infinity = 2.0 / (1.0 - beta) - 1.0
    length = infinity - 2.0 * step * beta**step / (1.0 - beta**step)
    if length <= 5.0:
        return 1.0
    rectifier = ((length - 4) * (length - 2) * infinity / ((infinity - 4) * (infinity - 2) * length)) ** 0.5
    return as_scale((corrected.sqrt() + group["eps"]) / rectifier)
