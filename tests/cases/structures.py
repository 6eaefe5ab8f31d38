"""Right models with an unusual structure: shared, frozen, unused, detached, stateful, closed over, from transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.cases.case import Case, Checked

__all__ = ["TRANSFORMERS", "structure_cases", "transformers_cases"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(tokens).tanh())


class TwoHeads(nn.Module):
    """The second head is there and not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.body(x).tanh())


class WithDetached(nn.Module):
    """A residual branch whose values are held fixed on purpose, beside one that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x).tanh()
        return h + (h.detach() * self.gate(x)).sigmoid()


class StraightThrough(nn.Module):
    """Rounded forward, identity backward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x).tanh()
        return self.head(h + (torch.round(4 * h) / 4 - h).detach())


class Counter(nn.Module):
    """Writes into its buffers in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        self.calls += 1
        self.mean.lerp_(y.detach().mean(0), 0.1)
        return y - self.mean


class Branching(nn.Module):
    """Python control flow on values, far from its threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return y.sin() if x.sum() > 100 else y.cos()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


class Casting(nn.Module):
    """Casts to float32 inside, as many real models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        scale = torch.rsqrt(h.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head((h.float() * scale).to(h.dtype)).float()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 5), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 5)
        for _ in range(6):
            h = self.cell(x, h)
        return self.head(h)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def frozen() -> nn.Module:
    model = mlp(4, 6, 6, 2)
    model[2].requires_grad_(False)
    return model


def zeroed() -> nn.Module:
    model = mlp(4, 6, 2)
    with torch.no_grad():
        model[2].weight.zero_()
    return model


def closure(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: model(x).square().mean()


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def structure_cases() -> Iterator[Case]:
    """One row per structure; most in float32, so that lifting is part of them."""
    labels = torch.tensor([0, 1, 1])
    rows: dict[str, Callable[[], Checked]] = {
        "tied weights": lambda: Checked(Tied(), torch.tensor([[0, 1, 5]])),
        "frozen layer": lambda: Checked(frozen(), x(3, 4)),
        "unused head": lambda: Checked(TwoHeads(), x(3, 4)),
        "zero weight": lambda: Checked(zeroed(), x(3, 4)),
        "detached branch": lambda: Checked(WithDetached(), x(3, 4)),
        "straight-through rounding": lambda: Checked(StraightThrough(), x(3, 4)),
        "buffers written in forward": lambda: Checked(Counter(), x(3, 4)),
        "branch on a value": lambda: Checked(Branching(), x(3, 4)),
        "checkpointed": lambda: Checked(Checkpointed(False), x(3, 4)),
        "checkpointed, reentrant": lambda: Checked(Checkpointed(True), x(3, 4).requires_grad_()),
        "casts inside": lambda: Checked(Casting(), x(3, 4)),
        "casts inside, float64": lambda: Checked(Casting().double(), x(3, 4).double()),
        "recurrence": lambda: Checked(Recurrent(), x(3, 4)),
        "custom function": lambda: Checked(lambda v: Square.apply(v), x(3, 4).double().requires_grad_()),
        "loss with labels by closure": lambda: Checked(
            mlp(4, 6, 2), x(3, 4), {"loss": lambda out: functional.cross_entropy(out, labels)}
        ),
        "float labels as an input": lambda: Checked(
            LossModel(), {"features": x(3, 4), "labels": x(3, 2)}, {"loss": lambda out: out}
        ),
        "float mask": lambda: Checked(Masked(), (x(3, 4), (x(3, 4) > 0).float())),
        "closure over a module": lambda: Checked(closure(mlp(4, 6, 2)), x(3, 4)),
        "closure over a module, input with gradient": lambda: Checked(closure(mlp(4, 6, 2)), x(3, 4).requires_grad_()),
        "closure over batch normalisation": lambda: Checked(
            closure(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))), x(6, 4)
        ),
        "closure over dropout": lambda: Checked(closure(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))), x(6, 4)),
        "closure over a parameter": lambda: Checked(over_parameter(nn.Parameter(x(4))), x(3, 4)),
        "bound method": lambda: Checked(mlp(4, 6, 2).forward, x(3, 4)),
        "bias before batch normalisation": lambda: Checked(
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()), x(8, 4)
        ),
        "bias before layer normalisation": lambda: Checked(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()), x(8, 4)),
        "key bias of softmax attention": lambda: Checked(nn.MultiheadAttention(8, 2, batch_first=True), (x(2, 3, 8),) * 3),
        "batch normalisation, batch of 2": lambda: Checked(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), x(2, 4)),
        "batch normalisation, evaluation": lambda: Checked(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval(), x(3, 4)),
        "deep tanh": lambda: Checked(mlp(8, *[8] * 20, 2), x(3, 8)),
        "deep relu": lambda: Checked(mlp(8, *[16] * 10, 2, activation=nn.ReLU), x(4, 8)),
        "wide relu": lambda: Checked(mlp(8, 1000, 2, activation=nn.ReLU), x(16, 8)),
        "dead relu layer": lambda: Checked(dead(), x(4, 8)),
        "two-class head": lambda: Checked(mlp(4, 6, 2), x(3, 4), {"loss": lambda out: functional.cross_entropy(out, labels)}),
        "scale 1e-6 on a block": lambda: Checked(Scaled(1e-6), x(3, 4)),
        "scale 1e6 on a block": lambda: Checked(Scaled(1e6), x(3, 4)),
        "loss of 1e-9": lambda: Checked(mlp(4, 6, 2), x(3, 4), {"loss": lambda out: 1e-9 * out.square().mean()}),
        "loss of 1e9": lambda: Checked(mlp(4, 6, 2), x(3, 4), {"loss": lambda out: 1e9 * out.square().mean()}),
        "one parameter": lambda: Checked(nn.PReLU(), x(3, 4)),
        "parameters in a list": lambda: Checked(Listed(), x(3, 4)),
        "half precision module": lambda: Checked(mlp(4, 6, 2).half(), x(3, 4).half()),
        "bfloat16 module": lambda: Checked(mlp(4, 6, 2).bfloat16(), x(3, 4).bfloat16()),
        "packed sequences": lambda: Checked(Packed(), x(2, 5, 4)),
        "mixed precision inside": lambda: Checked(Autocast(), x(3, 4)),
        "in-place activation": lambda: Checked(nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), x(3, 4)),
        "entrywise module": lambda: Checked(mlp(4, 6, 2), x(3, 4), {"method": "entrywise"}),
        "entrywise batch normalisation": lambda: Checked(
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), x(6, 4), {"method": "entrywise"}
        ),
        "entrywise LSTM": lambda: Checked(nn.LSTM(4, 3), x(5, 2, 4), {"method": "entrywise"}),
        "entrywise dropout": lambda: Checked(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)), x(6, 4), {"method": "entrywise"}),
    }
    for seed, (name, make) in enumerate(rows.items()):
        yield Case(name, make, seed=seed)


class LossModel(nn.Module):
    """Takes its labels and returns the loss, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 6, 2)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(self.body(features), labels)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 6, 2)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.body(features * mask)


