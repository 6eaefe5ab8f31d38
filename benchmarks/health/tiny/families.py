"""The main families three ways each: other widths, depths, vocabularies, picture sizes, batches, heads and labels.

What anybody writes who wants a small model of that name. Labels are random where nothing else is said; ``learnable``
ones follow from the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.health.tiny.batches import Tiny

__all__ = ["FAMILIES"]

Batch = Callable[[], dict[str, Any]]


def prototypes(count: int, *shape: int) -> torch.Tensor:
    """One pattern for each class, always the same."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def labelled(samples: int, classes: int) -> torch.Tensor:
    return torch.randint(0, classes, (samples,))


def language(samples: int, positions: int, vocabulary: int) -> Batch:
    """Text that is its own label."""

    def batch() -> dict[str, Any]:
        text = torch.randint(3, vocabulary, (samples, positions))
        return {"input_ids": text, "labels": text}

    return batch


def counted(samples: int, positions: int, vocabulary: int) -> Batch:
    """Text that counts upwards from a random number: learnable."""

    def batch() -> dict[str, Any]:
        text = 3 + (torch.randint(0, vocabulary, (samples, 1)) + torch.arange(positions)) % (vocabulary - 3)
        return {"input_ids": text, "labels": text}

    return batch


def masked(samples: int, positions: int, vocabulary: int) -> Batch:
    """Text of different lengths of which 15 % is hidden; only that is labelled."""

    def batch() -> dict[str, Any]:
        text = torch.randint(3, vocabulary, (samples, positions))
        lengths = torch.randint(positions // 2, positions + 1, (samples, 1))
        seen = torch.arange(positions) < lengths
        hidden = (torch.rand(samples, positions) < 0.15) & seen
        hidden[:, 0] = True
        return {
            "input_ids": torch.where(hidden, 2, text) * seen,
            "attention_mask": seen.long(),
            "labels": text.masked_fill(~hidden, -100),
        }

    return batch


def sentences(samples: int, positions: int, vocabulary: int, classes: int, *, learnable: bool = False) -> Batch:
    """Text with one class each: learnable, the first word decides."""

    def batch() -> dict[str, Any]:
        text = torch.randint(3, vocabulary, (samples, positions))
        return {"input_ids": text, "labels": text[:, 0] % classes if learnable else labelled(samples, classes)}

    return batch


def translated(samples: int, positions: int, vocabulary: int, *, learnable: bool = False) -> Batch:
    """A text and another: learnable, it is the same one backwards."""

    def batch() -> dict[str, Any]:
        text = torch.randint(3, vocabulary, (samples, positions))
        return {
            "input_ids": text,
            "labels": text.flip(1) if learnable else torch.randint(3, vocabulary, (samples, positions // 2)),
        }

    return batch


def pictures(samples: int, size: int, classes: int, channels: int = 3, *, learnable: bool = False) -> Batch:
    """Noise with one class each: learnable, a pattern of the class is added."""
    patterns = prototypes(classes, channels, size, size)

    def batch() -> dict[str, Any]:
        labels = labelled(samples, classes)
        noise = torch.randn(samples, channels, size, size)
        return {"pixel_values": noise + patterns[labels] if learnable else noise, "labels": labels}

    return batch


def sound(samples: int, length: int, classes: int, *, learnable: bool = False) -> Batch:
    """Noise with one class each: learnable, a tone of the class is added."""
    time = torch.arange(length) / 16.0

    def batch() -> dict[str, Any]:
        labels = labelled(samples, classes)
        noise = torch.randn(samples, length)
        tone = torch.sin(time * (1 + labels[:, None]))
        return {"input_values": noise + 2 * tone if learnable else noise, "labels": labels}

    return batch


def spoken(samples: int, length: int, letters: int, vocabulary: int) -> Batch:
    return lambda: {
        "input_values": torch.randn(samples, length),
        "labels": torch.randint(1, vocabulary, (samples, letters)),
    }


def heard(samples: int, bins: int, frames: int, positions: int, vocabulary: int) -> Batch:
    return lambda: {
        "input_features": torch.randn(samples, bins, frames),
        "labels": torch.randint(3, vocabulary, (samples, positions)),
    }


def encoder(vocabulary: int, width: int, depth: int, heads: int, inner: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    } | more


def gpt2(vocabulary: int, width: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"vocab_size": vocabulary, "n_positions": 64, "n_embd": width, "n_layer": depth, "n_head": heads} | more


def t5(vocabulary: int, width: int, depth: int, heads: int, head: int, inner: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_layers": depth,
        "num_heads": heads,
        "d_kv": head,
        "d_ff": inner,
        "decoder_start_token_id": 0,
    } | more


def whisper(vocabulary: int, width: int, depth: int, heads: int, bins: int, frames: int) -> dict[str, Any]:
    each = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (("layers", depth), ("attention_heads", heads), ("ffn_dim", 4 * width))
    }
    special = {"decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return (
        {
            "vocab_size": vocabulary,
            "d_model": width,
            "num_mel_bins": bins,
            "max_source_positions": frames // 2,
            "max_target_positions": 64,
        }
        | each
        | special
    )


def speech(width: int, depth: int, heads: int, convolutions: list[tuple[int, int, int]], **more: Any) -> dict[str, Any]:
    """Convolutions are channels, kernel and stride of each layer."""
    channels, kernels, strides = zip(*convolutions, strict=True)
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 32,
    } | more


def vit(size: int, patch: int, width: int, depth: int, heads: int, classes: int, **more: Any) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "num_labels": classes,
    } | more


