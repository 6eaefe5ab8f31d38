"""GG101."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gradguard.blocks import entry_name
from gradguard.finding import Finding, Outcome, Request
from gradguard.measurements.base import Evidence, the
from gradguard.measurements.block_results import BlockResult, Gradients
from gradguard.measurements.detached import Detached
from gradguard.measurements.kinks import KinkEntry, Kinks
from gradguard.measurements.localisation import Localisation, Place
from gradguard.rules.base import Rule

__all__ = ["GradientMismatch"]


@dataclass(frozen=True, kw_only=True)
class GradientMismatch(Rule):
    """The analytical and the numerical slope differ by more than the error bar allows.

    What it does:
        Moves all blocks together along random tangents, measures the slope by differences with an error bar, and compares
        it with the analytical one. A mismatch is measured again on a finer ladder before it counts; then the blocks, the
        module and the entries that are wrong are looked for.

    Why is this bad:
        The optimizer follows a gradient that is not the loss's. Training may still go down, more slowly, to another place.

    What to do:
        Read the pattern and the module: its own backward is wrong, everything after it is right. A custom backward usually
        lacks a factor, a sum over the batch, or a term.

    When it is healthy:
        A gradient that is deliberately not the derivative (gradient reversal, clipping in backward): ignore the block, with
        the reason. Values that are detached are GG113.

    Options:
        z: differences above this many error bars count (float64). z_single: the same where only float32 can run.

    References:
        J. J. More and S. M. Wild, SIAM J. Sci. Comput. 33 (2011); docs/numerics.md.
    """

    code: ClassVar[str] = "GG101"
    slug: ClassVar[str] = "gradient-mismatch"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    z: float = 20.0
    z_single: float = 10.0

    def judge(self, evidence: Evidence) -> Outcome:
        """One finding per wrong block that nothing else explains."""
        gradients = the(evidence, Gradients)
        without = [r.reason for r in gradients.results if r.verdict in ("raised", "shape", "nonfinite")]
        if without and len(without) == len([r for r in gradients.results if r.verdict not in ("empty", "excluded")]):
            return Outcome(status="skipped", reason=f"there is no gradient to compare: {without[0]}")
        limit = self.z if gradients.lifted else self.z_single
        wrong = [r for r in gradients.wrong if r.z > limit]
        requests = []
        if wrong:
            requests = [
                Request(measurement="detached"),
                Request(measurement="localisation", about=tuple(r.block.name for r in wrong)),
            ]
        if not gradients.at_point:
            requests.append(Request(measurement="kinks"))
        detached = the(evidence, Detached)
        explained = detached.explained if detached is not None else ()
        places = the(evidence, Localisation)
        findings = self._findings([r for r in wrong if r.block.name not in explained and not _absent(r)], places, limit)
        kinks = the(evidence, Kinks)
        if kinks is not None:
            smooth = [e for e in kinks.wrong if not e.kink]
            for name in dict.fromkeys(e.block.name for e in smooth):
                findings.append(self._point([e for e in smooth if e.block.name == name]))
        unresolved = [r for r in gradients.results if r.verdict == "inconclusive"]
        z = [r.z for r in gradients.results if r.z == r.z]
        margin = max(z) / limit if z else None
        outcome = self.outcome(findings, margin=margin, requests=tuple(requests))
        if explained and outcome.status == "passed" and not unresolved:
            names = ", ".join(explained[:3]) + (", ..." if len(explained) > 3 else "")
            return Outcome(
                status="passed",
                findings=outcome.findings,
                margin=margin,
                requests=tuple(requests),
                reason=f"detached, see GG113: {names}",
            )
        if outcome.status == "passed" and unresolved:
            return Outcome(
                status="inconclusive",
                findings=outcome.findings,
                margin=margin,
                requests=tuple(requests),
                reason=_unclear(unresolved),
            )
        return outcome

    def _findings(self, wrong: list[BlockResult], places: Localisation | None, limit: float) -> list[Finding]:
        """The guilty blocks first; those that only carry the error on point to them."""
        findings: list[Finding] = []
        for r in wrong:
            place = places.of(r.block.name) if places is not None else None
            findings.append(self._block(r, place, limit))
        roots = [f for f, r in zip(findings, wrong, strict=True) if places is None or not places.carried(r.block.name)]
        carried = [f for f in findings if not any(f is root for root in roots)]
        if places is not None:
            roots += [self._module(place) for place in places.inputs]
        if not roots:
            return findings
        return roots + [replace(f, caused_by=roots[-1].fingerprint) for f in carried]

    def _module(self, place: Place) -> Finding:
        """A module that passes a wrong gradient on to its input while its parameters' gradients are right."""
        if place.entry:
            message = (
                f"{place.entry}: analytical {place.analytical:.6g}, numerical {place.numerical:.6g} +- {place.error_bar:.1g}"
            )
        else:
            message = f"{place.block}: the gradient that it returns is wrong"
        return self.finding(
            message,
            block=place.block,
            module=place.module,
            count=place.count,
            location="; ".join(text for text in (place.location, place.extent) if text),
            observed=place.z,
            pattern=place.pattern,
            evidence=place.evidence,
            likely=place.likely,
            hint="its own backward is wrong, everything after it is right",
        )

    def _block(self, r: BlockResult, place: Place | None, limit: float) -> Finding:
        name, analytical, numerical, bar = r.block.name, r.analytical, r.numerical, r.error_bar
        if place is not None and place.entry:
            name, analytical, numerical, bar = place.entry, place.analytical, place.numerical, place.error_bar
        elif r.worst is not None:
            name = entry_name(r.block.name, r.block.shape, r.worst)
        elif r.block.size > 1:
            name = f"{name} (slope along a random tangent)"
        shape = f"({', '.join(map(str, r.block.shape))})"
        where = f"block {r.block.name} {shape}"
        if place is not None and place.extent:
            where += f", {place.extent}"
        if place is not None and place.location:
            where += f"; {place.location}: its own backward is wrong, everything after it is right"
        elif r.block.module is not None and r.block.kind == "parameter":
            where += f"; module {r.block.module or 'the model itself'} ({r.block.owner})"
        order = (
            ""
            if r.order != r.order
            else f"; Taylor remainder falls with order {r.order:.2f} (2.00 where the gradient is right)"
        )
        return self.finding(
            f"{name}: analytical {analytical:.6g}, numerical {numerical:.6g} +- {bar:.1g}",
            block=r.block.name,
            module=(place.module if place is not None and place.guilty else r.block.module) or "",
            location=where,
            observed=r.z,
            limit=limit,
            count=place.count if place is not None else r.count,
            total=r.block.size,
            pattern=place.pattern if place is not None else "",
            evidence=f"z = {r.z:.2g} (limit {limit:g}){order}",
            likely=place.likely if place is not None else "",
        )

    def _point(self, entries: list[KinkEntry]) -> Finding:
        e = entries[0]
        return self.finding(
            f"{e.name}: analytical {e.analytical:.6g}, numerical {(e.left + e.right) / 2:.6g} +- {e.error_bar:.1g}",
            block=e.block.name,
            module=e.block.module or "",
            location=f"block {e.block.name}, at this point only",
            count=len(entries),
            total=e.block.size,
            pattern="only at this value; a point nearby is right",
            evidence="the slopes from both sides agree with each other, and not with the gradient",
            likely="a special case in forward or backward at zeros, ties or a threshold",
        )


def _absent(r: BlockResult) -> bool:
    return r.missing or r.analytical == 0.0


def _unclear(results: list[BlockResult]) -> str:
    names = ", ".join(r.block.name for r in results[:3]) + (f" and {len(results) - 3} more" if len(results) > 3 else "")
    return f"{len(results)} of the blocks could not be compared ({names}): {results[0].reason}"
