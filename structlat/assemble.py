"""From what was found to the distribution that the caller sees: batch shape, dtypes, order, and the graph.

Three sources of its parts: a solver's support, a closed form, and candidates that were listed (enumerated, top-k). A
part that is read gets a graph of its own down to the caller's tensors: a backward call through one leaves the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat import opaque
from structlat.closed_form import ClosedForm
from structlat.distribution import Source, SparseDistribution, Support
from structlat.problem import Problem, needs_graph
from structlat.solvers.info import SolverInfo
from structlat.solvers.kkt import with_graph


def assemble(problem: Problem, source: Source, info: SolverInfo) -> SparseDistribution:
    """The distribution over the caller's batch."""
    return SparseDistribution.from_source(problem.structure, source, problem.batch_shape, info, problem.dtype)


class FromSolver(Source):
    """The support that a solver found, z [B, K, *event] and p [B, K].

    p gets the derivatives of its KKT system, the means those of the completed face's.
    """

    def __init__(self, problem: Problem, gamma: Tensor, z: Tensor, p: Tensor) -> None:
        self.problem, self.gamma = problem, gamma
        self.z, self.p = z, p
        self.mask = p > 0
        self._face: tuple[Tensor, Tensor, Tensor] | None = None

    def probs(self) -> tuple[Tensor, Tensor]:
        """P, with a graph if anybody can ask for a derivative."""
        p = self._graphed(self.z, self.p, self.mask) if self._differentiable() else self.p
        problem = self.problem
        return problem.unflatten(p).to(problem.probs_dtype), problem.unflatten(self.mask)

    def structures(self) -> Tensor:
        """The support."""
        return self.problem.dressed(self.z)

    def moments(self) -> Support:
        """Without a graph the support; else the optimal face, completed at the first call (not for expect)."""
        z, p = self.z, self.p
        if self._differentiable():
            if self._face is None:
                scaled = self.problem.scaled(self.gamma)
                handle = self.problem.structure.handle
                self._face = opaque.face(*scaled.detached(), z, p, handle, opaque.least_columns())
            z, p, mask = self._face
            p = self._graphed(z, p, mask)
        return self.problem.dressed(z), self.problem.unflatten(p)

    def _differentiable(self) -> bool:
        return needs_graph(self.problem.scores, *self.problem.extra, self.gamma)

    def _graphed(self, z: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        scores = self.problem.scaled(self.gamma).score(z)
        return with_graph(p, scores, self.problem.structure.vertex(z), mask)


class FromClosedForm(Source):
    """A closed form of the scaled problem. Whoever reads the means alone has no structure made."""

    def __init__(self, problem: Problem, gamma: Tensor) -> None:
        self.problem, self.gamma = problem, gamma
        self._listed: tuple[ClosedForm, Tensor] | None = None

    def form(self) -> ClosedForm:
        """The closed form, on a graph of its own."""
        scaled = self.problem.scaled(self.gamma)
        form = self.problem.structure.closed_form(scaled.scores, *scaled.extra)
        if form is None:
            raise RuntimeError(f"{self.problem.structure!r}: closed_form gave an answer before, and None now")
        return form

    def probs(self) -> tuple[Tensor, Tensor]:
        """P of the candidates that have any, most probable first."""
        form = self.form()
        weights = form.weights()
        index, mask = opaque.listed(weights.detach(), opaque.least_columns(), True)
        p = torch.where(mask, weights.gather(1, index), 0)
        self._listed = form, index
        problem = self.problem
        return problem.unflatten(p).to(problem.probs_dtype), problem.unflatten(mask)

    def structures(self) -> Tensor:
        """Those candidates."""
        if self._listed is None:
            self.probs()
        assert self._listed is not None
        form, index = self._listed
        problem = self.problem
        return problem.dressed(form.structures(index, problem.probs_dtype))

    def mean(self) -> Tensor:
        """In closed form, too."""
        return self.problem.unflatten(self.form().mean())

    def moments(self) -> Support:
        """Those of p."""
        return self.structures(), self.probs()[0]


class FromCandidates(Source):
    """Candidates ``index`` [B, K] of z [B, M, *event], or all; p [B, K] carries its graph and that of the means.

    ``scores`` [B, K] are given where p is their softmax.
    """

    def __init__(
        self, problem: Problem, z: Tensor, p: Tensor, index: Tensor | None = None, scores: Tensor | None = None
    ) -> None:
        self.problem, self.z, self.p, self.index, self.scores = problem, z, p, index, scores

    def probs(self) -> tuple[Tensor, Tensor]:
        """P as it came."""
        problem = self.problem
        p = problem.unflatten(self.p)
        return p.to(problem.probs_dtype), p.detach() > 0

    def structures(self) -> Tensor:
        """Those candidates."""
        return self.problem.dressed(self.z if self.index is None else opaque.take(self.z, self.index))

    def log_probs(self) -> Tensor | None:
        """Of a softmax, whose p is 0 in float32 a hundred below the best score."""
        if self.scores is None:
            return None
        return self.problem.unflatten(self.scores.log_softmax(-1)).to(self.problem.probs_dtype)

    def moments(self) -> Support:
        """Those of p, in float64."""
        return self.structures(), self.problem.unflatten(self.p)


def compact(problem: Problem, z: Tensor, p: Tensor) -> FromCandidates:
    """Keep what has probability in some row, most probable first; padding repeats the row's first."""
    index, mask = opaque.listed(p.detach(), opaque.least_columns(), True)
    return FromCandidates(problem, z, torch.where(mask, p.gather(1, index), 0), index)


def possible(problem: Problem, z: Tensor, p: Tensor, scores: Tensor) -> FromCandidates:
    """Keep what is feasible in some row, as it came, of a softmax: p may be 0 by rounding."""
    index, mask = opaque.listed((~torch.isneginf(scores.detach())).to(p.dtype), opaque.least_columns(), False)
    p = torch.where(mask, p.gather(1, index), 0)
    return FromCandidates(problem, z, p, index, torch.where(mask, scores.gather(1, index), -torch.inf))


def empty_distribution(problem: Problem) -> SparseDistribution:
    """An empty batch is a batch."""
    structure = problem.structure
    z = torch.zeros(0, 1, *structure.event_shape, dtype=torch.float64, device=problem.scores.device)
    p = problem.scores.flatten(start_dim=1).sum(-1, keepdim=True)  # [0, 1], with the caller's graph
    return assemble(problem, FromCandidates(problem, z, p), SolverInfo.closed_form(problem.batch_shape))
