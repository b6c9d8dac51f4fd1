"""Caratheodory's theorem in batched torch: the same mean on an affinely independent support."""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.solvers.batched_state import NOISE, State, average


def reduce(state: State) -> None:
    """Move p along null directions of the support until it is affinely independent; the objective never goes down.

    The mean stays, so that the objective is linear on the way: one pass of the simplex method over a tableau whose
    columns are the structures in the coordinates of an affine basis. Each pivot takes one structure out.
    """
    size = int(state.size().max())
    order = (state.p > 0).to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :size]
    p, t = state.p.gather(1, order), state.t.gather(1, order)
    v = state.v.gather(1, order.unsqueeze(-1).expand(-1, -1, state.v.shape[-1]))
    table, basic = _basis(v, p > 0)
    rows = torch.arange(len(p), device=p.device)
    for _ in range(size):
        outside = torch.where(_members(basic, size), 0, p)
        if not bool((outside > 0).any()):
            break
        enter = outside.argmax(-1)
        going = outside.amax(-1) > 0
        column = table[rows, :, enter]
        column = torch.where(column.abs() < NOISE, 0, column)
        # p of the structure grows where that gains, and shrinks elsewhere, until something has none left
        line = torch.zeros_like(p).scatter_add_(1, basic.clamp(min=0), -column * (basic >= 0))
        line[rows, enter] = 1.0
        gain = (line * t).sum(-1)
        line = torch.where((gain > 0).unsqueeze(-1), line, -line)
        ratio = torch.where(line < 0, p / -line, torch.inf)
        length, block = ratio.min(-1, keepdim=True)
        moved = torch.where(ratio <= length, 0, p + torch.where(torch.isfinite(length), length, 0) * line).clamp(min=0)
        p = torch.where(going.unsqueeze(-1), moved, p)
        leaving = (basic == block) & (going & (p[rows, enter] > 0)).unsqueeze(-1)
        table, basic = _pivot(table, basic, leaving, enter)
    state.p = torch.zeros_like(state.p).scatter_(1, order, p)
    state.p = state.p / state.p.sum(-1, keepdim=True)
    state.mean = average(state.p, state.v)


def _basis(v: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Structures v [B, n, d] in coordinates of an affine basis of them: table [B, m, n], the basis' numbers [B, m].

    Gauss-Jordan elimination with complete pivoting; -1 is a line of the table that has no structure.
    """
    table = torch.cat([v, torch.ones_like(v[..., :1])], -1) * inside.unsqueeze(-1)
    table = table.mT.contiguous()
    rows, lines, n = table.shape
    basic = torch.full((rows, lines), -1, dtype=torch.int64, device=v.device)
    for _ in range(min(lines, n)):
        free = (basic < 0).unsqueeze(-1) & ~_members(basic, n).unsqueeze(1)
        best, where = torch.where(free, table.abs(), 0).flatten(start_dim=1).max(-1)
        line = torch.arange(lines, device=v.device) == (where // n).unsqueeze(-1)
        table, basic = _pivot(table, basic, line & (best > NOISE).unsqueeze(-1), where % n)
    return torch.where((basic >= 0).unsqueeze(-1), table, 0), basic


def _pivot(table: Tensor, basic: Tensor, line: Tensor, enter: Tensor) -> tuple[Tensor, Tensor]:
    """Let column ``enter`` [B] be basic in the one line [B, m] that is True; rows without one stay as they are."""
    rows = torch.arange(len(table), device=table.device)
    column = table[rows, :, enter]
    chosen = (table * line.unsqueeze(-1)).sum(1)
    value = (column * line).sum(-1, keepdim=True)
    chosen = chosen / torch.where(value == 0, 1, value)
    eliminated = table - column.unsqueeze(-1) * chosen.unsqueeze(1)
    changed = torch.where(line.unsqueeze(-1), chosen.unsqueeze(1), eliminated)
    there = line.any(-1)
    return torch.where(there[:, None, None], changed, table), torch.where(line, enter.unsqueeze(-1), basic)


def _members(basic: Tensor, n: int) -> Tensor:
    """Which of n columns are in the basis, [B, n] bool."""
    inside = torch.zeros(len(basic), n + 1, dtype=torch.bool, device=basic.device)
    return inside.scatter_(1, torch.where(basic < 0, n, basic), value=True)[:, :n]
