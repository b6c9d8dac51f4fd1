"""Estimators that are biased: by how much, held against what follows from their definitions, by other means."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

import structlat as sl
from structlat import estimators
from structlat.estimators import IMLE, GumbelSoftmax, PerturbAndMAP
from tests.structlat.estimators.problems import SPACES, Problem, assert_mean, errors, relative

ROWS = 20_000
ONE_CHOICE = SPACES[:2]
each_choice = pytest.mark.parametrize("structure", ONE_CHOICE, ids=repr)
each_space = pytest.mark.parametrize("structure", SPACES, ids=repr)


# Relaxed samples.


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_mean_of_a_relaxed_bit(hard, temperature, generator):
    """One bit at score x and the loss a^3: the mean over logistic noise is an integral, and so is its gradient."""
    x = 0.4

    def slope(u):
        at = x + math.log(u) - math.log1p(-u)
        a = expit(at / temperature)
        seen = float(at > 0) if hard else a
        return 3 * seen**2 * a * (1 - a) / temperature

    want = quad(slope, 0, expit(-x), limit=200)[0] + quad(slope, expit(-x), 1, limit=200)[0]
    scores = torch.full((100_000, 1), x, dtype=torch.float64, requires_grad=True)
    estimator = GumbelSoftmax(sl.BitVector(1), hard, temperature, generator=generator)
    out = estimator(lambda z, i: z[:, 0] ** 3, scores)
    (got,) = torch.autograd.grad(out.surrogate.sum(), scores)
    assert_mean(got, torch.tensor([want], dtype=torch.float64))
    true = expit(x) * expit(-x)  # (loss at 1 - loss at 0) times the slope of the probability
    assert abs(want - true) > 0.05 * true


@each_choice
def test_relaxed_samples_are_biased_and_less_so_when_cold(structure, generator):
    problem = Problem(structure)
    want, found = problem.exact(), []
    for temperature in (2.0, 0.1):
        estimator = GumbelSoftmax(structure, temperature=temperature, generator=generator)
        got = problem.estimates(estimator, ROWS)
        found.append(relative(got.inputs, want.inputs))
        bias, chance = found[-1]
        if temperature == 2.0:
            assert bias > max(2 * chance, 0.4)
    assert found[1][0] < found[0][0] / 2
    # the price: cold samples vary more
    assert found[1][1] > 1.5 * found[0][1]


@each_choice
def test_straight_through_sees_samples_of_q(structure, generator):
    """The value and the decoder's gradient are those of samples of q; the encoder's is biased."""
    problem = Problem(structure)
    got, want = problem.estimates(GumbelSoftmax(structure, hard=True, generator=generator), ROWS), problem.exact()
    assert_mean(got.w, want.w)
    assert_mean(got.value.unsqueeze(-1), want.value.unsqueeze(-1))
    bias, chance = relative(got.inputs, want.inputs)
    assert bias > max(2 * chance, 0.2)


@each_choice
@pytest.mark.parametrize("hard", [False, True])
def test_what_the_loss_of_relaxed_samples_sees(structure, hard, generator):
    seen = []
    estimator = GumbelSoftmax(structure, hard, temperature=0.5, samples=3, vertices=True, generator=generator)
    estimator(lambda a, i: seen.append(a) or a.sum(-1), torch.randn(40, *structure.shape, generator=generator))
    (a,) = seen
    assert a.shape == (120, *structure.shape)
    assert bool(((a == 0) | (a == 1)).all()) == hard
    assert ((a >= 0) & (a <= 1)).all()
    if isinstance(structure, sl.Categorical):
        torch.testing.assert_close(a.sum(-1), torch.ones(120))


def test_the_temperature_falls_in_steps_and_is_in_checkpoints(generator):
    estimator = estimators.get("gumbel")(sl.BitVector(3), rate=1e-4, generator=generator)
    assert float(estimator.temperature) == 1
    for step, want in ((0, 1.0), (999, 1.0), (1000, math.exp(-0.1)), (1999, math.exp(-0.1)), (10**6, 0.5)):
        assert estimator.anneal(step) == pytest.approx(want, abs=1e-12)
        assert float(estimator.temperature) == pytest.approx(want, abs=1e-6)
    estimator.anneal(3000)
    other = estimators.get("gumbel")(sl.BitVector(3), generator=torch.Generator())
    other.load_state_dict(estimator.state_dict())
    assert float(other.temperature) == pytest.approx(math.exp(-0.3), abs=1e-6)
    assert f"temperature={float(other.temperature)!r}" in repr(other)
    with pytest.raises(sl.ArgumentError, match="step: got -1"):
        estimator.anneal(-1)


def test_the_temperature_matters(generator):
    x = torch.randn(2000, 3, generator=generator)
    spread = []
    for temperature in (0.1, 1.0, 10.0):
        estimator = GumbelSoftmax(sl.BitVector(3), temperature=temperature, generator=generator)
        spread.append(float(estimator(lambda z, i: (z - 0.5).abs().mean(-1), x).value.mean()))
    assert spread[0] > spread[1] + 0.1 > spread[2] + 0.2


# The best structures of noisy scores.


@each_choice
def test_perturb_and_map_is_unbiased_where_its_law_is_softmax(structure, generator):
    problem = Problem(structure)
    want = problem.exact()
    for options in ({}, {"baseline": None}, {"baseline": "leave-one-out", "samples": 3}, {"samples": 2}):
        got = problem.estimates(PerturbAndMAP(structure, **options, generator=generator), 2 * ROWS)
        assert_mean(got.inputs, want.inputs, tight=0.4)
        assert_mean(got.w, want.w)
        assert_mean(got.value.unsqueeze(-1), want.value.unsqueeze(-1))


@each_choice
def test_a_scale_is_a_temperature_of_softmax(structure, generator):
    problem = Problem(structure)
    got = problem.estimates(PerturbAndMAP(structure, scale=1.7, generator=generator), ROWS)
    want = problem.exact(lambda log_q, losses: ((log_q / 1.7).softmax(-1) * losses).sum())
    assert_mean(got.inputs, want.inputs)
    assert_mean(got.w, want.w)


@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_perturb_and_map_of_two_structures(scale, generator):
    """A chain that keeps its label: with normal noise on five numbers each the better one has a known probability."""
    chain, rows = sl.LinearChain(3, 2), 50_000
    unary = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]], dtype=torch.float64)
    transition = torch.tensor([[0.2, -torch.inf], [-torch.inf, -0.1]], dtype=torch.float64).expand(2, 2, 2)
    leaves = [x.expand(rows, *x.shape).clone().requires_grad_() for x in (unary, transition)]
    estimator = PerturbAndMAP(chain, scale=scale, noise="normal", generator=generator)
    out = estimator(lambda z, i: 2.0 + 3 * z[:, 0].double(), *leaves)
    slopes = torch.autograd.grad(out.surrogate.sum(), leaves)
    assert (slopes[1][:, :, 0, 1] == 0).all()
    spread = scale * math.sqrt(10)  # of ten numbers' difference
    gap = float(unary[:, 1].sum() - unary[:, 0].sum() + transition[:, 1, 1].sum() - transition[:, 0, 0].sum())
    assert_mean(out.value.unsqueeze(-1), torch.tensor([2 + 3 * norm.cdf(gap / spread)]))
    slope = 3 * norm.pdf(gap / spread) / spread
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert_mean(slopes[0].flatten(1), slope * sign.repeat(3))
    assert_mean(slopes[1].diagonal(dim1=2, dim2=3).flatten(1), slope * sign.repeat(2))


@each_space
def test_the_bias_of_perturb_and_map_as_an_estimate_for_softmax(structure, generator):
    problem = Problem(structure)
    got, want = problem.estimates(PerturbAndMAP(structure, samples=4, generator=generator), 3 * ROWS), problem.exact()
    bias, chance = relative(got.inputs, want.inputs)
    if structure in ONE_CHOICE:
        assert bias < chance
    else:
        assert 2 * chance < bias < 0.9
    cosine = torch.nn.functional.cosine_similarity(got.inputs.mean(0), want.inputs, dim=0)
    assert float(cosine) > 0.8


@each_choice
def test_the_entropy_of_a_perturbation_is_that_of_softmax_for_one_choice(structure, generator):
    problem = Problem(structure)
    want = problem.exact(lambda log_q, losses: -(log_q.exp() * log_q).sum() + 0 * losses.sum())
    for estimator in (
        PerturbAndMAP(structure, generator=generator),
        PerturbAndMAP(structure, samples=2, baseline=None, generator=generator),
        IMLE(structure, generator=generator),
        IMLE(structure, samples=3, generator=generator),
    ):
        *inputs, _ = problem.leaves(ROWS)
        out = estimator(lambda a, i: a.sum(-1), *inputs, vertices=True)
        slopes = torch.autograd.grad(out.entropy.sum(), inputs)
        assert_mean(out.entropy.detach().unsqueeze(-1), want.value.unsqueeze(-1))
        assert_mean(torch.cat([x.reshape(ROWS, -1) for x in slopes], 1), want.inputs, tight=0.5)


@each_space
def test_the_entropy_of_a_perturbation_is_a_bound_elsewhere(structure, generator):
    problem = Problem(structure)
    *inputs, _ = problem.leaves(4000)
    seen = []
    estimator = PerturbAndMAP(structure, baseline=None, generator=generator)
    out = estimator(lambda a, i: seen.append(a) or a.flatten(1).sum(-1), *inputs, vertices=True)
    share = torch.unique(seen[0], dim=0, return_counts=True)[1] / 4000
    entropy = -(share * share.log()).sum()
    assert float(out.entropy.detach().mean()) > float(entropy) - 0.05


# A step against the loss's slope.


def mean_part(structure, x):
    return x.softmax(-1) if isinstance(structure, sl.Categorical) else x.sigmoid()


@each_choice
def test_the_mean_of_imle_is_a_difference(structure, generator):
    """For a linear loss the slope w is the same everywhere: (E[parts at x] - E[parts at x - step w]) / step."""
    problem = Problem(structure)
    x, w = problem.inputs[0], problem.w
    leaf = x.clone().requires_grad_()
    (true,) = torch.autograd.grad((mean_part(structure, leaf) * w).sum(), leaf)
    biases = []
    for step in (0.25, 4.0):
        scores = x.expand(2 * ROWS, *x.shape).clone().requires_grad_()
        estimator = IMLE(structure, step=step, samples=4, vertices=True, generator=generator)
        out = estimator(lambda a, i: (a * w).sum(-1), scores)
        (slope,) = torch.autograd.grad(out.surrogate.sum(), scores)
        assert_mean(slope, (mean_part(structure, x) - mean_part(structure, x - step * w)) / step)
        bias, chance = relative(slope, true)
        assert bias > 2 * chance  # the derivative, in whose place the difference stands
        biases.append(bias)
    assert biases[0] < biases[1] / 2
    assert biases[1] < 1


@each_space
def test_the_bias_of_imle(structure, generator):
    """The decoder's gradient is that of samples; the encoder's points the right way where losses are nearly linear."""
    problem = Problem(structure)
    estimator = IMLE(structure, step=0.5, samples=4, vertices=True, generator=generator)
    *inputs, w = leaves = problem.leaves(ROWS)

    def loss(a, i):
        return (a * w[i] * 0.2).flatten(1).sum(-1).sin()

    out = estimator(loss, *inputs)
    *slopes, by_w = torch.autograd.grad(out.surrogate.sum(), leaves)
    got = torch.cat([x.reshape(ROWS, -1) for x in slopes], 1)
    *single, one_w = alone = problem.leaves()
    every = structure.enumerate()
    losses = (structure.vertex(every).double() * one_w * 0.2).flatten(1).sum(-1).sin()
    *true, true_w = torch.autograd.grad((structure.score(every, *single).softmax(-1) * losses).sum(), alone)
    cosine = torch.nn.functional.cosine_similarity(got.mean(0), torch.cat([x.reshape(-1) for x in true]), dim=0)
    assert float(cosine) > 0.8
    if structure in ONE_CHOICE:
        assert_mean(by_w.flatten(1), true_w.reshape(-1))
        assert float(errors(got, torch.cat([x.reshape(-1) for x in true])).max()) > 5


def test_imle_needs_a_slope(generator):
    x = torch.zeros(2, 3, requires_grad=True)
    estimator = IMLE(sl.BitVector(3), generator=generator)
    for loss in (lambda z, i: z.detach().sum(-1), lambda z, i: i * torch.ones(len(z), requires_grad=True)):
        with pytest.raises(sl.ArgumentError, match=r"loss_fn: has no derivative.*'perturb-and-map' needs none"):
            estimator(loss, x)
        estimator(loss, x.detach())  # nobody can ask for the gradient
        with torch.no_grad():
            estimator(loss, x)
    with pytest.raises(sl.ArgumentError, match=r"vertices: got False; 'imle' expects True for Categorical\(3\)"):
        IMLE(sl.Categorical(3))(lambda z, i: z.double(), x)
