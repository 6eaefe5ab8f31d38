"""GG305 and GG306 end to end, however a batch gets to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradguard as gg


class Mixed(nn.Module):
    """Ten positions of four features; ``samples`` and ``future`` mix them."""

    def __init__(self, samples: bool = False, future: bool = False) -> None:
        super().__init__()
        self.encode, self.mix, self.head = nn.Linear(4, 8), nn.Identity(), nn.Linear(8, 3)
        self.samples, self.future = samples, future

    def forward(self, given: Any) -> torch.Tensor:
        return self.parts(given["x"] if isinstance(given, dict) else given[0] if isinstance(given, list) else given)

    def parts(self, x: torch.Tensor) -> torch.Tensor:
        h = self.encode(x)
        h = self.mix(h + h.mean(0, keepdim=True) if self.samples else h)
        h = h + h.mean(1, keepdim=True) if self.future else h.cumsum(1)
        out: torch.Tensor = self.head(h)
        return out


WAYS: dict[str, Callable[[Mixed, torch.Tensor], torch.Tensor]] = {
    "a tensor": lambda m, x: m(x),
    "a keyword": lambda m, x: m(given=x),
    "a dict": lambda m, x: m({"mask": torch.ones(8, 10, dtype=torch.bool), "x": x}),
    "labels before the input": lambda m, x: m({"labels": torch.ones(8, 10), "x": x}),
    "a list": lambda m, x: m([x]),
    "parts of the model": lambda m, x: m.parts(x),
}


def checked(model: nn.Module, way: Callable[[Any, torch.Tensor], torch.Tensor]) -> gg.Report:
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(8, 10, 4, generator=generator), torch.randint(0, 3, (8, 10), generator=generator))

    def loss(m: Any, b: Any) -> torch.Tensor:
        return functional.cross_entropy(way(m, b[0]).transpose(1, 2), b[1])

    return gg.check_training(model, [batch], loss=loss, select=("GG305", "GG306"), causal=True, independent_samples=True)


@pytest.mark.parametrize("way", WAYS)
def test_leaks_are_found_and_named(way: str) -> None:
    torch.manual_seed(0)
    assert [(f.code, f.module) for f in checked(Mixed(samples=True), WAYS[way]).errors] == [("GG305", "mix")]
    assert [(f.code, f.module) for f in checked(Mixed(future=True), WAYS[way]).errors] == [("GG306", "head")]
    clean = checked(Mixed(), WAYS[way])
    assert {c.status for c in clean.checks} == {"passed"}, str(clean)


def test_a_model_that_draws_numbers_draws_the_same_again() -> None:
    torch.manual_seed(0)

    class Drawing(Mixed):
        def parts(self, x: torch.Tensor) -> torch.Tensor:
            return super().parts(x + torch.randn_like(x))

    assert {c.status for c in checked(Drawing(), WAYS["a tensor"]).checks} == {"passed"}
    assert [f.code for f in checked(Drawing(samples=True), WAYS["a tensor"]).errors] == ["GG305"]


class Scaled(nn.Module):
    """Divides by the largest entry of the whole batch, or of each sample."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.head, self.whole = nn.Linear(4, 3), whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x)
        return y / (y.abs().max() if self.whole else y.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_that_does_not_hold_the_largest_entry_depends_on_the_one_that_does(whole: bool, seed: int) -> None:
    torch.manual_seed(seed)
    batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
    report = gg.check_training(
        Scaled(whole),
        [batch],
        loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]),
        optimizer=None,
        independent_samples=True,
        select="GG305",
    )
    assert [f.code for f in report.errors] == (["GG305"] if whole else [])


