"""What ``watch`` costs: the ratio of the same steps with and without it, interleaved, and what others cost beside it.

``python -m benchmarks.health.overhead [--rounds N]``
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import gradguard as gg

__all__ = ["main"]


class Transformer(nn.Module):
    """About 1.6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 128)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True) for _ in range(6)
        )
        self.head = nn.Linear(128, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def transformer() -> tuple[nn.Module, Callable[[], Any]]:
    x = torch.randint(0, 1000, (16, 32))
    model = Transformer()
    return model, lambda: functional.cross_entropy(model(x).flatten(0, 1), x.flatten())


def convolutional() -> tuple[nn.Module, Callable[[], Any]]:
    widths = [3, 32, 64, 128, 256, 256]
    parts: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        parts += [nn.Conv2d(a, b, 3, padding=1, stride=1 + (i % 2)), nn.BatchNorm2d(b), nn.ReLU()]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(1024, 10))
    x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    return model, lambda: functional.cross_entropy(model(x), y)


@contextmanager
def histograms(model: nn.Module) -> Iterator[None]:
    """Per-tensor hooks that copy and bin each gradient, as wandb.watch does."""

    def hook(gradient: torch.Tensor) -> None:
        torch.histc(gradient.detach().float(), 64)

    handles = [p.register_hook(hook) for p in model.parameters()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def steps(loss: Callable[[], Any], optimizer: torch.optim.Optimizer, count: int, watch: Any = None) -> float:
    """Seconds of some steps."""
    start = time.perf_counter()
    for _ in range(count):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        if watch is not None:
            watch.record(loss=value)
    return (time.perf_counter() - start) / count


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for build in (transformer, convolutional):
        torch.manual_seed(0)
        model, loss = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        contexts: dict[str, Callable[[], AbstractContextManager[Any]]] = {
            "watch": lambda m=model, o=optimizer: gg.watch(m, optimizer=o),
            "watch, units on every step": lambda m=model, o=optimizer: gg.watch(m, optimizer=o, units="every"),
            "histograms of every gradient": lambda m=model: histograms(m),
            "set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
        }
        steps(loss, optimizer, 3)
        size = sum(p.numel() for p in model.parameters())
        for name, make in contexts.items():
            ratios, plain = [], 0.0
            with make() as watched:
                pass
            # one long-lived watch: what it does in its first steps is not what a loop of thousands pays
            context = make()
            watched = context.__enter__()
            record = watched if name.startswith("watch") else None
            if record is not None:
                steps(loss, optimizer, 25, record)
            for _ in range(options.rounds):
                inside = steps(loss, optimizer, options.steps, record)
                if record is None:
                    context.__exit__(None, None, None)
                    plain = steps(loss, optimizer, options.steps)
                    context = make()
                    context.__enter__()
                else:
                    plain = bare(record, lambda run=loss, o=optimizer: steps(run, o, options.steps))
                ratios.append(inside / plain)
            context.__exit__(None, None, None)
            print(
                f"{build.__name__} {size / 1e6:.1f} M, step {1e3 * plain:.0f} ms, {name}: {statistics.median(ratios):.3f}",
                flush=True,
            )
    return 0


def bare(watch: Any, run: Callable[[], float]) -> float:
    """The same steps with the watch's hooks taken out and put back."""
    seen = watch._seen
    model, optimizers = seen.model, seen.optimizers
    saved = [
        (d, dict(d))
        for m in model.modules()
        for d in (
            m._forward_hooks,
            m._forward_pre_hooks,
            m._forward_hooks_with_kwargs,
            m._forward_pre_hooks_with_kwargs,
            m._forward_hooks_always_called,
        )
    ]
    saved += [(d, dict(d)) for o in optimizers for d in (o._optimizer_step_pre_hooks, o._optimizer_step_post_hooks)]
    for d, _ in saved:
        d.clear()
    try:
        return run()
    finally:
        for d, kept in saved:
            d.update(kept)


if __name__ == "__main__":
    raise SystemExit(main())
