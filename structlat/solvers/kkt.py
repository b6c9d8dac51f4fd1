"""How probabilities on a fixed support move with the scores: the KKT system of SparseMAP, in differentiable torch.

The solvers run without a graph. What they return is given one here, so that double backward, forward mode and the
extra scores need nothing of their own (Niculae et al. 2018, section 3.3; Correia et al. 2020, appendix).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sensitivity(vertices: Tensor, mask: Tensor) -> Tensor:
    """P [B, K, K] with dp = P dt, for affinely independent ``vertices`` [B, K, *shape] where ``mask`` [B, K].

    With M = A A' + 1 1', P = M^-1 - M^-1 1 1' M^-1 / (1' M^-1 1): its lines sum to zero, for p sums to one.
    """
    a = vertices.flatten(start_dim=2).to(torch.float64)
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    identity = torch.eye(mask.shape[-1], dtype=torch.float64, device=mask.device)
    m = torch.where(both, a @ a.transpose(-1, -2) + 1, identity)
    inverse = torch.where(both, torch.linalg.inv(m), 0)
    ones = inverse.sum(-1, keepdim=True)
    return inverse - ones @ ones.transpose(-1, -2) / ones.sum(-2, keepdim=True)


def with_graph(p: Tensor, scores: Tensor, vertices: Tensor, mask: Tensor) -> Tensor:
    """``p`` [B, K] as it is, with the derivatives of the KKT system in ``scores`` [B, K] (gamma = 1).

    The value stays the solver's own: certified, positive, summing to one.
    """
    first = scores[:, :1]  # p does not change, and nothing cancels where scores are large
    relative = torch.where(mask, scores - first, 0)
    graph = (sensitivity(vertices, mask) @ relative.unsqueeze(-1)).squeeze(-1)
    return p + (graph - graph.detach())
