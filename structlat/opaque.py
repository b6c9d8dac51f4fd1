"""Oracles and solvers as operators: what tracing cannot look into, with the structure told by its handle.

Scores come without a graph, as float64, [B, *shape], and extra scores [B or 1, *extra_shape]. ``batch_shape`` is what
errors and warnings call the rows by. ``least`` is how many columns a support has at least: a tracer needs two.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType

import torch
from torch import Tensor

from structlat.errors import InfeasibleError, NonConvergenceWarning, rows_text
from structlat.map_oracle import MapAnswer, ask_argmax, event_dtype
from structlat.operators import operator
from structlat.problem import infeasible_text
from structlat.solvers.face import complete_face
from structlat.solvers.info import SolverInfo
from structlat.solvers.methods import METHODS
from structlat.structure import Structure, structure_of


def least_columns() -> int:
    """A compiler takes a dimension of unknown size for one of two or more."""
    return 2 if torch.compiler.is_compiling() else 1


def _unknown_size() -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size(min=2)


def _argmax_fake(scores: Tensor, extra: list[Tensor], handle: str, batch_shape: list[int]) -> Tensor:
    structure = structure_of(handle)
    return scores.new_empty(scores.shape[0], *structure.event_shape, dtype=event_dtype(structure))


@operator("argmax", _argmax_fake)
def argmax(scores: Tensor, extra: list[Tensor], handle: str, batch_shape: list[int]) -> Tensor:
    """MAP structures z [B, *event_shape]; InfeasibleError, naming the rows, where there is none."""
    structure = structure_of(handle)
    z = _feasible(structure, scores, extra, batch_shape).z
    return z.to(device=scores.device, dtype=event_dtype(structure))


def _topk_fake(
    scores: Tensor, extra: list[Tensor], handle: str, k: int, batch_shape: list[int]
) -> tuple[Tensor, Tensor]:
    structure = structure_of(handle)
    z = scores.new_empty(scores.shape[0], k, *structure.event_shape, dtype=event_dtype(structure))
    return z, scores.new_empty(scores.shape[0], k, dtype=torch.bool)


@operator("topk", _topk_fake)
def topk(scores: Tensor, extra: list[Tensor], handle: str, k: int, batch_shape: list[int]) -> tuple[Tensor, Tensor]:
    """The k best structures z [B, k, *event_shape] and which of them there are [B, k]; InfeasibleError for none."""
    structure = structure_of(handle)
    z, valid = structure.topk(*_on_host(scores, extra), k=k)
    if not bool(valid[:, 0].all()):
        _refuse(structure, ~valid[:, 0], batch_shape, None)
    return z.to(device=scores.device, dtype=event_dtype(structure)), valid.to(scores.device)


def _every_fake(handle: str) -> Tensor:
    structure = structure_of(handle)
    return torch.empty(_unknown_size(), *structure.event_shape, dtype=event_dtype(structure), device="cpu")


@operator("every", _every_fake)
def every(handle: str) -> Tensor:
    """Every structure, enumerated, [|Z|, *event_shape], on the host."""
    structure = structure_of(handle)
    return structure._every.to(event_dtype(structure))


def _listed_fake(p: Tensor, least: int, best_first: bool) -> tuple[Tensor, Tensor]:
    width = _unknown_size()
    return p.new_empty(p.shape[0], width, dtype=torch.int64), p.new_empty(p.shape[0], width, dtype=torch.bool)


@operator("listed", _listed_fake)
def listed(p: Tensor, least: int, best_first: bool) -> tuple[Tensor, Tensor]:
    """Where p [B, M] is positive, most probable or lowest index first: index [B, K]; mask [B, K], False in the padding.

    Padding repeats the row's first.
    """
    width = max(int((p > 0).sum(-1).max()) if len(p) else 0, least)
    order = (p if best_first else (p > 0).to(p.dtype)).sort(dim=-1, descending=True, stable=True).indices[:, :width]
    if order.shape[1] < width:
        order = torch.cat([order, order[:, :1].expand(-1, width - order.shape[1])], 1)
    mask = p.gather(1, order) > 0
    mask &= torch.arange(width, device=p.device) < p.shape[1]
    return torch.where(mask, order, order[:, :1]), mask


def _solve_fake(
    scores: Tensor,
    extra: list[Tensor],
    scale: Tensor,
    init: list[Tensor],
    handle: str,
    solver: str,
    tol: float,
    max_iter: int | None,
    on_failure: str,
    validate: bool,
    trace: bool,
    batch_shape: list[int],
    least: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    structure, batch, width = structure_of(handle), scores.shape[0], _unknown_size()
    rounds = _unknown_size() if trace else 0
    return (
        scores.new_empty(batch, width, *structure.event_shape, dtype=event_dtype(structure)),
        scores.new_empty(batch, width),
        scores.new_empty(batch),
        scores.new_empty(batch, dtype=torch.int64),
        scores.new_empty(batch, dtype=torch.int64),
        scores.new_empty(batch, dtype=torch.bool),
        scores.new_empty(batch, rounds),
        scores.new_empty(batch, rounds, dtype=torch.int64),
    )


@operator("sparsemap", _solve_fake)
def solve(
    scores: Tensor,
    extra: list[Tensor],
    scale: Tensor,
    init: list[Tensor],
    handle: str,
    solver: str,
    tol: float,
    max_iter: int | None,
    on_failure: str,
    validate: bool,
    trace: bool,
    batch_shape: list[int],
    least: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """SparseMAP at gamma = 1: a support and p on it, most probable first, and what a SolverInfo is made of.

    ``init`` is empty, or z [B, K, *event] and p [B, K] to start from; ``scale`` [B or 1] what gaps are multiplied by,
    to be in the units of the caller's scores.

    Returns
    -------
    z [B, K, *event], p [B, K], gap [B], iterations [B], oracle_calls [B], converged [B], and the trace: gap and support
    size [B, rounds], or [B, 0]
    """
    structure = structure_of(handle)
    first = _feasible(structure, scores, extra, batch_shape).z
    method = METHODS[solver]
    if not method.on_device:
        scores_there, *extra_there = _on_host(scores, extra)
        init = [x.cpu() for x in init]
    else:
        scores_there, extra_there = scores, extra
    solution = method.solve(
        structure,
        scores_there,
        tuple(extra_there),
        first,
        tol=tol,
        max_iter=max_iter,
        validate=validate,
        keep_trace=trace,
        init=(init[0], init[1]) if init else None,
    )
    scale = scale.to(solution.gap.device)
    history = [] if solution.trace is None else [(solution.trace.gap * scale).T, solution.trace.support_size.T]
    if not history:
        history = [solution.gap.new_empty(len(scores), 0), solution.iterations.new_empty(len(scores), 0)]
    gap = solution.gap * scale
    _report(
        SolverInfo(gap, solution.iterations, solution.oracle_calls, solution.converged, solution.converged),
        on_failure,
        batch_shape,
    )
    z, p = solution.z.to(event_dtype(structure)), solution.p
    if p.shape[1] < least or bool((p[:, 1:] > p[:, :-1]).any()):
        index, mask = listed(p, least, True)
        z, p = take(z, index), torch.where(mask, p.gather(1, index), 0)
    out = (z, p, gap, solution.iterations, solution.oracle_calls, solution.converged, *history)
    return tuple(x.to(scores.device) for x in out)  # type: ignore[return-value]


def _face_fake(
    scores: Tensor, extra: list[Tensor], z: Tensor, p: Tensor, handle: str, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, width = scores.shape[0], _unknown_size()
    wide = p.new_empty(batch, width)
    return z.new_empty(batch, width, *z.shape[2:]), wide, p.new_empty(batch, width, dtype=torch.bool)


@operator("face", _face_fake)
def face(
    scores: Tensor, extra: list[Tensor], z: Tensor, p: Tensor, handle: str, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The support z [B, K, *event] of p [B, K], widened to span the optimal face: z, p (0 for what is new), mask."""
    flat = _on_host(scores, extra)
    out = complete_face(structure_of(handle), flat[0], tuple(flat[1:]), z.cpu(), p.cpu())
    wider, weights, mask = (x.to(scores.device) for x in out)
    missing = least - wider.shape[1]
    if missing > 0:
        wider = torch.cat([wider, wider[:, :1].expand(-1, missing, *z.shape[2:])], 1)
        weights, mask = (torch.nn.functional.pad(x, (0, missing)) for x in (weights, mask))
    return wider.to(z.dtype), weights, mask


