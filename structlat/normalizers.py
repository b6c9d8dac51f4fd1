"""From scores to structures: argmax, and the distributions marginalize, topk_sparsemax and sparsemap."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Literal

import torch
from torch import Tensor

from structlat.assemble import compact, empty_distribution, from_solution, make_distribution
from structlat.distribution import SparseDistribution, Support
from structlat.errors import ArgumentError, NonConvergenceWarning, check_choice, check_count
from structlat.problem import make_gamma, make_problem
from structlat.simplex import entmax15, sparsemax
from structlat.solvers.active_set import active_set
from structlat.solvers.info import SolverInfo
from structlat.structure import Structure


def _softmax(s: Tensor) -> Tensor:
    return torch.softmax(s, -1)


NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _softmax,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}
SOLVERS = ("auto", "active_set")
ON_FAILURE = ("warn", "raise", "ignore")


def check_options(solver: str, tol: float, max_iter: int | None, on_failure: str) -> None:
    """Check the options of :func:`sparsemap`: there, and where a layer keeps them."""
    check_choice("solver", solver, SOLVERS)
    check_choice("on_failure", on_failure, ON_FAILURE)
    if not isinstance(tol, (int, float)) or not tol >= 0:
        raise ArgumentError(f"tol: got {tol!r}; expected a number of at least 0")
    if max_iter is not None:
        check_count("max_iter", max_iter)


def argmax(structure: Structure, scores: Tensor, *extra: Tensor) -> Tensor:
    """MAP with any batch dimensions: a structure of highest score.

    Parameters
    ----------
    structure : Structure
    scores : Tensor [*batch, *shape]
    extra : Tensors that broadcast to [*batch, *extra_shape]

    Returns
    -------
    Tensor
        z [*batch, *event_shape], in the scores' dtype where the space has no dtype of its own.

    Raises
    ------
    ArgumentError
        Wrong shapes, dtypes, NaN, +inf; InfeasibleError where a row has no feasible structure.
    """
    problem = make_problem(structure, scores, extra)
    z = problem.unflatten(problem.map_structures())
    return z.to(device=scores.device, dtype=structure.event_dtype or scores.dtype)


def marginalize(
    structure: Structure, scores: Tensor, *extra: Tensor, normalizer: str = "softmax"
) -> SparseDistribution:
    """Normalize the scores of every structure, enumerated: exact, for spaces that are small.

    Parameters
    ----------
    structure : Structure
        One that ``structure.enumerate()`` can list.
    scores : Tensor [*batch, *shape]
        Half precision is computed in float64, as is everything. -inf forbids a part.
    extra : Tensors that broadcast to [*batch, *extra_shape]
    normalizer : {"softmax", "sparsemax", "entmax15"}

    Raises
    ------
    ArgumentError
        Bad scores or too many structures; InfeasibleError where a row has no feasible one.
    """
    check_choice("normalizer", normalizer, NORMALIZERS)
    problem = make_problem(structure, scores, extra)
    every = structure._every.to(scores.device).unsqueeze(0)
    s = problem.score(every)
    problem.refuse_infeasible(~torch.isfinite(s.detach()).any(-1))
    p = NORMALIZERS[normalizer](s)
    z = every.expand(s.shape + structure.event_shape)
    info = SolverInfo.closed_form(problem.batch_shape)
    return make_distribution(problem, *(compact(z, p) if bool((p.detach() == 0).any()) else (z, p)), info)


def topk_sparsemax(structure: Structure, scores: Tensor, *extra: Tensor, k: int = 10) -> SparseDistribution:
    """Sparsemax over the k structures of highest score (Correia et al. 2020, section 4.1).

    It is the sparsemax over all of Z wherever one of the k gets probability 0, or k >= |Z|: ``info.exact`` says so, row
    by row. ``info.gap`` is the gap to that sparsemax, from the score of the best structure that was left out.

    Parameters
    ----------
    structure : Structure
    scores : Tensor [*batch, *shape]
    extra : Tensors that broadcast to [*batch, *extra_shape]
    k : int
        At least 1.

    Raises
    ------
    ArgumentError
        Bad scores or k; InfeasibleError where a row has no feasible structure.
    """
    k = check_count("k", k)
    problem = make_problem(structure, scores, extra)
    if problem.scores.shape[0] == 0:
        return empty_distribution(problem)
    # one more than k: its score is what the certificate needs
    z, valid = structure.topk(*problem.detached(), k=k + 1)
    z, valid = z.to(scores.device), valid.to(scores.device)
    problem.refuse_infeasible(~valid[:, 0])
    s = torch.where(valid, problem.score(z), -torch.inf)
    p = sparsemax(s[:, :k])
    size = (p.detach() > 0).sum(-1)
    exact = ~valid[:, k] | (size < k)
    # p = max(s - tau, 0), so the slope of the objective is tau inside the support and s outside
    tau = s[:, 0] - p[:, 0]
    gap = torch.where(exact, 0, (s[:, k] - tau).clamp(min=0)).detach()
    info = SolverInfo(
        gap=problem.unflatten(gap).cpu(),
        iterations=torch.zeros(problem.batch_shape, dtype=torch.int64, device="cpu"),
        oracle_calls=torch.full(problem.batch_shape, k + 1, dtype=torch.int64, device="cpu"),
        converged=torch.ones(problem.batch_shape, dtype=torch.bool, device="cpu"),
        exact=problem.unflatten(exact).cpu(),
    )
    return make_distribution(problem, *compact(z[:, :k], p), info)


def sparsemap(
    structure: Structure,
    scores: Tensor,
    *extra: Tensor,
    gamma: float | Tensor = 1.0,
    solver: str = "auto",
    tol: float = 1e-9,
    max_iter: int | None = None,
    on_failure: Literal["warn", "raise", "ignore"] = "warn",
    validate: bool = False,
    trace: bool = False,
) -> SparseDistribution:
    r"""SparseMAP: argmax over p of <s, p> - gamma/2 \|mu\|^2, where mu are the marginals (Niculae et al. 2018).

    Parameters
    ----------
    structure : Structure
        Its ``symmetric`` regularises being off like being on.
    scores : Tensor [*batch, *shape]
        One number a part; -inf forbids it. Solved in float64 whatever the dtype.
    extra : Tensors that broadcast to [*batch, *extra_shape]
        Scores of the parts that are not regularised.
    gamma : float or Tensor that broadcasts to [*batch]
        Strength of the regulariser, positive; differentiable.
    solver : {"auto", "active_set"}
        "auto" takes a closed form where the structure has one.
    tol : float
        Duality gap at which a row is done, relative to the smaller of gamma times the largest squared norm of a
        vertex and the largest score of a structure, never below what rounding errors leave.
    max_iter : int, optional
        Rounds at most. Default: 10,000 + 100 a part, far more than are needed unless extra scores are tiny.
    on_failure : {"warn", "raise", "ignore"}
        What to do about rows that did not converge: :class:`NonConvergenceWarning`, or the same as an error.
    validate : bool
        Check every answer of the structure's ``argmax``.
    trace : bool
        Keep gap and support size by iteration in ``info.trace``.

    Returns
    -------
    SparseDistribution
        ``info.gap`` certifies it. ``mean`` has the derivatives of the marginals themselves; ``probs``, ``expect``,
        ``entropy`` and ``log_prob`` those of p on the support found.

    Raises
    ------
    ArgumentError
        Bad scores, gamma, solver ...; InfeasibleError where a row has no feasible structure.
    """
    check_options(solver, tol, max_iter, on_failure)
    problem = make_problem(structure, scores, extra)
    strength = make_gamma(gamma, problem)
    if problem.scores.shape[0] == 0:
        return empty_distribution(problem)
    scaled = problem.scaled(strength)
    first = scaled.map_structures()
    closed = structure.closed_form(scaled.scores, *scaled.extra) if solver == "auto" else None
    if closed is not None:
        info = SolverInfo.closed_form(problem.batch_shape)

        def again() -> Support:
            scaled = problem.scaled(strength)
            return structure.closed_form(scaled.scores, *scaled.extra) or closed

        return make_distribution(problem, *compact(*closed), info, again)
    flat_scores, *flat_extra = scaled.detached()
    solution = active_set(
        structure,
        flat_scores,
        tuple(flat_extra),
        first.cpu(),
        tol=tol,
        max_iter=max_iter,
        validate=validate,
        keep_trace=trace,
    )
    scale = strength.detach().cpu() * (2 if structure.symmetric else 1)
    history = solution.trace
    info = SolverInfo(
        solution.gap * scale,
        solution.iterations,
        solution.oracle_calls,
        solution.converged,
        solution.converged,
        None if history is None else history._replace(gap=history.gap * scale),
    ).map(problem.unflatten)
    _report(info, on_failure)
    return from_solution(problem, strength, solution, info)


def _report(info: SolverInfo, on_failure: str) -> None:
    if on_failure == "ignore" or bool(info.converged.all()):
        return
    if on_failure == "raise":
        raise NonConvergenceWarning(info.status)
    # the warning belongs to the caller's line, however many of ours lie between
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("structlat", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(info.status, NonConvergenceWarning, stacklevel=level)
