"""Numbers that are too large, too small or none, half precision, other modes and other devices' states."""

import pytest
import torch

import structlat as sl
from structlat import estimators
from structlat.estimators import ESTIMATORS
from tests.structlat.estimators.problems import BITS, called, made, quadratic


def test_a_baseline_of_structures_whose_probability_is_zero_in_float32(generator):
    """Of 2^160 structures the best has e^-110."""
    estimator = estimators.get("sum-and-sample")(sl.BitVector(160), baseline="summed", generator=generator)
    scores = (0.01 * torch.randn(4, 160, generator=generator)).requires_grad_()
    out = estimator(lambda z, i: z.sum(-1), scores)
    (gradient,) = torch.autograd.grad(out.surrogate.sum(), scores)
    assert gradient.isfinite().all()
    # the loss of the one that is drawn less that of the best, times the slope of its log-probability
    assert float(gradient.abs().max()) > 0


def test_a_loss_that_overflowed_once_does_not_stay():
    estimator = estimators.get("sfe")(BITS)
    for loss in (3.0, float("inf"), float("nan"), 5.0):
        estimator(lambda z, i: torch.full((len(z),), loss), torch.zeros(2, 3))  # noqa: B023
    assert float(estimator.average) == 4
    assert int(estimator.steps) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_kept_stays_in_float32(dtype):
    average, gumbel = made("sfe").to(dtype), made("gumbel", temperature=0.7408).to(dtype)
    assert average.average.dtype == gumbel.temperature.dtype == torch.float32
    assert float(gumbel.temperature) == pytest.approx(0.7408, abs=1e-7)
    for loss in [100.0] * 30 + [200.0] * 170:
        average(lambda z, i: torch.full((len(z),), loss), torch.zeros(2, 3, dtype=dtype))  # noqa: B023
    assert float(average.average) == pytest.approx(185)
    assert made("sfe").double().average.dtype == torch.float64
    assert next(made("nvil", context_size=2).to(dtype).parameters()).dtype == dtype


def test_a_loss_whose_slope_is_no_number_has_a_gradient_that_is_none():
    """Behind the square root of 0 autograd has NaN; and only the row that it happens in."""
    x = torch.tensor([[1.0, 0, 1], [1.0, 1, 1]])
    for structure in (BITS, sl.BudgetBitVector(3, 2)):
        scores = torch.tensor([[90.0, -90, 90], [90.0, -90, 90]], requires_grad=True)
        estimator = estimators.get("imle")(structure, vertices=True)
        out = estimator(lambda z, i: (z - x[i]).square().sum(-1).sqrt(), scores)
        (gradient,) = torch.autograd.grad(out.surrogate.sum(), scores)
        assert gradient[0].isnan().all()
        assert gradient[1].isfinite().all()
        assert out.value.tolist() == [0, 1]


def test_the_surrogates_number_is_the_value(generator):
    for name in ESTIMATORS:
        scores = torch.randn(6, 3, generator=generator).requires_grad_()
        out = made(name)(lambda z, i: 5e4 + z.sum(-1), scores, context=1000 * torch.ones(6, 2))
        assert torch.equal(out.surrogate, out.value), name


def test_scores_that_are_forbidden_by_a_very_low_number(generator):
    scores = torch.randn(6, 3, generator=generator)
    scores = scores.masked_fill(scores < 0, torch.finfo(torch.float32).min).requires_grad_()
    for name in ("perturb-and-map", "imle"):
        out = called(made(name), scores)
        assert out.surrogate.isfinite().all()
        assert torch.autograd.grad(out.surrogate.sum(), scores)[0].isfinite().all()


def test_the_entropy_of_one_noisy_sample_has_a_baseline(generator):
    """Without it the noise in its gradient grows with the scores."""
    scores = (20 * torch.randn(1, 10, generator=generator)).expand(2000, 10).clone().requires_grad_()
    out = made("imle", sl.Categorical(10))(quadratic, scores)
    (slope,) = torch.autograd.grad(out.entropy.sum(), scores)
    assert float((slope - slope.mean(0)).square().sum(-1).mean().sqrt()) < 5


def test_a_network_that_is_made_in_an_evaluation_can_be_trained(generator):
    estimator, x = made("nvil"), torch.randn(4, 3, generator=generator)
    with torch.inference_mode():
        called(estimator.eval(), x)
    called(estimator.train(), x.requires_grad_()).surrogate.sum().backward()
    assert all(p.grad is not None for p in estimator.parameters())


def test_cooling_never_warms_and_may_be_asked_of_all():
    estimator = made("gumbel", temperature=0.2)
    assert estimator.anneal(0) == pytest.approx(0.2)
    for name in ESTIMATORS:
        assert (made(name).anneal(3) is None) == ("gumbel" not in name)


def test_the_state_of_another_generator_is_left():
    estimator = made("sfe")
    before = estimator.generator.get_state()
    with pytest.warns(UserWarning, match="sfe: the state is that of a generator of another kind of device than 'cpu'"):
        estimator.set_extra_state(torch.zeros(16, dtype=torch.uint8))
    assert torch.equal(estimator.generator.get_state(), before)


def test_scores_that_are_no_tensor():
    with pytest.raises(sl.ArgumentError, match="scores: got list; expected a tensor"):
        made("sfe")(quadratic, [1.0, 2.0, 3.0])
