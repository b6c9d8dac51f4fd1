"""How probabilities on a fixed support move with the scores: the KKT system of SparseMAP, in differentiable torch.

The solvers run without a graph. What they return is given one here, so that double backward, forward mode and the
extra scores need nothing of their own (Niculae et al. 2018, section 3.3; Correia et al. 2020, appendix).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _factor(vertices: Tensor, mask: Tensor) -> Tensor:
    """L [B, K, K] with L L' = A A' + 1 1', for affinely independent ``vertices`` [B, K, *shape] where ``mask`` [B, K].

    Elsewhere it is the identity.
    """
    a = vertices.flatten(start_dim=2).to(torch.float64)
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    identity = torch.eye(mask.shape[-1], dtype=torch.float64, device=mask.device)
    m = torch.where(both, torch.baddbmm(a.new_ones(1, 1, 1), a, a.transpose(-1, -2)), identity)
    factor: Tensor = torch.linalg.cholesky_ex(m).L
    return factor


def with_graph(p: Tensor, scores: Tensor, vertices: Tensor, mask: Tensor) -> Tensor:
    """``p`` [B, K] as it is, with the derivatives of the KKT system in ``scores`` [B, K] (gamma = 1).

    The value stays the solver's own: certified, positive, summing to one.
    """
    first = scores[:, :1]  # p does not change, and nothing cancels where scores are large
    relative = torch.where(mask, scores - first, 0)
    both = torch.stack([relative, mask.to(torch.float64)], -1)
    solved, ones = torch.cholesky_solve(both, _factor(vertices, mask)).unbind(-1)
    graph = solved - ones * (solved.sum(-1, keepdim=True) / ones.sum(-1, keepdim=True))
    return p + (graph - graph.detach())
