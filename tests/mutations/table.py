"""Published gradient bugs, re-created as wrong/right pairs, each with what the report must say.

The numbers are those of the project's list; a letter marks a second form of the same bug.
"""

from __future__ import annotations

from tests.mutations import functions as fn
from tests.mutations import models, numpy_models
from tests.mutations.mutation import Mutation

__all__ = ["MUTATIONS"]

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(number="1", bug="backward returns d instead of g * d", reference="pytorch#4355", make=fn.dropped_cotangent,
             rules=("GG101", "GG106"), block="tensors*"),
    Mutation(number="2", bug="some terms are not multiplied by g", reference="pytorch#11750", make=fn.swish,
             rules=("GG101", "GG106"), block="tensors*"),
    Mutation(number="3", bug="the storage of g is read as contiguous", reference="pytorch#708", make=fn.storage_order,
             rules=("GG107",)),
    Mutation(number="3a", bug="the same, in front of a transposition", reference="pytorch#708",
             make=fn.storage_order_transposed, rules=("GG101", "GG107"), block="tensors*"),
    Mutation(number="4", bug="GroupNorm: weight gradient wrong in channels_last only", reference="pytorch#140913",
             make=models.channels_last_norm, rules=("GG101", "GG107"), block="weight", left_alone=("bias",)),
    Mutation(number="5", bug="bias gradient not summed over the batch: only the first sample's", reference="mlpack#3679",
             make=models.bias_first_sample, block="0.bias", left_alone=("0.weight", "2.*")),
    Mutation(number="5a", bug="bias gradient of shape (B, n), which autograd reduces", reference="mlpack#3679",
             make=models.bias_unsummed, rules=("GG112",), block="0.bias"),
    Mutation(number="5b", bug="NumPy: db of shape (n, B)", reference="mlpack#3679", make=numpy_models.bias_shape,
             refused="grad returned shape (7, 8) for params.b1, whose shape is (7, 1)"),
    Mutation(number="6", bug="the gradient of a broadcast operand is g[0]", reference="jax#3056",
             make=models.unbroadcast_first, block="row", left_alone=("x",)),
    Mutation(number="6a", bug="it is not reduced, and autograd does it", reference="jax#3056",
             make=models.unbroadcast_unsummed, rules=("GG112",), block="row"),
    Mutation(number="6b", bug="NumPy: it is not reduced", reference="jax#3056", make=numpy_models.broadcast_shape,
             refused="vjp returned shape (8, 5) for row, whose shape is (5,)"),
    Mutation(number="7", bug="gather overwrites instead of adding at repeated indices", reference="pytorch#1631",
             make=fn.gather, block="tensors*"),
    Mutation(number="8", bug="the last partial block is dropped", reference="FlagGems#898", make=fn.partial_block,
             block="tensors*"),
    Mutation(number="9", bug="grouped heads mapped h % G instead of h // G", reference="native-sparse-attention-triton#27",
             make=fn.grouped_heads, block="tensors[[]1]", left_alone=("tensors[[]0]",)),
    Mutation(number="10", bug="cumprod divides by x: NaN at zeros", reference="TensorFlow#3862", make=fn.cumprod,
             rules=("GG102",), block="tensors*"),
    Mutation(number="11", bug="norm at 0: NaN", reference="pytorch#2421", make=fn.norm, rules=("GG102",), block="tensors*"),
    Mutation(number="12", bug="where: NaN from the branch that is not taken", reference="jax#347",
             make=fn.untaken_branch, rules=("GG102",), block="x"),
    Mutation(number="13", bug="BCE with logits: 0 instead of 0.5 - t at x = 0", reference="pytorch#2298",
             make=fn.bce_with_logits, rules=("GG101", "GG103"), block="x"),
    Mutation(number="14", bug="two branches of a where are swapped", reference="pytorch#59615", make=fn.swapped_branches,
             block="tensors*"),
    Mutation(number="15", bug="dropout recomputed with another mask in backward", reference="guided-diffusion#167",
             make=models.other_mask, rules=("GG101", "GG104"), peers=False),
    Mutation(number="16", bug="backward writes into saved tensors: the second backward is wrong",
             reference="Liger-Kernel#254", make=models.saved_overwritten, rules=("GG108",)),
    Mutation(number="17", bug="RMSNorm: the weight gradient is None", reference="unsloth#4533",
             make=models.no_weight_gradient, rules=("GG105",), block="1.weight", left_alone=("0.*", "2.*")),
    Mutation(number="18", bug=".detach() inside a recurrence after the first step", reference="pytorch#184528",
             make=models.detached_recurrence, rules=("GG113",), block="cell.*", says=("models.py",), severity="any"),
    Mutation(number="19", bug="wrong only under double backward: a saved intermediate is detached",
             reference="pytorch#104040", make=models.detached_intermediate, rules=("GG109",)),
    Mutation(number="20", bug="right in float64, overflow to NaN in float16", reference="fairseq#2235", make=fn.softplus,
             rules=("GG111",), block="tensors*", peers=False),
    Mutation(number="21", bug="mean of micro-batch means instead of the token mean", reference="transformers#34191",
             make=numpy_models.mean_of_means, block="weight"),
    Mutation(number="22", bug="the textbook loop: delta times the slope after its use", reference="a popular explanation",
             make=numpy_models.textbook, block="params.W1", left_alone=("params.W3", "params.b3")),
    Mutation(number="22a", bug="the textbook loop: db not summed over the batch, only the first sample's",
             reference="a popular explanation", make=numpy_models.textbook_bias, block="params.b1",
             left_alone=("params.W1", "params.W2", "params.W3")),
)
