"""Models that cast to float32 inside, lifted: what the check resolves in each block, and whether it is silent.

    python -m benchmarks.gradients.lifting
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

import gradguard as gg


def models() -> Iterator[tuple[str, Callable[[], torch.nn.Module], bool]]:
    """Name, a function that builds a tiny random model, and whether its labels are tokens."""
    import transformers as tf

    small: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99,
    }
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    deberta = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8, "max_position_embeddings": 32}
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99, "decoder_start_token_id": 0}
    yield "GPT-2", lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**gpt2, loss_type="ForCausalLM")), True
    yield "Llama", lambda: tf.LlamaForCausalLM(tf.LlamaConfig(num_key_value_heads=2, **small)), True
    yield "Gemma", lambda: tf.GemmaForCausalLM(tf.GemmaConfig(num_key_value_heads=2, head_dim=8, **small)), True
    yield "T5", lambda: tf.T5ForConditionalGeneration(tf.T5Config(**t5)), True
    yield "Mamba", lambda: tf.MambaForCausalLM(tf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=99, state_size=4)), True
    yield "DeBERTa", lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**deberta, **small)), False


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| model | mode | blocks | findings | inconclusive | resolution: median | worst | above 1e-6 | forwards | s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, build, tokens in models():
        for mode in ("train", "eval"):
            torch.manual_seed(0)
            model = build().train(mode == "train")
            ids = torch.randint(1, 99, (2, 9))
            inputs = {"input_ids": ids, "labels": ids.clone() if tokens else torch.tensor([0, 1])}
            start = time.perf_counter()
            report = gg.check_gradients(model, inputs, loss=lambda out: out.loss)
            seconds = time.perf_counter() - start
            table = report.tables["gradients"]
            seen = table.resolution.dropna()
            forwards = report.tables["measurements"].forwards.sum()
            open_blocks = int((table.verdict == "inconclusive").sum())
            print(f"| {name} | {mode} | {len(table)} | {len(report.findings)} | {open_blocks} | {seen.median():.0e} | {seen.max():.0e} "
                  f"| {int((seen > 1e-6).sum())} | {forwards:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
