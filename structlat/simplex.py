"""Sparse maps from scores to the probability simplex, on plain tensors: sparsemax and 1.5-entmax.

An operator finds the support, without a graph; then p is written on those entries alone, in ordinary differentiable
operations, and scattered into zeros. So double backward, forward mode and every transform need nothing of their own,
and what is as large as the scores is read once and written once, each way.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oracles._jit import kernel
from oracles._threads import by_rows
from structlat.errors import ArgumentError, InfeasibleError, rows_text
from structlat.operators import operator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Entries looked at together, and how many may wait before they are thinned out.
BLOCK, CROWD = 64, 256


def sparsemax(x: Tensor, dim: int = -1) -> Tensor:
    r"""Euclidean projection of ``x`` onto the simplex: argmax_p <p, x> - 1/2 \|p\|^2.

    Parameters
    ----------
    x : Tensor
        Floating point, any shape; -inf forbids an entry. Computed in float64 on the support.
    dim : int
        The dimension that sums to one.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``x``, with exact zeros.

    Raises
    ------
    ArgumentError
        NaN or +inf, an integer dtype, an empty ``dim``; InfeasibleError where a slice is all -inf.

    Notes
    -----
    Martins and Astudillo (2016), *From Softmax to Sparsemax*: p = max(x - tau, 0).
    """
    index, inside, size, scores = _on_support(x, dim, 1)
    excess = (torch.where(inside, scores, 0).sum(dim, keepdim=True) - 1) / size
    return _scatter(torch.where(inside, scores - excess, 0).clamp(min=0), index, x, dim)


def entmax15(x: Tensor, dim: int = -1) -> Tensor:
    """1.5-entmax: between softmax and sparsemax, sparse and with a smooth boundary.

    Parameters, returns and errors are those of :func:`sparsemax`.

    Notes
    -----
    Peters, Niculae and Martins (2019), *Sparse Sequence-to-Sequence Models*: p = max(x/2 - tau, 0)^2.
    """
    index, inside, size, scores = _on_support(x, dim, 2)
    mean = torch.where(inside, scores, 0).sum(dim, keepdim=True) / size
    centred = torch.where(inside, scores - mean, 0)
    radius = ((1 - centred.square().sum(dim, keepdim=True)) / size).sqrt()
    return _scatter(torch.where(inside, (centred + radius).clamp(min=0), 0).square(), index, x, dim)


def _on_support(x: Tensor, dim: int, power: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the support is along ``dim``: index, which of them count, how many do, and x / power - tau there.

    tau is a constant, and right up to rounding: p does not change when all scores do by the same amount, and what is
    left has the size of p.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x: got {came}; expected a floating-point torch.Tensor")
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        raise ArgumentError(f"dim: got {dim!r}; expected a dimension of x, whose shape is {tuple(x.shape)}")
    if x.shape[dim] == 0:
        raise ArgumentError(f"x: got shape {tuple(x.shape)}, with nothing along dim {dim}; expected an entry")
    rows = x.detach().movedim(dim, -1)
    batch = list(rows.shape[:-1])
    found = simplex_support(rows.reshape(math.prod(batch), rows.shape[-1]), power, batch)
    index, size, top, tau = (part.reshape(*batch, part.shape[-1]) for part in found)
    inside = torch.arange(index.shape[-1], device=x.device) < size
    index, inside, size, top, tau = (part.movedim(-1, dim) for part in (index, inside, size, top, tau))
    scores = x.gather(dim, index).double() - top
    return index, inside, size, (scores if power == 1 else scores / power) - tau


def _scatter(p: Tensor, index: Tensor, x: Tensor, dim: int) -> Tensor:
    """Zeros of the shape and dtype of x, with p added at index: places that do not count repeat one and add 0."""
    return x.new_zeros(()).expand(x.shape).scatter_add(dim, index, p.to(x.dtype))


def _fake_support(rows: Tensor, power: int, batch_shape: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = torch.library.get_ctx().new_dynamic_size(min=2)
    column = rows.new_empty((rows.shape[0], 1), dtype=torch.float64)
    index = rows.new_empty((rows.shape[0], width), dtype=torch.int64)
    return index, column.to(torch.int64), column, torch.empty_like(column)


@operator("simplex_support", fake=_fake_support)
def simplex_support(rows: Tensor, power: int, batch_shape: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the support of p = max((x - top) / power - tau, 0) ** power, which sums to 1, for each x of rows [B, n].

    Returns index [B, K], the support followed by its first entry again; its size [B, 1], K the largest of them and at
    least 2; top [B, 1], the largest entry; and tau [B, 1].
    """
    top = rows.amax(-1, keepdim=True)
    if not bool(top.isfinite().all()):
        forbidden = top.isneginf().reshape(batch_shape)
        bad = ~top.isfinite().reshape(batch_shape) & ~forbidden
        if bool(bad.any()):
            raise ArgumentError(f"x: NaN or +inf in {rows_text(bad)}; expected finite numbers, or -inf to forbid one")
        raise InfeasibleError(f"x: every entry is -inf in {rows_text(forbidden)}; expected a finite one")
    find = by_newton if rows.device.type == "cpu" else by_sorting
    index, size, tau = find(rows, top, power)
    return index, size, top.double(), tau


