"""NumPy callables behind the seam: values, slopes, what is left out, and what is refused."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from gradguard import Scenario, UsageError
from gradguard.adapters.base import Differentiable, Entrywise
from gradguard.adapters.numpy_adapt import adapt_numpy, adapt_numpy_scenario
from gradguard.adapters.numpy_problem import NumpyProblem
from gradguard.blocks import Entries, Tangent

RNG = np.random.default_rng(20)
X, Y = RNG.normal(size=(5, 3)), RNG.integers(0, 4, 5)
PARAMS = {"W": RNG.normal(size=(4, 3)), "b": RNG.normal(size=4)}
Z = RNG.normal(size=6) + 1j * RNG.normal(size=6)


def softmax(params: dict[str, Any], x: Any) -> Any:
    z = x @ params["W"].T + params["b"]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
    return -np.log(softmax(params, x)[np.arange(len(y)), y]).mean()


def grad(params: dict[str, Any], x: Any, y: Any) -> Any:
    delta = softmax(params, x)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    return {"W": delta.T @ x, "b": delta.sum(axis=0)}


def both(params: dict[str, Any], x: Any, y: Any) -> Any:
    delta = softmax(params, x)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    return grad(params, x, y), delta @ params["W"]


def everywhere(problem: NumpyProblem, seed: int = 3) -> Tangent:
    return Tangent(seed=seed, scales=dict.fromkeys(range(len(problem.blocks)), 1.0))


def central(problem: NumpyProblem, tangent: Tangent, h: float = 2.0**-14) -> float:
    """An independent oracle: one fixed central difference with Richardson's extrapolation."""
    v = problem.values([tangent], np.array([h, -h, h / 2, -h / 2]))[0]
    return float((4 * (v[2] - v[3]) / h - (v[0] - v[1]) / (2 * h)) / 3)


def agrees(problem: NumpyProblem, *, relative: float = 1e-8) -> bool:
    tangent = everywhere(problem)
    share = problem.slopes([tangent])
    return abs(share.sum() - central(problem, tangent)) <= relative * np.abs(share).sum() + 1e-12


