"""Tiny randomly initialised models at initialisation and over 20 steps of AdamW: none may be flagged.

``python -m benchmarks.health.architectures [names] [--how HOW,...] [--as WAY,...] [--rates RATE,...] [--seeds N,...]``

A name is a model's or a group's: usual (the default), families (the main ones three ways each), all. HOW is any of train
(``check_training``), loaded (the same in evaluation mode, as ``from_pretrained`` gives a model), watch (a plain loop), point
(``optimizer=None``), audit and eval (every rule, in training and in evaluation mode); WAY is any of WAYS: as it is, or in
another precision, attention or memory scheme.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.health.tiny.batches import Tiny
from benchmarks.health.tiny.families import FAMILIES
from benchmarks.health.tiny.mixed import MIXED
from benchmarks.health.tiny.plain import PLAIN
from benchmarks.health.tiny.signals import SIGNALS
from benchmarks.health.tiny.text import TEXT
from benchmarks.health.tiny.vision import VISION
from gradguard.checking import audit
from gradguard.health import check_training
from gradguard.report import Report
from gradguard.scenarios import Scenario
from gradguard.watching import watch

__all__ = ["NAMES", "WAYS", "build", "main"]

TRANSFORMERS: dict[str, Tiny] = TEXT | VISION | SIGNALS
HANDWRITTEN = PLAIN | MIXED
NAMES = (*TRANSFORMERS, *HANDWRITTEN)
GROUPS: dict[str, tuple[str, ...]] = {"usual": NAMES, "families": tuple(FAMILIES), "all": (*NAMES, *FAMILIES)}
WAYS = ("plain", "float64", "bfloat16", "autocast", "eager", "sdpa", "checkpointed", "frozen")
HOW = ("train", "loaded", "watch", "point", "audit", "eval")


class NoSuchWayError(Exception):
    """The model cannot be run in that way."""


def build(name: str, seed: int = 0, batches: int = 4, way: str = "plain") -> tuple[Any, list[Any], Any]:
    """Model in training mode, batches and loss."""
    torch.manual_seed(seed)
    if name in HANDWRITTEN:
        model, batch, loss = HANDWRITTEN[name]()
    else:
        tiny = (TRANSFORMERS | FAMILIES)[name]
        model, batch, loss = tiny.model(), tiny.batch, tiny.loss
    made = [batch() for _ in range(batches)]
    model.train()
    if way in ("float64", "bfloat16"):
        dtype = getattr(torch, way)
        model, made = model.to(dtype), [_cast(one, dtype) for one in made]
    elif way == "autocast":
        loss = _autocast(loss)
    elif way in ("eager", "sdpa"):
        if not getattr(model, "_supports_sdpa", False):
            raise NoSuchWayError(f"{name} has one attention only")
        model.set_attn_implementation(way)
    elif way == "checkpointed":
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise NoSuchWayError(f"{name} is not checkpointed")
        model.gradient_checkpointing_enable()
    elif way == "frozen":  # the first half of the parameters, as where only a head is fine-tuned
        parameters = list(model.parameters())
        for parameter in parameters[: len(parameters) // 2]:
            parameter.requires_grad_(False)
    return model, made, loss


def _autocast(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The loss with its products in bfloat16."""

    def autocast(model: Any, batch: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model, batch)

    return autocast


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _cast(one, dtype) for key, one in value.items()}
    return type(value)(_cast(one, dtype) for one in value) if isinstance(value, list | tuple) else value


def looped(model: Any, batches: list[Any], loss: Any, rate: float) -> Report:
    """20 steps of a plain loop, watched."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    with watch(model, optimizer=optimizer) as watching:
        for step in range(20):
            optimizer.zero_grad()
            value = loss(model, batches[step % len(batches)])
            value.backward()
            optimizer.step()
            watching.record(loss=value)
    return watching.report()


def checked(how: str, name: str, way: str, rate: float, seed: int) -> Report:
    model, batches, loss = build(name, seed, way=way)
    if how == "watch":
        return looped(model, batches, loss, rate)
    optimizer = None if how == "point" else torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=rate)
    if how in ("audit", "eval"):
        model.train(how == "audit")
        return audit(Scenario(model, batches, loss, optimizer=optimizer))
    model.train(how != "loaded")
    return check_training(model, batches, loss=loss, optimizer=optimizer, steps=20)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def run(how: str, name: str, way: str, rate: float, seed: int, seconds: int) -> dict[str, Any]:
    """One row: what was found, what stayed open, what was raised, and how long it took."""
    row: dict[str, Any] = {"how": how, "name": name, "way": way, "rate": rate, "seed": seed, "raised": ""}
    start, used = time.perf_counter(), time.process_time()
    try:
        with limited(seconds):
            report = checked(how, name, way, rate, seed)
        for severity in ("error", "warning"):
            row[severity] = [f"{f.code} {f.message}" for f in report.findings if f.severity == severity]
        row["inconclusive"] = [f"{c.code} {c.reason}" for c in report.checks if c.status == "inconclusive"]
    except Exception as error:
        row["raised"] = f"{type(error).__name__}: {str(error)[:300]}"
    row["seconds"], row["cpu"] = round(time.perf_counter() - start, 1), round(time.process_time() - used, 1)
    return row


def _runs(hows: list[str], rates: list[float]) -> Iterator[tuple[str, float]]:
    for how in hows:
        yield from ((how, rate) for rate in (rates if how in ("train", "loaded", "watch") else rates[:1]))


def _list(of: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [of(one) for one in text.split(",")]


def _names(given: list[str]) -> list[str]:
    """Models by name or by group; without any, the usual ones."""
    return [one for name in given or ["usual"] for one in GROUPS.get(name, (name,))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join((*GROUPS, *GROUPS["all"])))
    parser.add_argument("--how", type=_list(str), default=list(HOW))
    parser.add_argument("--as", dest="ways", type=_list(str), default=["plain"])
    parser.add_argument("--rates", type=_list(float), default=[1e-3, 1e-4, 5e-5])
    parser.add_argument("--seeds", type=_list(int), default=[0])
    parser.add_argument("--seconds", type=int, default=120, help="a run is stopped after so many seconds")
    parser.add_argument("--json", help="file to which one line is appended for each run")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    count = flagged = raised = 0
    for name in _names(chosen.names):
        for way, seed in itertools.product(chosen.ways, chosen.seeds):
            for how, rate in _runs(chosen.how, chosen.rates):
                row = run(how, name, way, rate, seed, chosen.seconds)
                if row["raised"].startswith(NoSuchWayError.__name__):
                    continue
                count, flagged, raised = count + 1, flagged + bool(row.get("error")), raised + bool(row["raised"])
                verdict = "RAISED" if row["raised"] else "FALSE" if row["error"] else "ok"
                said = row["raised"] or f"errors {row['error']} warnings {row['warning']} open {row['inconclusive']}"
                print(f"{verdict:6} {name:18} {way} {how} lr {rate:g} seed {seed} {row['cpu']:5.1f} s {said}", flush=True)
                if chosen.json:
                    with open(chosen.json, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    print(f"{count} runs, {flagged} flagged, {raised} raised")
    return int(bool(flagged or raised))


if __name__ == "__main__":
    raise SystemExit(main())
