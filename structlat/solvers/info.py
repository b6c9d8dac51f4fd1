"""What every solver says about its answer: the certificate, the counts, and the status in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from structlat.errors import rows_text


class Trace(NamedTuple):
    """History of a solver, one entry an iteration; NaN and 0 once a row has finished.

    ``gap`` [iterations, *batch] and ``support_size`` [iterations, *batch].
    """

    gap: Tensor
    support_size: Tensor


@dataclass(frozen=True, eq=False)
class SolverInfo:
    """Certificate and counts, each a tensor [*batch].

    Attributes
    ----------
    gap : Tensor, float64
        Duality gap, in the units of the scores: no distribution over Z is better by more than this. For top-k
        sparsemax it is the gap to the sparsemax over all of Z.
    iterations, oracle_calls : Tensor, int64
        Rounds of the solver, and structures that it asked of the MAP oracle.
    converged : Tensor, bool
        The gap is under the tolerance.
    exact : Tensor, bool
        The distribution is the exact one: for top-k sparsemax, one of the k has probability 0, or k >= |Z|.
    trace : Trace or None
        Kept where it was asked for, and the solver iterated.
    """

    gap: Tensor
    iterations: Tensor
    oracle_calls: Tensor
    converged: Tensor
    exact: Tensor
    trace: Trace | None = None

    @classmethod
    def closed_form(cls, batch_shape: torch.Size) -> SolverInfo:
        """For an answer that needed no iteration."""
        zeros = torch.zeros(batch_shape, dtype=torch.int64, device="cpu")
        true = torch.ones(batch_shape, dtype=torch.bool, device="cpu")
        return cls(zeros.to(torch.float64), zeros, zeros, true, true)

    @property
    def status(self) -> str:
        """What happened, as a sentence, with what to do where something went wrong."""
        rows = self.converged.numel()
        if rows == 0:
            return "The batch is empty: there was nothing to solve."
        if bool(self.converged.all()):
            gap = f"{float(self.gap.max()):.1e}"
            if bool(self.exact.all()):
                return f"Converged in all {rows} rows: no duality gap is above {gap}."
            return (
                f"Exact among the structures it was given, and in {int(self.exact.sum())} of {rows} rows over all of "
                f"them: elsewhere the duality gap is up to {gap}, which a larger k closes."
            )
        return (
            f"Stopped before the certificate in {rows_text(~self.converged)}: the largest duality gap is "
            f"{float(self.gap.max()):.1e}. The three likely causes: max_iter is too small for the size of the support; "
            "tol is below what the scores' rounding errors allow; the structure's argmax does not return a true "
            "maximum (structlat.testing.check_structure tells, and validate=True checks each answer)."
        )

    def map(self, fn: Callable[[Tensor], Tensor]) -> SolverInfo:
        """Apply ``fn`` to every tensor [*batch], for a trace to that of each iteration."""
        trace = self.trace
        if trace is not None:
            trace = Trace(*(torch.stack([fn(x) for x in history]) for history in trace))
        return SolverInfo(
            fn(self.gap), fn(self.iterations), fn(self.oracle_calls), fn(self.converged), fn(self.exact), trace
        )

    def with_trace(self, gap: Tensor, support_size: Tensor) -> SolverInfo:
        """The same with a trace, from tensors [*batch, iterations]."""
        trace = Trace(gap.movedim(-1, 0), support_size.movedim(-1, 0))
        return SolverInfo(self.gap, self.iterations, self.oracle_calls, self.converged, self.exact, trace)