RIGHT = {
    "params only": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=grad),
    "params and input": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=both),
    "tuple with None": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: (grad(p, x, y), None, None)),
    "by input names": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: {"params": grad(p, x, y)}),
    "keywords": lambda: adapt_numpy(loss, {"params": PARAMS, "x": X, "y": Y}, grad=grad),
    "wrt one input": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: both(p, x, y)[1], wrt="x"),
    "wrt one block": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: {"b": grad(p, x, y)["b"]}, wrt="params.b"),
    "wrt a container": lambda: adapt_numpy(loss, (PARAMS, X, Y), grad=grad, wrt="params"),
    "kwargs": lambda: adapt_numpy(loss, (PARAMS,), grad=grad, kwargs={"x": X, "y": Y}),
    "two arrays": lambda: adapt_numpy(lambda a, b: (a * b).sum(), (X, X + 1), grad=lambda a, b: (b, a)),
    "list of layers": lambda: adapt_numpy(
        lambda ws: np.sum((ws[0] @ ws[1]) ** 2) / 2, [X.T, X],
        grad=lambda ws: [(ws[0] @ ws[1]) @ ws[1].T, ws[0].T @ (ws[0] @ ws[1])],
    ),
    "python float": lambda: adapt_numpy(lambda x: math.sin(x), 0.7, grad=lambda x: math.cos(x)),
    "size one": lambda: adapt_numpy(lambda x: (x**2).sum(keepdims=True), X, grad=lambda x: 2 * x),
    "vjp": lambda: adapt_numpy(lambda x, w: np.tanh(x @ w), (X, X.T), vjp=lambda g, x, w: (
        (g * (1 - np.tanh(x @ w) ** 2)) @ w.T, x.T @ (g * (1 - np.tanh(x @ w) ** 2)))),
    "vjp of a nested output": lambda: adapt_numpy(
        lambda x: {"a": np.sin(x), "n": 3, "b": [x**2]}, X, vjp=lambda g, x: g["a"] * np.cos(x) + g["b"][0] * 2 * x
    ),
    "complex": lambda: adapt_numpy(lambda z: np.sum(np.abs(z) ** 2), Z, grad=lambda z: 2 * z),
    "complex output": lambda: adapt_numpy(lambda z: z**2, Z, vjp=lambda g, z: g * np.conj(2 * z)),
    "real to complex": lambda: adapt_numpy(
        lambda x: np.exp(1j * x), X, vjp=lambda g, x: np.real(np.conj(g) * 1j * np.exp(1j * x))
    ),
    "float32": lambda: adapt_numpy(lambda x: np.sum(x**3), X.astype(np.float32), grad=lambda x: 3 * x**2),
    "not contiguous": lambda: adapt_numpy(lambda x: np.sum(x**3), X.T[::2], grad=lambda x: 3 * x**2),
    "expanded": lambda: adapt_numpy(lambda x: np.sum(x**3), np.broadcast_to(X[:1], X.shape), grad=lambda x: 3 * x**2),
    "zero size": lambda: adapt_numpy(lambda x, y: np.sum(x) + np.sum(y**2), (X[:0], X), grad=lambda x, y: (x, 2 * y)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_slopes_agree_with_differences_of_values(name: str) -> None:
    problem = RIGHT[name]()
    assert isinstance(problem, Differentiable)
    assert isinstance(problem, Entrywise)
    assert agrees(problem)
    identity = problem.identity()
    assert identity.value_difference == identity.gradient_difference == 0


def test_blocks_are_named_and_what_is_left_out_is_noted() -> None:
    problem = adapt_numpy(loss, (PARAMS, X, Y), grad=grad)
    found = [(b.name, b.shape, b.dtype) for b in problem.blocks]
    assert found == [("params.W", (4, 3), "float64"), ("params.b", (4,), "float64")]
    assert problem.notes == ("grad returns no gradient for input x: it is held constant and not checked",)
    assert problem.path == "float64"


def test_an_explicit_wrt_without_a_gradient_is_missing_and_not_left_out() -> None:
    problem = adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: (grad(p, x, y), None, None), wrt=["params.*", "x"])
    assert [fact.missing for fact in problem.facts()] == [False, False, True]
    none = adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: {"W": grad(p, x, y)["W"], "b": None})
    assert [fact.missing for fact in none.facts()] == [False, True]


def test_a_wrong_gradient_disagrees() -> None:
    wrong = adapt_numpy(loss, (PARAMS, X, Y), grad=lambda p, x, y: {**grad(p, x, y), "b": 1.001 * grad(p, x, y)["b"]})
    assert not agrees(wrong, relative=1e-6)


def test_float32_is_lifted_and_says_so() -> None:
    problem = RIGHT["float32"]()
    assert problem.path == "lifted from float32"
    assert any("float32 itself" in note for note in problem.notes)
    assert problem.blocks[0].dtype == "float32"


@pytest.mark.parametrize(
    ("f", "path"),
    [
        (lambda x: np.sum(x.astype(np.float32) ** 3), "native float32"),
        (lambda x: np.float64(np.sum(x.astype(np.float32) ** 3)), "native float32"),
        (lambda x: np.sum(x**3), "float64"),
        (lambda x: np.sum(x * 0.0), "float64"),
        (lambda x: np.sum(x) + 1e9, "float64"),
    ],
)
def test_a_function_that_computes_in_float32_says_so(f: Any, path: str) -> None:
    assert adapt_numpy(f, X, grad=lambda x: 3 * x**2).path == path


def test_entries_and_their_differences() -> None:
    problem = RIGHT["params and input"]()
    indices = [0, 3, 11]
    pairs, path, _ = problem.differences(0, indices, 1e-5)
    assert pairs.shape == (3, 2)
    assert path == "loop"
    np.testing.assert_allclose((pairs[:, 0] - pairs[:, 1]) / 2e-5, problem.entries(0, indices), rtol=1e-7)


def test_entries_of_complex_blocks_are_their_real_part() -> None:
    problem = RIGHT["complex output"]()
    pairs, _, _ = problem.differences(0, [2], 1e-6)
    np.testing.assert_allclose((pairs[:, 0] - pairs[:, 1]) / 2e-6, problem.entries(0, [2]), rtol=1e-7)


