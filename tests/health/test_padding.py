"""GG308 end to end: losses that padding leaks into, and those it does not; nothing is guessed and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gradguard as gg

B, T, V, D = 6, 9, 20, 16


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(3):
        lengths = torch.randint(3, T + 1, (B,), generator=generator)
        lengths[0], lengths[1] = T, 4
        mask = torch.arange(T)[None] >= lengths[:, None]
        ids = torch.randint(1, V, (B, T), generator=generator).masked_fill(mask, 0)
        tags = torch.randint(0, 3, (B, T), generator=generator).masked_fill(mask, -100)
        x = torch.randn(B, T, D, generator=generator).masked_fill(mask[..., None], 0)
        y = torch.randint(0, 3, (B,), generator=generator)
        made.append({"ids": ids, "real": ~mask, "lengths": lengths, "y": y, "tags": tags, "x": x})
    return made


def padding(batch: Any) -> torch.Tensor:
    return ~batch["real"]


class Attention(nn.Module):
    def __init__(self, mask: str = "given", pool: str = "masked", floats: bool = False, norm: Any = None, p: float = 0.0):
        super().__init__()
        self.embed, self.head = nn.Embedding(V, D), nn.Linear(D, 3)
        self.attend = nn.MultiheadAttention(D, 2, dropout=p, batch_first=True)
        self.norm, self.mask, self.pool, self.floats = norm, mask, pool, floats

    def forward(self, b: Any) -> torch.Tensor:
        h = b["x"] if self.floats else self.embed(b["ids"])
        mask = {"given": ~b["real"], "from ids": b["ids"] == 0, "none": None}[self.mask]
        h = h + self.attend(h, h, h, key_padding_mask=mask)[0]
        if self.norm is not None:
            h = self.norm(h.transpose(1, 2)).transpose(1, 2)
        w = b["real"].to(h.dtype)[..., None]
        pooled = {"masked": lambda: (h * w).sum(1) / w.sum(1), "all": lambda: h.mean(1), "none": lambda: h}[self.pool]()
        out: torch.Tensor = self.head(pooled)
        return out


class Bag(nn.Module):
    """A sum or mean of embeddings whose padding row is 0."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.embed, self.head, self.mean = nn.Embedding(V, D, padding_idx=0), nn.Linear(D, 3), mean

    def forward(self, b: Any) -> torch.Tensor:
        h = self.embed(b["ids"])
        out: torch.Tensor = self.head(h.mean(1) if self.mean else h.sum(1))
        return out


class Recurrent(nn.Module):
    def __init__(self, packed: bool, tags: bool, floats: bool = False) -> None:
        super().__init__()
        self.embed, self.run, self.head = nn.Embedding(V, D), nn.LSTM(D, D, batch_first=True), nn.Linear(D, 3)
        self.packed, self.tags, self.floats = packed, tags, floats

    def forward(self, b: Any) -> torch.Tensor:
        h = b["x"] if self.floats else self.embed(b["ids"])
        if self.packed:
            given = pack_padded_sequence(h, b["lengths"], batch_first=True, enforce_sorted=False)
            made, (last, _) = self.run(given)
            made, _ = pad_packed_sequence(made, batch_first=True, total_length=h.shape[1])
        else:
            made, (last, _) = self.run(h)
        out: torch.Tensor = self.head(made if self.tags else last[-1])
        return out


def of_samples(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b), b["y"])


def of_tags(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b).transpose(1, 2), b["tags"])


def of_every_position(m: Any, b: Any) -> torch.Tensor:
    return functional.cross_entropy(m(b).transpose(1, 2), b["tags"].clamp(min=0))


def diluted(m: Any, b: Any) -> torch.Tensor:
    each = functional.cross_entropy(m(b).transpose(1, 2), b["tags"].clamp(min=0), reduction="none")
    return (each * b["real"]).mean()


def checked(model: nn.Module, loss: Any, declared: Any = padding, **options: Any) -> gg.Report:
    return gg.check_training(model, batches(), loss=loss, padding=declared, select="GG308", **options)