class Looked(nn.Module):
    """A column of categories with a table of three rows, and one of a table of fifty; or numbers that choose a row."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.few, self.many, self.head, self.mixed = nn.Embedding(3, 4), nn.Embedding(50, 4), nn.Linear(8, 3), mixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = x if x.dtype == torch.long else (x * torch.tensor([3, 50])).long()
        h = torch.cat([self.few(places[:, 0]), self.many(places[:, 1])], 1)
        y: torch.Tensor = self.head(h - h.mean(0) if self.mixed else h)
        return y


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_inputs_that_must_stay_in_a_range(numbers: bool, mixed: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 2)
    report = gg.check_training(
        Looked(mixed),
        [(x if numbers else (x * torch.tensor([3, 50])).long(), torch.randint(0, 3, (16,)))],
        loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]),
        optimizer=None,
        independent_samples=True,
        select="GG305",
    )
    assert [f.code for f in report.errors] == (["GG305"] if mixed else [])


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.cells(x)[0][-1])
        return y


def test_time_along_the_first_axis_is_not_taken_for_samples() -> None:
    torch.manual_seed(0)
    report = gg.check_training(
        TimeFirst(),
        [(torch.randn(6, 16, 4), torch.randint(0, 3, (16,)))],
        loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]),
        optimizer=None,
        independent_samples=True,
        select="GG305",
    )
    assert not report.errors
    assert "second" in report.checks[0].reason


class Random(nn.Module):
    """Draws random values in eval mode, too; how many depends on its input, or they are from a generator of its own."""

    def __init__(self, kind: str, leak: str = "") -> None:
        super().__init__()
        self.kind, self.leak, self.words = kind, leak, nn.Embedding(20, 8)
        self.encode, self.head, self.drawn = nn.Linear(8, 16), nn.Linear(16, 3), torch.Generator().manual_seed(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.words(x) if x.dtype == torch.long else x
        if self.leak == "mean":
            z = z - z.mean(0)
        h = torch.relu(self.encode(z))
        h = getattr(self, self.kind)(h, z, x != 0 if x.dtype == torch.long else z[..., 0] > 0)
        h = h if h.ndim == 2 else h.mean(1)
        if self.leak == "softmax":
            h = h.softmax(0)
        if self.leak == "largest":
            h = h / h.amax(0).clamp(min=1e-3)
        y: torch.Tensor = self.head(h)
        return y

    def dropped(self, h: torch.Tensor, z: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(h)
        made[real] = functional.dropout(h[real], 0.5, training=True)
        return made

    def accepted(self, h: torch.Tensor, z: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        rows = []
        for size in z.detach().abs().flatten(1).mean(1):
            noise = torch.randn(h.shape[-1])
            while float(noise.abs().mean()) > size:
                noise = torch.randn(h.shape[-1])
            rows.append(noise)
        return h + 0.1 * torch.stack(rows)

    def masked(self, h: torch.Tensor, z: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        made = h.reshape(-1).clone()
        made[torch.randint(0, made.numel(), (int(real.sum()),))] = 0
        return made.reshape(h.shape) * torch.rand(h.shape)

    def own(self, h: torch.Tensor, z: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return h * torch.rand(h.shape, generator=self.drawn)


def drawing(model: nn.Module, kind: str) -> gg.Report:
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1, 20, (16, 6), generator=generator).masked_fill(torch.rand(16, 6, generator=generator) < 0.3, 0)
    x = {"words": words, "rows": torch.randn(16, 8, generator=generator)}[kind]
    batch = (x, torch.randint(0, 3, (16,), generator=generator))
    return gg.check_training(
        model,
        [batch],
        loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1]),
        optimizer=None,
        independent_samples=True,
        select="GG305",
    )


@pytest.mark.parametrize(
    ("draws", "given"),
    [("dropped", "rows"), ("dropped", "words"), ("accepted", "rows"), ("masked", "rows"), ("masked", "words"), ("own", "rows")],
)
@pytest.mark.parametrize("leak", ["", "mean", "softmax", "largest"])
def test_a_model_that_draws_as_many_numbers_as_its_input_says(draws: str, given: str, leak: str) -> None:
    torch.manual_seed(0)
    report = drawing(Random(draws, leak), given)
    assert [f.code for f in report.errors] == (["GG305"] if leak else [])
    assert leak or [c.status for c in report.checks] == ["passed"]


def test_outputs_that_are_not_the_same_twice_are_not_compared() -> None:
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x) * self.calls

    report = drawing(Counting(8, 3), "rows")
    assert [(c.status, c.reason) for c in report.checks] == [("skipped", "the same batch does not give the same outputs twice")]


@pytest.mark.parametrize("mixed", [False, True])
def test_what_a_pass_leaves_in_buffers_is_no_leak(mixed: bool) -> None:
    class Queue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(x)
            made = y - (y.mean(0) if mixed else self.mean)
            self.mean.add_(y.detach().mean(0))
            return made

    torch.manual_seed(0)
    assert [f.code for f in drawing(Queue(), "rows").errors] == (["GG305"] if mixed else [])


def test_a_model_whose_draws_follow_every_change_is_not_compared() -> None:
    class Following(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(int(1e6 * float(x.abs().sum().detach())) % 1000 + 1)
            y: torch.Tensor = self.head(x * torch.rand_like(x))
            return y

    torch.manual_seed(0)
    (check,) = drawing(Following(), "rows").checks
    assert check.status == "skipped"
    assert "another number of random values" in check.reason


def test_random_values_that_follow_the_input_are_no_leak_from_the_future() -> None:
    class Later(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            self.encode, self.head, self.whole = nn.Linear(4, 8), nn.Linear(8, 3), whole

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.encode(x)
            made, real = torch.zeros_like(h), x[..., 0] > 0
            made[real] = functional.dropout(h[real], 0.5, training=True)
            y: torch.Tensor = self.head(made.mean(1, keepdim=True) + h if self.whole else made.cumsum(1))
            return y

    torch.manual_seed(0)
    assert {c.status for c in checked(Later(False), WAYS["a tensor"]).checks} == {"passed"}
    assert [f.code for f in checked(Later(True), WAYS["a tensor"]).errors] == ["GG306"]
