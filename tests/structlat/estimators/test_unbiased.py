"""Means of many gradients against the exact one, for encoder, extra scores and decoder."""

import functools
import itertools
import math

import pytest
import torch

import structlat as sl
from structlat import estimators
from structlat.estimators import VIMCO, DisARM, ScoreFunction, SumAndSample
from tests.structlat.estimators.problems import SPACES, Problem, assert_mean

ROWS = 20_000
MAKERS = {
    "none": ScoreFunction,
    "none, 3 samples": functools.partial(ScoreFunction, samples=3),
    "average": estimators.get("sfe"),
    "momentum": functools.partial(ScoreFunction, baseline="average", momentum=0.3),
    "sfe+": estimators.get("sfe+"),
    "sfe+, 2 samples": functools.partial(ScoreFunction, baseline="self-critic", samples=2),
    "rloo": estimators.get("rloo"),
    "rloo, 4 samples": functools.partial(ScoreFunction, baseline="leave-one-out", samples=4),
    "nvil": estimators.get("nvil"),
    "nvil, 2 samples": functools.partial(estimators.get("nvil"), samples=2),
    "sum-and-sample": SumAndSample,
    "sum-and-sample, k=3": functools.partial(SumAndSample, k=3),
    "sum-and-sample, baseline": functools.partial(SumAndSample, baseline="summed"),
    "sum-and-sample, k=3, baseline": functools.partial(SumAndSample, k=3, baseline="summed"),
    "disarm": DisARM,
    "disarm, 3 pairs": functools.partial(DisARM, pairs=3),
}
CASES = [(s, name) for s in SPACES for name in MAKERS if "disarm" not in name or isinstance(s, sl.BitVector)]


def warm(estimator, problem, context=None):
    """A few training steps before the draws are taken: a baseline that has seen something."""
    for _ in range(3):
        problem.estimates(estimator, 50, None if context is None else context[:50])


@pytest.mark.parametrize(("structure", "name"), CASES, ids=str)
def test_means_are_the_exact_gradient(structure, name, generator):
    problem = Problem(structure)
    estimator = MAKERS[name](structure, generator=generator)
    context = torch.randn(ROWS, 3, generator=generator) if "nvil" in name else None
    warm(estimator, problem, context)
    got, want = problem.estimates(estimator, ROWS, context), problem.exact()
    assert_mean(got.inputs, want.inputs)
    assert_mean(got.w, want.w)
    assert_mean(got.value.unsqueeze(-1), want.value.unsqueeze(-1))


# The multi-sample bounds, whose exact value is a sum over all tuples of structures.


def bound(log_q, losses, samples, importance):
    """Exactly what VIMCO is about."""
    weights = -losses - log_q if importance else -losses
    index = torch.tensor(list(itertools.product(range(len(losses)), repeat=samples)))
    probability = log_q[index].sum(-1).exp()
    value = -(probability * (weights[index].logsumexp(-1) - math.log(samples))).sum()
    return value - (log_q.exp() * log_q).sum() if importance else value


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("importance", [True, False])
def test_vimco_is_unbiased_for_its_bound(structure, samples, importance, generator):
    problem = Problem(structure)
    got = problem.estimates(VIMCO(structure, samples, importance, generator=generator), ROWS)
    want = problem.exact(functools.partial(bound, samples=samples, importance=importance))
    assert_mean(got.inputs, want.inputs)
    assert_mean(got.w, want.w)
    assert_mean(got.value.unsqueeze(-1), want.value.unsqueeze(-1))
    # and that is another objective than the expected loss, below it
    assert float(want.value) < float(problem.exact().value) - 0.1


def test_the_importance_weighted_bound_is_tight_at_the_posterior(generator):
    """Where q is proportional to exp(-loss), it is the log of the sum, whatever was drawn."""
    problem = Problem(sl.Categorical(5))
    with torch.no_grad():
        losses = problem.listed()[1]
    out = VIMCO(problem.structure, generator=generator)(lambda z, i: losses[z], -losses.expand(50, 5))
    torch.testing.assert_close(out.value - out.entropy, (-(-losses).logsumexp(0)).expand(50))


# Variance.


def total_variance(problem, estimator, rows=4000):
    return float(problem.estimates(estimator, rows).inputs.var(0).sum())


@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_what_lowers_the_variance_does(structure, generator):
    """By what is proven, or, for the baselines, by far on losses that are far from 0."""
    problem = Problem(structure)
    none = total_variance(problem, ScoreFunction(structure, generator=generator))
    assert total_variance(problem, ScoreFunction(structure, samples=8, generator=generator)) < none / 5
    average = ScoreFunction(structure, "average", generator=generator)
    warm(average, problem)
    assert total_variance(problem, average) < 0.8 * none
    for k in (1, 3):
        assert total_variance(problem, SumAndSample(structure, k, generator=generator)) < none
    everything = SumAndSample(structure, structure.cardinality(), generator=generator)
    assert total_variance(problem, everything) < 1e-20


def test_leave_one_out_does_not_see_a_constant(generator):
    """What all samples have in common is no signal: a constant loss gives no gradient at all, draw by draw."""
    x = torch.randn(50, 5, generator=generator, requires_grad=True)
    for maker in (MAKERS["rloo"], MAKERS["sum-and-sample, k=3, baseline"], functools.partial(VIMCO, importance=False)):
        out = maker(sl.Categorical(5), generator=generator)(lambda z, i: torch.full(z.shape, 7.0), x)
        (slope,) = torch.autograd.grad(out.surrogate.sum(), x)
        assert float(slope.abs().max()) < 1e-5
    out = ScoreFunction(sl.Categorical(5), generator=generator)(lambda z, i: torch.full(z.shape, 7.0), x)
    (slope,) = torch.autograd.grad(out.surrogate.sum(), x)
    assert float(slope.abs().max()) > 1


def test_opposite_samples_vary_less_than_independent_ones(generator):
    """Dong et al. (2020): DisARM against the mean of two samples without a baseline, at the same cost."""
    problem = Problem(sl.BitVector(3))
    pair = total_variance(problem, DisARM(problem.structure, generator=generator))
    assert pair < 0.8 * total_variance(problem, ScoreFunction(problem.structure, samples=2, generator=generator))


def test_a_trained_network_is_a_good_baseline(generator):
    """Rows whose losses differ by what the context tells: NVIL learns it, and is left with what z makes."""
    structure, rows = sl.Categorical(5), 2000
    estimator = estimators.NVIL(structure, context_size=1, hidden=16, generator=generator)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    context = torch.rand(rows, 1, generator=generator)
    x = torch.zeros(rows, 5, requires_grad=True)

    def loss(z, i):
        return 10 * context[i, 0] + z

    def variance():
        return float(torch.autograd.grad(estimator(loss, x, context=context).surrogate.sum(), x)[0].var(0).sum())

    before = variance()
    for _ in range(200):
        optimizer.zero_grad()
        estimator(loss, x.detach(), context=context).surrogate.mean().backward()
        optimizer.step()
    assert variance() < before / 10
