"""From scores to structures: argmax, and the distributions marginalize, topk_sparsemax and sparsemap."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Literal

import torch
from torch import Tensor

from structlat.distribution import SparseDistribution, Support
from structlat.errors import ArgumentError, NonConvergenceWarning, check_choice, check_count
from structlat.problem import Problem, make_gamma, make_problem, needs_graph
from structlat.simplex import entmax15, sparsemax
from structlat.solvers.active_set import Solution, active_set
from structlat.solvers.face import complete_face
from structlat.solvers.info import SolverInfo
from structlat.solvers.kkt import with_graph
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
    return _distribution(problem, *(_compact(z, p) if bool((p.detach() == 0).any()) else (z, p)), info)


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
        return _empty(problem)
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
    return _distribution(problem, *_compact(z[:, :k], p), info)


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
        return _empty(problem)
    scaled = problem.scaled(strength)
    first = scaled.map_structures()
    closed = structure.closed_form(scaled.scores, *scaled.extra) if solver == "auto" else None
    if closed is not None:
        info = SolverInfo.closed_form(problem.batch_shape)

        def again() -> Support:
            scaled = problem.scaled(strength)
            return structure.closed_form(scaled.scores, *scaled.extra) or closed

        return _distribution(problem, *_compact(*closed), info, again)
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
    return _from_solution(problem, strength, solution, info)


def _from_solution(problem: Problem, gamma: Tensor, solution: Solution, info: SolverInfo) -> SparseDistribution:
    """Give the solver's support its graph: p from the support itself, the means from the completed face.

    Each has a graph of its own down to the caller's tensors: a backward call through one leaves the other.
    """
    z, p, _ = _on_device(problem, solution.supports.members())
    z, p = _compact(z, p)
    found = z, p, p > 0
    face: list[tuple[Tensor, Tensor, Tensor]] = []

    def differentiable() -> bool:
        return needs_graph(problem.scores, *problem.extra, gamma)

    def support(members: tuple[Tensor, Tensor, Tensor]) -> Support:
        z, p, mask = members
        if not differentiable():
            return z, p
        return z, with_graph(p, problem.scaled(gamma).score(z), problem.structure.vertex(z), mask)

    def mean_support() -> Support:
        # found when somebody asks for the means, not before: expect() alone has no use for it
        if not differentiable():
            return found[0], found[1]
        if not face:
            face.append(_on_device(problem, complete_face(solution.supports)))
        return support(face[0])

    z, p = support(found)
    return _distribution(problem, z, p, info, mean_support, mask=found[2])


def _distribution(
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


def _compact(z: Tensor, p: Tensor) -> Support:
    """Keep what has probability in some row, most probable first; padding repeats the row's first structure."""
    kept = p.detach() > 0
    width = max(int(kept.sum(-1).max()) if len(p) else 1, 1)
    order = p.detach().sort(dim=-1, descending=True, stable=True).indices[:, :width]
    p = p.gather(1, order)
    order = torch.where(p.detach() > 0, order, order[:, :1])
    index = order.reshape(order.shape + (1,) * (z.ndim - 2)).expand(order.shape + z.shape[2:])
    return z.gather(1, index), p


def _empty(problem: Problem) -> SparseDistribution:
    """An empty batch is a batch."""
    structure = problem.structure
    z = torch.zeros(0, 1, *structure.event_shape, dtype=torch.float64, device=problem.scores.device)
    p = problem.scores.flatten(start_dim=1).sum(-1, keepdim=True)  # [0, 1], with the caller's graph
    return _distribution(problem, z, p, SolverInfo.closed_form(problem.batch_shape))


def _on_device(problem: Problem, members: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    z, p, mask = (x.to(problem.scores.device) for x in members)
    return z, p, mask


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
