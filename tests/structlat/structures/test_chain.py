import pytest
import torch

import structlat as sl
from tests.judge import draw
from tests.structure_tests import StructureTests


class TestLinearChain(StructureTests):
    cases = (sl.LinearChain(1, 3), sl.LinearChain(3, 1), sl.LinearChain(3, 3), sl.LinearChain(4, 2))
    counts = (3, 1, 27, 16)


@pytest.mark.parametrize("shared", [True, False])
def test_a_padded_batch_is_each_example_alone(generator, shared):
    chain = sl.LinearChain(6, 3)
    lengths = torch.tensor([6, 4, 1, 3])
    unary = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    shape = (3, 3) if shared else (4, 5, 3, 3)
    transition = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    for call in (
        lambda s, *x: sl.sparsemap(s, *x, on_failure="raise"),
        lambda s, *x: sl.topk_sparsemax(s, *x, k=3),
        lambda s, *x: sl.marginalize(s, *x),
    ):
        post = call(chain, *chain.mask(unary, transition, lengths=lengths))
        both = torch.autograd.grad((post.mean * weights).sum(), (unary, transition))
        total = [torch.zeros_like(unary), torch.zeros_like(transition)]
        for row, n in enumerate(lengths.tolist()):
            alone = sl.LinearChain(n, 3)
            bigram = transition if shared else transition[row, : n - 1]
            one = call(alone, unary[row, :n], bigram)
            torch.testing.assert_close(post.mean[row, :n], one.mean, atol=1e-8, rtol=0)
            torch.testing.assert_close(
                post.mean[row, n:, 0], torch.ones(6 - n, dtype=torch.float64), atol=1e-14, rtol=0
            )
            assert (post.structures[row][post.probs[row] > 0][:, n:] == 0).all()
            gradients = torch.autograd.grad((one.mean * weights[row, :n]).sum(), (unary, transition), allow_unused=True)
            for into, gradient in zip(total, gradients, strict=True):
                into += 0 if gradient is None else gradient
        for a, b in zip(both, total, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


@pytest.mark.parametrize("value", [torch.tensor([7, 1]), torch.tensor([-1, 2])])
def test_lengths_outside_are_refused(value):
    chain = sl.LinearChain(6, 3)
    with pytest.raises(sl.ArgumentError, match=r"lengths: outside 0\.\.6 in row 0"):
        chain.mask(torch.zeros(2, 6, 3), torch.zeros(3, 3), value)


def test_lengths_of_a_wrong_dtype_are_refused():
    chain = sl.LinearChain(6, 3)
    with pytest.raises(sl.ArgumentError, match=r"lengths: got torch.float32"):
        chain.mask(torch.zeros(2, 6, 3), torch.zeros(3, 3), torch.ones(2))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_chains_with_dependent_structures_converge(generator, scale):
    """20 x 5 at scale 0.1: more than 50 structures, affinely dependent ones on the way."""
    chain = sl.LinearChain(20, 5)
    inputs = draw(chain, generator, 40, scale)
    post = sl.sparsemap(chain, *inputs, on_failure="raise")
    assert post.info.converged.all()
    TestLinearChain._judge_distribution(post)


def test_jacobian_of_a_long_chain(generator):
    """Against finite differences of the library's own marginals, which the gap certifies."""
    chain = sl.LinearChain(8, 4)
    inputs = [x.requires_grad_() for x in draw(chain, generator, 2)]
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    weights = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64)

    def value(step):
        moved = [x + step * d for x, d in zip(inputs, directions, strict=True)]
        return (sl.sparsemap(chain, *moved, tol=1e-14, on_failure="ignore").mean * weights).sum()

    gradients = torch.autograd.grad(value(0.0), inputs)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step = 1e-6
    with torch.no_grad():
        difference = (value(step) - value(-step)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), abs=1e-5)


