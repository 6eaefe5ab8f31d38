"""What a check costs: forwards by size and by blocks, wall time beside gradcheck, memory beside the model.

    python -m benchmarks.gradients.cost              # all tables; --quick leaves out the largest sizes

Wall times are the best of three on one thread; gradcheck gets the same parameters in float64, through functional_call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gradguard as gg

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
DEPTHS = (2, 10, 25, 50, 100, 200)


def network(widths: list[int], seed: int = 0) -> nn.Sequential:
    """Linear layers with tanh between them, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for i, width in enumerate(widths[1:]):
            layers += [nn.Linear(widths[i], width), nn.Tanh()]
        return nn.Sequential(*layers[:-1]).double()


def of_size(parameters: int) -> tuple[nn.Sequential, torch.Tensor]:
    """Four square layers with about that many parameters, and a batch of 4."""
    width = round((parameters / 4) ** 0.5)
    generator = torch.Generator().manual_seed(1)
    return network([width] * 5), torch.randn(4, width, dtype=torch.float64, generator=generator)


class Residual(nn.Module):
    """x + tanh(W x + b), so that the gradient arrives at any depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * torch.tanh(self.inner(x))


def of_depth(layers: int, width: int = 16) -> tuple[nn.Sequential, torch.Tensor]:
    """That many residual layers of width 16: twice as many blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(*[Residual(width) for _ in range(layers)]).double()
        return model, torch.randn(4, width, dtype=torch.float64)


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def check(model: nn.Module, x: torch.Tensor, **options: Any) -> gg.Report:
    """The gradient rules that gradcheck's question corresponds to."""
    report = gg.check_gradients(model, x, loss=mean_square, select=("GG101", "GG102", "GG105", "GG902"), **options)
    report.raise_if_failed()
    return report


def gradcheck(model: nn.Module, x: torch.Tensor, *, fast: bool) -> bool:
    """The peer, on the same parameters."""
    names = [name for name, _ in model.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

    def f(*parameters: torch.Tensor) -> torch.Tensor:
        return mean_square(torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,)))

    return bool(torch.autograd.gradcheck(f, values, fast_mode=fast, raise_exception=False))


def best(run: Callable[[], Any], repeats: int = 3, budget: float = 20.0) -> float:
    """The best wall time in seconds; one run only where it is longer than the budget."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        if sum(times) > budget:
            break
    return min(times)


def forwards(report: gg.Report) -> float:
    return float(sum(row["forwards"] for row in report.table_rows("measurements")))


def by_size(sizes: tuple[int, ...]) -> None:
    """Forwards and seconds by parameters."""
    print("| parameters | forwards | seconds | one forward and backward | worst resolution |\n|---|---|---|---|---|")
    for size in sizes:
        model, x = of_size(size)
        report = check(model, x)
        seconds = best(lambda model=model, x=x: check(model, x))
        once = best(lambda model=model, x=x: mean_square(model(x)).backward())
        worst = max(row["resolution"] for row in report.table_rows("gradients"))
        total = sum(p.numel() for p in model.parameters())
        print(f"| {total:,} | {forwards(report):.0f} | {seconds:.3f} | {once:.4f} | {worst:.1e} |", flush=True)


def by_blocks(depths: tuple[int, ...]) -> None:
    """Forwards and seconds by blocks, beside gradcheck's fast mode."""
    print("| blocks | parameters | forwards | seconds | gradcheck fast | ratio |\n|---|---|---|---|---|---|")
    for depth in depths:
        model, x = of_depth(depth)
        report = check(model, x)
        ours = best(lambda model=model, x=x: check(model, x))
        fast = best(lambda model=model, x=x: gradcheck(model, x, fast=True))
        total = sum(p.numel() for p in model.parameters())
        print(f"| {2 * depth} | {total:,} | {forwards(report):.0f} | {ours:.3f} | {fast:.3f} | {ours / fast:.2f} |", flush=True)


def against_slow() -> None:
    """Wall time beside gradcheck's slow mode."""
    model, x = of_size(10_000)
    ours, slow = best(lambda: check(model, x)), best(lambda: gradcheck(model, x, fast=False), 1)
    total = sum(p.numel() for p in model.parameters())
    print(f"directional, {total:,} parameters: {ours:.3f} s; gradcheck slow {slow:.2f} s: 1/{slow / ours:.0f} (at most 1/50)")
    small, features = network([32, 64, 1]), torch.randn(8, 32, dtype=torch.float64)
    entrywise = best(lambda: check(small, features, method="entrywise"))
    slow = best(lambda: gradcheck(small, features, fast=False))
    total = sum(p.numel() for p in small.parameters())
    paths = {row["path"] for row in check(small, features, method="entrywise").table_rows("gradients")}
    print(
        f"entrywise, {total:,} parameters: {entrywise:.3f} s ({', '.join(sorted(paths))}); gradcheck slow {slow:.2f} s; "
        f"{slow / entrywise:.1f} times faster (at least 5)",
        flush=True,
    )


def memory(parameters: int) -> None:
    """Peak resident memory of a check beside the float64 model, in a process of its own."""
    import resource

    check(*of_size(1_000))  # what is imported on the way is not the model's
    model, x = of_size(parameters)
    mean_square(model(x))
    own = sum(p.numel() * 8 for p in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    check(model, x)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(
        f"memory, {parameters:,} parameters: the model {own / 2**20:.0f} MiB, the check {peak / 2**20:.0f} MiB on top of it: "
        f"{(own + peak) / own:.2f} times the model in all (at most 4)",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the largest sizes")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # Memory first: the peak of a process never falls.
    memory(1_000_000 if chosen.quick else 10_000_000)
    by_size(SIZES[:4] if chosen.quick else SIZES)
    by_blocks(DEPTHS[:4] if chosen.quick else DEPTHS)
    against_slow()
    return 0


if __name__ == "__main__":
    sys.exit(main())
