"""gradguard: are the gradients right, do the units live, does the gradient arrive, will the learning rate hold?

The names below are imported when they are used; importing the package imports neither torch nor NumPy nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradguard import strategies as strategies
    from gradguard.checking import audit as audit
    from gradguard.checking import check_gradients as check_gradients
    from gradguard.errors import GradGuardError as GradGuardError
    from gradguard.errors import UsageError as UsageError
    from gradguard.health import check_training as check_training
    from gradguard.learning_rate import check_learning_rate as check_learning_rate
    from gradguard.learning_rate import check_width_scaling as check_width_scaling
    from gradguard.learning_rate import range_test as range_test
    from gradguard.report import Report as Report
    from gradguard.scenarios import SGD as SGD
    from gradguard.scenarios import Ignore as Ignore
    from gradguard.scenarios import Scenario as Scenario
    from gradguard.scenarios import scenario as scenario
    from gradguard.strategies import given as given
    from gradguard.watching import watch as watch

__version__ = "0.1.0"

_EXPORTS = {
    "GradGuardError": "gradguard.errors",
    "Ignore": "gradguard.scenarios",
    "Report": "gradguard.report",
    "SGD": "gradguard.scenarios",
    "Scenario": "gradguard.scenarios",
    "UsageError": "gradguard.errors",
    "audit": "gradguard.checking",
    "check_gradients": "gradguard.checking",
    "check_learning_rate": "gradguard.learning_rate",
    "check_training": "gradguard.health",
    "check_width_scaling": "gradguard.learning_rate",
    "given": "gradguard.strategies",
    "range_test": "gradguard.learning_rate",
    "scenario": "gradguard.scenarios",
    "strategies": "gradguard",
    "watch": "gradguard.watching",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'gradguard' has no attribute {name!r}")
    home = _EXPORTS[name]
    # A module that is public itself is imported; a name is taken out of its module.
    value = import_module(f"gradguard.{name}") if home == "gradguard" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
