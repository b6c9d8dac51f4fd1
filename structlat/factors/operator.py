"""LP-SparseMAP as an operator: what tracing cannot look into, with the graph told by its space's handle."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

import torch
from torch import Tensor

from structlat.errors import InfeasibleError, NonConvergenceWarning, rows_text
from structlat.factors.admm import Start, consensus
from structlat.factors.cycles import on_cycles
from structlat.factors.layout import Layout
from structlat.factors.marginals import ConsensusInfo
from structlat.factors.space import FactorGraphScores
from structlat.map_oracle import ask_argmax
from structlat.operators import operator
from structlat.structure import structure_of

INTEGRAL = 1e-6  # how far from 0 or 1 a marginal may be and still count as such


def _layout_of(handle: str) -> Layout:
    space = structure_of(handle)
    assert isinstance(space, FactorGraphScores)
    return space.layout


def _agree_fake(
    scores: Tensor,
    extra: list[Tensor],
    scale: Tensor,
    start: list[Tensor],
    handle: str,
    tol: float,
    max_iter: int,
    on_failure: str,
    batch_shape: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, width = len(scores), _layout_of(handle).width
    parts, number = (scores.new_empty(rows, width) for _ in range(3)), (scores.new_empty(rows) for _ in range(3))
    count = scores.new_empty(rows, dtype=torch.int64)
    flags = (scores.new_empty(rows, dtype=torch.bool) for _ in range(2))
    return (
        scores.new_empty(rows, scores.shape[1]), next(parts), next(number), next(parts), next(parts), next(number),
        next(number), count, next(flags), next(flags),
    )  # fmt: skip


@operator("lp_sparsemap", _agree_fake)
def agree(
    scores: Tensor,
    extra: list[Tensor],
    scale: Tensor,
    start: list[Tensor],
    handle: str,
    tol: float,
    max_iter: int,
    on_failure: str,
    batch_shape: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """LP-SparseMAP at gamma = 1: scores [B, n], extra [B or 1, *lead, *extra_shape], and ``start``, empty or a Start.

    ``scale`` [B or 1] is what residuals are multiplied by, to be in the units of the caller's scores.

    Returns
    -------
    what a Consensus is made of, and ``relaxed`` [B]: factors with variables that are neither on nor off form a cycle
    """
    layout = _layout_of(handle)
    _check_feasible(layout, scores, extra, batch_shape)
    end, contradictory = consensus(layout, scores, extra, Start(*start) if start else None, tol, max_iter)
    if bool(contradictory.any()):
        raise InfeasibleError(
            f"scores: no marginals satisfy all factors in {rows_text(contradictory.reshape(batch_shape))}; expected "
            "factors that do not contradict each other on the variables and parts above -inf"
        )
    _report(ConsensusInfo.of(end, scale).map(lambda x: x.reshape(batch_shape)), on_failure)
    fractional = (end.mean > INTEGRAL) & (end.mean < 1 - INTEGRAL)
    return (*end, on_cycles(layout, layout.spread(fractional)).any(-1))


def _check_feasible(layout: Layout, scores: Tensor, extra: list[Tensor], batch_shape: list[int]) -> None:
    """InfeasibleError, naming factor and rows, where one has no structure."""
    at = layout.spread(torch.where(torch.isneginf(scores), -torch.inf, 0))
    for group in layout.groups:
        rows = (group.flat(group.take(at)), *(group.flat(x.expand(len(at), *x.shape[1:])) for x in group.extra(extra)))
        bad = torch.isneginf(ask_argmax(group.structure, *(x.cpu() for x in rows)).score).reshape(len(at), group.count)
        for member in group.members:
            own = bad[:, member.places].any(-1)
            if bool(own.any()):
                raise InfeasibleError(
                    f"scores: factor {member.factor}, {group.structure!r}, has no feasible structure in "
                    f"{rows_text(own.reshape(batch_shape))}; expected at least one all of whose parts are above -inf"
                )


def _report(info: ConsensusInfo, on_failure: str) -> None:
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