def take(z: Tensor, index: Tensor) -> Tensor:
    """The structures ``index`` [B, K] of z [B, M, *event]."""
    wide = index.reshape(index.shape + (1,) * (z.ndim - 2))
    return z.gather(1, wide.expand(index.shape + z.shape[2:]))


def _on_host(scores: Tensor, extra: list[Tensor]) -> list[Tensor]:
    """What oracles are asked: every tensor with all rows."""
    return [x.cpu().expand(scores.shape[0], *x.shape[1:]) for x in (scores, *extra)]


def _feasible(structure: Structure, scores: Tensor, extra: list[Tensor], batch_shape: list[int]) -> MapAnswer:
    answer = ask_argmax(structure, *_on_host(scores, extra))
    bad = torch.isneginf(answer.score)
    if bool(bad.any()):
        _refuse(structure, bad, batch_shape, answer.cause)
    return answer


def _refuse(structure: Structure, bad: Tensor, batch_shape: list[int], cause: ValueError | None) -> None:
    said = f" (its argmax said: {cause})" if cause is not None and str(cause) else ""
    text = infeasible_text(structure, said)
    raise InfeasibleError(text.replace("{rows}", rows_text(bad.reshape(batch_shape)))) from cause


def _report(info: SolverInfo, on_failure: str, batch_shape: list[int]) -> None:
    if on_failure == "ignore" or bool(info.converged.all()):
        return
    status = info.map(lambda x: x.reshape((*batch_shape, *x.shape[1:]))).status
    if on_failure == "raise":
        raise NonConvergenceWarning(status)
    # the warning belongs to the caller's line, however many of ours lie between
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("structlat", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(status, NonConvergenceWarning, stacklevel=level)
