"""Faults planted in the middle of real architectures: found, the guilty module named, the pattern named, and the cost.

    python -m benchmarks.localisation.planted [--seeds N] [--family NAME]

Each trial takes a fresh random model, exchanges one of its linear or normalisation layers for one with a hand-written
backward, and plants one fault in that backward. The twin without a fault is checked, too.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import gradguard as gg

KINDS = (
    "weight x1.001",
    "entry sign",
    "last row dropped",
    "bias not summed",
    "bias halved",
    "input detached",
    "input rows permuted",
    "norm forgets mean",
)
PATTERNS = {
    "weight x1.001": ("1.001",),
    "entry sign": ("single entry", "sign flipped", "one entry"),
    "last row dropped": ("last",),
    "bias not summed": ("first", "only the", "sum"),
    "bias halved": ("0.5",),
    "input detached": ("zero",),
    "input rows permuted": ("rows", "permuted"),
    "norm forgets mean": ("term", "all of it", "all over"),
}


class Linear(torch.autograd.Function):
    """y = x w' + b, with a fault."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, kind: str, entry: int) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.kind, ctx.entry = kind, entry
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        flat = g.reshape(-1, g.shape[-1])
        gw, gb, gx = flat.T @ x.reshape(-1, x.shape[-1]), flat.sum(0), g @ weight
        if ctx.kind == "weight x1.001":
            gw = gw * 1.001
        elif ctx.kind == "entry sign":
            gw.view(-1)[ctx.entry] *= -1
        elif ctx.kind == "last row dropped":
            gw[-1] = 0
        elif ctx.kind == "bias not summed":
            gb = g[0].reshape(-1, g.shape[-1]).sum(0)
        elif ctx.kind == "bias halved":
            gb = gb / 2
        elif ctx.kind == "input detached":
            gx = torch.zeros_like(gx)
        elif ctx.kind == "input rows permuted":
            gx = gx.flip(-2)
        return gx, gw, gb, None, None


class Norm(torch.autograd.Function):
    """Layer normalisation, with a fault."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, eps: float, kind: str) -> Any:
        mean = x.mean(-1, keepdim=True)
        rstd = torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward((x - mean) * rstd, rstd, weight)
        ctx.kind = kind
        return (x - mean) * rstd * weight + bias

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        normal, rstd, weight = ctx.saved_tensors
        gn = g * weight
        mean = 0.0 if ctx.kind == "norm forgets mean" else gn.mean(-1, keepdim=True)
        gx = rstd * (gn - mean - normal * (gn * normal).mean(-1, keepdim=True))
        along = tuple(range(g.dim() - 1))
        return gx, (g * normal).sum(along), g.sum(along), None, None


class PlantedLinear(nn.Module):
    def __init__(self, old: nn.Module, kind: str, entry: int) -> None:
        super().__init__()
        weight = old.weight if isinstance(old, nn.Linear) else nn.Parameter(old.weight.detach().T.contiguous())
        self.weight, self.kind = weight, kind
        bias = getattr(old, "bias", None)
        self.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(torch.zeros(weight.shape[0]))
        self.entry = entry % weight.numel()

    def forward(self, x: Any) -> Any:
        return Linear.apply(x, self.weight, self.bias, self.kind, self.entry)


class PlantedNorm(nn.Module):
    def __init__(self, old: nn.LayerNorm, kind: str) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.kind = old.weight, old.bias, old.eps, kind

    def forward(self, x: Any) -> Any:
        return Norm.apply(x, self.weight, self.bias, self.eps, self.kind)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 12)
        self.norm = nn.LayerNorm(12)
        self.lstm = nn.LSTM(12, 10, num_layers=2, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(self.norm(torch.tanh(self.inner(x))))[0])


class Graph(nn.Module):
    """Message passing on a fixed graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"own": nn.Linear(8, 8), "other": nn.Linear(8, 8), "norm": nn.LayerNorm(8)}) for _ in range(3)
        )
        self.head = nn.Linear(8, 3)
        self.register_buffer("edges", torch.randint(0, 12, (2, 40)))

    def forward(self, x: Any) -> Any:
        source, goal = self.edges
        for layer in self.layers:
            messages = torch.zeros_like(x).index_add(0, goal, layer["other"](x)[source])
            x = layer["norm"](torch.tanh(layer["own"](x) + messages))
        return self.head(x)


@dataclass
class Family:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    loss: Callable[[Any], torch.Tensor] | None = None


