"""Sparse maps from scores to the probability simplex, on plain tensors: sparsemax and 1.5-entmax.

Both find the support without a graph, then write p on that support in ordinary differentiable operations, so that
double backward and forward mode need nothing of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.errors import ArgumentError, InfeasibleError, rows_text


def sparsemax(x: Tensor, dim: int = -1) -> Tensor:
    r"""Euclidean projection of ``x`` onto the simplex: argmax_p <p, x> - 1/2 \|p\|^2.

    Parameters
    ----------
    x : Tensor
        Floating point, any shape; -inf forbids an entry. Half precision is computed in float32.
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
    Martins and Astudillo (2016), *From Softmax to Sparsemax*, Algorithm 1.
    """
    scores = _prepare(x, dim)
    with torch.no_grad():
        ordered, count = _ordered(scores)
        # k is in the support while 1 + k x_(k) > x_(1) + ... + x_(k)
        inside = 1 + count * ordered > ordered.cumsum(-1)
        support = _support(scores, ordered, inside)
    size = support.sum(-1, keepdim=True)
    tau = (torch.where(support, scores, 0).sum(-1, keepdim=True) - 1) / size
    return _finish(torch.where(support, scores - tau, 0).clamp(min=0), x, dim)


def entmax15(x: Tensor, dim: int = -1) -> Tensor:
    """1.5-entmax: between softmax and sparsemax, sparse and with a smooth boundary.

    Parameters, returns and errors are those of :func:`sparsemax`.

    Notes
    -----
    Peters, Niculae and Martins (2019), *Sparse Sequence-to-Sequence Models*, Algorithm 2: p = max(x/2 - tau, 0)^2.
    """
    scores = _prepare(x, dim) / 2
    with torch.no_grad():
        ordered, count = _ordered(scores)
        mean = ordered.cumsum(-1) / count
        # the sum of squared deviations, by the update that does not cancel
        previous = torch.cat([ordered[..., :1], mean[..., :-1]], -1)
        scatter = ((ordered - previous) * (ordered - mean)).cumsum(-1)
        tau = mean - ((1 - scatter) / count).clamp(min=0).sqrt()
        support = _support(scores, ordered, (tau < ordered) & (scatter < 1))
    size = support.sum(-1, keepdim=True)
    mean = torch.where(support, scores, 0).sum(-1, keepdim=True) / size
    centred = torch.where(support, scores - mean, 0)
    tau = -((1 - centred.square().sum(-1, keepdim=True)) / size).sqrt()
    return _finish(torch.where(support, (centred - tau).clamp(min=0), 0).square(), x, dim)


def _prepare(x: Tensor, dim: int) -> Tensor:
    """Check, widen half precision, bring ``dim`` to the end, subtract the maximum (p does not change)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x: got {came}; expected a floating-point torch.Tensor")
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        raise ArgumentError(f"dim: got {dim!r}; expected a dimension of x, whose shape is {tuple(x.shape)}")
    if x.shape[dim] == 0:
        raise ArgumentError(f"x: got shape {tuple(x.shape)}, with nothing along dim {dim}; expected an entry")
    scores = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(dim, -1)
    top = scores.detach().amax(-1, keepdim=True)
    bad = (torch.isnan(top) | torch.isposinf(top)).squeeze(-1)
    if bool(bad.any()):
        raise ArgumentError(f"x: NaN or +inf in {rows_text(bad)}; expected finite numbers, or -inf to forbid one")
    forbidden = torch.isneginf(top).squeeze(-1)
    if bool(forbidden.any()):
        raise InfeasibleError(f"x: every entry is -inf in {rows_text(forbidden)}; expected a finite one")
    return scores - top


def _ordered(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in descending order and the ranks 1, 2, ...

    After the maximum is subtracted, what lies more than 1 below is out in both maps; -inf becomes finite.
    """
    ordered = scores.sort(-1, descending=True).values.clamp(min=-2.0)
    return ordered, torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)


def _support(scores: Tensor, ordered: Tensor, inside: Tensor) -> Tensor:
    """Entries at least as large as the last of ``ordered`` that is ``inside`` (the first always is)."""
    last = inside.sum(-1, keepdim=True).clamp(min=1) - 1
    return scores >= ordered.gather(-1, last)


def _finish(p: Tensor, x: Tensor, dim: int) -> Tensor:
    return p.movedim(-1, dim).to(x.dtype)
