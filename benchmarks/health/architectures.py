"""Tiny randomly initialised transformers models at initialisation and over 20 steps of AdamW: none may be flagged.

``python -m benchmarks.health.architectures [names]``
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from gradguard.health import check_training

__all__ = ["BUILDERS", "build", "main"]

V, N, T = 99, 4, 16


def tokens() -> torch.Tensor:
    return torch.randint(2, V, (N, T))


def pictures(size: int = 32) -> torch.Tensor:
    return torch.randn(N, 3, size, size)


def language(model: Any) -> tuple[Any, Callable[[], Any], Any]:
    return model, lambda: {"input_ids": (ids := tokens()), "labels": ids}, lambda m, b: m(**b).loss


def classified(model: Any, size: int = 32) -> tuple[Any, Callable[[], Any], Any]:
    return (
        model,
        lambda: {"pixel_values": pictures(size), "labels": torch.randint(0, 3, (N,))},
        lambda m, b: m(**b).loss,
    )


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return language(GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=32, n_embd=32, n_layer=3, n_head=4)))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return language(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=V,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        )
    )


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return language(
        MixtralForCausalLM(
            MixtralConfig(
                vocab_size=V,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=4,
            )
        )
    )


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return language(MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=3)))


def gptneox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return language(
        GPTNeoXForCausalLM(
            GPTNeoXConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
        )
    )


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return language(
        OPTForCausalLM(
            OPTConfig(
                vocab_size=V,
                hidden_size=32,
                ffn_dim=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                word_embed_proj_dim=32,
                max_position_embeddings=64,
            )
        )
    )


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return language(
        BertForMaskedLM(
            BertConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
        )
    )


def bert_pooler() -> Any:
    from transformers import BertConfig, BertModel

    model = BertModel(
        BertConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    )
    return model, tokens, lambda m, b: m(b).last_hidden_state[:, 0].sub(1).square().mean()


def bert_classifier() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_labels=3)
    )
    return model, lambda: {"input_ids": tokens(), "labels": torch.randint(0, 3, (N,))}, lambda m, b: m(**b).loss


def deberta() -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    model = DebertaV2ForSequenceClassification(
        DebertaV2Config(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_labels=3,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        )
    )
    return model, lambda: {"input_ids": tokens(), "labels": torch.randint(0, 3, (N,))}, lambda m, b: m(**b).loss


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return language(
        T5ForConditionalGeneration(
            T5Config(vocab_size=V, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
        )
    )


def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    return language(
        BartForConditionalGeneration(
            BartConfig(
                vocab_size=V,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=64,
            )
        )
    )


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return classified(
        ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=64,
                image_size=32,
                patch_size=8,
                num_labels=3,
            )
        )
    )


def convnext() -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return classified(
        ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=3))
    )


def swin() -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    return classified(
        SwinForImageClassification(
            SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 4], window_size=4, num_labels=3)
        )
    )


def resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    return classified(
        ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], layer_type="basic", num_labels=3)
        ),
        64,
    )


def wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    model = Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            conv_dim=(16, 16),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            num_labels=3,
            classifier_proj_size=16,
            mask_time_prob=0.0,
        )
    )
    return (
        model,
        lambda: {"input_values": torch.randn(N, 1000), "labels": torch.randint(0, 3, (N,))},
        lambda m, b: m(**b).loss,
    )


def whisper() -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=V,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_mel_bins=16,
            max_source_positions=32,
            max_target_positions=32,
            decoder_start_token_id=1,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    return model, lambda: {"input_features": torch.randn(N, 16, 64), "labels": tokens()}, lambda m, b: m(**b).loss


def clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": V,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    return (
        model,
        lambda: {"input_ids": tokens(), "pixel_values": pictures(), "return_loss": True},
        lambda m, b: m(**b).loss,
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        gpt2,
        llama,
        mixtral,
        mamba,
        gptneox,
        opt,
        bert,
        bert_pooler,
        bert_classifier,
        deberta,
        t5,
        bart,
        vit,
        convnext,
        swin,
        resnet,
        wav2vec2,
        whisper,
        clip,
    )
}


def build(name: str, seed: int = 0, batches: int = 4) -> tuple[Any, list[Any], Any]:
    """Model, batches and loss."""
    torch.manual_seed(seed)
    model, batch, loss = BUILDERS[name]()
    model.train()
    return model, [batch() for _ in range(batches)], loss


def main() -> int:
    torch.set_num_threads(1)
    names = [n for n in sys.argv[1:] if n in BUILDERS] or list(BUILDERS)
    flagged = runs = 0
    for name in names:
        for lr in (1e-3, 5e-5):
            start = time.perf_counter()
            runs += 1
            try:
                model, batches, loss = build(name)
                report = check_training(
                    model, batches, loss=loss, optimizer=torch.optim.AdamW(model.parameters(), lr=lr), steps=20
                )
            except Exception as error:
                print(f"RAISED {name} lr {lr:g}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
                flagged += 1
                continue
            errors = [f"{f.code} {f.message}" for f in report.findings if f.severity == "error"]
            flagged += bool(errors)
            warnings = [f"{f.code} {f.message}" for f in report.findings if f.severity == "warning"]
            print(
                f"{'FALSE' if errors else 'ok   '} {name:16} lr {lr:g} {time.perf_counter() - start:5.1f}s errors {errors} warnings {warnings}",
                flush=True,
            )
    print(f"{runs} runs, {flagged} flagged")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
