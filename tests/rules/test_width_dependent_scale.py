"""GG407 on sizes typed by hand; the exponent against numpy.polyfit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gradguard as gg
from gradguard.adapters.widths_base import ModuleSize
from gradguard.measurements.width_scale import WidthScale, exponent
from gradguard.rules.width_dependent_scale import WidthDependentScale

WIDTHS = (32, 64, 128, 256)


def scale(change: float, level: float = 0.0, noise: float = 0.05) -> WidthScale:
    generator = np.random.default_rng(0)
    sizes = [
        ModuleSize(
            module="fc", width=w, seed=seed, before=1.0, after=w**level * float(np.exp(noise * generator.standard_normal())),
            change=0.1 * w**change * float(np.exp(noise * generator.standard_normal())),
        )
        for seed in range(3) for w in WIDTHS
    ]
    return WidthScale(sizes=tuple(sizes), steps=3)


@pytest.mark.parametrize(("change", "level", "status", "severities"), [
    (0.0, 0.0, "passed", []), (0.2, 0.0, "passed", []), (1.0, 0.0, "failed", ["error"]), (0.5, 0.5, "failed", ["error"]),
    (0.0, 0.5, "failed", ["error"]), (-1.0, -1.0, "passed", ["warning"]), (-1.0, 0.0, "passed", []),
])
def test_growth_fails_and_shrinking_warns(change: float, level: float, status: str, severities: list[str]) -> None:
    outcome = WidthDependentScale().check({"width_scale": scale(change, level)})
    assert outcome.status == status
    assert [f.severity for f in outcome.findings] == severities


def test_noise_is_within_the_error_bar() -> None:
    assert not WidthDependentScale().check({"width_scale": scale(0.0, noise=0.5)}).findings


def test_exponent_is_the_least_squares_line() -> None:
    generator = np.random.default_rng(1)
    sizes = np.exp(generator.standard_normal(12))
    widths = WIDTHS * 3
    found = exponent(widths, list(sizes))
    line, covariance = np.polyfit(np.log(widths), np.log(sizes), 1, cov=True)
    assert found.value == pytest.approx(line[0])
    assert found.error_bar == pytest.approx(2 * covariance[0, 0] ** 0.5)


def test_message_and_options() -> None:
    (finding,) = WidthDependentScale().check({"width_scale": scale(1.0, noise=0.0)}).findings
    assert finding.message == "fc: what 3 steps add to its output grows as width^1.00 +- 0.00"
    with pytest.raises(gg.UsageError, match="GG407 takes growth > 0"):
        WidthDependentScale(growth=0)


def test_what_is_not_finite_at_some_widths_has_grown_most() -> None:
    sizes = [replace(size, after=np.inf, change=np.nan) if size.width > 64 else size for size in scale(0.0).sizes]
    outcome = WidthDependentScale().check({"width_scale": WidthScale(sizes=tuple(sizes), steps=3)})
    (finding,) = outcome.findings
    assert outcome.status == "failed"
    assert finding.message == "outputs are not finite after 3 steps at width 128, 256"
    assert finding.likely == "a rate or initialisation that does not follow the width"


@pytest.mark.parametrize(("rate", "status"), [(1e-2, "failed"), (1e-30, "passed")])
def test_training_that_is_lost_at_wide_widths(rate: float, status: str) -> None:
    torch = pytest.importorskip("torch")

    def build(width: int) -> gg.Scenario:
        layers = [torch.nn.Linear(8, width), torch.nn.Linear(width, width), torch.nn.Linear(width, 1)]
        for layer in layers:
            torch.nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5)
        model = torch.nn.Sequential(*layers)
        x = torch.randn(32, 8)
        optimizer = torch.optim.SGD(model.parameters(), rate * width**4)
        return gg.Scenario(model, [(x, x[:, :1])], lambda m, b: (m(b[0]) - b[1]).square().mean(), optimizer=optimizer)

    report = gg.check_width_scaling(build, (8, 32, 128), steps=6)
    assert report.checks[0].status == status
    if status == "failed":
        assert report.findings[0].message.startswith("outputs are not finite after 6 steps at width ")


def test_no_size_no_exponent() -> None:
    assert np.isnan(exponent([1, 2, 4], [0.0, 1.0, 2.0]).value)
