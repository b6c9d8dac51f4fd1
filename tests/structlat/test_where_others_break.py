"""Inputs on which other implementations of these methods are known to fail, as far as no other test has them."""

import pytest
import torch

import structlat as sl
from tests.judge import draw, enumerated_sparsemap

SPACES = (
    sl.Categorical(6),
    sl.BitVector(6),
    sl.BudgetBitVector(6, 3),
    sl.LinearChain(4, 3),
    sl.BipartiteMatching(3, 4),
)


@pytest.mark.parametrize("structure", SPACES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(structure, generator, dtype):
    inputs = [x.float().requires_grad_() for x in draw(structure, generator, 4)]

    def run():
        post = sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
        loss = (post.mean**2).sum() + (post.probs**2).sum()
        return post, torch.autograd.grad(loss, inputs)

    post, gradients = run()
    with torch.autocast("cpu", dtype=dtype):
        cast, cast_gradients = run()
    assert cast.mean.dtype == torch.float32
    torch.testing.assert_close(cast.mean, post.mean, atol=0, rtol=0)
    torch.testing.assert_close(cast_gradients, gradients)


def test_marginals_do_not_depend_on_an_iteration_budget_nobody_set(generator):
    """Ten rounds, a default elsewhere, leave marginals wrong by tenths; ours run to the certificate, or say so."""
    x = torch.randn(16, 60, generator=generator, dtype=torch.float64)
    right = ((x + 1) / 2).clamp(0, 1)
    assert (sl.sparsemap(sl.BitVector(60), x, solver="active_set").mean - right).abs().max() < 1e-7
    with pytest.warns(sl.NonConvergenceWarning):
        short = sl.sparsemap(sl.BitVector(60), x, solver="active_set", max_iter=10)
    assert (short.mean - right).abs().max() > 0.05
    assert not short.info.converged.any()


def test_one_negative_transition_has_a_gradient(generator):
    """A pairwise factor with a negative coupling, whose gradient others lose."""
    chain = sl.LinearChain(2, 2)
    unary = torch.zeros(1, 2, 2, dtype=torch.float64).requires_grad_()
    transition = torch.tensor([[-0.7, 0.0], [0.0, -0.3]], dtype=torch.float64, requires_grad=True)
    post = sl.sparsemap(chain, unary, transition)
    want = enumerated_sparsemap(chain, unary.detach(), [transition.detach().expand(1, 1, 2, 2)])
    torch.testing.assert_close(post.mean.detach(), want, atol=1e-9, rtol=0)
    gradients = torch.autograd.grad(post.mean[0, 0, 0], (unary, transition))
    assert all(g.abs().max() > 1e-3 for g in gradients)


def test_the_support_is_not_read_off_rounding_errors(generator):
    """Every structure in the support has a probability worth the name, or the gap would not need it."""
    x = torch.randn(32, 40, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(sl.BitVector(40), x, solver="active_set")
    assert post.probs[post.mask].min() > 1e-12


def test_sparser_than_from_a_random_start(generator):
    """From the MAP structure the support is no larger than the face needs: one vertex a fractional bit, plus one."""
    x = torch.randn(32, 40, generator=generator, dtype=torch.float64)
    post = sl.sparsemap(sl.BitVector(40), x, solver="active_set")
    assert (post.support_size <= (x.abs() < 1).sum(-1) + 1).all()


def test_a_structure_of_one_number():
    class Switch(sl.Structure):
        """On or off."""

        shape = torch.Size([])

        def argmax(self, scores):
            return (scores > 0).to(scores.dtype)

    sl.testing.check_structure(Switch())
    x = torch.tensor([-1.0, 0.3, 2.0])
    torch.testing.assert_close(sl.sparsemap(Switch(), x).mean, x.clamp(0, 1))
