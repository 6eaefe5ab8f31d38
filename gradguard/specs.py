"""A scenario from a model spec: `pkg.module:factory` and the shape of its input, without a line of the user's."""

from __future__ import annotations

from gradguard.blocks import nearest
from gradguard.config import ModelSpec
from gradguard.errors import UsageError
from gradguard.loading import Found, import_dotted
from gradguard.scenarios import Scenario, ScenarioFunction

__all__ = ["found_model"]


def found_model(spec: ModelSpec, seed: int) -> Found:
    """The scenario of a spec; the factory is called when the scenario is built.

    Raises:
        UsageError: the module does not import, or has no such factory.
    """
    dotted, _, name = spec.model.partition(":")
    if not name:
        raise UsageError(f"the model spec {spec.model!r} names no factory", todo="write pkg.module:factory")
    module = import_dotted(dotted)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UsageError(f"{dotted} has no factory {name!r}.{nearest(name, vars(module))}", todo="name a class or a function")

    def build() -> Scenario:
        from gradguard.adapters.torch_specs import scenario_of_model

        return scenario_of_model(factory, spec.inputs, seed)

    shape = "x".join(map(str, spec.inputs))
    return Found(function=ScenarioFunction(build, f"{name}({shape})"), address=f"{spec.model}({shape})", target=spec.model)
