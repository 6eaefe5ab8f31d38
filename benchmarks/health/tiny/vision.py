"""Tiny models of pictures."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.health.tiny.batches import CLASSES, Tiny, classes, pictures

__all__ = ["VISION", "VIT"]

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": CLASSES}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": CLASSES,
}


def regions() -> dict[str, Any]:
    """Pictures with a class for each pixel, the same in squares of 16: what a head of a quarter of the size can tell."""
    coarse = torch.randint(0, CLASSES, (4, 4, 4))
    return {"pixel_values": pictures(64)(), "labels": coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)}


def plain(size: int = 32) -> Any:
    return lambda: {"pixel_values": pictures(size)()}


VISION: dict[str, Tiny] = {
    "vit": Tiny(name="ViTForImageClassification", settings=VIT, batch=classes()),
    "deit": Tiny(name="DeiTForImageClassification", settings=VIT, batch=classes()),
    "beit": Tiny(
        name="BeitForImageClassification",
        settings=VIT | {"num_hidden_layers": 4, "out_indices": [0, 1, 2, 3], "use_relative_position_bias": True},
        batch=classes(),
    ),
    "dinov2": Tiny(name="Dinov2ForImageClassification", settings=VIT | {"mlp_ratio": 2}, batch=classes()),
    "vitmae": Tiny(
        name="ViTMAEForPreTraining",
        settings={key: value for key, value in VIT.items() if key != "num_labels"}
        | {
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
        batch=plain(),
    ),
    "swin": Tiny(name="SwinForImageClassification", settings=SWIN, batch=classes()),
    "swinv2": Tiny(name="Swinv2ForImageClassification", settings=SWIN, batch=classes()),
    "focalnet": Tiny(
        name="FocalNetForImageClassification",
        settings={
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "hidden_sizes": [16, 32],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "num_labels": CLASSES,
        },
        batch=classes(),
    ),
    "convnext": Tiny(name="ConvNextForImageClassification", settings=STAGES, batch=classes()),
    "convnextv2": Tiny(name="ConvNextV2ForImageClassification", settings=STAGES, batch=classes()),
    "resnet": Tiny(
        name="ResNetForImageClassification",
        settings=STAGES | {"embedding_size": 8, "layer_type": "basic"},
        batch=classes(64),
    ),
    "resnet_bottleneck": Tiny(name="ResNetForImageClassification", settings=STAGES | {"embedding_size": 8}, batch=classes(64)),
    "regnet": Tiny(
        name="RegNetForImageClassification", settings=STAGES | {"embedding_size": 8, "groups_width": 4}, batch=classes(64)
    ),
    "mobilenetv1": Tiny(
        name="MobileNetV1ForImageClassification",
        settings={"depth_multiplier": 0.25, "min_depth": 4, "num_labels": CLASSES},
        batch=classes(64),
    ),
    "mobilenetv2": Tiny(
        name="MobileNetV2ForImageClassification",
        settings={"depth_multiplier": 0.25, "min_depth": 4, "depth_divisible_by": 4, "num_labels": CLASSES},
        batch=classes(64),
    ),
    "efficientnet": Tiny(
        name="EfficientNetForImageClassification",
        settings={
            "image_size": 32,
            "width_coefficient": 0.5,
            "depth_coefficient": 0.5,
            "in_channels": [32, 16, 24],
            "out_channels": [16, 24, 32],
            "kernel_sizes": [3, 3, 3],
            "strides": [1, 2, 2],
            "num_block_repeats": [1, 1, 2],
            "expand_ratios": [1, 6, 6],
            "depthwise_padding": [],
            "hidden_dim": 640,
            "num_labels": CLASSES,
        },
        batch=classes(32),
    ),
    "mobilevit": Tiny(
        name="MobileViTForImageClassification",
        settings={
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
            "num_attention_heads": 2,
            "num_labels": CLASSES,
        },
        batch=classes(64),
    ),
    "poolformer": Tiny(name="PoolFormerForImageClassification", settings=STAGES, batch=classes(64)),
    "segformer": Tiny(
        name="SegformerForSemanticSegmentation",
        settings=STAGES | {"num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
        batch=regions,
    ),
    "levit": Tiny(
        name="LevitForImageClassification",
        settings={
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "num_labels": CLASSES,
        },
        batch=classes(64),
    ),
    "cvt": Tiny(
        name="CvtForImageClassification",
        settings={"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "num_labels": CLASSES},
        batch=classes(64),
    ),
    "pvt": Tiny(
        name="PvtForImageClassification",
        settings=STAGES
        | {"image_size": 32, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "patch_sizes": [4, 2, 2, 2]},
        batch=classes(),
    ),
    "hiera": Tiny(
        name="HieraForImageClassification",
        settings={
            "embed_dim": 8,
            "image_size": [64, 64],
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 1, 2, 2],
            "num_labels": CLASSES,
        },
        batch=classes(64),
    ),
}
