"""Looks at a torch model's passes, on a copy in a chosen state; see :class:`gradguard.adapters.observing_base.Look`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gradguard.adapters.modes_base import ModeFacts
from gradguard.adapters.observing_base import BatchFacts, Leaks, Look, LossFacts, Nonfinite, TimeFlow
from gradguard.adapters.padding_base import PaddingFacts
from gradguard.adapters.torch_batch_parts import SameRows
from gradguard.adapters.torch_buffers import kept_buffers
from gradguard.adapters.torch_copies import Session
from gradguard.adapters.torch_factors import factors_of, negated, rewarded
from gradguard.adapters.torch_flushed import SCALE, flushed
from gradguard.adapters.torch_graph import losses_of, predictions_of
from gradguard.adapters.torch_leaks import leaks_of
from gradguard.adapters.torch_modes import modes_of
from gradguard.adapters.torch_outputs import Outputs
from gradguard.adapters.torch_padding import padding_of
from gradguard.adapters.torch_spy import Spy, bad_rows, first_tensor
from gradguard.adapters.torch_stretched import confirmed
from gradguard.adapters.torch_training import TorchTraining
from gradguard.adapters.torch_untouched import clean, preserved_rng, untouched

__all__ = ["TorchHealth", "identical_rows", "kept_buffers"]

OTHERWISE = 1e-4
"""Outputs that spread more than this, relative to their size, are not the same."""
REPEATED = 8
"""A layer called this often in one pass is a recurrence (or a layer shared over depth)."""


def identical_rows(parameter: torch.Tensor) -> bool:
    """All rows of a matrix are the same within 1e-6 of its largest entry."""
    if parameter.ndim < 2 or parameter.shape[0] < 2 or parameter.numel() == 0:
        return False
    rows = parameter.detach().reshape(parameter.shape[0], -1)
    rows = rows if rows.is_complex() else rows.float()
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max())


class TorchHealth(TorchTraining):
    """A torch scenario that can be trained on copies and looked at."""

    def session(self, state: str) -> Session:
        """The copy in the state ``start``, or one kept by ``run``."""
        return self.fresh() if state == "start" else self.sessions[state]

    def look(self, state: str, *, seed: int = 0, batches: int | None = None) -> Look:
        """A look at one state over the first ``batches`` batches; nothing of the copy changes."""
        count = self.batch_count if batches is None else min(batches, self.batch_count)
        with untouched(self.scenario.model), preserved_rng(seed), torch.enable_grad():
            session = self.session(state)
            session.zero_grad()
            try:
                return self._look(session, count, 0 if state == "start" else 1)
            finally:
                session.zero_grad()

    def _look(self, session: Session, count: int, step: int) -> Look:
        spy = Spy(session.model, clean, keep_outputs=True)
        outputs = Outputs()
        losses: tuple[LossFacts, ...] = ()
        values: list[float] = []
        time: tuple[TimeFlow, ...] = ()
        inputs: list[torch.Tensor] = []
        rows = SameRows()
        nonfinite: Nonfinite | None = None
        samples = 0
        state, drawn = torch.get_rng_state(), False
        for index in range(count):
            batch = self.batches[index]
            spy.keep_outputs = index == 0
            with kept_buffers(session.model):
                with spy.installed():
                    loss = session.loss(batch, index)
                drawn = drawn or not torch.equal(torch.get_rng_state(), state)
                value = float(loss.detach())
                values.append(value)
                given = first_tensor(list(spy.root_input[0]) + list(spy.root_input[1].values())) if spy.root_input else None
                rows.add(spy.root_input)
                if given is not None and given.layout == torch.strided and given.numel():
                    inputs.append(given.detach())
                if spy.root_output is not None and spy.root_output.ndim:
                    samples += int(spy.root_output.shape[0])
                if (spy.first_bad is not None and spy.nan) or not math.isfinite(value):  # infinities alone may be a mask
                    nonfinite = self._nonfinite(spy, index, given)
                    break
                if loss.requires_grad:
                    losses = losses or confirmed(session, batch, losses_of(loss))
                    made = predictions_of(loss, spy.root_output)
                    factors = factors_of(loss, made) if made is not None else None
                    if rewarded(factors):
                        outputs.no_labels()
                    outputs.add(made, spy.root_output, batch)
                    if made is not None and outputs.negated is not False:
                        outputs.negated = negated(loss, made, batch, factors, maximised=session.maximised)
                self._declared(session, batch, outputs)
                if index == 0:
                    time = self._time(session, spy, loss)
                spy.outputs.clear()
                spy.sequences.clear()
        named = session.named
        facts = outputs.facts(alike=bool(inputs) and rows.alike)
        # what differs for the same input, and is not drawn at random, is made of something else that the model knows
        told_otherwise = not drawn and facts is not None and facts.spread > OTHERWISE
        return Look(
            step=step,
            units=spy.unit_facts(),
            attention=spy.attention_facts(),
            single_softmax=tuple(layer for layer, always in spy.attention.single.items() if always),
            codes=spy.code_facts(),
            modules=spy.module_facts(),
            nonfinite=nonfinite,
            time=time,
            losses=losses,
            outputs=facts,
            inputs=input_facts(inputs, spy, session),
            loss=float(np.mean(values)) if values else math.nan,
            order=tuple(spy.order),
            matrices=tuple(spy.matrices),
            low_precision=spy.low_precision,
            failures=tuple(sorted(spy.failures)),
            samples=samples,
            identical_rows=tuple(n for n, p in named if identical_rows(p)),
            zero_blocks=tuple(n for n, p in named if not bool(p.detach().any())),
            same_inputs=0 if told_otherwise else rows.count,
        )

    def _declared(self, session: Session, batch: Any, outputs: Outputs) -> None:
        """The user's own outputs and labels, where they were declared."""
        if self.scenario.outputs is None:
            if self.scenario.labels is not None:
                outputs.add_labels(self.scenario.labels(self.handed.of(batch, "labels")))
            return
        with torch.no_grad(), kept_buffers(session.model):
            made = first_tensor(self.scenario.outputs(session.model, self.handed.of(batch, "outputs")))
        labels = self.scenario.labels(self.handed.of(batch, "labels")) if self.scenario.labels is not None else None
        if made is not None:
            outputs.add_declared(made, labels)

    @staticmethod
    def _nonfinite(spy: Spy, index: int, given: torch.Tensor | None) -> Nonfinite:
        """The first place that is not finite: the model's input, a module, or the loss."""
        if given is not None and not bool(torch.isfinite(given).all()):
            return Nonfinite(module="", owner="", batch=index, where="input", rows=bad_rows(given))
        if spy.first_bad is not None:
            name, owner, where, before, rows = spy.first_bad
            return Nonfinite(module=name, owner=owner, batch=index, where=where, before=before, rows=rows)
        return Nonfinite(module="", owner="", batch=index, where="loss", before=tuple(spy.module_order[-3:]))

    def _time(self, session: Session, spy: Spy, loss: torch.Tensor) -> tuple[TimeFlow, ...]:
        """Gradient norms along the calls of layers that are called many times, and along the input of recurrent layers."""
        repeated = {path: made for path, made in spy.outputs.items() if len(made) >= REPEATED}
        if not loss.requires_grad or not (repeated or spy.sequences):
            return ()
        for made in repeated.values():
            for tensor in made:
                tensor.retain_grad()
        self.counts.backwards += 1
        torch.autograd.backward(loss)
        flows = []
        for path, made in repeated.items():
            norms = np.array([math.nan if t.grad is None else float(t.grad.detach().double().norm()) for t in made])
            if np.isfinite(norms).sum() >= REPEATED:
                flows.append(TimeFlow(layer=path, norms=norms[np.isfinite(norms)]))
        for path, sequence, axis in spy.sequences:
            if sequence.grad is not None and sequence.shape[axis] >= REPEATED:
                along = sequence.grad.detach().double().movedim(axis, 0).reshape(sequence.shape[axis], -1).norm(dim=1)
                flows.append(TimeFlow(layer=path, norms=along.cpu().numpy()))
        session.zero_grad()
        return tuple(flows)

    def leaks(self, *, seed: int = 0) -> Leaks:
        """Whether outputs depend on other samples or later positions, where the scenario declares that they do not."""
        scenario = self.scenario
        if not scenario.independent_samples and not scenario.causal:
            return Leaks(reason="neither independent_samples nor causal is declared")
        with untouched(scenario.model), preserved_rng(seed):
            session = self.fresh()
            return leaks_of(
                session,
                self.batches[0],
                seed=seed,
                sample=bool(scenario.independent_samples),
                future=bool(scenario.causal),
            )

    def padding(self, *, seed: int = 0) -> PaddingFacts:
        """What padding does to the loss of the first batch that has any."""
        return padding_of(self, seed=seed)

    def modes(self, *, seed: int = 0) -> ModeFacts:
        """The mode in which a copy is trained."""
        return modes_of(self, seed=seed)

    def dependence(self, state: str, names: tuple[str, ...], *, seed: int = 0) -> dict[str, float]:
        """The largest relative change of the loss when each block moves by a tenth of its RMS, over those of three batches that
        give it no gradient: what one batch does not use (an expert), another may."""
        indices = range(min(3, self.batch_count))
        changes = {}
        with untouched(self.scenario.model), preserved_rng(seed):
            session = self.session(state)
            base = self.evaluate(session, indices, seed)
            reached = [self._reached(session, index, seed) for index in indices]
            parameters = dict(session.named)
            generator = torch.Generator().manual_seed(seed)
            for name in names:
                parameter = parameters.get(name)
                if parameter is None:
                    continue
                with torch.no_grad():
                    kept = parameter.detach().clone()
                    scale = float(kept.float().square().mean().sqrt()) or 1.0
                    noise = torch.randn(kept.shape, generator=generator).to(kept)
                    parameter.add_(noise, alpha=0.1 * scale)
                moved = self.evaluate(session, indices, seed)
                with torch.no_grad():
                    parameter.copy_(kept)
                each = zip(moved, base, reached, strict=True)
                pairs = [(m, b) for m, b, some in each if name not in some and math.isfinite(b)]
                changes[name] = max((abs(m - b) / max(abs(b), 1e-12) for m, b in pairs), default=0.0)
        return changes

    def _reached(self, session: Session, index: int, seed: int) -> set[str]:
        """The blocks that one batch's loss gives a gradient."""
        session.zero_grad()
        self.counts.backwards += 1
        with preserved_rng(seed), torch.enable_grad(), kept_buffers(session.model):
            loss = session.loss(self.batches[index], index)
            if loss.requires_grad:
                session.backward(loss)
        found = {n for n, p in session.named if p.grad is not None and bool(p.grad.detach().to_dense().any())}
        session.zero_grad()
        return found

    def underflow(self, *, seed: int = 0) -> dict[str, float]:
        """Per block the share of entries whose gradient is exactly 0, and is not when the loss is scaled by 2^10 first."""
        with untouched(self.scenario.model), preserved_rng(seed), torch.enable_grad():
            session = self.fresh()
            found: list[list[torch.Tensor | None]] = []
            for scale in (1.0, SCALE):
                session.zero_grad()
                torch.manual_seed(seed)
                with kept_buffers(session.model):
                    session.backward(session.loss(self.batches[0]) * scale)
                found.append([None if p.grad is None else p.grad.detach().clone() for p in session.params])
        lost = {}
        for (name, _), plain, scaled in zip(session.named, *found, strict=True):
            if plain is not None and scaled is not None and not plain.is_sparse:
                lost[name] = flushed(plain, scaled)
        return lost


def input_facts(inputs: Sequence[torch.Tensor], spy: Spy, session: Session) -> BatchFacts | None:
    """Scale and range of the model's floating-point input, and the first module that it meets."""
    if not inputs:
        return None
    owners = dict(session.model.named_modules())
    first = spy.order[0].rpartition(".")[0] if spy.order else ""
    owner = type(owners.get(first, session.model)).__name__
    flat = [t.float().reshape(t.shape[0], -1) if t.ndim > 1 else t.float().reshape(-1, 1) for t in inputs]
    squares = torch.cat([f.square().mean(dim=1) for f in flat])
    same = [f for f in flat if f.shape[1] == flat[0].shape[1]]
    features = torch.cat(same).square().mean(dim=0).sqrt()
    positive = features[features > 0]
    ratio = float(positive.max() / positive.min()) if positive.numel() else math.nan
    return BatchFacts(
        rms=float(squares.mean().sqrt()),
        feature_ratio=ratio,
        low=min(float(f.min()) for f in flat),
        high=max(float(f.max()) for f in flat),
        first_module=first,
        first_owner=owner,
        normalised="norm" in owner.lower(),
    )
