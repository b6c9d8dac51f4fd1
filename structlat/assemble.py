"""From what a solver found to the distribution that the caller sees: batch shape, dtypes, order, and the graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structlat.distribution import SparseDistribution, Support
from structlat.problem import Problem, needs_graph
from structlat.solvers.active_set import Solution
from structlat.solvers.face import complete_face
from structlat.solvers.info import SolverInfo
from structlat.solvers.kkt import with_graph


def from_solution(problem: Problem, gamma: Tensor, solution: Solution, info: SolverInfo) -> SparseDistribution:
    """Give the solver's support its graph: p from the support itself, the means from the completed face.

    Each has a graph of its own down to the caller's tensors: a backward call through one leaves the other.
    """
    device = problem.scores.device
    z, p = compact(solution.z.to(device), solution.p.to(device))
    mask = p > 0

    flat = problem.scaled(gamma).detached()
    inputs = flat[0], flat[1:]

    def differentiable() -> bool:
        return needs_graph(problem.scores, *problem.extra, gamma)

    if not differentiable():
        return make_distribution(problem, z, p, info, mask=mask)

    def graphed(z: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        return with_graph(p, problem.scaled(gamma).score(z), problem.structure.vertex(z), mask)

    face: list[tuple[Tensor, Tensor, Tensor]] = []

    def mean_support() -> Support:
        # found when somebody asks for the means, not before: expect() alone has no use for it
        if not differentiable():
            return z, p
        if not face:
            face.append(_on_device(problem, complete_face(problem.structure, *inputs, solution.z, solution.p)))
        return face[0][0], graphed(*face[0])

    return make_distribution(problem, z, graphed(z, p, mask), info, mean_support, mask)


def make_distribution(
    problem: Problem,
    z: Tensor,
    p: Tensor,
    info: SolverInfo,
    mean_support: Callable[[], Support] | None = None,
    mask: Tensor | None = None,
) -> SparseDistribution:
    """The distribution over a flat batch, in the caller's batch shape and dtypes."""

    def dressed(z: Tensor) -> Tensor:
        return problem.unflatten(z.to(problem.structure.event_dtype or problem.dtype))

    def moments() -> Support:
        structures, weights = mean_support() if mean_support is not None else (z, p)
        return dressed(structures), problem.unflatten(weights)

    return SparseDistribution(
        problem.structure,
        dressed(z),
        problem.unflatten(p).to(problem.probs_dtype),
        None if mask is None else problem.unflatten(mask),
        info,
        moments,
        problem.dtype,
        validate_args=False,
    )


def compact(z: Tensor, p: Tensor) -> Support:
    """Keep what has probability in some row, most probable first; padding repeats the row's first structure."""
    kept = p.detach() > 0
    width = max(int(kept.sum(-1).max()) if len(p) else 1, 1)
    order = p.detach().sort(dim=-1, descending=True, stable=True).indices[:, :width]
    p = p.gather(1, order)
    order = torch.where(p.detach() > 0, order, order[:, :1])
    index = order.reshape(order.shape + (1,) * (z.ndim - 2)).expand(order.shape + z.shape[2:])
    return z.gather(1, index), p


def empty_distribution(problem: Problem) -> SparseDistribution:
    """An empty batch is a batch."""
    structure = problem.structure
    z = torch.zeros(0, 1, *structure.event_shape, dtype=torch.float64, device=problem.scores.device)
    p = problem.scores.flatten(start_dim=1).sum(-1, keepdim=True)  # [0, 1], with the caller's graph
    return make_distribution(problem, z, p, SolverInfo.closed_form(problem.batch_shape))


def _on_device(problem: Problem, members: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    z, p, mask = (x.to(problem.scores.device) for x in members)
    return z, p, mask
