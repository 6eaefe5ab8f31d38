"""Every layer and every loss of ``torch.nn``, each with inputs that suit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.cases.case import Case, Checked

__all__ = ["LAYERS", "LOSSES", "layer_cases", "loss_cases", "uncovered"]

Maker = Callable[[], Any]


def normal(*shape: int) -> Maker:
    return lambda: (torch.randn(*shape),)


def positive(*shape: int) -> Maker:
    return lambda: (torch.rand(*shape) + 0.1,)


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape)


PLAIN = normal(4, 6)
SEQUENCE = normal(2, 4, 8)
IMAGE = normal(2, 4, 6, 6)
VOLUME = normal(2, 2, 4, 4, 4)


class LogSoftmaxCTC(nn.CTCLoss):
    """With the log_softmax inside: torch's gradient by log-probabilities holds only for normalised ones."""

    def forward(self, logits: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return super().forward(logits.log_softmax(-1), *others)


ACTIVATIONS = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "RReLU",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Identity",
]

LAYERS: dict[str, tuple[Maker, Maker]] = {
    # name: the layer, its inputs
    **{name: (getattr(nn, name), PLAIN) for name in ACTIVATIONS},
    "Threshold": (lambda: nn.Threshold(0.1, 2.0), PLAIN),
    "Softmax": (lambda: nn.Softmax(-1), PLAIN),
    "Softmin": (lambda: nn.Softmin(-1), PLAIN),
    "Softmax2d": (nn.Softmax2d, IMAGE),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), PLAIN),
    "Linear": (lambda: nn.Linear(6, 5), PLAIN),
    "Linear without bias": (lambda: nn.Linear(6, 5, bias=False), normal(2, 3, 6)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), lambda: (torch.randn(2, 3), torch.randn(2, 4))),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), SEQUENCE),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGE),
    "Conv2d grouped": (lambda: nn.Conv2d(4, 8, 3, groups=4, dilation=2), IMAGE),
    "Conv2d circular": (lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), IMAGE),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), VOLUME),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 2, 3), SEQUENCE),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1), IMAGE),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 2, 2), VOLUME),
    "Unfold": (lambda: nn.Unfold(2), IMAGE),
    "Fold": (lambda: nn.Fold((4, 4), 2, stride=2), normal(2, 12, 4)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), SEQUENCE),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, stride=2), IMAGE),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), VOLUME),
    "MaxUnpool1d": (lambda: nn.MaxUnpool1d(2), lambda: (torch.randn(2, 4, 4), torch.arange(0, 8, 2).expand(2, 4, 4))),
    "MaxUnpool2d": (
        lambda: nn.MaxUnpool2d(2),
        lambda: (torch.randn(1, 2, 2, 2), torch.tensor([[0, 2], [8, 10]]).expand(1, 2, 2, 2)),
    ),
    "MaxUnpool3d": (
        lambda: nn.MaxUnpool3d(2),
        lambda: (torch.randn(1, 1, 1, 1, 2), torch.tensor([0, 2]).reshape(1, 1, 1, 1, 2)),
    ),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), SEQUENCE),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, padding=1), IMAGE),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), VOLUME),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_size=3), IMAGE),
    "FractionalMaxPool3d": (lambda: nn.FractionalMaxPool3d(2, output_size=2), VOLUME),
    "LPPool1d": (lambda: nn.LPPool1d(2, 2), SEQUENCE),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), IMAGE),
    "LPPool3d": (lambda: nn.LPPool3d(2, 2), VOLUME),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(3), SEQUENCE),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), IMAGE),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d(2), VOLUME),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), SEQUENCE),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), IMAGE),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d(2), VOLUME),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), normal(8, 6)),
    "BatchNorm1d without affine": (lambda: nn.BatchNorm1d(6, affine=False), normal(8, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), IMAGE),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), VOLUME),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), SEQUENCE),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(2), VOLUME),
    "LayerNorm": (lambda: nn.LayerNorm(8), SEQUENCE),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "RMSNorm": (lambda: nn.RMSNorm(8), SEQUENCE),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), IMAGE),
    # torch's own gradient is right only for odd sizes and few channels (its forward tests c > pre_pad for c >= pre_pad).
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(7), normal(2, 3, 4, 4)),
    "Dropout": (lambda: nn.Dropout(0.3), PLAIN),
    "Dropout1d": (lambda: nn.Dropout1d(0.3), SEQUENCE),
    "Dropout2d": (lambda: nn.Dropout2d(0.3), IMAGE),
    "Dropout3d": (lambda: nn.Dropout3d(0.3), VOLUME),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.3), PLAIN),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.3), IMAGE),
    "Embedding": (lambda: nn.Embedding(7, 3, padding_idx=0), lambda: (integers(7, 2, 5),)),
    "Embedding sparse": (lambda: nn.Embedding(7, 3, sparse=True), lambda: (integers(7, 2, 5),)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 3), lambda: (integers(7, 2, 5),)),
    "EmbeddingBag max": (lambda: nn.EmbeddingBag(7, 3, mode="max"), lambda: (integers(7, 2, 5),)),
    "RNN": (lambda: nn.RNN(8, 5), SEQUENCE),
    "RNN relu": (lambda: nn.RNN(8, 5, nonlinearity="relu", num_layers=2), SEQUENCE),
    "LSTM": (lambda: nn.LSTM(8, 5, num_layers=2, dropout=0.3, batch_first=True), SEQUENCE),
    "LSTM bidirectional": (lambda: nn.LSTM(8, 5, bidirectional=True, proj_size=3), SEQUENCE),
    "GRU": (lambda: nn.GRU(8, 5), SEQUENCE),
    "RNNCell": (lambda: nn.RNNCell(6, 5), PLAIN),
    "LSTMCell": (lambda: nn.LSTMCell(6, 5), PLAIN),
    "GRUCell": (lambda: nn.GRUCell(6, 5), PLAIN),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, dropout=0.1), lambda: (torch.randn(4, 2, 8),) * 3),
    "MultiheadAttention with bias_kv": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        lambda: (torch.randn(2, 4, 8), torch.randn(2, 3, 8), torch.randn(2, 3, 8)),
    ),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1), SEQUENCE),
    "TransformerEncoderLayer norm first": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, activation="gelu", batch_first=True),
        SEQUENCE,
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16),
        lambda: (torch.randn(3, 2, 8), torch.randn(4, 2, 8)),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False),
        SEQUENCE,
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2),
        lambda: (torch.randn(3, 2, 8), torch.randn(4, 2, 8)),
    ),
    "Transformer": (
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        lambda: (torch.randn(2, 3, 8), torch.randn(2, 4, 8)),
    ),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(1, 2.0), SEQUENCE),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 2.0), IMAGE),
    "ConstantPad3d": (lambda: nn.ConstantPad3d(1, 2.0), VOLUME),
    "ZeroPad1d": (lambda: nn.ZeroPad1d(1), SEQUENCE),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, 0, 2, 1)), IMAGE),
    "ZeroPad3d": (lambda: nn.ZeroPad3d(1), VOLUME),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d(2), SEQUENCE),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(2), IMAGE),
    "ReflectionPad3d": (lambda: nn.ReflectionPad3d(1), VOLUME),
    "ReplicationPad1d": (lambda: nn.ReplicationPad1d(2), SEQUENCE),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(2), IMAGE),
    "ReplicationPad3d": (lambda: nn.ReplicationPad3d(1), VOLUME),
    "CircularPad1d": (lambda: nn.CircularPad1d(2), SEQUENCE),
    "CircularPad2d": (lambda: nn.CircularPad2d(2), IMAGE),
    "CircularPad3d": (lambda: nn.CircularPad3d(1), VOLUME),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), IMAGE),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGE),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), IMAGE),
    "Upsample bicubic": (lambda: nn.Upsample(size=9, mode="bicubic", align_corners=True), IMAGE),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), IMAGE),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
    "Flatten": (nn.Flatten, IMAGE),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 3)), PLAIN),
    "CosineSimilarity": (nn.CosineSimilarity, lambda: (torch.randn(4, 6), torch.randn(4, 6))),
    "PairwiseDistance": (nn.PairwiseDistance, lambda: (torch.randn(4, 6), torch.randn(4, 6))),
    "Sequential": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), PLAIN),
    "Sequential with weight_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh()),
        PLAIN,
    ),
    "Sequential with spectral_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Tanh()),
        PLAIN,
    ),
    "Sequential with orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), PLAIN),
}

