"""Held-out faulty programs, third draw: a few more, written after the second mending and before it was judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody uses

from benchmarks.health.heldout_batches import rows
from benchmarks.health.heldout_data import friedman, moons, noise, table
from benchmarks.health.heldout_layers import mlp
from benchmarks.health.heldout_loops import adam, ce, compete, descend, mse, sgd, stepped, watched
from benchmarks.health.heldout_programs import Draw, Setup

faulty = Draw()
optim = torch.optim


@faulty("GG501")
def relu_before_logits_in_a_transformer(seed: int) -> Setup:
    """F.relu around the classifier of a transformer encoder."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Linear(8, 24), nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.head(self.block(self.embed(x.reshape(-1, 8, 8))).mean(1)))

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-3))


@faulty("GG501")
def sigmoid_before_soft_labels(seed: int) -> Setup:
    """Sigmoid outputs and cross-entropy with probabilities as labels."""
    x, y = table("iris")
    soft = F.one_hot(y, 3).float() * 0.9 + 0.1 / 3
    return Setup(mlp(4, 16, 3, last=(nn.Sigmoid(),)), rows(x, soft, 30, seed), lambda m, b: F.cross_entropy(m(b[0]), b[1]), adam(1e-2))


@faulty("GG303")
def encoder_in_a_tuple(seed: int) -> Setup:
    """A tuple of layers."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = (nn.Linear(30, 24), nn.Linear(24, 24))
            self.head = nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = torch.tanh(part(x))
            return self.head(x)

    return Setup(Net(), rows(*table("breast_cancer"), 32, seed), ce, sgd(0.1))


@faulty("GG303", "GG113")
def detached_every_step(seed: int) -> Setup:
    """The embedding's output is detached, an old trick left over from fine-tuning."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 16), mlp(16, 24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x).mean(1).detach())

    g = noise(70)
    x = torch.randint(0, 50, (400, 10), generator=g)
    return Setup(Net(), rows(x, (x < 20).sum(1).gt(3).long(), 40, seed), ce, adam(3e-3))


@faulty("GG406", "GG204", "GG404")
def ridge_of_two(seed: int) -> Setup:
    """A regression with an L2 penalty of 2 in the loss."""
    return Setup(mlp(10, 32, 1), rows(*friedman(), 32, seed), lambda m, b: mse(m, b) + 2 * sum(p.square().sum() for p in m.parameters()), adam(1e-3))


@faulty("GG406")
def one_class_in_three(seed: int) -> Setup:
    """Sorted by class and not shuffled: all that is seen is class 0."""
    x, y = table("digits")
    return Setup(mlp(64, 32, 10), rows(x[y == 0], y[y == 0], 32, seed), ce, adam(1e-3))


@faulty("GG401", "GG406", "GG402")
def minus_in_the_optimizer(seed: int) -> Setup:
    """A hand-written optimizer that adds the gradient."""
    class Up(optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.05})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.add_(p.grad, alpha=group["lr"])
            return None

    return Setup(mlp(64, 32, 10), rows(*table("digits"), 32, seed), ce, Up)


@faulty("GG302", "GG404", "GG401", "GG503")
def head_of_unit_normals_times_fifty(seed: int) -> Setup:
    """The last layer's weights are N(0, 50)."""
    net = mlp(64, 48, 10)
    nn.init.normal_(net[2].weight, std=50.0)
    return Setup(net, rows(*table("digits"), 32, seed), ce, sgd(0.01))


@faulty("GG201", "GG503", "GG502", "GG401")
def inputs_of_minus_a_hundred(seed: int) -> Setup:
    """An offset of -100 was not removed: the first ReLU layer is dead or linear."""
    x, y = table("digits")
    return Setup(mlp(64, 32, 10), rows(x - 100, y, 32, seed), ce, sgd(0.1))


@faulty("GG207", "GG303")
def router_biased_by_hand(seed: int) -> Setup:
    """Top-1 of 6 experts by argmax, the first favoured by 20."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(64, 6), nn.ModuleList(mlp(64, 16, 10) for _ in range(6))
            with torch.no_grad():
                self.router.bias[3] = 20.0

        def forward(self, x: Tensor) -> Tensor:
            p = torch.softmax(self.router(x), 1)
            index = p.argmax(1)
            out = torch.zeros(len(x), 10)
            for i, expert in enumerate(self.experts):
                mine = (index == i).nonzero()[:, 0]
                if len(mine):
                    out = out.index_add(0, mine, p[mine, i, None] * expert(x[mine]))
            return out

    return Setup(Net(), rows(*table("digits"), 32, seed), ce, adam(1e-3))


@faulty("GG102", "GG203", "GG402")
def where_hides_a_nan(seed: int) -> Setup:
    """torch.where(x > 0, x.sqrt(), 0): the branch that is not taken gives NaN gradients."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(13, 24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.where(h > 0, h.sqrt(), torch.zeros_like(h)))

    return Setup(Net(), rows(*table("wine"), 32, seed), ce, adam(1e-3))


@faulty("GG304")
def zero_grad_only_at_the_start(seed: int) -> Setup:
    """zero_grad before the loop."""
    net = mlp(64, 32, 10)
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)

    def step(i: int, b: Any) -> Tensor:
        if i == 0:
            optimizer.zero_grad()
        loss = ce(net, b)
        loss.backward()
        optimizer.step()
        return loss

    return stepped(seed, net, table("digits"), optimizer, step)


@faulty("GG303", "GG403")
def cleared_between_backward_and_step(seed: int) -> Setup:
    """model.zero_grad() after backward, gradients None."""
    net = mlp(13, 24, 3)
    optimizer = optim.Adam(net.parameters(), lr=1e-2)

    def step(i: int, b: Any) -> Tensor:
        loss = ce(net, b)
        loss.backward()
        net.zero_grad()
        optimizer.step()
        return loss

    return stepped(seed, net, table("wine"), optimizer, step)


@faulty("GG402", "GG401")
def warm_up_that_never_ends(seed: int) -> Setup:
    """lr = 0.02 * 1.1**i."""
    net = mlp(30, 32, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.02)

    def step(i: int, b: Any) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * 1.15**i
        return descend(net, optimizer, b)

    return stepped(seed, net, table("breast_cancer"), optimizer, step, 100)


@faulty("GG303", "GG402", "GG203", "GG302")
def critic_without_its_optimizer(seed: int) -> Setup:
    """The critic's optimizer holds a fresh critic that is not the one in use."""
    generator, critic = mlp(4, 24, 2), mlp(2, 24, 1)
    g, d = optim.Adam(generator.parameters(), lr=1e-3), optim.Adam(mlp(2, 24, 1).parameters(), lr=1e-3)
    x, _ = moons()

    def step(i: int, b: Any) -> Tensor:
        return compete(generator, critic, g, d, b[0])

    return watched(nn.ModuleDict({"g": generator, "d": critic}), rows(x, x, 32, seed), (g, d), step, 60, objective="adversarial")
