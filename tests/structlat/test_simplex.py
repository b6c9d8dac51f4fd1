import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import structlat as sl

MAPS = (sl.sparsemax, sl.entmax15)


def by_bisection(x, power):
    """p = max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)), tau by bisection: alpha 2 has power 1, alpha 1.5 has power
    2."""
    x = x if power == 1 else x / 2
    high = x.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(200):
        tau = (low + high) / 2
        total = ((x - tau).clamp(min=0) ** power).sum(-1, keepdim=True)
        low, high = torch.where(total > 1, tau, low), torch.where(total > 1, high, tau)
    return (x - tau).clamp(min=0) ** power


@pytest.mark.parametrize(("fn", "power"), [(sl.sparsemax, 1), (sl.entmax15, 2)])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_against_bisection(generator, fn, power, scale, n):
    x = scale * torch.randn(20, n, generator=generator, dtype=torch.float64)
    p = fn(x)
    torch.testing.assert_close(p, by_bisection(x, power), atol=1e-9, rtol=0)
    torch.testing.assert_close(p.sum(-1), torch.ones(20, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (p >= 0).all()


@pytest.mark.parametrize("fn", MAPS)
def test_derivatives(generator, fn):
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    assert gradcheck(fn, x, check_forward_ad=True)
    assert gradgradcheck(fn, x)


@pytest.mark.parametrize("fn", MAPS)
def test_ties_and_constants(fn):
    for value in (0.0, -100.0, 1e6):
        p = fn(torch.full((2, 4), value, dtype=torch.float64))
        torch.testing.assert_close(p, torch.full((2, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("fn", MAPS)
def test_forbidden_entries(generator, fn):
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    short = fn(x[:, :5])
    x[:, 5:] = -torch.inf
    x.requires_grad_()
    p = fn(x)
    torch.testing.assert_close(p[:, :5], short)
    assert (p[:, 5:] == 0).all()
    (gradient,) = torch.autograd.grad((p**2).sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_any_dimension(generator, fn, dim):
    x = torch.randn(3, 4, 5, generator=generator)
    torch.testing.assert_close(fn(x, dim), fn(x.movedim(dim, -1)).movedim(-1, dim))


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_comes_back(fn, dtype):
    p = fn(torch.randn(3, 9).to(dtype))
    assert p.dtype == dtype
    torch.testing.assert_close(p.double().sum(-1), torch.ones(3, dtype=torch.float64), atol=3e-2, rtol=0)


@pytest.mark.parametrize("fn", MAPS)
def test_empty_batch(fn):
    assert fn(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize(
    ("x", "dim", "text"),
    [
        (torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), -1, r"x: NaN or \+inf in row 0 \(1 of 2\)"),
        (torch.tensor([0.0, torch.inf]), -1, r"x: NaN or \+inf in the only row"),
        (torch.full((2, 2), -torch.inf), -1, r"x: every entry is -inf in rows 0, 1"),
        (torch.tensor([1, 2]), -1, r"x: got torch.int64"),
        (torch.zeros(2, 0), -1, r"x: got shape \(2, 0\)"),
        (torch.zeros(2, 2), 2, r"dim: got 2"),
    ],
)
def test_errors(fn, x, dim, text):
    with pytest.raises(sl.ArgumentError, match=text):
        fn(x, dim)
