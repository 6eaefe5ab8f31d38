"""The healthy programs of the list, and others that naive detectors flag: no rule may call any of them an error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.health.faulty import Attention, Normed, adam, sgd
from benchmarks.health.programs import Case, Program, ce, digits, he, linears, loader, mlp, mse, normal, seeded, xy

__all__ = ["HEALTHY"]

HEALTHY: list[Case] = []


def case(label: str, title: str, *, watched: Any = None) -> Callable[[Callable[[int], Program]], Any]:
    def add(build: Callable[[int], Program]) -> Callable[[int], Program]:
        HEALTHY.append(Case(label, title, seeded(build), watched=watched))
        return build

    return add


def loop(program: Program, watch: Any, steps: int, *, scheduler: Any = None, every: int = 1) -> None:
    """A plain loop, with a schedule and accumulation over ``every`` batches."""
    program.optimizer.zero_grad()
    for step in range(steps):
        loss = program.loss(program.model, program.batches[step % len(program.batches)])
        (loss / every).backward()
        if (step + 1) % every == 0:
            program.optimizer.step()
            program.optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        watch.record(loss=loss)


@case("H01", "a plain ReLU net")
def plain(seed: int) -> Program:
    model = he(mlp(64, 64, 64, 10))
    return Program(model, xy(seed), ce, adam(model))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.c2, self.b2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.b1(self.c1(x.reshape(-1, 1, 8, 8))))
        x = functional.max_pool2d(functional.relu(self.b2(self.c2(x))), 2)
        return self.head(x.flatten(1))


@case("H03", "convolutions with a bias before batch normalisation")
def conv(seed: int) -> Program:
    model = Conv()
    return Program(model, xy(seed), ce, sgd(model, 0.05, 0.9))


class Block(nn.Module):
    def __init__(self, width: int, zero: bool) -> None:
        super().__init__()
        self.l1, self.b1, self.l2, self.b2 = (
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
        )
        if zero:
            nn.init.zeros_(self.b2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.b2(self.l2(functional.relu(self.b1(self.l1(x))))))


@case("H05", "residual blocks whose last gamma is 0")
def zero_gamma(seed: int) -> Program:
    model = nn.Sequential(nn.Linear(64, 64), *[Block(64, True) for _ in range(4)], nn.Linear(64, 10))
    return Program(model, xy(seed), ce, sgd(model, 0.05, 0.9))


@case("H07", "a frozen random backbone and a trained head")
def frozen(seed: int) -> Program:
    backbone = mlp(64, 128, 128).requires_grad_(False)
    model = nn.Sequential(backbone, nn.ReLU(), nn.Linear(128, 10))
    return Program(model, xy(seed), ce, torch.optim.SGD(model[2].parameters(), lr=0.1))


class Bigram(nn.Module):
    def __init__(self, vocabulary: int = 500) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, 32), nn.Linear(32, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


@case("H09", "a language model most of whose vocabulary never occurs")
def rare(seed: int) -> Program:
    x = torch.randint(0, 60, (256, 8))
    successor = torch.randperm(60)
    model = Bigram()
    return Program(
        model,
        loader(x, successor[x], 32, seed),
        lambda m, b: functional.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        adam(model, 1e-2),
    )


@case("H11", "dropout twice")
def dropout(seed: int) -> Program:
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    return Program(model, xy(seed), ce, adam(model))


class Winners(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = x.topk(8, dim=1)
        return torch.zeros_like(x).scatter(1, top.indices, top.values)


@case("H13", "eight winners take all")
def winners(seed: int) -> Program:
    model = nn.Sequential(nn.Linear(64, 128), Winners(), nn.Linear(128, 10))
    return Program(model, xy(seed), ce, adam(model, 3e-3))


def warm_up(program: Program, watch: Any, steps: int) -> None:
    loop(
        program,
        watch,
        steps,
        scheduler=torch.optim.lr_scheduler.LambdaLR(program.optimizer, lambda s: min(1.0, s / 50)),
    )


@case("H15", "warm-up from a rate of 0", watched=warm_up)
def warm(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed), ce, sgd(model, 0.2, 0.9))


@case("H15b", "an optimizer whose scheduler has set its rate to 0")
def warm_scenario(seed: int) -> Program:
    model = mlp(64, 64, 10)
    optimizer = sgd(model, 0.2, 0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, s / 50))
    return Program(model, xy(seed), ce, optimizer)


@case("H17", "accumulation over four micro-batches", watched=lambda p, w, s: loop(p, w, s, every=4))
def accumulation(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed, 16), ce, sgd(model, 0.2))


class Dropped(nn.Module):
    """Stochastic depth: a block is left out with probability one half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.blocks = nn.ModuleList(mlp(64, 64, 64) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        for block in self.blocks:
            if not self.training or float(torch.rand(())) < 0.5:
                x = x + block(x)
        return self.head(x)


@case("H19", "stochastic depth")
def stochastic(seed: int) -> Program:
    model = Dropped()
    return Program(model, xy(seed), ce, adam(model))


@case("H21", "attention with a key bias")
def key_bias(seed: int) -> Program:
    model = Attention(1 / math.sqrt(32))
    return Program(model, xy(seed), ce, adam(model, 1e-2))


@case("H23", "converged linear regression without noise")
def converged(seed: int) -> Program:
    x = torch.randn(256, 4)
    y = x @ torch.tensor([[1.0], [-2], [0.5], [3]]) + 1
    model = nn.Linear(4, 1)
    optimizer = sgd(model, 0.1)
    for _ in range(600):
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Program(model, loader(x, y, 64, seed), mse, optimizer)


@case("H23b", "the same from its initialisation")
def converging(seed: int) -> Program:
    x = torch.randn(256, 4)
    y = x @ torch.tensor([[1.0], [-2], [0.5], [3]]) + 1
    model = nn.Linear(4, 1)
    return Program(model, loader(x, y, 64, seed), mse, sgd(model, 0.1))


@case("H25", "catapult: a rate between 2 and 4 over lambda")
def catapult(seed: int) -> Program:
    x, width = torch.randn(32, 8), 256
    x = x / x.norm(dim=1, keepdim=True)
    y = torch.randn(32, 1)
    model = nn.Sequential(nn.Linear(8, width, bias=False), nn.Linear(width, 1, bias=False))
    for layer in linears(model):
        nn.init.normal_(layer.weight)

    def loss(m: Any, b: Any) -> torch.Tensor:
        return 0.5 * ((m(b[0]) / math.sqrt(width) - b[1]) ** 2).mean()

    # lambda of the kernel at initialisation, from its Gram matrix
    w, a = model[0].weight.detach(), model[1].weight.detach()
    h = x @ w.T
    kernel = (h @ h.T + (a**2).sum() * (x @ x.T)) / width / len(x)
    top = float(torch.linalg.eigvalsh(kernel)[-1])
    return Program(model, [(x, y)], loss, sgd(model, 2.5 / top))


class PreAct(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem, self.head, self.depth = nn.Linear(64, 64), nn.Linear(64, 10), depth
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(functional.relu(x)) / math.sqrt(self.depth)
        return self.head(x)


@case("H27", "twenty residual blocks divided by sqrt(depth)")
def preact(seed: int) -> Program:
    model = he(PreAct(20))
    return Program(model, xy(seed), ce, sgd(model, 0.05))


class TinyGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        for layer in linears(self):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.reshape(-1, 8, 8))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


@case("H29", "a pre-norm transformer with N(0, 0.02)")
def gpt(seed: int) -> Program:
    model = TinyGPT()
    return Program(model, xy(seed), ce, torch.optim.AdamW(model.parameters(), lr=3e-3))


@case("H31", "label smoothing of 0.3")
def smoothing(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(
        model, xy(seed), lambda m, b: functional.cross_entropy(m(b[0]), b[1], label_smoothing=0.3), adam(model, 3e-3)
    )


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b, self.step = mlp(64, 64, 64), nn.Linear(64, 10), nn.Linear(64, 2), 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        h = functional.relu(self.trunk(x))
        self.step += 1
        return self.a(h), self.b(h) if self.step % 3 == 0 else None


@case("H33", "a second head that is trained at every third step")
def heads(seed: int) -> Program:
    model = TwoHeads()

    def loss(m: Any, b: Any) -> torch.Tensor:
        a, second = m(b[0])
        total = functional.cross_entropy(a, b[1])
        return total if second is None else total + functional.cross_entropy(second, b[1] % 2)

    return Program(model, xy(seed), loss, adam(model))


@case("H35", "batches of four, noisy")
def noisy(seed: int) -> Program:
    model = mlp(64, 64, 10)
    return Program(model, xy(seed, 4), ce, sgd(model, 0.02))


class ReZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.blocks = nn.ModuleList(mlp(64, 64, 64) for _ in range(6))
        self.alpha = nn.Parameter(torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for alpha, block in zip(self.alpha, self.blocks, strict=True):
            x = x + alpha * block(x)
        return self.head(x)


@case("H37", "ReZero")
def rezero(seed: int) -> Program:
    model = ReZero()
    return Program(model, xy(seed), ce, adam(model, 3e-3))


@case("H39", "raw pixels into batch normalisation")
def raw(seed: int) -> Program:
    x, y = digits()
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return Program(model, loader(x * 255, y, 64, seed), ce, sgd(model, 0.05))


@case("H41", "a deep net of SiLU and GELU with layer normalisation")
def smooth(seed: int) -> Program:
    parts: list[nn.Module] = [nn.Linear(64, 64)]
    for i in range(6):
        parts += [nn.LayerNorm(64), nn.SiLU() if i % 2 else nn.GELU(), nn.Linear(64, 64)]
    model = nn.Sequential(*parts, nn.LayerNorm(64), nn.Linear(64, 10))
    return Program(model, xy(seed), ce, adam(model))


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ids, self.net = nn.Embedding(2000, 16), mlp(16 + 64, 64, 10)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.net(torch.cat([self.ids(batch[2]), batch[0]], 1))


@case("H43", "an embedding of 2000 identities")
def recommender(seed: int) -> Program:
    x, y = digits()
    ids = torch.arange(len(x)) % 2000
    order = torch.randperm(len(x))
    batches = [(x[i], y[i], ids[i]) for i in order.split(64)]
    model = Recommender()
    return Program(model, batches, lambda m, b: functional.cross_entropy(m(b), b[1]), adam(model, 3e-3))


# also healthy, not in the table


class LoRA(nn.Module):
    def __init__(self, width: int = 64, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, width) / 8)
        self.b = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


@case("HX1", "LoRA with B = 0")
def lora(seed: int) -> Program:
    model = nn.Sequential(LoRA(), nn.ReLU(), LoRA(), nn.ReLU(), nn.Linear(64, 10))
    return Program(model, xy(seed), ce, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid = nn.Embedding(100, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mid(self.embed(x))))


@case("HX2", "tied weights")
def tied(seed: int) -> Program:
    x = torch.randint(0, 100, (256, 8))
    model = Tied()
    order = torch.randperm(100)
    return Program(
        model,
        loader(x, order[x], 32, seed),
        lambda m, b: functional.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        adam(model, 1e-2),
    )


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(64, 4), nn.ModuleList(mlp(64, 32, 10) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top, index = torch.softmax(self.router(x), 1).topk(1, dim=1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            rows = (index[:, 0] == i).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, top[rows] * expert(x[rows]))
        return out


@case("HX3", "a mixture of experts, one for each sample")
def mixture(seed: int) -> Program:
    model = Mixture()
    return Program(model, xy(seed), ce, adam(model, 3e-3))


@case("HX4", "a head that starts at 0")
def zero_head(seed: int) -> Program:
    model = mlp(64, 64, 10)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return Program(model, xy(seed), ce, adam(model))


@case("HX5", "triplet losses that are often 0")
def triplet(seed: int) -> Program:
    model = mlp(64, 64, 16)

    def loss(m: Any, b: Any) -> torch.Tensor:
        h = functional.normalize(m(b[0]), dim=1)
        return functional.relu((h - h.roll(1, 0)).square().sum(1) - (h - h.roll(2, 0)).square().sum(1) + 0.1).mean()

    return Program(model, xy(seed), loss, adam(model), {"objective": "metric"})


class STE(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x.sign() - x).detach()


@case("HX6", "a straight-through estimator")
def straight(seed: int) -> Program:
    model = nn.Sequential(nn.Linear(64, 64), STE(), nn.Linear(64, 10))
    return Program(model, xy(seed), ce, adam(model))


@case("HX7", "imbalance of 97 to 3")
def imbalance(seed: int) -> Program:
    x = torch.randn(2048, 16)
    y = (x[:, 0] > 1.9).long()
    model = mlp(16, 32, 2)
    return Program(model, loader(x, y, 64, seed), ce, adam(model, 3e-3))


@case("HX8", "a negative log-likelihood that falls below 0")
def negative(seed: int) -> Program:
    x = torch.randn(512, 4)
    y = 0.1 * (x[:, :1] + 0.05 * torch.randn(512, 1))
    model = mlp(4, 32, 2)

    def loss(m: Any, b: Any) -> torch.Tensor:
        mean, log_std = m(b[0]).chunk(2, dim=1)
        return (log_std + 0.5 * ((b[1] - mean) / log_std.exp()) ** 2).mean()

    return Program(model, loader(x, y, 64, seed), loss, adam(model, 3e-3))


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions, self.head = (
            nn.Linear(8, 32),
            nn.Parameter(0.02 * torch.randn(64, 32)),
            nn.Linear(32, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.gelu(self.embed(x.reshape(-1, 8, 8)) + self.positions[:8]).mean(1))


@case("HX9", "learned positions most of which are never used")
def positions(seed: int) -> Program:
    model = Learned()
    return Program(model, xy(seed), ce, adam(model))


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.pooler, self.head, self.unused = (
            mlp(64, 64, 64),
            nn.Linear(64, 64),
            nn.Linear(64, 10),
            nn.Linear(64, 3),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.body(x)
        return {"logits": self.head(h), "pooled": torch.tanh(self.pooler(h))}


@case("HX10", "a pooler that this loss does not use, and a head that is never called")
def pooler(seed: int) -> Program:
    model = Pooler()
    return Program(model, xy(seed), lambda m, b: functional.cross_entropy(m(b[0])["logits"], b[1]), adam(model))


class Teacher(nn.Module):
    """An average of itself as the teacher, under no_grad, and a branch whose gradient is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.teacher, self.predictor = mlp(64, 64, 16), mlp(64, 64, 16), nn.Linear(16, 16)
        self.teacher.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = x + 0.1 * torch.randn_like(x)
        with torch.no_grad():
            aim = self.teacher(x)
        return functional.mse_loss(self.predictor(self.online(noisy)), aim.detach())


@case("HX11", "a target network")
def teacher(seed: int) -> Program:
    model = Teacher()
    return Program(
        model,
        xy(seed),
        lambda m, b: m(b[0]),
        torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3),
    )


@case("HX12", "a long fitted net")
def fitted(seed: int) -> Program:
    x, y = digits()
    model = mlp(64, 128, 128, 10)
    optimizer = adam(model, 3e-3)
    for batch in loader(x, y, 64, seed, epochs=15):
        optimizer.zero_grad()
        ce(model, batch).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Program(model, xy(seed), ce, optimizer)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.h, self.t = (
            nn.ModuleList(nn.Linear(64, 64) for _ in range(5)),
            nn.ModuleList(nn.Linear(64, 64) for _ in range(5)),
        )
        for gate in self.t:
            nn.init.constant_(gate.bias, -4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for h, t in zip(self.h, self.t, strict=True):
            gate = torch.sigmoid(t(x))
            x = gate * functional.relu(h(x)) + (1 - gate) * x
        return self.head(x)


@case("HX13", "highway layers whose gates start closed")
def highway(seed: int) -> Program:
    model = Gated()
    return Program(model, xy(seed), ce, adam(model, 3e-3))


@case("HX14", "an LSTM over sixty steps whose label is in the last ones")
def lstm(seed: int) -> Program:
    x = torch.randn(512, 60, 2)
    y = (x[:, -3:, 0].sum(1) > 0).long()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(x)[0][:, -1])

    model = Net()
    return Program(model, loader(x, y, 64, seed), ce, adam(model, 3e-3))


@case("HX15", "full batch at the edge of stability")
def edge(seed: int) -> Program:
    x, y = digits()
    model = mlp(64, 32, 10, act=nn.Tanh)
    return Program(model, [(x[:256], y[:256])], ce, sgd(model, 0.5))


@case("HX16", "the same net with sigmoids replaced by ReLU, and batch normalisation")
def normalised(seed: int) -> Program:
    parts: list[nn.Module] = []
    for i in range(10):
        parts += [nn.Linear(64 if i == 0 else 32, 32), nn.BatchNorm1d(32), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(32, 10))
    return Program(model, xy(seed), ce, sgd(model, 0.1))


@case("HX17", "ten ReLU layers with He initialisation")
def ten(seed: int) -> Program:
    model = he(mlp(64, *[32] * 10, 10))
    return Program(model, xy(seed), ce, sgd(model, 0.05))


@case("HX18", "ten default ReLU layers with Adam")
def ten_default(seed: int) -> Program:
    model = mlp(64, *[64] * 10, 10)
    return Program(model, xy(seed), ce, adam(model))


@case("HX20", "one class of labels in a contrastive loss")
def contrastive(seed: int) -> Program:
    model = mlp(64, 64, 16)

    def loss(m: Any, b: Any) -> torch.Tensor:
        a = functional.normalize(m(b[0] + 0.1 * torch.randn_like(b[0])), dim=1)
        c = functional.normalize(m(b[0] + 0.1 * torch.randn_like(b[0])), dim=1)
        return functional.cross_entropy(a @ c.T / 0.1, torch.arange(len(a)))

    return Program(model, xy(seed), loss, adam(model))


@case("HX21", "a pruned layer")
def pruned(seed: int) -> Program:
    from torch.nn.utils import prune

    model = mlp(64, 64, 64, 10)
    prune.ln_structured(model[2], "weight", amount=0.6, n=2, dim=0)
    return Program(model, xy(seed), ce, adam(model))


@case("HX22", "normalised residual net of the batch kind, in eval mode")
def evaluated(seed: int) -> Program:
    model = Normed().eval()
    return Program(model, xy(seed), ce, adam(model))


@case("HX23", "tiny weights and a normalisation")
def tiny(seed: int) -> Program:
    parts: list[nn.Module] = []
    for _ in range(4):
        parts += [nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
    model = normal(nn.Sequential(*parts, nn.Linear(64, 10)), 1e-3)
    return Program(model, xy(seed), ce, adam(model))