class Scaled(nn.Module):
    """One block whose gradient is far from the others' size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(4, 5), nn.Linear(4, 5), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).tanh() + self.scale * self.second(x).tanh()


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(3)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.randn(4))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return x * self.named["a"]


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(4, 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.body(x).float()


def dead() -> nn.Module:
    model = mlp(8, 6, 2, activation=nn.ReLU)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    return model


def over_parameter(weight: nn.Parameter) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: (x * weight).sin()


# -- transformers: tiny models, randomly initialised -------------------------------------------------------------------

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}

TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: config class, model class, settings
    "GPT-2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 16}),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "num_key_value_heads": 1}),
    "Gemma": ("GemmaConfig", "GemmaForCausalLM", {**SMALL, "num_key_value_heads": 1, "head_dim": 8}),
    "T5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40, "decoder_start_token_id": 0},
    ),
    "Mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 40},
    ),
    "DeBERTa": (
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        {
            **SMALL,
            "relative_attention": True,
            "max_position_embeddings": 16,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
        },
    ),
    "BERT": ("BertConfig", "BertForMaskedLM", {**SMALL, "max_position_embeddings": 16}),
    "DistilBERT": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 40},
    ),
    "OPT": ("OPTConfig", "OPTForCausalLM", {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16}),
    "Qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 1}),
}


@cache
def transformer(name: str) -> Any:
    """A tiny model of that family; made once, copied by whoever changes it."""
    import transformers

    config_class, model_class, settings = TRANSFORMERS[name]
    config = getattr(transformers, config_class)(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, model_class)(config)


def transformers_cases(names: tuple[str, ...] = tuple(TRANSFORMERS)) -> Iterator[Case]:
    """Tiny models in training mode (with dropout where they have it) and in evaluation mode, with their own loss."""
    for name in names:
        for training in (True, False):
            yield Case(
                f"{name}{'' if training else ', eval'}", lambda name=name, training=training: _language_model(name, training)
            )


def _language_model(name: str, training: bool) -> Checked:
    model = transformer(name).train(training)
    tokens = torch.randint(1, 40, (2, 6))
    return Checked(model, {"input_ids": tokens, "labels": tokens}, {"loss": lambda output: output.loss})
