"""Reports typed by hand, for the tests of everything that shows or compares them."""

from __future__ import annotations

from gradguard.finding import Check, Finding
from gradguard.report import Report

SCALED = Finding(
    code="GG101",
    rule="gradient-mismatch",
    severity="error",
    scenario="models.py:mlp",
    block="fc1.weight",
    module="fc1",
    location="block fc1.weight (128, 64), all of it; module fc1 (ScaledLinear): its own backward is wrong, "
    "everything after it is right",
    message="fc1.weight[0, 3]: analytical 4.71155, numerical 4.66490 +- 2e-09",
    observed=2.3e7,
    limit=20.0,
    pattern="analytical = 1.0100 x numerical: dividing the block by 1.0100 makes it pass",
    evidence="z = 2.3e+07 (limit 20); Taylor remainder falls with order 1.00 (2.00 where the gradient is right)",
    likely="a factor applied twice, or not at all, in backward",
    repeat="gradguard report models.py:mlp --select GG101 --block fc1.weight --seed 0",
)

CAUSED = Finding(
    code="GG301",
    rule="vanishing-gradient",
    severity="error",
    scenario="models.py:mlp",
    block="fc0.weight",
    message="fc0.weight: the gradient shrinks by 1e-7 along 3 layers",
    caused_by=SCALED.fingerprint,
)

UNSCALED = Finding(
    code="GG502",
    rule="unscaled-data",
    severity="warning",
    scenario="models.py:mlp",
    message="inputs have a standard deviation of 300",
    hint="divide the inputs by their standard deviation",
)

CHECKS = (
    Check(scenario="models.py:mlp", code="GG101", rule="gradient-mismatch", status="failed", margin=1.15e6),
    Check(scenario="models.py:mlp", code="GG102", rule="nonfinite-gradient", status="passed"),
    Check(scenario="models.py:mlp", code="GG103", rule="nondifferentiable-point", status="inconclusive", reason="too noisy"),
    Check(scenario="models.py:mlp", code="GG104", rule="nondeterministic-gradient", status="passed"),
    Check(scenario="models.py:mlp", code="GG301", rule="vanishing-gradient", status="failed"),
    Check(scenario="models.py:mlp", code="GG305", rule="sample-leak", status="skipped", reason="independent_samples is not declared"),
    Check(scenario="models.py:mlp", code="GG306", rule="future-leak", status="skipped", reason="causal is not declared"),
    Check(scenario="models.py:mlp", code="GG401", rule="diverging-learning-rate", status="skipped", reason="no optimizer"),
    Check(scenario="models.py:mlp", code="GG403", rule="stalled-training", status="skipped", reason="no optimizer"),
    Check(scenario="models.py:mlp", code="GG502", rule="unscaled-data", status="passed"),
)

GRADIENTS = [
    {
        "scenario": "models.py:mlp", "block": "fc1.weight", "shape": "(128, 64)", "dtype": "float32", "analytical": 4.71155,
        "numerical": 4.6649, "error_bar": 2e-9, "z": 2.3e7, "relative_error": 0.01, "resolution": 3e-10, "ratio": 1.01,
        "order_observed": 1.0, "kink": False, "verdict": "fail", "forwards": 46.0, "path": "lifted", "reason": "",
    },
    {
        "scenario": "models.py:mlp", "block": "fc1.bias", "shape": "(128,)", "dtype": "float32", "analytical": 0.5,
        "numerical": 0.5, "error_bar": 2e-9, "z": 0.3, "relative_error": 1e-10, "resolution": 4e-9, "ratio": 1.0,
        "order_observed": 2.0, "kink": False, "verdict": "pass", "forwards": 46.0, "path": "lifted", "reason": "",
    },
]  # fmt: skip

MEASUREMENTS = [
    {
        "scenario": "models.py:mlp", "measurement": "gradients", "seconds": 0.25, "forwards": 46.0, "backwards": 2.0,
        "peak_bytes": 1024, "path": "lifted", "reason": "",
    }
]  # fmt: skip


def failed_report() -> Report:
    """One root, what it caused, a warning; every status among the checks."""
    return Report((SCALED, CAUSED, UNSCALED), CHECKS, {"gradients": GRADIENTS, "measurements": MEASUREMENTS})


def clean_report(scenario: str = "models.py:mlp") -> Report:
    """Nothing found."""
    return Report((), (Check(scenario=scenario, code="GG101", rule="gradient-mismatch", status="passed", margin=0.1),))
