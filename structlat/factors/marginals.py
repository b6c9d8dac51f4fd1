"""GraphMarginals: what LP-SparseMAP answers, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from structlat.distribution import SparseDistribution
from structlat.errors import rows_text
from structlat.factors.admm import Consensus
from structlat.factors.answer import Answer, OfFactor
from structlat.factors.graph import FactorGraph
from structlat.operators import as_made
from structlat.solvers.info import SolverInfo


@dataclass(frozen=True, eq=False)
class ConsensusInfo:
    """How far a consensus came, each a tensor [*batch].

    Attributes
    ----------
    primal_residual : Tensor, float64
        The largest difference between a variable's marginal and that of a factor's own distribution.
    dual_residual : Tensor, float64
        The largest difference of the factors' shares of the scores from some at which their distributions are optimal,
        in the units of the scores.
    iterations : Tensor, int64
        Rounds, in each of which all factors are solved.
    converged : Tensor, bool
        Both residuals are under the tolerance, and the factors' own solvers under theirs.
    """

    primal_residual: Tensor
    dual_residual: Tensor
    iterations: Tensor
    converged: Tensor

    @classmethod
    def of(cls, end: Consensus, scale: Tensor) -> ConsensusInfo:
        """Of a consensus; ``scale`` [B or 1] brings scaled scores to the units of the scores."""
        return cls(end.primal, end.dual * scale, end.iterations, end.converged)

    def map(self, fn: Callable[[Tensor], Tensor]) -> ConsensusInfo:
        """Apply ``fn`` to every tensor [*batch]."""
        return ConsensusInfo(fn(self.primal_residual), fn(self.dual_residual), fn(self.iterations), fn(self.converged))

    @property
    def status(self) -> str:
        """What happened, as a sentence, with what to do where something went wrong."""
        rows = self.converged.numel()
        if rows == 0:
            return "The batch is empty: there was nothing to solve."
        residuals = (
            f"the largest residuals are {float(self.primal_residual.max()):.1e} (primal) and "
            f"{float(self.dual_residual.max()):.1e} (dual)"
        )
        if bool(self.converged.all()):
            return f"Converged in all {rows} rows after at most {int(self.iterations.max())} rounds: {residuals}."
        return (
            f"Stopped before the factors agreed in {rows_text(~self.converged)}: {residuals}. The three likely causes: "
            "max_iter is too small; no marginals satisfy all factors at once (the scores forbid too much, or the "
            "factors contradict each other); a factor's own solver stopped before its certificate."
        )


@dataclass(frozen=True, eq=False, repr=False)
class GraphMarginals:
    """Marginals of a graph of factors, from :func:`structlat.lp_sparsemap`.

    Attributes
    ----------
    graph : FactorGraph
    info : ConsensusInfo
        Residuals, rounds, and whether they are under the tolerance, by row.
    relaxed : Tensor [*batch], bool
        False where the marginals are certainly those of a distribution over assignments that satisfy all factors:
        nothing but variables whose marginals are 0 or 1 closes a cycle. True where they may be those of none.
    """

    graph: FactorGraph
    info: ConsensusInfo
    relaxed: Tensor
    _answer: Answer

    @property
    def marginals(self) -> Tensor:
        """Of each variable, [*batch, n]. Differentiable: with a graph, faces of all factors are completed once."""
        answer = self._answer
        return answer.problem.unflatten(answer.marginals()).to(answer.problem.dtype)

    @property
    def mean(self) -> Tensor:
        """Another name for ``marginals``."""
        return self.marginals

    @property
    def objective(self) -> Tensor:
        """What no distribution over assignments that satisfy all factors exceeds, [*batch]: the Lagrangian dual.

        Where the rows converged it is, up to the tolerance, the optimum over the local polytope. Differentiable, with
        the marginals as its slope in the scores.
        """
        answer = self._answer
        return answer.problem.unflatten(answer.objective()).to(answer.problem.probs_dtype)

    @cached_property
    def distributions(self) -> tuple[SparseDistribution, ...]:
        """Of each factor, in the order in which they were added: batch shape [*batch, *lead].

        A factor's ``mean`` are the marginals of its variables, up to the primal residual. ``mean`` and
        ``extra_marginals`` have the derivatives of the marginals; ``probs``, ``expect``, ``entropy`` and ``log_prob``
        those of all factors' p together, on the supports found.
        """
        with as_made(self._answer.inference):
            return self._distributions()

    def _distributions(self) -> tuple[SparseDistribution, ...]:
        answer, problem = self._answer, self._answer.problem
        out: list[SparseDistribution] = [None] * len(answer.factors)  # type: ignore[list-item]
        for number, group in enumerate(answer.layout.groups):
            for member in group.members:
                factor = answer.factors[member.factor]
                shape = problem.batch_shape + factor.lead
                gap, rounds, calls, converged = (x[:, member.places].reshape(shape) for x in answer.supports[number][1])
                scale = answer.problem.unflatten(answer.scale().detach())
                gap = gap * scale.reshape(scale.shape + (1,) * len(factor.lead))
                info = SolverInfo(gap, rounds, calls, converged, converged)
                source = OfFactor(answer, number, member)
                out[member.factor] = SparseDistribution.from_source(
                    factor.structure, source, shape, info, problem.dtype
                )
        return tuple(out)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: values without their graph."""
        state = {name: value for name, value in self.__dict__.items() if name != "distributions"}
        state["_answer"] = self._answer.detached()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return (
            f"GraphMarginals(batch_shape={tuple(self.relaxed.shape)}, graph={self.graph!r}, "
            f"converged={bool(self.info.converged.all())}, relaxed={int(self.relaxed.sum())} of "
            f"{self.relaxed.numel()} rows)"
        )
