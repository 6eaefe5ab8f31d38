"""What stands between the loss and the last weights, read from the autograd graph of a loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from gradguard.adapters.observing_base import LossFacts
from gradguard.adapters.torch_cosines import cosines
from gradguard.adapters.torch_likelihoods import Prediction, likelihood_of, margin_zeros, weighed_softmax
from gradguard.adapters.torch_tape import axis_of, kind_of, parents, saved, shape

__all__ = ["Prediction", "losses_of", "predictions_of"]

SHAPE_ONLY = {
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "T",
    "Transpose",
    "Permute",
    "Clone",
    "ToCopy",
    "Slice",
    "Select",
    "Alias",
    "Index",
    "Expand",
    "Unbind",
    "Split",
    "Contiguous",
    "MaskedSelect",
}
WEIGHTED = {
    "Addmm",
    "Mm",
    "Bmm",
    "Baddbmm",
    "Convolution",
    "Linear",
    "AccumulateGrad",
    "Embedding",
    "NativeLayerNorm",
    "FusedRmsNorm",
    "NativeBatchNorm",
    "CudnnBatchNorm",
    "NativeGroupNorm",
    "Dot",
    "Mv",
    "Addmv",
    "Addbmm",
    "MkldnnLinear",
    "Einsum",
}
NEAR_WEIGHTS = 5
"""Nodes (a transposition, a change of type) between a product and the weights that it multiplies with."""
LOSSES = {
    "NllLoss": "nll",
    "NllLoss2D": "nll",
    "BinaryCrossEntropy": "bce",
    "BinaryCrossEntropyWithLogits": "bce_logits",
    "MseLoss": "mse",
    "SmoothL1Loss": "absolute",
    "HuberLoss": "absolute",
    "KlDiv": "kl",
}
UNARY = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Threshold": "relu",
    "HardtanhBackward": "hardtanh",
    "Hardtanh": "hardtanh",
    "Clamp": "clamp",
    "ClampMin": "clamp_min",
    "Log": "log",
    "Softplus": "softplus",
    "Exp": "exp",
    "LeakyRelu": "leaky_relu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Hardsigmoid": "hardsigmoid",
}


def walk(loss: torch.Tensor, limit: int = 400) -> Iterator[Any]:
    """The nodes between the loss and the first ones with weights, breadth first."""
    queue: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while queue and len(seen) < limit:
        node = queue.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if kind_of(node) not in WEIGHTED:
            queue.extend(parents(node))


def chain_above(node: Any, limit: int = 30) -> tuple[tuple[str, ...], bool, bool]:
    """The unary operations above a loss node; whether a softmax among them has one unit, or runs over the batch.

    A clamp into a part of 0..1 of what the last weights made themselves is called ``raw_clamp``; weights and features of
    length 1 are ``cosine``.
    """
    chain: list[str] = []
    single = batch_axis = False
    after_log = kind_of(node) == "Log"
    for _ in range(limit):
        above = parents(node)
        if not above:
            break
        node = above[0]
        kind = kind_of(node)
        if kind in SHAPE_ONLY or kind.startswith(("Split", "Squeeze")):
            continue
        if kind == "Add" and after_log and not chain and len(parents(node)) == 1:
            continue  # log(p + 1e-8)
        if kind not in UNARY:
            if chain and chain[-1] == "probability" and kind in WEIGHTED:
                chain[-1] = "raw_clamp"
            if cosines(node):
                chain.append("cosine")
            break
        chain.append(clamp_of(node) if kind in ("Clamp", "ClampMin") else UNARY[kind])
        if kind in ("Softmax", "LogSoftmax"):
            here, dim = shape(node), axis_of(node)
            if here and dim is not None:
                single = single or here[dim] == 1
                batch_axis = batch_axis or (len(here) == 2 and dim in (0, -2) and here[0] > 1)
    return tuple("clamp" if name == "probability" else name for name in chain), single, batch_axis


def clamp_of(node: Any) -> str:
    """``probability`` for a clamp between two numbers in 0..1, ``clamp_min`` for one from 0 upwards, ``clamp`` for others."""
    low, high = saved(node, "min"), saved(node, "max")
    if not isinstance(low, int | float):
        return "clamp"
    if high is None:
        return "clamp_min" if low == 0 else "clamp"
    return "probability" if isinstance(high, int | float) and 0 <= low < high <= 1 else "clamp"


def broadcast_of(node: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes (prediction, result) where a difference stretched (N, 1) against (N,) to (N, N); empty where not."""
    result = shape(node)
    edges = [(parent, index) for parent, index in node.next_functions if parent is not None]
    if result is None or len(result) < 2 or len(edges) != 1 or result[-1] != result[-2] or result[-1] < 2:
        return ()
    given = shape(*edges[0])
    n = result[-1]
    if given is not None and given in ((n, 1), (n,)) and len(result) == 2:
        return (given, result)
    return ()