def swin(size: int, patch: int, width: int, depths: list[int], heads: list[int], window: int, classes: int) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "window_size": window,
        "num_labels": classes,
    }


def stages(widths: list[int], depths: list[int], classes: int, **more: Any) -> dict[str, Any]:
    return {"hidden_sizes": widths, "depths": depths, "num_labels": classes} | more


def efficient(widths: list[int], outs: list[int], repeats: list[int], classes: int, **more: Any) -> dict[str, Any]:
    return {
        "in_channels": widths,
        "out_channels": outs,
        "num_block_repeats": repeats,
        "kernel_sizes": [3, 3, 5],
        "strides": [1, 1, 2],
        "expand_ratios": [1, 6, 6],
        "num_labels": classes,
    } | more


CONVOLUTIONS = [(16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2]
"""Kernels and strides of the published model, 320 samples a frame."""
FEW = [(32, 10, 5), (32, 3, 2), (32, 3, 2)]

TEXT: dict[str, Tiny] = {
    "bert.1": Tiny(
        name="BertForSequenceClassification",
        settings=encoder(1000, 64, 2, 4, 128, num_labels=2),
        batch=sentences(8, 16, 1000, 2, learnable=True),
    ),
    "bert.2": Tiny(name="BertForMaskedLM", settings=encoder(50, 16, 1, 2, 32), batch=masked(2, 10, 50)),
    "bert.3": Tiny(
        name="BertForSequenceClassification",
        settings=encoder(30522, 32, 4, 2, 128, num_labels=4),
        batch=sentences(16, 12, 30522, 4),
    ),
    "gpt2.1": Tiny(name="GPT2LMHeadModel", settings=gpt2(256, 32, 2, 2), batch=language(4, 16, 256)),
    "gpt2.2": Tiny(name="GPT2LMHeadModel", settings=gpt2(1000, 48, 6, 4), batch=counted(8, 16, 1000)),
    "gpt2.3": Tiny(name="GPT2LMHeadModel", settings=gpt2(20000, 16, 1, 2), batch=language(2, 12, 20000)),
    "llama.1": Tiny(name="LlamaForCausalLM", settings=encoder(128, 64, 2, 4, 128), batch=language(4, 16, 128)),
    "llama.2": Tiny(
        name="LlamaForCausalLM",
        settings=encoder(1000, 32, 6, 4, 86, num_key_value_heads=2, tie_word_embeddings=True),
        batch=counted(2, 32, 1000),
    ),
    "llama.3": Tiny(name="LlamaForCausalLM", settings=encoder(32000, 16, 1, 2, 32), batch=language(16, 8, 32000)),
    "t5.1": Tiny(
        name="T5ForConditionalGeneration", settings=t5(100, 32, 2, 4, 8, 64), batch=translated(4, 12, 100, learnable=True)
    ),
    "t5.2": Tiny(
        name="T5ForConditionalGeneration",
        settings=t5(1000, 64, 4, 4, 16, 128, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        batch=translated(2, 16, 1000),
    ),
    "t5.3": Tiny(name="T5ForConditionalGeneration", settings=t5(32128, 32, 1, 2, 64, 128), batch=translated(8, 16, 32128)),
    "mamba.1": Tiny(
        name="MambaForCausalLM",
        settings={"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2},
        batch=language(4, 16, 100),
    ),
    "mamba.2": Tiny(
        name="MambaForCausalLM",
        settings={"vocab_size": 1000, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 4},
        batch=counted(2, 32, 1000),
    ),
    "mamba.3": Tiny(
        name="MambaForCausalLM",
        settings={"vocab_size": 20000, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1, "expand": 4},
        batch=language(8, 12, 20000),
    ),
}

SOUND: dict[str, Tiny] = {
    "wav2vec2.1": Tiny(
        name="Wav2Vec2ForSequenceClassification",
        settings=speech(32, 2, 2, FEW, num_labels=4, mask_time_prob=0.0),
        batch=sound(8, 1600, 4, learnable=True),
    ),
    "wav2vec2.2": Tiny(
        name="Wav2Vec2ForCTC",
        settings=speech(32, 2, 4, CONVOLUTIONS, vocab_size=32, ctc_loss_reduction="mean", mask_time_length=2),
        batch=spoken(2, 8000, 6, 32),
    ),
    "wav2vec2.3": Tiny(
        name="Wav2Vec2ForSequenceClassification",
        settings=speech(48, 4, 4, FEW, num_labels=2, feat_extract_norm="layer", do_stable_layer_norm=True, mask_time_length=2),
        batch=sound(2, 1000, 2),
    ),
    "whisper.1": Tiny(
        name="WhisperForConditionalGeneration", settings=whisper(100, 32, 2, 2, 16, 60), batch=heard(4, 16, 60, 8, 100)
    ),
    "whisper.2": Tiny(
        name="WhisperForConditionalGeneration", settings=whisper(1000, 64, 4, 4, 80, 100), batch=heard(2, 80, 100, 12, 1000)
    ),
    "whisper.3": Tiny(
        name="WhisperForConditionalGeneration", settings=whisper(20000, 16, 1, 2, 8, 30), batch=heard(8, 8, 30, 16, 20000)
    ),
}

VISION: dict[str, Tiny] = {
    "vit.1": Tiny(name="ViTForImageClassification", settings=vit(32, 8, 32, 2, 4, 4), batch=pictures(8, 32, 4, learnable=True)),
    "vit.2": Tiny(
        name="ViTForImageClassification",
        settings=vit(28, 7, 48, 6, 3, 10, num_channels=1, hidden_dropout_prob=0.1),
        batch=pictures(16, 28, 10, 1, learnable=True),
    ),
    "vit.3": Tiny(name="ViTForImageClassification", settings=vit(30, 2, 16, 1, 2, 2), batch=pictures(2, 30, 2)),
    "swin.1": Tiny(
        name="SwinForImageClassification",
        settings=swin(32, 2, 16, [1, 2, 1], [2, 2, 4], 2, 3),
        batch=pictures(8, 32, 3, learnable=True),
    ),
    "swin.2": Tiny(
        name="SwinForImageClassification", settings=swin(56, 4, 12, [1, 1], [2, 4], 7, 10), batch=pictures(2, 56, 10)
    ),
    "swin.3": Tiny(
        name="SwinForImageClassification",
        settings=swin(64, 4, 16, [2, 2, 2], [2, 4, 8], 4, 2),
        batch=pictures(4, 64, 2, learnable=True),
    ),
    "convnext.1": Tiny(
        name="ConvNextForImageClassification",
        settings=stages([8, 16, 32, 64], [1, 1, 1, 1], 4),
        batch=pictures(8, 32, 4, learnable=True),
    ),
    "convnext.2": Tiny(
        name="ConvNextForImageClassification",
        settings=stages([10, 20, 30, 40], [2, 2, 3, 2], 10),
        batch=pictures(13, 32, 10),
    ),
    "convnext.3": Tiny(
        name="ConvNextForImageClassification",
        settings=stages([16, 32], [2, 2], 2, num_stages=2, drop_path_rate=0.1),
        batch=pictures(2, 64, 2),
    ),
    "resnet.1": Tiny(
        name="ResNetForImageClassification",
        settings=stages([16, 32], [1, 1], 4, embedding_size=16, layer_type="basic"),
        batch=pictures(8, 32, 4, learnable=True),
    ),
    "resnet.2": Tiny(
        name="ResNetForImageClassification",
        settings=stages([10, 20, 30, 40], [1, 1, 2, 1], 3, embedding_size=10),
        batch=pictures(3, 32, 3),
    ),
    "resnet.3": Tiny(
        name="ResNetForImageClassification",
        settings=stages([8, 16, 32, 64], [2, 2, 2, 2], 10, embedding_size=8, layer_type="basic"),
        batch=pictures(16, 64, 10, learnable=True),
    ),
    "regnet.1": Tiny(
        name="RegNetForImageClassification",
        settings=stages([16, 32], [1, 1], 4, embedding_size=16, groups_width=8),
        batch=pictures(8, 32, 4, learnable=True),
    ),
    "regnet.2": Tiny(
        name="RegNetForImageClassification",
        settings=stages([10, 20, 30, 40], [1, 1, 2, 1], 3, embedding_size=10),
        batch=pictures(3, 32, 3),
    ),
    "regnet.3": Tiny(
        name="RegNetForImageClassification",
        settings=stages([8, 16, 24, 48], [1, 1, 2, 2], 10, embedding_size=8, groups_width=8, layer_type="x"),
        batch=pictures(16, 64, 10),
    ),
    "mobilenet.1": Tiny(
        name="MobileNetV2ForImageClassification",
        settings={"depth_multiplier": 0.25, "depth_divisible_by": 8, "min_depth": 8, "num_labels": 3},
        batch=pictures(8, 32, 3, learnable=True),
    ),
    "mobilenet.2": Tiny(
        name="MobileNetV1ForImageClassification",
        settings={"depth_multiplier": 0.25, "min_depth": 8, "num_labels": 10},
        batch=pictures(16, 32, 10, learnable=True),
    ),
    "mobilenet.3": Tiny(
        name="MobileNetV2ForImageClassification",
        settings={"depth_multiplier": 0.35, "image_size": 64, "num_labels": 2},
        batch=pictures(4, 64, 2),
    ),
    "efficientnet.1": Tiny(
        name="EfficientNetForImageClassification",
        settings=efficient(
            [32, 16, 24], [16, 24, 20], [1, 1, 2], 3, hidden_dim=1280, width_coefficient=1.0, depth_coefficient=1.0
        ),
        batch=pictures(13, 32, 3),
    ),
    "efficientnet.2": Tiny(
        name="EfficientNetForImageClassification",
        settings=efficient(
            [32, 16, 24], [16, 24, 32], [1, 1, 1], 4, hidden_dim=320, width_coefficient=0.25, depth_coefficient=0.5
        ),
        batch=pictures(8, 32, 4, learnable=True),
    ),
    "efficientnet.3": Tiny(
        name="EfficientNetForImageClassification",
        settings={"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "num_labels": 10, "image_size": 64},
        batch=pictures(4, 64, 10),
    ),
}

FAMILIES = TEXT | SOUND | VISION
