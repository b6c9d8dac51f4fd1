import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import structlat as sl
from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from tests.judge import draw, enumerated_sparsemap, forbid
from tests.structure_tests import StructureTests


class TestXor(StructureTests):
    cases = (Xor(1), Xor(2), Xor(5))
    counts = (1, 2, 5)


class TestAtMostOne(StructureTests):
    cases = (AtMostOne(1), AtMostOne(2), AtMostOne(5))
    counts = (2, 3, 6)


class TestOr(StructureTests):
    cases = (Or(1), Or(2), Or(4))
    counts = (1, 3, 15)


class TestPair(StructureTests):
    cases = (Pair(),)
    counts = (4,)

    @staticmethod
    def used_extra(structure, z):
        """The extra part is used where both bits are on."""
        return [[(0,)] if bool((z == 1).all()) else []]


ALL = (Xor(4), AtMostOne(4), Or(2), Or(4), Pair())


@pytest.mark.parametrize("structure", ALL, ids=repr)
@pytest.mark.parametrize("kind", ["normal", "integer", "equal", "base"])
@pytest.mark.parametrize("masked", [False, True])
def test_closed_forms_against_the_enumerated_program(structure, generator, kind, masked):
    for scale in (1e-6, 0.3, 1.0, 3.0, 1e3):
        inputs = draw(structure, generator, 20, scale, kind)
        if masked:
            inputs = forbid(structure, inputs, generator)
        post = sl.sparsemap(structure, *inputs, gamma=0.7)
        assert (post.info.iterations == 0).all()
        want = enumerated_sparsemap(structure, inputs[0], inputs[1:], 0.7)
        torch.testing.assert_close(post.mean, want, atol=2e-7, rtol=0)
        ones = torch.ones(20, dtype=torch.float64)
        torch.testing.assert_close(post.probs.sum(-1), ones, atol=1e-12, rtol=0)
        assert (post.probs >= 0).all()
        assert structure.contains(post.structures[post.mask]).all()
        mean = (post.probs.unsqueeze(-1) * post.vertices).sum(1)
        torch.testing.assert_close(post.mean, mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("structure", ALL, ids=repr)
def test_derivatives_of_the_closed_forms(structure, generator):
    """Also beside forbidden bits, which gradcheck cannot move."""
    forbidden = torch.zeros(6, *structure.shape, dtype=torch.bool)
    forbidden[4:, 0] = True
    scores, *extra = draw(structure, generator, 6)
    gamma = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5

    def moments(gamma, scores, *extra):
        post = sl.sparsemap(structure, torch.where(forbidden, -torch.inf, scores), *extra, gamma=gamma)
        return post.mean, *post.extra_marginals

    args = [x.requires_grad_() for x in (gamma, scores, *extra)]
    assert gradcheck(moments, args)
    assert gradgradcheck(moments, args)


def test_a_pair_by_hand():
    """Every case of its closed form, with what the coupling does to it."""
    for scores, coupling, mean, both, slope in (
        ((0.6, 0.2), 0.1, (0.6, 0.3), 0.3, (0.0, 1.0)),  # pulled up by the larger one
        ((0.2, 0.6), 0.1, (0.3, 0.6), 0.3, (1.0, 0.0)),
        ((0.4, 0.3), 0.2, (0.45, 0.45), 0.45, (0.5, 0.5)),  # drawn together
        ((0.9, 0.8), -0.2, (0.7, 0.6), 0.3, (1.0, 1.0)),  # pushed down where both are on
        ((0.3, 0.4), -0.2, (0.3, 0.4), 0.0, (0.0, 0.0)),  # kept apart at no cost
        ((0.7, 0.5), -0.4, (0.6, 0.4), 0.0, (0.0, 0.0)),  # kept apart: less of both
        ((0.7, 0.5), -torch.inf, (0.6, 0.4), 0.0, (0.0, 0.0)),
    ):
        x = torch.tensor([scores], dtype=torch.float64)
        w = torch.tensor([[coupling]], dtype=torch.float64, requires_grad=True)
        post = sl.sparsemap(Pair(), x, w)
        torch.testing.assert_close(post.mean, torch.tensor([mean], dtype=torch.float64), atol=1e-12, rtol=0)
        assert float(post.extra_marginals[0].detach()) == pytest.approx(both, abs=1e-12)
        got = [float(torch.autograd.grad(post.mean[0, i], w)[0]) for i in range(2)]
        assert got == pytest.approx(slope, abs=1e-12)


def test_xor_is_sparsemax(generator):
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(sl.sparsemap(Xor(7), x).mean, sl.sparsemax(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_log_partition_of_or_where_sums_cancel(n):
    """Scores so low that 2^n - 1 terms are all but none."""
    for level in (-1e6, -50.0, 0.0, 50.0):
        x = torch.full((1, n), level, dtype=torch.float64)
        got = float(Or(n).log_partition(x))
        # bits with one of them on: log((1 + e^s)^n - 1), in terms that do not cancel
        terms = [math.log(math.comb(n, k)) + k * level for k in range(1, n + 1)]
        top = max(terms)
        assert got == pytest.approx(top + math.log(sum(math.exp(t - top) for t in terms)), rel=1e-12)


@pytest.mark.parametrize("structure", [Xor, AtMostOne, Or])
@pytest.mark.parametrize("came", [0, -2, 1.5])
def test_bad_sizes_are_refused(structure, came):
    with pytest.raises(sl.ArgumentError, match=f"n: got {came}"):
        structure(came)


def test_what_is_no_structure():
    z = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0.5, 0]])
    assert Xor(3).contains(z).tolist() == [False, True, False, False]
    assert AtMostOne(3).contains(z).tolist() == [True, True, False, False]
    assert Or(3).contains(z).tolist() == [False, True, True, False]
    assert Pair().contains(z[:, :2]).tolist() == [True, True, True, False]


def test_names():
    assert [repr(x) for x in ALL] == ["Xor(4)", "AtMostOne(4)", "Or(2)", "Or(4)", "Pair()"]