LEAKS = {
    "attention without its mask": (lambda: Attention("none"), of_samples, "attend"),
    "the same on floats": (lambda: Attention("none", floats=True), of_samples, "attend"),
    "a mean over all positions": (lambda: Attention(pool="all"), of_samples, "head"),
    "a mean of zero rows": (lambda: Bag(mean=True), of_samples, "head"),
    "labels at padded positions": (lambda: Attention(pool="none"), of_every_position, ""),
    "labels behind a packed recurrence": (lambda: Recurrent(True, True), of_every_position, ""),
    "batch statistics": (lambda: Attention(pool="none", norm=nn.BatchNorm1d(D)), of_tags, "norm"),
    "batch statistics and dropout": (lambda: Attention(pool="none", norm=nn.BatchNorm1d(D), p=0.2), of_tags, "norm"),
    "batch statistics of floats": (lambda: Attention(pool="none", floats=True, norm=nn.BatchNorm1d(D)), of_tags, "norm"),
    "the last state of a recurrence": (lambda: Recurrent(False, False), of_samples, "head"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_padding_that_matters_is_an_error(name: str) -> None:
    torch.manual_seed(0)
    make, loss, module = LEAKS[name]
    (finding,) = checked(make(), loss).errors
    assert (finding.code, finding.module) == ("GG308", module)


RIGHT = {
    "masked attention": (lambda: Attention(), of_samples),
    "masked attention on floats": (lambda: Attention(floats=True), of_samples),
    "with dropout": (lambda: Attention(p=0.3), of_samples),
    "a mask read off the tokens": (lambda: Attention("from ids"), of_samples),
    "labels ignored": (lambda: Attention(pool="none"), of_tags),
    "a loss over all positions that counts the real ones": (lambda: Attention(pool="none"), diluted),
    "a sum of zero rows": (lambda: Bag(mean=False), of_samples),
    "a packed recurrence": (lambda: Recurrent(True, False), of_samples),
    "a packed recurrence on floats": (lambda: Recurrent(True, True, floats=True), of_tags),
    "a recurrence that has passed": (lambda: Recurrent(False, True), of_tags),
    "frozen batch statistics": (lambda: Attention(pool="none", norm=nn.BatchNorm1d(D)).eval(), of_tags),
}


@pytest.mark.parametrize("name", RIGHT)
def test_padding_that_does_not_matter_is_silent(name: str) -> None:
    torch.manual_seed(0)
    make, loss = RIGHT[name]
    report = checked(make(), loss)
    assert report.findings == ()
    assert [c.status for c in report.checks if c.code == "GG308"] == ["passed"]


def test_declared_outputs_may_not_depend_on_padded_inputs_either() -> None:
    torch.manual_seed(0)
    model = Attention("none", pool="none")

    def loss(m: Any, b: Any) -> torch.Tensor:
        with torch.no_grad():
            made = m(b)
        return functional.cross_entropy(m.head(m.embed(b["ids"])).transpose(1, 2), b["tags"]) + 0 * made.sum()

    (finding,) = checked(model, loss, outputs=lambda m, b: m(b)).errors
    assert finding.message.startswith("outputs at real positions depend on padded inputs")
    assert checked(Attention(pool="none"), loss, outputs=lambda m, b: m(b)).ok


def test_an_attention_mask_that_nobody_declared_gives_a_warning() -> None:
    torch.manual_seed(0)
    model = Attention("none")
    given = [{**b, "attention_mask": b["real"].long()} for b in batches()]
    report = gg.check_training(model, given, loss=of_samples, select="GG308")
    assert report.ok
    assert [f.severity for f in report.findings] == ["warning"]
    assert gg.check_training(Attention(), given, loss=of_samples, select="GG308").findings == ()


def test_tuples_and_sequences_first() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self, mask: bool) -> None:
            super().__init__()
            self.attend, self.head, self.mask = nn.MultiheadAttention(D, 2), nn.Linear(D, 3), mask

        def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
            h = self.attend(x, x, x, key_padding_mask=~real if self.mask else None)[0]
            w = real.T.to(h.dtype)[..., None]
            out: torch.Tensor = self.head((h * w).sum(0) / w.sum(0))
            return out

    given = [(b["x"].transpose(0, 1), b["real"], b["y"]) for b in batches()]

    def loss(m: Any, b: Any) -> torch.Tensor:
        return functional.cross_entropy(m(b[0], b[1]), b[2])

    options: dict[str, Any] = {"loss": loss, "padding": lambda b: ~b[1], "select": "GG308"}
    assert [f.module for f in gg.check_training(Net(False), given, **options).errors] == ["attend"]
    assert gg.check_training(Net(True), given, **options).findings == ()


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model = Attention("none", pool="none", norm=nn.BatchNorm1d(D), p=0.1)
    model.embed.weight.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    given = batches()
    kept = [{k: v.clone() for k, v in b.items()} for b in given]
    rng = torch.get_rng_state()
    gg.check_training(model, given, loss=of_tags, padding=padding, select="GG308")
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, one[k]) for b, one in zip(given, kept, strict=True) for k, v in b.items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.embed.weight.requires_grad
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda b: b["real"], "turned round"),
        (lambda b: b["lengths"], "not a mask"),
        (lambda b: b["ids"], "neither 0 nor 1"),
        (lambda b: None, "returned NoneType"),
        (lambda b: b["pad"], "padding raised KeyError"),
    ],
)
def test_what_is_no_mask_is_said(declared: Any, message: str) -> None:
    with pytest.raises(gg.UsageError, match=message):
        checked(Attention(), of_samples, declared)


def test_padding_takes_a_function() -> None:
    with pytest.raises(gg.UsageError, match=r"Scenario\(padding=\.\.\.\) takes a function"):
        checked(Attention(), of_samples, "attention_mask")


def test_no_padding_is_no_pass() -> None:
    report = checked(Attention(), of_samples, lambda b: torch.zeros(B, T, dtype=torch.bool))
    assert [(c.status, c.reason) for c in report.checks if c.code == "GG308"] == [
        ("skipped", "no padded position in 3 batches")
    ]
