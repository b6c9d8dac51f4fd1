import pytest
import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


class TestCategorical(StructureTests):
    cases = (sl.Categorical(1), sl.Categorical(2), sl.Categorical(7))
    counts = (1, 2, 7)


@pytest.mark.parametrize("solver", ["auto", "active_set"])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_sparsemap_is_sparsemax(generator, solver, gamma):
    x = torch.randn(20, 30, generator=generator, dtype=torch.float64).requires_grad_()
    post = sl.sparsemap(sl.Categorical(30), x, gamma=gamma, solver=solver)
    want = sl.sparsemax(x / gamma)
    torch.testing.assert_close(post.mean, want, atol=1e-9, rtol=0)
    weights = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((post.mean * weights).sum(), x),
        torch.autograd.grad((want * weights).sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_closed_form_takes_no_iteration():
    assert int(sl.sparsemap(sl.Categorical(5), torch.randn(5)).info.iterations) == 0


def test_contains():
    z = torch.tensor([-1, 0, 4, 5])
    assert sl.Categorical(5).contains(z).tolist() == [False, True, True, False]


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_size_is_checked(n):
    with pytest.raises(sl.ArgumentError, match="n: got"):
        sl.Categorical(n)


def test_a_padded_batch_is_each_example_alone(generator):
    space, lengths = sl.Categorical(5), torch.tensor([5, 1, 3])
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        space,
        [x],
        lambda y: [space.mask(y, lengths)],
        lambda row: sl.Categorical(int(lengths[row])),
        lambda row, y, n: y[row, : lengths[row]],
    )


def test_nothing_is_no_choice():
    with pytest.raises(sl.ArgumentError, match=r"lengths: outside 1\.\.5 in row 1 \(1 of 2\)"):
        sl.Categorical(5).mask(torch.zeros(2, 5), torch.tensor([5, 0]))


def test_the_slope_of_an_infeasible_row_is_zero():
    for n in (1, 4):
        x = torch.full((2, n), -torch.inf, dtype=torch.float64, requires_grad=True)
        total = sl.Categorical(n).log_partition(x)
        assert torch.isneginf(total).all()
        (slope,) = torch.autograd.grad(total.sum(), x)
        assert (slope == 0).all()
