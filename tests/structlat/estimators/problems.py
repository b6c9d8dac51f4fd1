"""Small problems whose gradients are known from all structures enumerated, and estimates of them in large numbers.

A problem has one example. Its loss reads vertices, relaxed ones too, and has parameters ``w``: the decoder. Draws are
independent rows: inputs and parameters are copied for each, so that one backward call gives the gradient of each draw.
At the end, estimators by their names, and one call of them, for tests of anything else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

import structlat as sl
from structlat import estimators

SPACES = (
    sl.Categorical(5),
    sl.BitVector(3),
    sl.LinearChain(3, 2),
    sl.BudgetBitVector(4, 2),
    sl.BipartiteMatching(3, 3),
)
MATCHING = SPACES[-1]


class Gradients(NamedTuple):
    """For scores, each of the extra scores, and parameters, [..., numbers] in a row; and the value itself."""

    value: torch.Tensor
    inputs: torch.Tensor
    w: torch.Tensor


def loss_of(w, a):
    """A loss of vertices a [N, *shape] with parameters w [N, *shape]: neither linear nor of mean 0."""
    x = (w * a).flatten(start_dim=1).sum(-1)
    return x.sin() + 0.5 * x.square() + 1.5


class Problem:
    """One example: inputs [*shape] and [*extra_shape], parameters w [*shape], all float64."""

    def __init__(self, structure, seed=6, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.structure = structure
        shapes = (structure.shape, *structure.extra_shapes)
        self.inputs = [scale * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        self.w = 2 * torch.randn(structure.shape, generator=generator, dtype=torch.float64)

    def leaves(self, rows=None):
        """Copies that have derivatives, ``rows`` of each."""
        lead = () if rows is None else (rows,)
        return [x.expand(*lead, *x.shape).clone().requires_grad_() for x in (*self.inputs, self.w)]

    def listed(self):
        """Log q of every structure, their losses, and the leaves that both come from."""
        *inputs, w = leaves = self.leaves()
        every = self.structure.enumerate()
        log_q = self.structure.score(every, *inputs).log_softmax(-1)
        return log_q, loss_of(w.unsqueeze(0), self.structure.vertex(every).double()), leaves

    def exact(self, objective=lambda log_q, losses: (log_q.exp() * losses).sum()):
        """The objective, by default E[loss] under softmax over all structures, and its gradients."""
        log_q, losses, leaves = self.listed()
        value = objective(log_q, losses)
        *slopes, w = torch.autograd.grad(value, leaves, allow_unused=True)
        slopes = [torch.zeros_like(x) if s is None else s for s, x in zip(slopes, leaves, strict=False)]
        w = torch.zeros_like(self.w) if w is None else w
        return Gradients(value.detach(), torch.cat([x.reshape(-1) for x in slopes]), w.reshape(-1))

    def estimates(self, estimator, rows, context=None):
        """``rows`` independent estimates."""
        *inputs, w = leaves = self.leaves(rows)
        out = estimator(lambda a, i: loss_of(w[i], a), *inputs, context=context, vertices=True)
        *slopes, w = torch.autograd.grad(out.surrogate.sum(), leaves, allow_unused=True)
        slopes = [x.reshape(rows, -1) for x in slopes]
        return Gradients(out.value, torch.cat(slopes, 1), torch.zeros_like(leaves[-1]) if w is None else w.flatten(1))


def errors(draws, want):
    """How far means of draws [N, numbers] are from what is wanted, in standard errors; rounding counts for nothing."""
    spread = draws.std(0) / len(draws) ** 0.5
    return ((draws.mean(0) - want).abs() - 1e-10).clamp(min=0) / spread.clamp(min=1e-12)


def relative(draws, want):
    """The norm of the mean's error beside that of what is wanted, and how much of that may be chance (5 errors)."""
    bias = float((draws.mean(0) - want).norm() / want.norm())
    return bias, float(5 * (draws.std(0) / len(draws) ** 0.5).norm() / want.norm())


def assert_mean(draws, want, tight=0.25):
    """The mean of draws is what is wanted within 5 standard errors; a quarter of its norm would have been seen."""
    assert float(errors(draws, want).max()) < 5
    if float(want.norm()) > 0:
        assert relative(draws, want)[1] < tight


# Estimators by their names, and one call of them.

BITS = sl.BitVector(3)


def made(name, structure=BITS, seed=1, **options):
    return estimators.get(name)(structure, vertices=True, generator=torch.Generator().manual_seed(seed), **options)


def inputs_of(structure, batch, generator, dtype=torch.float64):
    shapes = (structure.shape, *structure.extra_shapes)
    return [torch.randn(*batch, *s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def quadratic(a, i):
    return a.flatten(start_dim=1).cumsum(-1).square().sum(-1)


def called(estimator, *inputs, **options):
    batch = inputs[0].shape[: inputs[0].ndim - len(estimator.structure.shape)]
    return estimator(quadratic, *inputs, context=torch.ones(*batch, 2), **options)