MODES = ("Dropout", "BatchNorm", "InstanceNorm", "RReLU", "LSTM", "Transformer", "Multihead", "spectral", "Fractional")
"""Layers that differ between training and evaluation."""

LOSSES: dict[str, tuple[Maker, Callable[[], tuple[Any, ...]]]] = {
    # name: the loss, its inputs: those that it is differentiated by, then labels
    "L1Loss": (nn.L1Loss, lambda: (torch.randn(4, 3), torch.randn(4, 3))),
    "MSELoss": (nn.MSELoss, lambda: (torch.randn(4, 3), torch.randn(4, 3))),
    "CrossEntropyLoss": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), lambda: (torch.randn(4, 3), integers(3, 4))),
    "CrossEntropyLoss with ignored and weighted": (
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=0),
        lambda: (torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])),
    ),
    "CrossEntropyLoss with probabilities": (nn.CrossEntropyLoss, lambda: (torch.randn(4, 3), torch.rand(4, 3).softmax(-1))),
    "CTCLoss": (
        LogSoftmaxCTC,
        lambda: (torch.randn(8, 2, 5), torch.randint(1, 5, (2, 3)), torch.tensor([8, 7]), torch.tensor([3, 2])),
    ),
    "NLLLoss": (nn.NLLLoss, lambda: (torch.randn(4, 3).log_softmax(-1), integers(3, 4))),
    "NLLLoss2d": (nn.NLLLoss, lambda: (torch.randn(2, 3, 4, 4).log_softmax(1), integers(3, 2, 4, 4))),
    "PoissonNLLLoss": (lambda: nn.PoissonNLLLoss(full=True), lambda: (torch.randn(4, 3), torch.rand(4, 3) * 5)),
    "GaussianNLLLoss": (nn.GaussianNLLLoss, lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.rand(4, 3) + 0.5)),
    "KLDivLoss": (
        lambda: nn.KLDivLoss(reduction="batchmean"),
        lambda: (torch.randn(4, 3).log_softmax(-1), torch.randn(4, 3).softmax(-1)),
    ),
    "BCELoss": (nn.BCELoss, lambda: (torch.rand(4, 3) * 0.9 + 0.05, torch.rand(4, 3).round())),
    "BCEWithLogitsLoss": (
        lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])),
        lambda: (torch.randn(4, 3), torch.rand(4, 3).round()),
    ),
    "MarginRankingLoss": (
        lambda: nn.MarginRankingLoss(0.1),
        lambda: (torch.randn(6), torch.randn(6), torch.tensor([1, -1, 1, 1, -1, 1])),
    ),
    "HingeEmbeddingLoss": (nn.HingeEmbeddingLoss, lambda: (torch.rand(6) * 2, torch.tensor([1, -1, 1, 1, -1, 1]))),
    "MultiLabelMarginLoss": (
        nn.MultiLabelMarginLoss,
        lambda: (torch.randn(2, 4), torch.tensor([[3, 0, -1, 1], [1, -1, 2, 0]])),
    ),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.7), lambda: (torch.randn(4, 3), torch.randn(4, 3))),
    "SmoothL1Loss": (nn.SmoothL1Loss, lambda: (torch.randn(4, 3), torch.randn(4, 3))),
    "SoftMarginLoss": (nn.SoftMarginLoss, lambda: (torch.randn(4, 3), torch.randn(4, 3).sign())),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, lambda: (torch.randn(4, 3), torch.rand(4, 3).round())),
    "CosineEmbeddingLoss": (
        nn.CosineEmbeddingLoss,
        lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.tensor([1, -1, 1, -1])),
    ),
    "MultiMarginLoss": (nn.MultiMarginLoss, lambda: (torch.randn(4, 3), integers(3, 4))),
    "TripletMarginLoss": (nn.TripletMarginLoss, lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3))),
    "TripletMarginWithDistanceLoss": (
        nn.TripletMarginWithDistanceLoss,
        lambda: (torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)),
    ),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 6], div_value=2.0),
        lambda: (torch.randn(5, 8), integers(10, 5)),
    ),
    "LinearCrossEntropyLoss": (
        lambda: nn.LinearCrossEntropyLoss(6, 5),
        lambda: (torch.randn(4, 6), integers(5, 4)),
    ),
}

