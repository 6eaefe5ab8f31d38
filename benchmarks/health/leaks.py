"""Declarations on tiny random transformers: ``python -m benchmarks.health.leaks``.

With ``causal=True`` language models must be silent and encoders must not; with ``padding`` and labels of -100, padded on the
right, every model that takes an ``attention_mask`` must be silent, and one that has none must not.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from benchmarks.health.tiny.batches import CLASSES, N, T, V
from benchmarks.health.tiny.text import TEXT
from gradguard.health import check_training

__all__ = ["main"]

CAUSAL = (
    "gpt2", "gptneo", "gptj", "gptneox", "opt", "bloom", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "falcon",
    "mpt", "stablelm", "cohere", "granite", "olmo2", "mixtral", "deepseek", "ctrl", "mamba", "mamba2", "rwkv", "recurrentgemma",
    "jamba",
)  # fmt: skip
ENCODERS = (
    "bert", "bert_masked", "bert_pooler", "bert_classifier", "roberta", "albert", "deberta", "deberta_v1", "electra", "distilbert",
    "mpnet", "xlnet", "funnel", "fnet", "longformer", "bigbird", "convbert", "modernbert", "esm",
)  # fmt: skip
MASKED = (
    "bert_masked", "bert_classifier", "roberta", "albert", "deberta", "deberta_v1", "distilbert", "mpnet", "esm", "gpt2", "gptneox",
    "opt", "llama", "mistral", "qwen2", "gemma", "phi", "t5", "bart",
)  # fmt: skip


def padded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with three samples cut short: token 0, mask 0, labels of positions -100."""
    real = torch.arange(T)[None] < torch.tensor([T, T - 5, 4, T - 2][:N])[:, None]
    made = {**batch, "input_ids": batch["input_ids"].masked_fill(~real, 0), "attention_mask": real.long()}
    if made["labels"].shape == real.shape:
        made["labels"] = made["labels"].masked_fill(~real, -100)
    return made


def found(name: str, *, causal: bool) -> bool:
    """Whether the declaration is an error of this model."""
    torch.manual_seed(0)
    tiny = TEXT[name]
    model, batch = tiny.model().train(), tiny.batch()
    declared: dict[str, Any] = {"causal": True, "select": "GG306"}
    if not causal:
        batch = padded(batch)
        declared = {"padding": lambda b: b["attention_mask"] == 0, "select": "GG308"}
    loss = (lambda m, b: tiny.loss(m, {k: v for k, v in b.items() if k != "attention_mask"})) if name == "fnet" else tiny.loss
    report = check_training(model, [batch], loss=loss, **declared)
    code = declared["select"]
    judged = {c.status for c in report.checks if c.code == code}
    print(f"{name:16} {code} {', '.join(judged)} {' '.join(f.module for f in report.findings)}", flush=True)
    if judged - {"passed", "failed"}:
        raise RuntimeError(f"{name}: {code} was not judged: {[c.reason for c in report.checks if c.code == code]}")
    return "failed" in judged


def main() -> int:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print(f"{N} samples, {T} positions, {V} tokens, {CLASSES} classes")
    silent = sum(not found(name, causal=True) for name in CAUSAL)
    errors = sum(found(name, causal=True) for name in ENCODERS)
    masked = sum(not found(name, causal=False) for name in MASKED)
    print(f"causal: {silent} of {len(CAUSAL)} language models silent, {errors} of {len(ENCODERS)} encoders an error")
    print(
        f"padding: {masked} of {len(MASKED)} models with a mask silent; fnet, which has none, found: {found('fnet', causal=False)}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