def families() -> Iterator[Family]:
    import transformers as tf

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
    tokens = lambda: {"input_ids": torch.randint(1, 99, (3, 8))}  # noqa: E731
    hidden = lambda out: out.last_hidden_state.pow(2).mean() + out.last_hidden_state[:, 0].sum()  # noqa: E731
    yield Family(
        "gpt2",
        lambda: tf.GPT2Model(
            tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=16, bos_token_id=0, eos_token_id=0)
        ),
        tokens,
    )
    yield Family("llama", lambda: tf.LlamaModel(tf.LlamaConfig(num_key_value_heads=2, **small)), tokens)
    yield Family("bert", lambda: tf.BertModel(tf.BertConfig(**small)), tokens)
    yield Family(
        "distilbert",
        lambda: tf.DistilBertModel(tf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=99)),
        tokens,
    )
    yield Family("electra", lambda: tf.ElectraModel(tf.ElectraConfig(embedding_size=16, **small)), tokens)
    yield Family("roberta", lambda: tf.RobertaModel(tf.RobertaConfig(max_position_embeddings=20, **small)), tokens)
    yield Family(
        "opt",
        lambda: tf.OPTModel(
            tf.OPTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                vocab_size=99,
                max_position_embeddings=16,
                word_embed_proj_dim=32,
            )
        ),
        tokens,
    )
    yield Family("gemma", lambda: tf.GemmaModel(tf.GemmaConfig(num_key_value_heads=2, head_dim=8, **small)), tokens)
    yield Family(
        "t5",
        lambda: tf.T5EncoderModel(tf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=99)),
        tokens,
    )
    yield Family(
        "mamba", lambda: tf.MambaModel(tf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=99, state_size=4)), tokens
    )
    yield Family(
        "vit",
        lambda: tf.ViTModel(
            tf.ViTConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
            )
        ),
        lambda: {"pixel_values": torch.randn(3, 3, 16, 16)},
    )
    yield Family("resnet", ResNet, lambda: {"x": torch.randn(4, 1, 8, 8)})
    yield Family("lstm", Recurrent, lambda: {"x": torch.randn(3, 7, 6)})
    yield Family("graph", Graph, lambda: {"x": torch.randn(12, 8)})
    del hidden


@dataclass
class Result:
    family: str
    kind: str
    seed: int
    found: bool
    module: bool
    pattern: bool
    forwards: float
    allowed: float
    said: str


def reached(model: nn.Module, inputs: dict[str, Any]) -> dict[str, bool]:
    """The modules that a pass calls, and whether what they get requires a gradient."""
    found: dict[str, bool] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            values = [*args, *kwargs.values()]
            found.setdefault(path, any(isinstance(v, torch.Tensor) and v.requires_grad for v in values))

        return hook

    hooks = [m.register_forward_pre_hook(remember(path), with_kwargs=True) for path, m in model.named_modules()]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return found


def plant(model: nn.Module, kind: str, rng: random.Random, inputs: dict[str, Any]) -> str | None:
    """Exchange one layer for a faulty one; its path. A wrong input gradient is planted where something comes before."""
    norm = kind == "norm forgets mean"
    called = reached(model, inputs)
    before = kind.startswith(("input", "norm"))

    def fits(module: nn.Module) -> bool:
        if norm:
            return isinstance(module, nn.LayerNorm)
        return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"

    paths = [p for p, module in model.named_modules() if p and fits(module) and p in called and (called[p] or not before)]
    if not paths:
        return None
    path = rng.choice(paths)
    parent = model.get_submodule(path.rpartition(".")[0])
    old = model.get_submodule(path)
    new = PlantedNorm(old, kind) if norm else PlantedLinear(old, kind, rng.randrange(10**6))
    setattr(parent, path.rpartition(".")[2], new)
    return path


def trial(family: Family, kind: str, seed: int) -> Result | None:
    torch.manual_seed(seed)
    rng = random.Random(f"{family.name} {kind} {seed}")
    model = family.build().eval()
    with torch.no_grad():  # weights of a trained net's size, so that every layer matters
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    inputs = family.inputs()
    path = plant(model, kind, rng, inputs)
    if path is None:
        return None
    report = gg.check_gradients(model, inputs, loss=family.loss, seed=seed)
    errors = [f for f in report.findings if f.severity == "error" and f.code in ("GG101", "GG105")]
    roots = [f for f in errors if not f.caused_by]
    module = bool(roots) and all(f.module == path for f in roots)
    words = PATTERNS[kind]
    pattern = any(word in f"{f.pattern} {f.location} {f.message} {f.likely}" for f in roots for word in words)
    measured = {row["measurement"]: row["forwards"] for row in report.table_rows("measurements")}
    parameters = sum(p.numel() for p in model.parameters())
    depth = max((name.count(".") + 1 for name, _ in model.named_modules() if name), default=1)
    allowed = 2 * math.log2(parameters) + 30 * depth + 200
    said = "; ".join(f"{f.code} {f.module} {f.block} | {f.pattern} | {f.location}" for f in roots) or str(report.ok)
    return Result(family.name, kind, seed, bool(errors), module, pattern, measured.get("localisation", 0.0), allowed, said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--family", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results: list[Result] = []
    start = time.time()
    for family in families():
        if options.family and options.family != family.name:
            continue
        for kind in KINDS:
            for seed in range(options.first, options.first + options.seeds):
                result = trial(family, kind, seed)
                if result is None:
                    continue
                results.append(result)
                if not (result.found and result.module and result.pattern and result.forwards <= result.allowed):
                    print(
                        f"{result.family:10} {result.kind:20} {result.seed} found={result.found} module={result.module} "
                        f"pattern={result.pattern} forwards={result.forwards:.0f}/{result.allowed:.0f}  {result.said}",
                        flush=True,
                    )
    n = len(results)
    print(
        f"{n} faults: found {sum(r.found for r in results)}, guilty module named {sum(r.module for r in results)}, "
        f"entry or pattern named {sum(r.pattern for r in results)}, within the budget {sum(r.forwards <= r.allowed for r in results)}, "
        f"worst share of the budget {max(r.forwards / r.allowed for r in results):.2f}; {time.time() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