def divergence(chain: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The kind and what comes before it: a KL divergence of log_softmax is a cross-entropy of its argument (and a constant)."""
    if chain[:1] == ("log_softmax",) and len(chain) > 1:
        return "cross_entropy", chain[1:]
    return "kl", chain


def stretched_product(node: Any) -> tuple[tuple[int, ...], ...]:
    """The same for a product with labels; a matrix of weights for all pairs (an adjacency, a mask) is meant."""
    found = broadcast_of(node)
    if not found:
        return ()
    data = saved(node, "other") if node.next_functions[0][0] is not None else saved(node, "self")
    n = found[1][-1]
    fits = isinstance(data, torch.Tensor) and tuple(data.shape) in ((n, 1), (n,)) and tuple(data.shape) != found[0]
    return found if fits else ()


def losses_of(loss: torch.Tensor) -> tuple[LossFacts, ...]:
    """The elementary losses that a loss is made of; none where it has no graph."""
    found: list[LossFacts] = []
    paired: set[int] = set()
    for node in walk(loss):
        kind = kind_of(node)
        if kind == "Mul":
            paired.update(pairs(node))
        if kind in LOSSES:
            chain, single, batch_axis = chain_above(node)
            name = LOSSES[kind]
            if name == "nll" and chain and chain[0] == "log_softmax":
                name = "cross_entropy"
                chain = chain[1:]
            if name == "nll" and chain[:2] == ("log", "softmax"):
                name, chain = "cross_entropy", chain[2:]
            if name == "kl":
                name, chain = divergence(chain)
            above = shape(*next((p, i) for p, i in node.next_functions if p is not None)) if parents(node) else None
            stretched = next((broadcast_of(p) for p in parents(node) if kind_of(p) == "Expand" and broadcast_of(p)), ())
            stretched = stretched or (broadcast_of(node) if name in ("mse", "absolute") else ())
            found.append(
                LossFacts(
                    kind=name,
                    chain=chain,
                    single=single,
                    batch_axis=batch_axis,
                    broadcast=stretched,
                    classes=above[1] if above is not None and len(above) > 1 and name in ("nll", "cross_entropy") else None,
                )
            )
        elif kind in ("LogSoftmax", "Log") and not any(f.kind in ("cross_entropy", "nll", "kl") for f in found):
            chain, single, batch_axis = chain_above(node)
            direct = len(parents(node)) == 1 and kind_of(parents(node)[0]) != "Add"
            logged = ("softmax", "sigmoid", "clamp", "clamp_min", "raw_clamp", "relu", *(("tanh",) if direct else ()))
            if kind == "LogSoftmax" or (chain and chain[0] in logged):
                name = "cross_entropy" if kind == "LogSoftmax" else "log"
                here, dim = shape(node), axis_of(node) if kind == "LogSoftmax" else None
                if here and dim is not None:
                    single = single or here[dim] == 1
                    batch_axis = batch_axis or (len(here) == 2 and dim in (0, -2) and here[0] > 1)
                if name == "log" and chain and chain[0].startswith("clamp"):
                    chain = chain[1:]
                if name == "log" and chain and chain[0] == "softmax":
                    name, chain = "cross_entropy", chain[1:]
                found.append(LossFacts(kind=name, chain=chain, single=single, batch_axis=batch_axis))
        elif margin_zeros(node) > 0:
            found.append(LossFacts(kind="margin", chain=(), zeros=margin_zeros(node)))
        elif weighed_softmax(node) is not None:
            chain, single, batch_axis = chain_above(weighed_softmax(node))
            name, chain = divergence(chain)
            found.append(LossFacts(kind=name, chain=chain, single=single, batch_axis=batch_axis))
        elif kind == "Mul" and stretched_product(node):
            found.append(LossFacts(kind="difference", chain=(), broadcast=stretched_product(node)))
        elif kind in ("Sub", "Rsub", "Expand"):
            stretched = broadcast_of(node)
            chain, single, _ = chain_above(node)
            children_power = kind != "Expand"
            if children_power or stretched:
                found.append(LossFacts(kind="difference", chain=chain, single=single, broadcast=stretched))
    return tuple(replace(f, broadcast=()) if f.broadcast and f.broadcast[1][-1] in paired else f for f in found)


def pairs(product: Any) -> set[int]:
    """N where data of shape (N, N), one number for each pair of samples, weighs what is multiplied: all pairs are meant."""
    data = saved(product, "other") if product.next_functions[0][0] is not None else saved(product, "self")
    known = isinstance(data, torch.Tensor) and not data.requires_grad and data.ndim == 2 and data.shape[0] == data.shape[1]
    return {int(data.shape[0])} if known and all(data.stride()) else set()


def shared(product: Any) -> bool:
    """Whether a product is a square: both factors are one tensor."""
    one, other = saved(product, "self"), saved(product, "other")
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.data_ptr() == other.data_ptr()


def made_of(node: Any, output: torch.Tensor, limit: int = 10) -> bool:
    """Whether a node is the one that made the output, or only reshapes it."""
    for _ in range(limit):
        if node is output.grad_fn:
            return True
        above = parents(node)
        if len(above) != 1 or not (kind_of(node) in SHAPE_ONLY or kind_of(node).startswith(("Split", "Squeeze"))):
            return False
        node = above[0]
    return False


def own_weights(node: Any, classes: int, limit: int = 400) -> bool:
    """Whether the last weights before a loss have an axis of as many places as there are classes."""
    queue: list[tuple[Any, int]] = [(node, 0)]
    seen: set[Any] = set()
    while queue and len(seen) < limit:
        here, below = queue.pop(0)
        if here in seen:
            continue
        seen.add(here)
        if hasattr(here, "variable") and classes in here.variable.shape:
            return True
        if below or kind_of(here) in WEIGHTED:
            below += 1
        if below < NEAR_WEIGHTS:
            queue.extend((parent, below) for parent in parents(here))
    return False


def predictions_of(loss: torch.Tensor, output: torch.Tensor | None = None) -> Prediction | None:
    """Predictions and labels of the first elementary loss that saved them (before backward frees them).

    A hand-written ``(p - y)**2`` or ``abs`` saved the difference only: with the model's ``output`` of that shape, the
    labels are what is left.
    """
    for node in walk(loss):
        kind = kind_of(node)
        if kind in LOSSES:
            predicted, labels = saved(node, "self"), saved(node, "target")
            if isinstance(predicted, torch.Tensor) and isinstance(labels, torch.Tensor):
                own = LOSSES[kind] != "nll" or predicted.ndim < 2 or own_weights(node, predicted.shape[1])
                return Prediction(LOSSES[kind], predicted.detach(), labels.detach(), own, node)
        elif kind in ("Pow", "Abs", "Mul") and output is not None:
            difference = saved(node, "self")
            subtraction = next((p for p in parents(node) if kind_of(p) in ("Sub", "Rsub")), None)
            if subtraction is None or not isinstance(difference, torch.Tensor) or difference.shape != output.shape:
                continue
            edges = [i for i, (parent, _) in enumerate(subtraction.next_functions) if parent is not None]
            squared = kind != "Mul" or shared(node)
            if len(edges) == 1 and squared and output.is_floating_point() and made_of(parents(subtraction)[0], output):
                sign = 1.0 if edges[0] == 0 else -1.0
                labels = output.detach() - sign * difference.detach()
                return Prediction("absolute" if kind == "Abs" else "mse", output.detach(), labels, node=node)
    return likelihood_of(loss)