CONTAINERS = {
    "Module",
    "Container",
    "ModuleList",
    "ModuleDict",
    "ParameterList",
    "ParameterDict",
    "DataParallel",
    "Parameter",
    "UninitializedParameter",
    "UninitializedBuffer",
    "Buffer",
    "RNNBase",
    "RNNCellBase",
    "SyncBatchNorm",  # refuses the CPU
}


def uncovered() -> list[str]:
    """The classes of ``torch.nn`` that no row names; lazy ones become their plain twins when they are called."""
    names = [n for n, c in vars(nn).items() if isinstance(c, type) and issubclass(c, nn.Module) and not n.startswith("Lazy")]
    rows = {row.partition(" ")[0] for row in (*LAYERS, *LOSSES)}
    return sorted(set(names) - rows - CONTAINERS)


def layer_cases() -> Iterator[Case]:
    """Every layer in float64 and float32, in training mode; in evaluation mode too where that differs."""
    for row, (name, (layer, inputs)) in enumerate(LAYERS.items()):
        for dtype in (torch.float64, torch.float32):
            for training in (True, False) if any(word in name for word in MODES) else (True,):
                label = f"{name}, {str(dtype).removeprefix('torch.')}{'' if training else ', eval'}"
                yield Case(label, _layer(layer, inputs, dtype, training), seed=row)


def loss_cases() -> Iterator[Case]:
    """Every loss in float64 and float32."""
    for row, (name, (loss, inputs)) in enumerate(LOSSES.items()):
        for dtype in (torch.float64, torch.float32):
            yield Case(f"{name}, {str(dtype).removeprefix('torch.')}", _layer(loss, inputs, dtype, True, first=True), seed=row)


def _layer(layer: Maker, inputs: Maker, dtype: torch.dtype, training: bool, *, first: bool = False) -> Callable[[], Checked]:
    def make() -> Checked:
        module = layer().to(dtype).train(training)
        made = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs())
        for i, x in enumerate(made):
            if x.is_floating_point() and (i == 0 or not first):
                x.requires_grad_()
        return Checked(module, made)

    return make
