import pytest
import torch

import structlat as sl
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
