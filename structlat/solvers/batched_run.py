"""The rows of a batched solver: one round for all of them, and what happens between rounds.

In a round nothing waits for the device. Between blocks of rounds the host looks: finished rows leave, supports get room
to grow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.solvers.active_set import Solution
from structlat.solvers.batched_oracle import Oracle
from structlat.solvers.batched_state import State
from structlat.solvers.caratheodory import reduce
from structlat.solvers.corrective import corrective, settle
from structlat.solvers.info import Trace
from structlat.solvers.kernels.state import CONTINUES, CONVERGED, STALLED
from structlat.solvers.steps import Step


class Run:
    """The rows that are still worked on, and those that have left."""

    def __init__(self, oracle: Oracle, state: State, step: Step, tol: float, keep_trace: bool) -> None:
        self.oracle = oracle
        self.state = state
        self.step = step
        self.corrective = step is corrective
        self.tol = tol
        self.batch = len(state.row)
        self.failed = torch.zeros((), dtype=torch.bool, device=state.p.device)
        self.finished: list[State] = []
        self.history: list[tuple[Tensor, ...]] | None = [] if keep_trace else None

    def make_room(self, rounds: int) -> None:
        """Room for a structure a round more; supports that have more than twice what can be independent are reduced."""
        size = self.state.size()
        if not self.corrective:
            large = (size > 2 * (self.state.v.shape[-1] + 1)).nonzero().squeeze(-1)
            if len(large):
                part = self.state.take(large)
                reduce(part)
                self.state.put(large, part)
                size = self.state.size()
        self.state.grow(int(size.max()) + rounds + 1)

    def advance(self) -> None:
        """One round. Nothing in it waits for the device, but for what the structure's own ``argmax`` does."""
        state = self.state
        live = state.status == CONTINUES
        answer = self.oracle.ask(state.mean)
        self.failed = self.failed | (answer.infeasible & live).any()
        heard = state.hear(answer, self.tol)
        self.step(state, heard)
        if self.history is not None:
            self.history.append((state.row, live, state.rounds, state.gap, state.size()))

    def part(self, last: bool) -> None:
        """Let rows leave that are done, or all if this is the ``last`` time."""
        self.oracle.refuse_infeasible(self.failed)
        over = (self.state.status != CONTINUES) | last
        index = over.nonzero().squeeze(-1)
        if not len(index):
            return
        # the certificate of the active set is that of its p, where it has one
        open_ = index[self.state.status[index] != CONVERGED] if self.corrective else index
        if len(open_):
            self._close(open_)
            over = (self.state.status != CONTINUES) | last
        self.finished.append(self.state.take(over.nonzero().squeeze(-1)))
        rest = (~over).nonzero().squeeze(-1)
        self.state, self.oracle = self.state.take(rest), self.oracle.take(rest)

    def _close(self, index: Tensor) -> None:
        """End with the corrective step on an affinely independent support, and ask for the certificate of that.

        The objective is higher then, but the gap need not be smaller: a Frank-Wolfe row that had converged may have to
        go on.
        """
        part, oracle = self.state.take(index), self.oracle.take(index)
        before = part.status
        lost = torch.isinf(part.gap)
        if not self.corrective:
            reduce(part)
        settle(part)
        part.status = torch.full_like(before, CONTINUES)
        answer = oracle.ask(part.mean)
        oracle.refuse_infeasible(answer.infeasible.any())
        part.hear(answer, self.tol)
        part.rounds = part.rounds - 1
        part.gap = torch.where(lost, torch.inf, part.gap)
        again = (part.status == CONTINUES) & (before == CONVERGED)
        part.status = torch.where(~lost & (part.status == CONVERGED), CONVERGED, torch.where(again, CONTINUES, STALLED))
        self.state.put(index, part)

    def solution(self) -> Solution:
        """All rows, in the order in which they came."""
        parts = self.finished or [self.state]
        width = max([1, *(int(x.size().max()) for x in parts if len(x.row))])
        order = torch.cat([x.row for x in parts]).argsort(dim=0)
        listed = [_most_probable_first(x, width) for x in parts]
        z, p = (torch.cat(x)[order] for x in zip(*listed, strict=True))
        gap, rounds, calls, status = (
            torch.cat([getattr(x, name) for x in parts])[order].cpu() for name in ("gap", "rounds", "calls", "status")
        )
        return Solution(
            z, p, gap, rounds, calls, status == CONVERGED, self._trace(int(rounds.max()) if self.batch else 0)
        )

    def _trace(self, rounds: int) -> Trace | None:
        if self.history is None:
            return None
        device = self.state.row.device
        gap = torch.full((rounds, self.batch), torch.nan, dtype=torch.float64, device=device)
        size = torch.zeros(rounds, self.batch, dtype=torch.int64, device=device)
        for row, live, at, row_gap, row_size in self.history:
            gap[at[live] - 1, row[live]] = row_gap[live]
            size[at[live] - 1, row[live]] = row_size[live]
        return Trace(gap.cpu(), size.cpu())


def _most_probable_first(state: State, width: int) -> tuple[Tensor, Tensor]:
    """Structures [B, width, *event] and p [B, width]; padding repeats the row's first structure with p = 0."""
    p, order = state.p.sort(dim=-1, descending=True, stable=True)
    short = width - p.shape[1]
    if short > 0:
        p, order = (torch.cat([x, x.new_zeros(len(x), short)], 1) for x in (p, order))
    p, order = p[:, :width], order[:, :width]
    order = torch.where(p > 0, order, order[:, :1])
    index = order.reshape(order.shape + (1,) * (state.z.ndim - 2)).expand(order.shape + state.z.shape[2:])
    return state.z.gather(1, index), p
