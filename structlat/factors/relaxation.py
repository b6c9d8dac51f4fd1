"""lp_sparsemap: marginals of a graph of factors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from structlat.errors import ArgumentError, check_count
from structlat.factors.admm import Consensus
from structlat.factors.answer import Answer
from structlat.factors.graph import FactorGraph
from structlat.factors.marginals import ConsensusInfo, GraphMarginals
from structlat.factors.operator import agree
from structlat.normalizers import check_options
from structlat.problem import Problem, make_gamma, make_problem

MAX_ITER = 10_000


def lp_sparsemap(
    graph: FactorGraph,
    scores: Tensor,
    *extra: Tensor,
    gamma: float | Tensor = 1.0,
    tol: float = 1e-9,
    max_iter: int | None = None,
    init: GraphMarginals | None = None,
    on_failure: Literal["warn", "raise", "ignore"] = "warn",
) -> GraphMarginals:
    r"""LP-SparseMAP: argmax of <scores, mu> + sum_f <extra_f, n_f> - gamma/2 \|mu\|^2 (Niculae and Martins 2020).

    mu are the marginals of the variables; for each factor f, those of its variables together with n_f, how often its
    extra parts are used, have to be the means of a distribution over its structures. That is the local polytope, which
    is the true one where the graph has no cycles and may be larger elsewhere.

    Parameters
    ----------
    graph : FactorGraph
        Its ``symmetric`` regularises being off like being on.
    scores : Tensor [*batch, n]
        One number a variable; -inf forbids it. Solved in float64 whatever the dtype.
    extra : Tensors that broadcast to [*batch, *lead, *extra_shape]
        Extra scores of the factors, in the order in which these were added: ``graph.extra_shapes``.
    gamma : float or Tensor that broadcasts to [*batch]
        Strength of the regulariser, positive; differentiable.
    tol : float
        Residuals at which a row is done, as differences of marginals, and as differences of scores / gamma; relative to
        the scores / gamma where these are below 1, and never below what rounding errors leave.
    max_iter : int, optional
        Rounds at most. Default: 10,000; some hundred are usual.
    init : GraphMarginals, optional
        An earlier answer for this graph, for scores not far from these and the same batch shape, to start from.
    on_failure : {"warn", "raise", "ignore"}
        What to do about rows that did not converge: :class:`NonConvergenceWarning`, or the same as an error.

    Returns
    -------
    GraphMarginals

    Raises
    ------
    ArgumentError
        Bad scores, gamma, init ...; InfeasibleError where a factor has no feasible structure, or where it is found that
        no marginals satisfy all factors.
    """
    if not isinstance(graph, FactorGraph):
        raise ArgumentError(f"graph: got {type(graph).__name__}; expected a FactorGraph")
    check_options("auto", tol, max_iter, on_failure)
    problem = make_problem(graph.space, scores, extra)
    strength = make_gamma(gamma, problem)
    start = _checked_init(init, graph, problem)
    limit = MAX_ITER if max_iter is None else check_count("max_iter", max_iter)
    scaled_scores, scaled_extra = problem.scaled(strength).detached()
    scale = strength.detach() * (2 if graph.symmetric else 1)
    shape, handle = problem.batch_shape, graph.space.handle
    *end, relaxed = agree(scaled_scores, scaled_extra, scale, start, handle, tol, limit, on_failure, shape)
    answer = Answer(problem, strength, graph.factors, graph.layout, Consensus(*end))
    info = ConsensusInfo.of(answer.end, scale).map(problem.unflatten)
    return GraphMarginals(graph, info, problem.unflatten(relaxed), answer)


def _checked_init(init: GraphMarginals | None, graph: FactorGraph, problem: Problem) -> list[Tensor]:
    if init is None:
        return []
    if not isinstance(init, GraphMarginals):
        raise ArgumentError(f"init: got {type(init).__name__}; expected a GraphMarginals, as lp_sparsemap returns it")
    answer, shape = init._answer, problem.batch_shape
    if answer.problem.batch_shape != shape or not torch.equal(answer.layout.variable, graph.layout.variable):
        raise ArgumentError(
            f"init: got an answer for {init.graph!r} and batch shape {tuple(answer.problem.batch_shape)}; expected one "
            f"for {graph!r} and {tuple(shape)}"
        )
    return [answer.end.mean, answer.end.multipliers, answer.end.penalty]
