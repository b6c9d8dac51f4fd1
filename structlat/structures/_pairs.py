"""The k best sums of one number from each of several lists."""

from __future__ import annotations

import torch
from torch import Tensor


def best_pairs(values: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k best sums of one value from each of m lists [B, K], each in descending order, -inf at its end.

    Two lists at a time: before the pair (i, j) come all (i', j') with i' <= i and j' <= j, so that only pairs with
    (i + 1) (j + 1) <= k can be among the k best, which are about k log k. Sums are rounded as those of a loop over the
    lists. Ties: in the order of the sums without the last list, then of the places in it.

    Returns
    -------
    index [m, B, k], total [B, k]: places in the lists, and the sums, best first; -inf where there are fewer than k.
    """
    places = torch.arange(k, device=values[0].device)
    reach = k // (places + 1)  # how many j go with an i
    i = places.repeat_interleave(reach)
    j = torch.arange(len(i), device=i.device) - (reach.cumsum(0) - reach)[i]
    total = _long(values[0], k)
    index = places.expand(1, *total.shape)
    for value in values[1:]:
        pairs = total[:, i] + _long(value, k)[:, j]
        total, order = pairs.sort(dim=-1, descending=True, stable=True)
        total, order = total[:, :k], order[:, :k]
        before = index.gather(-1, i[order].expand(len(index), -1, -1))
        index = torch.cat([before, j[order].unsqueeze(0)])
    return index, total


def _long(value: Tensor, k: int) -> Tensor:
    """A list of k, filled up with -inf."""
    return torch.nn.functional.pad(value, (0, k - value.shape[-1]), value=-torch.inf)
