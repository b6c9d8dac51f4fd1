"""The steps of the batched solvers: how p moves once the oracle has answered. Each keeps p >= 0 and its sum.

A Frank-Wolfe step is a direction in p, followed to the exact optimum of the quadratic on it or to the boundary,
whichever comes first; an unregularised part (``extra``) counts through the slopes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from structlat.solvers.batched_state import Round, State, average
from structlat.solvers.kernels.state import CONTINUES, STALLED


class Step(Protocol):
    """Moves p of the rows of ``state`` whose status is CONTINUES; STALLED are those that rounding keeps from moving."""

    def __call__(self, state: State, heard: Round) -> None:
        """One step, after ``state.hear`` has said what the oracle's answer means."""


def frank_wolfe(direction: Callable[[State, Round], Tensor]) -> Step:
    """The step along what ``direction`` returns: weights [B, C] that sum to zero, uphill."""

    def step(state: State, heard: Round) -> None:
        live = state.status == CONTINUES
        weights = direction(state, heard)
        slope = (weights * heard.slope).sum(-1)
        curvature = average(weights, state.v).square().sum(-1)
        # a straight line (two structures that differ in extra parts alone) is followed to its end
        _, moved = state.move(weights, torch.where(slope > 0, slope / curvature, 0), live)
        state.status = torch.where(live & ~moved, STALLED, state.status)

    return step


def vanilla(state: State, heard: Round) -> Tensor:
    """Towards the oracle's structure (Frank and Wolfe 1956)."""
    return _one(heard.slot, state) - state.p


def away(state: State, heard: Round) -> Tensor:
    """Towards the oracle's structure, or away from the worst one of the support, whichever is steeper.

    Guelat and Marcotte (1986); Lacoste-Julien and Jaggi (2015), algorithm 1.
    """
    worst, _, slope = _extremes(state, heard)
    backwards = state.p - _one(worst, state)
    return torch.where((-slope > heard.gain).unsqueeze(-1), backwards, vanilla(state, heard))


def pairwise(state: State, heard: Round) -> Tensor:
    """From the worst structure of the support to the oracle's (Lacoste-Julien and Jaggi 2015, algorithm 2)."""
    worst, _, _ = _extremes(state, heard)
    return _one(heard.slot, state) - _one(worst, state)


def blended_pairwise(state: State, heard: Round) -> Tensor:
    """From the worst to the best structure of the support where that is steeper than towards the oracle's.

    Tsuji, Tanaka and Pokutta (2022, *Pairwise conditional gradients without swap steps*), algorithm 1, not lazy: the
    oracle has answered already, for the certificate.
    """
    worst, best, slope = _extremes(state, heard)
    inside = _one(best, state) - _one(worst, state)
    local = heard.slope.gather(1, best.unsqueeze(-1)).squeeze(-1) - slope
    return torch.where((local >= heard.gain).unsqueeze(-1), inside, vanilla(state, heard))


def _extremes(state: State, heard: Round) -> tuple[Tensor, Tensor, Tensor]:
    """The worst and the best structure of the support, [B] slots, and the slope towards the worst."""
    inside = state.p > 0
    least, worst = torch.where(inside, heard.slope, torch.inf).min(-1)
    best = torch.where(inside, heard.slope, -torch.inf).argmax(-1)
    return worst, best, least


def _one(slot: Tensor, state: State) -> Tensor:
    """All of p on one slot, [B, C]."""
    return torch.zeros_like(state.p).scatter_(1, slot.unsqueeze(-1), 1.0)