def test_stacked_evaluation_equals_the_loop_and_counts_as_many_forwards() -> None:
    def f(x: Any, w: Any) -> Any:
        return np.tanh(x * w).sum(axis=(-1, -2))

    def gradient(x: Any, w: Any) -> Any:
        d = 1 - np.tanh(x * w) ** 2
        return d * w, d * x

    stacked = adapt_numpy(f, (X, X + 1), grad=gradient, batched=True)
    loop = adapt_numpy(f, (X, X + 1), grad=gradient)
    indices = list(range(15))
    found, path, reason = stacked.differences(1, indices, 1e-5)
    expected, *why = loop.differences(1, indices, 1e-5)
    assert (path, reason) == ("stacked", "")
    assert why == ["loop", "no batched evaluation is declared"]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert stacked.counts.forwards >= 30


@pytest.mark.parametrize(
    ("batched", "reason"),
    [
        (True, "does not return the leading axis"),
        (lambda x: np.array([(one**2).sum() + 1 + i for i, one in enumerate(x)]), "gives other values"),
        (lambda x: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_batched_declaration_that_does_not_hold_falls_back_and_says_why(batched: Any, reason: str) -> None:
    problem = adapt_numpy(lambda x: (x**2).sum(), X, grad=lambda x: 2 * x, batched=batched)
    found, path, why = problem.differences(0, [1, 2], 1e-5)
    assert path == "loop"
    assert why.startswith("the batched evaluation")
    assert reason in why
    np.testing.assert_allclose((found[:, 0] - found[:, 1]) / 2e-5, problem.entries(0, [1, 2]), rtol=1e-6)


def test_the_base_is_subtracted_before_the_sum() -> None:
    offset = 1e12
    problem = adapt_numpy(lambda x: np.concatenate([x, np.full(1000, offset)]), X[0], vjp=lambda g, x: g[:3])
    tangent = everywhere(problem)
    values = problem.values([tangent], np.array([2.0**-20]))[0]
    assert values[0] == pytest.approx(2.0**-20 * problem.slopes([tangent]).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("f", "holds"),
    [
        (lambda x: np.sum(np.sin(x) * np.exp(x)), True),
        (lambda x: np.sum(np.tanh(x) ** 3), True),
        (lambda x: np.sum(np.abs(x)), False),  # the modulus is not analytic
        (lambda x: np.sum(np.real(x) * x), False),
        (lambda x: np.sum(x * np.conj(x)), False),
        (lambda x: np.sum(x.astype(float)), False),  # loses the imaginary part
        (lambda x: sum(math.sin(v) for v in x.reshape(-1)), False),  # refuses complex numbers
        (lambda x: np.sum(np.sin(x)) + 1e-6 * np.sum(np.abs(x)), False),  # analytic but for a small part
    ],
)
def test_the_complex_step_is_verified_and_never_assumed(f: Any, holds: bool) -> None:
    problem = adapt_numpy(f, X, grad=lambda x: np.zeros_like(x))
    tangent = everywhere(problem)
    found = problem.complex_slopes([tangent])
    assert (found is not None) is holds
    if found is not None:
        assert found[0] == pytest.approx(central(problem, tangent), rel=1e-7)


def test_another_point_shares_the_costs() -> None:
    problem = RIGHT["params and input"]()
    moved = problem.at(everywhere(problem), 1e-2)
    assert moved.counts is problem.counts
    assert agrees(moved)
    assert not np.array_equal(moved.slopes([everywhere(problem)]), problem.slopes([everywhere(problem)]))
    assert problem.at(None, 0.0) is problem


def test_entries_outside_the_gradients_nearby() -> None:
    def spoiled(z: Any) -> Any:
        result = 2 * z
        if np.array_equal(z, Z):  # wrong at this very point, as a backward that is wrong at zeros
            result[4] += 3j
        return result

    problem = adapt_numpy(lambda z: np.sum(np.abs(z) ** 2), Z, grad=spoiled)
    nudges = [everywhere(problem, seed) for seed in range(12)]
    found = problem.outside(nudges, 1e-4, 5, 1e-2)
    assert [(one.block, one.index) for one in found] == [(0, 4)]
    assert found[0].distance == pytest.approx(3.0, rel=1e-3)
    assert found[0].value == pytest.approx(2 * Z[4].imag + 3)


def test_sparse_and_relative_tangents() -> None:
    problem = RIGHT["params and input"]()
    sparse = Tangent(entries=(Entries(block=0, indices=(2, 5), values=(1.0, -2.0)),))
    entries = problem.entries(0, [2, 5])
    assert problem.slopes([sparse])[0, 0] == pytest.approx(entries[0] - 2 * entries[1])
    relative = Tangent(seed=1, scales={2: 1.0}, relative=1e-3)
    assert problem.slopes([relative])[0, 2] == pytest.approx(central(problem, relative), rel=1e-7)


def test_nothing_of_the_users_is_changed() -> None:
    own = np.random.default_rng(5)
    x = X.copy()

    def f(x: Any) -> Any:
        x += 1  # writes into its input
        noise = np.random.rand(*x.shape) + random.random() + own.normal(size=x.shape)
        return np.sum(x * noise)

    def gradient(x: Any) -> Any:
        x += 1
        return np.random.rand(*x.shape) + random.random() + own.normal(size=x.shape)

    before = (np.random.get_state()[1].tobytes(), random.getstate(), own.bit_generator.state)
    problem = adapt_numpy(f, x, grad=gradient)
    assert agrees(problem)
    assert problem.identity().value_difference == 0
    after = (np.random.get_state()[1].tobytes(), random.getstate(), own.bit_generator.state)
    assert before == after
    assert np.array_equal(x, X)


def test_random_states_come_back_after_an_exception() -> None:
    def f(x: Any) -> Any:
        np.random.rand()
        raise KeyError("gone")

    before = np.random.get_state()[1].tobytes()
    with pytest.raises(UsageError, match="f raised KeyError"):
        adapt_numpy(f, X, grad=lambda x: x)
    assert np.random.get_state()[1].tobytes() == before


def test_a_generator_among_the_inputs_is_copied() -> None:
    own = np.random.default_rng(5)
    state = own.bit_generator.state

    def f(x: Any, rng: Any) -> Any:
        return np.sum(x * (rng.random(x.shape) > 0.5))

    problem = adapt_numpy(f, (X, own), grad=lambda x, rng: (rng.random(x.shape) > 0.5).astype(float))
    assert agrees(problem)
    assert own.bit_generator.state == state


def test_fresh_randomness_is_seen() -> None:
    problem = adapt_numpy(lambda x: np.sum(x) * np.random.default_rng().random(), X, grad=lambda x: np.ones_like(x))
    assert problem.identity().value_difference > 0


def test_outside_its_domain_a_value_is_nan() -> None:
    problem = adapt_numpy(lambda x: math.log(x), 1e-3, grad=lambda x: 1 / x)
    sign = np.sign(problem.slopes([everywhere(problem)])[0, 0])
    values = problem.values([everywhere(problem)], np.array([1e-5, -1.0 * sign]))[0]
    assert np.isfinite(values[0])
    assert np.isnan(values[1])


def test_infinite_entries_are_left_out_and_noted() -> None:
    masked = np.arange(3) > 1
    problem = adapt_numpy(lambda x: np.where(masked, -np.inf, x), X[0], vjp=lambda g, x: np.where(masked, 0, g))
    assert agrees(problem)
    assert problem.notes == ("1 of 3 entries of output are infinite and are left out",)


def test_nan_in_the_gradient_is_a_fact() -> None:
    def gradient(x: Any) -> Any:
        result = 2 * x
        result[1, 1] = np.nan
        return result

    fact = adapt_numpy(lambda x: np.sum(x**2), X, grad=gradient).facts()[0]
    assert (fact.nonfinite, fact.first_nonfinite) == (1, 4)


def test_a_scenario_names_its_blocks_as_the_model_does() -> None:
    scenario = Scenario(PARAMS, [(X, Y)], lambda m, batch: loss(m, *batch), grad=lambda m, batch: grad(m, *batch))
    problem = adapt_numpy_scenario(scenario, (X, Y))
    assert [(b.name, b.kind) for b in problem.blocks] == [("W", "parameter"), ("b", "parameter")]
    assert agrees(problem)
    with pytest.raises(UsageError, match="it has no grad"):
        adapt_numpy_scenario(Scenario(PARAMS, [(X, Y)], lambda m, batch: loss(m, *batch)), (X, Y))


def g(change: Any) -> Any:
    """A gradient function that returns what ``change`` makes of the right one."""
    return lambda params, x, y: change(grad(params, x, y))


REFUSED = [
    # f, inputs, keyword arguments, what the message says
    (loss, (PARAMS, X, Y), {}, ["one of grad and vjp"]),
    (loss, (PARAMS, X, Y), {"grad": grad, "vjp": grad}, ["both grad and vjp"]),
    (loss, (PARAMS, X, Y), {"grad": 3}, ["grad must be a function"]),
    (3, X, {"grad": grad}, ["f must be a function"]),
    (loss, None, {"grad": grad}, ["there are no inputs"]),
    (loss, (PARAMS, X), {"grad": grad}, ["f raised TypeError", "params.W: float64 (4, 3)"]),
    (loss, [PARAMS, X, Y], {"grad": grad}, ["f raised TypeError", "anything else as one argument"]),
    (lambda x: x, X, {"grad": lambda x: x}, ["must return one scalar", "output (5, 3)"]),
    (lambda x: 1j * x.sum(), X, {"grad": lambda x: x}, ["must return a real scalar"]),
    (lambda x: int(x.sum()), X, {"grad": lambda x: x}, ["nothing that has a derivative", "output: int"]),
    (lambda x: None, X, {"grad": lambda x: x}, ["nothing that has a derivative"]),
    (lambda x: x.sum() * np.nan, X, {"grad": lambda x: x}, ["f returns NaN"]),
    (lambda x: x.sum() + np.inf, X, {"grad": lambda x: x}, ["f returns infinity"]),
    (lambda x: x.sum(), Y, {"grad": lambda x: x}, ["nothing to differentiate", "x: int64 (5,)"]),
    (loss, (PARAMS, X, Y), {"grad": grad, "wrt": "param.W"}, ["wrt='param.W' matches no block", "'params.W'"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {"W": d["W"]})}, ["does not cover params.b", "only in part"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {"dW": d["W"], "db": d["b"]})}, ["params.dW, which is no part of params"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {"params": d, "z": 0})}, ["names 'z', which is no input"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: d["W"])}, ["returned an array of shape (4, 3) for params, which is a dict"]),
    (
        lambda x: float(sum(x)), np.array([1.0, 2.0], dtype=object), {"grad": lambda x: np.ones(2)},
        ["an array of shape (2,) for x, which is an array of objects, shape (2,)"],
    ),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: None)}, ["no gradient for any input"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {**d, "W": d["W"].T})}, ["shape (3, 4) for params.W", "transposed"]),
    (
        loss, (PARAMS, X, Y), {"grad": g(lambda d: {**d, "b": np.tile(d["b"], (5, 1))})},
        ["shape (5, 4) for params.b, whose shape is (4,)", "sum it over"],
    ),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {**d, "b": d["b"].sum()})}, ["shape () for params.b", "exactly the block"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {**d, "b": 1j * d["b"]})}, ["complex gradient for params.b"]),
    (loss, (PARAMS, X, Y), {"grad": g(lambda d: {**d, "b": "text"})}, ["dtype <U4 for params.b"]),
    (loss, (PARAMS, X, Y), {"grad": lambda p, x, y: 1 / 0}, ["grad raised ZeroDivisionError"]),
    (loss, {"params": PARAMS, "x": X, "z": Y}, {"grad": grad}, ["f raised TypeError", "'z'"]),
]


@pytest.mark.parametrize(("f", "inputs", "keywords", "said"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_bad_input_is_a_clear_error(f: Any, inputs: Any, keywords: Any, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        adapt_numpy(f, inputs, **keywords)
    for text in said:
        assert text in str(caught.value)
