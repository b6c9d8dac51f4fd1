"""Sums over the subsets of each size: elementary symmetric polynomials of exp(scores), in log space, and draws.

By halves: the sums over a set of bits are the convolution of those over its two halves, so that n bits take log2 n
steps, each of them a few operations on the whole batch, and a draw walks back down the same tree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.structures._inside import logsumexp


def size_sums(scores: Tensor, most: int) -> list[Tensor]:
    """For scores [B, n], the logs of the sums over subsets with 0 .. ``most`` ones, for larger and larger sets.

    Returns
    -------
    list of Tensor [B, sets, sizes]
        First each bit alone, last all bits, [B, 1, sizes]. ``sizes`` is at most ``most + 1``; -inf for sizes that no
        feasible subset has. There are as many bits as the next power of two, those past n with a score of -inf.
    """
    n = scores.shape[-1]
    missing = (1 << (n - 1).bit_length()) - n
    padded = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    levels = [torch.stack([torch.zeros_like(padded), padded], -1)[..., : most + 1]]
    while levels[-1].shape[1] > 1:
        left, right = levels[-1].unflatten(1, (-1, 2)).unbind(2)
        levels.append(_convolved(left, right, most))
    return levels


def _convolved(left: Tensor, right: Tensor, most: int) -> Tensor:
    """Sums of sizes m from those of two halves [..., p]: log of sum_j exp(left[j] + right[m - j]), m <= ``most``."""
    sizes = left.shape[-1]
    share = torch.arange(sizes, device=left.device)
    rest = torch.arange(min(2 * sizes - 2, most) + 1, device=left.device).unsqueeze(-1) - share
    rest = torch.where((rest < 0) | (rest > sizes), sizes, rest)
    there = torch.nn.functional.pad(right, (0, 1), value=-torch.inf).index_select(-1, rest.flatten())
    return logsumexp(left.unsqueeze(-2) + there.unflatten(-1, rest.shape), -1)


def draw_subsets(levels: list[Tensor], size: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Bits [count, B, n] for numbers of ones ``size`` [count, B], by how a size falls to the halves of each set."""
    sizes = size.unsqueeze(-1)
    for level in reversed(levels[:-1]):
        left, right = level.unflatten(1, (-1, 2)).unbind(2)
        here = torch.arange(level.shape[-1], device=level.device)
        rest = sizes.unsqueeze(-1) - here
        there = right.expand(*sizes.shape, -1).gather(-1, rest.clamp(0, len(here) - 1))
        share = draw(torch.where((rest >= 0) & (rest < len(here)), left + there, -torch.inf), generator)
        sizes = torch.stack([share, sizes - share], -1).flatten(start_dim=-2)
    return sizes[..., :n]


def draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices [...] from softmax of ``logits`` [..., n], each of them independent; what has -inf is never drawn."""
    total = (logits - logits.amax(-1, keepdim=True)).exp().cumsum(-1)
    at = torch.rand(logits.shape[:-1], dtype=logits.dtype, device=logits.device, generator=generator)
    return (total <= (at * total[..., -1]).unsqueeze(-1)).sum(-1)