def by_sorting(rows: Tensor, top: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index, size and tau of :func:`simplex_support`, by the algorithms of the two papers, on any device."""
    # what lies a power below the largest has p = 0 in both maps; -inf becomes finite
    ordered, order = ((rows.double() - top) / power).clamp(min=-2.0).sort(-1, descending=True)
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=torch.float64)
    mean = ordered.cumsum(-1) / count
    if power == 1:
        tau = mean - 1 / count
        inside = tau < ordered
    else:
        # the sum of squared deviations, by the update that does not cancel
        previous = torch.cat([ordered[:, :1], mean[:, :-1]], -1)
        scatter = ((ordered - previous) * (ordered - mean)).cumsum(-1)
        tau = mean - ((1 - scatter) / count).clamp(min=0).sqrt()
        inside = (tau < ordered) & (scatter < 1)
    # up to the first that is out: rounding may let one in further down
    size = inside.long().cumprod(-1).sum(-1, keepdim=True)
    width = max(2, int(size.max())) if size.numel() else 2
    rank = torch.arange(width, device=rows.device)
    index = order.gather(-1, torch.where(rank < size, rank, 0))
    return index, size, tau.gather(-1, size - 1)


def by_newton(rows: Tensor, top: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same on the CPU, in time that is linear in practice: a row is read twice, its support a few times more.

    Sorting costs 50 to 100 times as much at 100,000 entries, and ``topk`` needs to be told how large the support is.
    """
    if rows.dtype not in (torch.float32, torch.float64):
        rows, top = rows.float(), top.float()
    size, tau = torch.empty(top.shape, dtype=torch.int64), torch.empty(top.shape, dtype=torch.float64)
    given = rows.contiguous().numpy(), top.numpy(), (top - power).numpy(), size.numpy(), tau.numpy()
    found: dict[int, Ints] = {-1: np.empty(0, np.int64)}

    def find(start: int, stop: int) -> None:
        while start < stop:
            place = np.empty(rows.shape[1] + 16 * (stop - start), np.int64)
            done, filled = _supports(power, place, *(array[start:stop] for array in given))
            found[start] = place[:filled]
            start += done

    by_rows(find, len(rows), rows.shape[1])
    index = torch.empty(len(rows), max(2, int(size.max())) if size.numel() else 2, dtype=torch.int64)
    _pad(np.concatenate([found[start] for start in sorted(found)]), size.numpy(), index.numpy())
    return index, size, tau


@kernel
def _supports(
    power: int, found: Ints, rows: Floats, top: Floats, floor: Floats, size: Ints, tau: Floats
) -> tuple[int, int]:
    """Fill size and tau [B, 1] for rows [B, n], whose largest entries are top, and found with their supports in a row.

    Stops where the next support might not fit. Returns for how many rows that was done, and how much of found is full.

    Only what is above top - power can have p > 0, and only what is above the tau of a part of the row: when many
    entries wait, that is what thins them out. ``floor`` [B, 1] is the limit in the numbers of the row; rounding does
    not lose an entry that is above it.
    """
    batch, n = rows.shape
    place, value = np.empty(n, np.int64), np.empty(n)
    filled = 0
    for b in range(batch):
        if filled + n > len(found):
            return b, filled
        row, largest, lowest = rows[b], np.float64(top[b, 0]), floor[b, 0]
        kept, low, full = 0, -1.0, CROWD
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            near = 0  # counting is vectorised, and most blocks have none
            for i in range(start, stop):
                near += row[i] >= lowest
            if near > 0:
                for i in range(start, stop):
                    place[kept] = i
                    value[kept] = (row[i] - largest) / power
                    kept += row[i] >= lowest
            if kept >= full:
                kept, low = _newton(place, value, kept, low, power)
                floor[b, 0] = low * power + largest
                lowest, full = floor[b, 0], CROWD + 4 * kept
        kept, low = _newton(place, value, kept, low, power)
        size[b, 0], tau[b, 0] = kept, low
        found[filled : filled + kept] = place[:kept]
        filled += kept
    return batch, filled


@kernel
def _newton(place: Ints, value: Floats, kept: int, low: float, power: int) -> tuple[int, float]:
    """Keep what is in the support among ``kept`` values, moved to the front; return how many and tau.

    Newton's method from ``low`` <= tau, for (sum_i max(x_i - tau, 0) ** power) ** (1 / power) = 1.
    The left side is convex: tau grows, never past the solution, entries leave for good, and each step halves the
    distance to 1 or the slope. (For sparsemax it is Michelot 1986.)
    """
    while True:
        last, kept = kept, 0
        first, second, least = 0.0, 0.0, 1.0
        for i in range(last):
            above = value[i] - low
            place[kept], value[kept] = place[i], value[i]
            kept += above > 0.0
            least = min(least, above if above > 0.0 else 1.0)
            above = max(above, 0.0)
            first += above
            second += above * above
        if kept == 0:
            return kept, low
        # the solution, were this the support; and Newton's step
        if power == 1:
            root = step = (first - 1.0) / kept
        else:
            scatter = second - first * first / kept
            root = first / kept - math.sqrt((1.0 - scatter) / kept) if scatter < 1.0 else 1.0
            step = (math.sqrt(second) - 1.0) * math.sqrt(second) / first
        if low + step <= low:
            return kept, low
        if root < least:
            return kept, low + root
        low += step


@kernel
def _pad(found: Ints, size: Ints, index: Ints) -> None:
    """Lay supports in a row out as index [B, K], each followed by its first entry again."""
    start = 0
    for b in range(len(size)):
        stop = start + size[b, 0]
        index[b, : size[b, 0]] = found[start:stop]
        index[b, size[b, 0] :] = found[start]
        start = stop