def test_forbidden_transitions(generator):
    chain = sl.LinearChain(5, 3)
    unary, transition = draw(chain, generator, 4)
    transition[..., 0, 1] = -torch.inf
    unary.requires_grad_()
    transition.requires_grad_()
    post = sl.sparsemap(chain, unary, transition)
    pairs = (post.structures[..., :-1] == 0) & (post.structures[..., 1:] == 1)
    assert not pairs.any()
    assert (post.extra_marginals[0][..., 0, 1] == 0).all()
    for gradient in torch.autograd.grad(post.mean.square().sum() + post.entropy().sum(), (unary, transition)):
        assert torch.isfinite(gradient).all()


def test_wrong_extra_is_refused():
    chain = sl.LinearChain(5, 3)
    with pytest.raises(sl.ArgumentError, match=r"extra\[0\]: got shape \(4, 4\)"):
        sl.sparsemap(chain, torch.zeros(2, 5, 3), torch.zeros(4, 4))
    with pytest.raises(sl.ArgumentError, match=r"extra: got 0 tensors"):
        sl.sparsemap(chain, torch.zeros(2, 5, 3))


@pytest.mark.parametrize(
    ("unary_scale", "extra_scale"), [(0.1, 1e-2), (0.1, 1e-4), (1.0, 1e-8), (1e-4, 1e-8), (0.0, 1.0)]
)
def test_extra_scores_much_smaller_than_scores(generator, unary_scale, extra_scale):
    """Early in training transitions are tiny: the structures that have to be told apart differ by very little."""
    chain = sl.LinearChain(12, 4)
    unary, transition = draw(chain, generator, 4)
    post = sl.sparsemap(chain, unary_scale * unary, extra_scale * transition, on_failure="raise")
    TestLinearChain._judge_distribution(post)


def test_what_mask_refuses():
    chain = sl.LinearChain(4, 2)
    lengths = torch.tensor([4, 2])
    for unary, transition, n, text in (
        (torch.zeros(2, 4, 3), torch.zeros(2, 2), lengths, r"scores: got shape \(2, 4, 3\)"),
        (torch.zeros(2, 4, 2), torch.zeros(5, 5), lengths, r"extra\[0\]: got shape \(5, 5\)"),
        (torch.zeros(2, 4, 2), torch.zeros(2, 2), torch.tensor([4, 2, 1]), r"lengths: got shape \(3,\)"),
        (torch.zeros(2, 4, 2, dtype=torch.int64), torch.zeros(2, 2), lengths, "scores: got dtype torch.int64"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            chain.mask(unary, transition, n)


def test_scores_for_the_ends(generator):
    chain = sl.LinearChain(5, 3)
    unary = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    transition = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    start, end = (torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    lengths = torch.tensor([5, 2, 1, 0])
    every = chain.enumerate()
    whole = chain.score(every.unsqueeze(1), chain.ends(unary, start, end), transition.expand(4, 3, 3))
    want = chain.score(every.unsqueeze(1), unary, transition.expand(4, 3, 3))
    want = want + start[every[:, 0]].unsqueeze(1) + end[every[:, -1]].unsqueeze(1)
    torch.testing.assert_close(whole, want)
    masked = chain.mask(chain.ends(unary, start, end, lengths=lengths), transition, lengths=lengths)
    post = sl.sparsemap(chain, *masked)
    for row, n in enumerate(lengths[:3].tolist()):
        alone = sl.LinearChain(n, 3)
        one = sl.sparsemap(alone, alone.ends(unary[row, :n], start, end), transition)
        torch.testing.assert_close(post.mean[row, :n], one.mean, atol=1e-8, rtol=0)
    # whoever has no length has no ends: nothing is added
    assert torch.equal(chain.ends(unary, start, end, lengths=lengths)[3], unary[3])
    for gradient in torch.autograd.grad(post.mean.square().sum(), (start, end)):
        assert (gradient != 0).any()


@pytest.mark.parametrize("name", ["start", "end"])
def test_wrong_scores_for_the_ends_are_refused(name):
    with pytest.raises(sl.ArgumentError, match=rf"{name}: got shape \(4,\)"):
        sl.LinearChain(5, 3).ends(torch.zeros(2, 5, 3), **{name: torch.zeros(4)})
