"""The corrective step in batched torch: to the optimum of the support, or to the boundary on the way there.

As in the kernels a step of p is solved for, M dp + tau 1 = r and 1'dp = 1 - 1'p with M = A A' + 1 1': small
probabilities keep their digits. The factor is a fresh one each time, of a matrix of whole numbers, so that there is
nothing to drift; triangular solves are what accelerators have batched kernels for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.solvers.batched_state import NOISE, Round, State, at
from structlat.solvers.kernels.state import CONTINUES, EPS, STALLED
from structlat.solvers.kernels.steps import DEPENDENT

PATIENCE = 8


def corrective(state: State, heard: Round) -> None:
    """The min-norm-point step (Wolfe 1976; Niculae et al. 2018): let the oracle's structure in, go to the optimum.

    One corrective step a round: a row whose step is blocked drops what blocks it, and goes on in the next round. What
    the oracle says by then is let in where the step would raise it, up to ``PATIENCE`` rounds; then the optimum of the
    support comes first, as in the method by the book, so that none comes twice and the method ends.

    A structure that depends affinely on the support (possible with extra parts) moves p along the null direction to
    the boundary. One that is in the support, or would leave at once, is no better than the support's optimum, but for
    rounding errors: they are removed, for as long as the gap halves.
    """
    live = state.status == CONTINUES
    rested = state.pending == 0
    r, one, c = _solve(state, torch.stack([heard.slope, torch.ones_like(state.p), heard.line], -1)).unbind(-1)
    rest = heard.corner - (heard.line * c).sum(-1)  # the Schur complement
    dependent = rest < DEPENDENT * heard.corner
    # the support's system bordered by the new structure
    rest = torch.where(dependent, 1, rest)
    new_r = (heard.gain - (heard.line * r).sum(-1)) / rest
    new_one = (1 - (heard.line * one).sum(-1)) / rest
    slot = heard.slot.unsqueeze(-1)
    enter = _level(
        state,
        (r - new_r.unsqueeze(-1) * c).scatter(1, slot, new_r.unsqueeze(-1)),
        (one - new_one.unsqueeze(-1) * c).scatter(1, slot, new_one.unsqueeze(-1)),
    )
    exchange = (-torch.where(c.abs() < NOISE, 0, c)).scatter(1, slot, 1.0)
    value = at(state.t, heard.slot)
    terms = c * state.t
    gains = value - terms.sum(-1) > 8 * EPS * (value.abs() + terms.abs().sum(-1) + state.largest)
    rises = (at(enter, heard.slot) > 0) & (state.pending < PATIENCE)
    useful = live & ~heard.known & torch.where(dependent, gains & rested, rises)
    along = useful & dependent
    halved = state.gap < 0.5 * state.stuck
    refined = live & rested & ~useful
    state.stuck = torch.where(useful, torch.inf, torch.where(refined, state.gap, state.stuck))
    state.status = torch.where(refined & ~halved, STALLED, state.status)
    weights = torch.where(
        along.unsqueeze(-1), exchange, torch.where(useful.unsqueeze(-1), enter, _level(state, r, one))
    )
    _advance(state, weights, torch.where(along, torch.inf, 1.0), live, along)


def settle(state: State) -> None:
    """Go to the optimum of each row's support, which has to be affinely independent; twice, for rounding's sake."""
    no = torch.zeros_like(state.pending, dtype=torch.bool)
    for _ in range(2):
        state.pending = torch.ones_like(state.pending)
        while bool((state.pending > 0).any()):
            r, one = _solve(state, torch.stack([state.slopes(), torch.ones_like(state.p)], -1)).unbind(-1)
            _advance(state, _level(state, r, one), torch.ones_like(state.gap), state.pending > 0, no)


def _advance(state: State, weights: Tensor, length: Tensor, where: Tensor, along: Tensor) -> None:
    """Move, and say which rows have to go on: those that were blocked, and those that moved ``along`` a null line."""
    sound = torch.isfinite(weights).all(-1, keepdim=True)
    reached, _ = state.move(torch.where(sound, weights, 0), length, where)
    on = (reached & sound.squeeze(-1)) | along
    state.pending = torch.where(where, torch.where(on, state.pending + 1, 0), state.pending)


def _solve(state: State, right: Tensor) -> Tensor:
    """M^-1 ``right`` [B, C, n] on the support; 0 in free slots."""
    inside = state.p > 0
    both = inside.unsqueeze(-1) & inside.unsqueeze(-2)
    m = torch.where(both, state.v @ state.v.mT + 1, torch.eye(inside.shape[-1], dtype=right.dtype, device=right.device))
    factor = torch.linalg.cholesky_ex(m).L
    right = torch.where(inside.unsqueeze(-1), right, 0)
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solved


def _level(state: State, r: Tensor, one: Tensor) -> Tensor:
    """Dp from M^-1 r and M^-1 1: the multiplier is such that p sums to one."""
    missing = 1 - state.p.sum(-1, keepdim=True)
    return r - (r.sum(-1, keepdim=True) - missing) / one.sum(-1, keepdim=True) * one
