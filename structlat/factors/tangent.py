"""How marginals move with the scores: they stay in the affine hull of the face of the local polytope that they are in.

Where no face changes, the marginals are the projection of scores / gamma onto the intersection of the affine hulls of
the factors' faces, so that their derivative is the orthogonal projection onto its directions. A direction of the
variables is one of them if it is one for every factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structlat.factors.layout import Group, Layout

SMALL = 1e-9  # of singular values, which are those of 0/1 matrices, and of eigenvalues of sums of projections


@dataclass(frozen=True)
class Support:
    """Structures z [B, F, K, *event] of a group's factors, p [B, F, K], and ``mask`` [B, F, K], False for padding."""

    z: Tensor
    p: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Tangent:
    """``projection`` [B, n, n] onto the directions in which marginals move, and each group's ``weights`` [B, F, K, n].

    The latter say how p moves with the marginals of its factor's parts.
    """

    layout: Layout
    projection: Tensor
    supports: tuple[Support, ...]
    weights: tuple[Tensor, ...]

    @classmethod
    def of(cls, layout: Layout, supports: Sequence[Support], fixed: Tensor) -> Tangent:
        """From affinely independent structures of each factor; ``fixed`` [B, n]: variables that do not move anyway."""
        rows, n = fixed.shape
        blocked = torch.diag_embed(fixed.to(torch.float64)).reshape(rows, n * n)
        weights = []
        for group, support in zip(layout.groups, supports, strict=True):
            inverse, block = _spanned(group, support)
            weights.append(inverse)
            index = group.variables.to(fixed.device)
            pairs = (index.unsqueeze(-1) * n + index.unsqueeze(-2)).reshape(-1)
            blocked = blocked.index_add(1, pairs, block.reshape(rows, len(pairs)))
        values, vectors = torch.linalg.eigh(blocked.reshape(rows, n, n))
        free = torch.where((values < SMALL).unsqueeze(-2), vectors, 0)
        return cls(layout, free @ free.transpose(-1, -2), tuple(supports), tuple(weights))

    def moved(self, scores: Tensor, extra: Sequence[Tensor]) -> Tensor:
        """The projection of scores [B, n], finite, and of what extra scores do to them: [B, n]. Linear in both.

        ``extra`` are those of all factors, [B or 1, *lead, *extra_shape].
        """
        for group, support, weights in zip(self.layout.groups, self.supports, self.weights, strict=True):
            own = group.extra(extra)
            if not own:
                continue
            none = scores.new_zeros(1, 1, 1, *group.structure.shape)
            added = group.structure.score(support.z, none, *(x.unsqueeze(2) for x in own))
            added = torch.where(support.mask, added, 0)
            index = group.variables.reshape(-1).to(scores.device)
            at_parts = (weights * added.unsqueeze(-1)).sum(2).reshape(len(scores), len(index))
            scores = scores.index_add(1, index, at_parts)
        return (self.projection * scores.unsqueeze(-2)).sum(-1)

    def probabilities(self, number: int, marginals: Tensor) -> Tensor:
        """What p [B, F, K] of a group is, up to a constant, where the marginals are [B, n]."""
        at_parts = marginals[:, self.layout.groups[number].variables.to(marginals.device)]
        return (self.weights[number] * at_parts.unsqueeze(2)).sum(-1)


def _spanned(group: Group, support: Support) -> tuple[Tensor, Tensor]:
    """The weights of a group, [B, F, K, n], and the projection [B, F, n, n] onto what its factors do not let move."""
    a = group.structure.vertex(support.z).to(torch.float64).flatten(start_dim=3)
    lifted = torch.cat([a, torch.ones_like(a[..., :1])], -1) * support.mask.unsqueeze(-1)
    u, s, v = torch.linalg.svd(lifted, full_matrices=False)
    kept = s > SMALL * s[..., :1]
    inverse = (u * torch.where(kept, 1 / torch.where(kept, s, 1), 0).unsqueeze(-2)) @ v
    v = v * kept.unsqueeze(-1)
    n = a.shape[-1]
    outside = torch.eye(n, dtype=a.dtype, device=a.device) - (v.transpose(-1, -2) @ v)[..., :n, :n]
    return inverse[..., :n], outside
