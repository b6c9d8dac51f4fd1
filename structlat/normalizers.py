"""From scores to structures: argmax, and the distributions marginalize, topk_sparsemax and sparsemap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from structlat import opaque
from structlat.assemble import (
    FromCandidates,
    FromClosedForm,
    FromSolver,
    assemble,
    compact,
    empty_distribution,
    possible,
)
from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError, check_choice, check_count
from structlat.map_oracle import event_dtype
from structlat.operators import traced
from structlat.problem import Problem, make_gamma, make_problem
from structlat.simplex import entmax15, sparsemax
from structlat.solvers import methods
from structlat.solvers.info import SolverInfo
from structlat.structure import Structure


def _softmax(s: Tensor) -> Tensor:
    return torch.softmax(s, -1)


NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _softmax,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}
SOLVERS = ("auto", *methods.METHODS)
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
    return problem.dressed(opaque.argmax(*problem.detached(), structure.handle, problem.batch_shape))


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
    every = opaque.every(structure.handle).to(scores.device).unsqueeze(0)
    s = problem.score(every)
    s = problem.feasible(s, torch.isneginf(s.detach().amax(-1)))
    p = NORMALIZERS[normalizer](s)
    z = every.expand(s.shape + structure.event_shape)
    if normalizer == "softmax":
        # every structure, in the order of enumerate; a copy of all of them for each row only where some are forbidden
        whole = not traced() and not bool(torch.isneginf(s.detach()).any())
        source = FromCandidates(problem, z, p, scores=s) if whole else possible(problem, z, p, s)
    else:
        source = compact(problem, z, p)
    return assemble(problem, source, SolverInfo.closed_form(problem.batch_shape))


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
    z, valid = opaque.topk(*problem.detached(), structure.handle, k + 1, problem.batch_shape)
    s = torch.where(valid, problem.score(z), -torch.inf)
    p = sparsemax(s[:, :k])
    size = (p.detach() > 0).sum(-1)
    exact = ~valid[:, k] | (size < k)
    # p = max(s - tau, 0), so the slope of the objective is tau inside the support and s outside
    tau = s[:, 0] - p[:, 0]
    gap = torch.where(exact, 0, (s[:, k] - tau).clamp(min=0)).detach()
    count = torch.zeros_like(gap, dtype=torch.int64)
    info = SolverInfo(gap, count, count + k + 1, torch.ones_like(exact), exact).map(problem.unflatten)
    return assemble(problem, compact(problem, z[:, :k], p), info)


def sparsemap(
    structure: Structure,
    scores: Tensor,
    *extra: Tensor,
    gamma: float | Tensor = 1.0,
    solver: str = "auto",
    tol: float = 1e-9,
    max_iter: int | None = None,
    init: SparseDistribution | None = None,
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
    solver : str
        "auto" takes a closed form where the structure has one, else the active set: "active_set", Numba kernels, for
        scores on the CPU, "active_set_torch", batched torch, on other devices. "vanilla", "away", "pairwise" and
        "blended_pairwise" are Frank-Wolfe methods: simpler, and slower to a small gap.
    tol : float
        Duality gap at which a row is done, relative to the smaller of gamma times the largest squared norm of a
        vertex and the largest score of a structure, never below what rounding errors leave.
    max_iter : int, optional
        Rounds at most. Default: 10,000 for Frank-Wolfe, and for the active set 100,000 and 1,000 a part: far more than
        it needs unless there are extra scores and all scores are tiny.
    init : SparseDistribution, optional
        An earlier answer, for scores not far from these and the same batch shape: its support is where the solver
        starts, without what this space does not have. Only the number of rounds changes.
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
    start = _checked_init(init, problem)
    if problem.scores.shape[0] == 0:
        return empty_distribution(problem)
    if solver == "auto":
        form = structure.closed_form(problem.scores, *problem.extra)
        if form is not None:
            bad = form.infeasible()
            if bad is not None:
                problem = problem.with_scores(problem.feasible(problem.scores, bad))
            return assemble(problem, FromClosedForm(problem, strength), SolverInfo.closed_form(problem.batch_shape))
        solver = methods.default(problem.scores.device)
    scaled_scores, scaled_extra = problem.scaled(strength).detached()
    z, p, gap, iterations, oracle_calls, converged, *history = opaque.solve(
        scaled_scores,
        scaled_extra,
        strength.detach() * (2 if structure.symmetric else 1),
        start,
        structure.handle,
        solver,
        tol,
        max_iter,
        on_failure,
        validate,
        trace,
        problem.batch_shape,
        opaque.least_columns(),
    )
    info = SolverInfo(gap, iterations, oracle_calls, converged, converged).map(problem.unflatten)
    if trace:
        info = info.with_trace(*(problem.unflatten(x) for x in history))
    return assemble(problem, FromSolver(problem, strength, z, p), info)


def _checked_init(init: SparseDistribution | None, problem: Problem) -> list[Tensor]:
    """Nothing, or structures [B, K, *event] and probabilities [B, K] to start from."""
    if init is None:
        return []
    if not isinstance(init, SparseDistribution):
        raise ArgumentError(f"init: got {type(init).__name__}; expected a SparseDistribution, as sparsemap returns it")
    event = torch.Size(problem.structure.event_shape)
    if init.batch_shape != problem.batch_shape or init.event_shape != event:
        raise ArgumentError(
            f"init: got batch shape {tuple(init.batch_shape)} and event shape {tuple(init.event_shape)}; expected "
            f"{tuple(problem.batch_shape)} and {tuple(event)}, those of this problem"
        )
    rows, k = problem.scores.shape[0], init.probs.shape[-1]
    z, p = init.structures.detach().reshape(rows, k, *event), init.probs.detach().reshape(rows, k)
    if init.structure is not problem.structure:
        # of a larger budget, say: what this space does not have is left out
        inside = problem.structure.contains(z)
        if not inside.any():
            return []
        z = torch.where(inside.reshape(rows, k, *(1,) * len(event)), z, z[inside][0])
        p = torch.where(inside, p, 0)
    return [z.to(event_dtype(problem.structure)), p.to(torch.float64)]
