"""SparseMAP on any device: one loop in batched torch, with exchangeable steps.

A round asks the oracle for all unfinished rows at once, judges them, and moves p by the method's step. The device is
waited for every ``BLOCK`` rounds only: then finished rows leave, and supports get room to grow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.solvers.active_set import Solution, rounds_at_most
from structlat.solvers.batched_oracle import Oracle
from structlat.solvers.batched_run import Run
from structlat.solvers.batched_state import State
from structlat.solvers.caratheodory import reduce
from structlat.solvers.corrective import corrective, settle
from structlat.solvers.steps import Step, away, blended_pairwise, frank_wolfe, pairwise, vanilla
from structlat.structure import Structure

BLOCK = 8  # rounds between two looks at the device
FRANK_WOLFE_ROUNDS = 10_000

STEPS: dict[str, Step] = {
    "active_set_torch": corrective,
    "vanilla": frank_wolfe(vanilla),
    "away": frank_wolfe(away),
    "pairwise": frank_wolfe(pairwise),
    "blended_pairwise": frank_wolfe(blended_pairwise),
}


def solve(
    structure: Structure,
    scores: Tensor,
    extra: tuple[Tensor, ...],
    first: Tensor,
    *,
    method: str,
    tol: float,
    max_iter: int | None,
    validate: bool,
    keep_trace: bool,
    init: tuple[Tensor, Tensor] | None = None,
) -> Solution:
    """Solve SparseMAP with gamma = 1 for ``scores`` [B, *shape] and ``extra`` [B or 1, *extra_shape], float64.

    Parameters
    ----------
    first : Tensor [B, *event]
        MAP structures: where the method starts, unless there is ``init``, z [B, K, *event] and p [B, K].
    method : a key of ``STEPS``
    max_iter : int, optional
        Rounds at most. Default: 10,000 for the Frank-Wolfe methods, of which "vanilla" rarely converges in as many to
        a tolerance of 1e-9; ``rounds_at_most`` for "active_set_torch".

    Returns
    -------
    Solution
        z and p on the scores' device; gap, iterations, oracle_calls, converged and the trace on the host. Converged or
        not, p is the optimum on an affinely independent support with every p > 0. A Frank-Wolfe support becomes one at
        the end (Caratheodory, then corrective steps); the oracle is asked once more to certify the outcome.
    """
    limit = max_iter
    if limit is None:
        limit = rounds_at_most(structure.shape.numel()) if method == "active_set_torch" else FRANK_WOLFE_ROUNDS
    with torch.no_grad():
        wide = tuple(x.expand(len(scores), *x.shape[1:]) for x in extra)
        oracle = Oracle(structure, scores, wide, validate)
        run = Run(oracle, _start(oracle, first.to(scores.device), init, method), STEPS[method], tol, keep_trace)
        rounds = 0
        while len(run.state.row):
            block = min(BLOCK, limit - rounds)
            run.make_room(block)
            for _ in range(block):
                run.advance()
            rounds += block
            run.part(last=rounds == limit)
        return run.solution()


def _start(oracle: Oracle, first: Tensor, init: tuple[Tensor, Tensor] | None, method: str) -> State:
    """All of p on ``first`` [B, *event], or what is feasible of ``init`` on an affinely independent support."""
    z = first.unsqueeze(1)
    p = torch.ones(z.shape[:2], dtype=torch.float64, device=z.device)
    if init is None or not len(z):
        return State.start(oracle.describe(z), p)
    z = torch.cat([z, init[0].to(z)], 1)
    state = State.start(oracle.describe(z), torch.cat([torch.zeros_like(p), init[1].to(p)], 1))
    reduce(state)
    if method == "active_set_torch":
        settle(state)
    return state
