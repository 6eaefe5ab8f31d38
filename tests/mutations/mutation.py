"""One published gradient bug, re-created: the wrong backward beside the right one, and what the report must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cases.case import Checked

__all__ = ["Mutation"]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A wrong/right pair.

    ``make(wrong)`` gives the arguments of ``check_gradients``. One finding must be by one of ``rules`` at a block (or
    module) that ``block`` matches (a glob), and ``says`` must occur in its text; ``severity`` is that finding's.
    ``left_alone`` are blocks that no error may name. ``refused`` is the text of the ``UsageError`` of a pair whose wrong
    half cannot even be compared.
    """

    number: str
    bug: str
    reference: str
    make: Callable[[bool], Checked]
    rules: tuple[str, ...] = ("GG101",)
    block: str = "*"
    says: tuple[str, ...] = ()
    severity: str = "error"
    left_alone: tuple[str, ...] = ()
    refused: str = ""
    peers: bool = field(default=True)
    """Whether the pair is a function of float64 tensors that the peers can be given."""
