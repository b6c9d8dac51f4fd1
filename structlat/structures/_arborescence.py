"""The log-partition of trees directed to a root, in differentiable torch, at any scale of the scores.

It is the log-determinant of the weights' Laplacian (Kirchhoff; Tutte 1948; Koo et al. 2007), whose entries are sums of
weights with both signs, and whose exponentials overflow. Gaussian elimination of a Laplacian needs neither subtraction
nor the diagonal (Grassmann, Taksar and Heyman 1985): taking word i out makes of each pair of arcs j -> i -> h an arc
j -> h. So everything is a logarithm of a sum of positive numbers, and what is forbidden is a zero weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The log-weight of what is forbidden. A number, so that no derivative is NaN, and so low that it is lost in any sum.
NOTHING = -1e200


def log_trees(scores: Tensor, multi_root: bool = True) -> Tensor:
    """The log of the sum of exp(score) over all trees, [B], for scores [B, n, n + 1] of words' heads, 0 the root.

    -inf, with a gradient of 0, where there is no tree. What scores say of a word as its own head is never used. Unless
    ``multi_root``, trees have one child of the root. O(n^3) a row; no branch on values.
    """
    weight = torch.where(torch.isneginf(scores), NOTHING, scores)
    if not multi_root:
        weight = _common_end_first(weight)
    weight = weight.permute(1, 2, 0)  # rows of the batch side by side
    total = torch.zeros_like(weight[0, 0])
    for i in range(len(weight) - 1, 0, -1):
        heads, arrivals = weight[i, : i + 1], weight[:i, i + 1]
        # with one child of the root its arcs enter to first order: what leads there does not count as leading away
        away = _log_sum(heads if multi_root else heads[1:])
        total = total + away
        weight = _log_add(weight[:i, : i + 1], arrivals.unsqueeze(1) + (heads - away))
    total = total + weight[0, 0]
    return torch.where(total < NOTHING / 2, -torch.inf, total)


def _common_end_first(weight: Tensor) -> Tensor:
    """Words in an order that begins with one that all others lead to without the root, if there is one.

    It is the one that no elimination takes out: all others lead somewhere then for as long as they are there.
    """
    batch, n, _ = weight.shape
    place = torch.arange(n, device=weight.device)
    reach = (weight[..., 1:] > NOTHING / 2) | (place.unsqueeze(-1) == place)
    for i in range(n):
        reach = reach | (reach[:, :, i : i + 1] & reach[:, i : i + 1])
    end = reach.all(1).to(torch.int8).argmax(1, keepdim=True)
    order = torch.where(place == 0, end, torch.where(place == end, 0, place))
    rows = weight.gather(1, order.unsqueeze(-1).expand(batch, n, n + 1))
    columns = torch.cat([torch.zeros_like(end), order + 1], 1)
    return rows.gather(2, columns.unsqueeze(1).expand(batch, n, n + 1))


def _log_sum(x: Tensor) -> Tensor:
    """log(sum(exp(x))) over the first dimension."""
    top = x.detach().amax(0)
    return (x - top).exp().sum(0).log() + top


def _log_add(x: Tensor, y: Tensor) -> Tensor:
    """log(exp(x) + exp(y)). Not torch.logaddexp, whose second derivative is NaN where x and y are far apart."""
    top = torch.maximum(x.detach(), y.detach())
    return ((x - top).exp() + (y - top).exp()).log() + top
