import shutil
from fractions import Fraction

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import structlat as sl
from structlat.simplex import BLOCK, CROWD, by_newton, by_sorting

MAPS = (sl.sparsemax, sl.entmax15)
POWERS = (1, 2)


def exactly(row):
    """Sparsemax of a list of floats in rational numbers."""
    row = [None if value == float("-inf") else Fraction(value) for value in row]
    ordered = sorted((value for value in row if value is not None), reverse=True)
    total, tau = Fraction(0), None
    for k, value in enumerate(ordered, 1):
        total += value
        if 1 + k * value > total:
            tau = (total - 1) / k
    return [0.0 if value is None else float(max(value - tau, 0)) for value in row]


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-10, 1e-6, 1e-3, 0.1, 1.0, 30.0, 1e4, 1e6])
def test_against_rational_numbers(generator, dtype, scale):
    for n in (1, 2, 7, 60):
        x = (scale * torch.randn(6, n, generator=generator, dtype=torch.float64)).to(dtype)
        x = x.clamp(min=torch.finfo(dtype).min, max=torch.finfo(dtype).max)
        x[1] = x[1, 0]  # all equal
        x[2] = x[2, torch.arange(n) // 3]  # ties
        x[3, torch.arange(n) % 2 == 1] = -torch.inf
        x[4] = (x[4].double() + 1e8 * (dtype in (torch.float32, torch.float64))).to(dtype)
        x[5] = torch.finfo(dtype).smallest_normal / 64 * torch.arange(n)  # denormal
        expected = torch.tensor([exactly(row) for row in x.double().tolist()], dtype=torch.float64)
        p = sl.sparsemax(x)
        eps, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        torch.testing.assert_close(p.double(), expected, atol=max(2e-16, least), rtol=eps)
        assert ((p > 0) == (expected.to(dtype) > 0))[expected.gt(1e-12) | expected.eq(0)].all()
        assert (p.double().sum(-1) - 1).abs().max() <= 4 * eps
        mild = sl.entmax15(x)
        reference = by_bisection(x.double() - x.double().amax(-1, keepdim=True), 2)
        torch.testing.assert_close(mild.double(), reference, atol=max(1e-14, least), rtol=2 * eps)
        assert (mild.double().sum(-1) - 1).abs().max() <= 4 * eps


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("scale", [1e-4, 0.03, 0.3, 3.0])
def test_newton_and_sorting_find_the_same_support(generator, power, scale):
    n = 20 * CROWD
    x = scale * torch.randn(12, n, generator=generator, dtype=torch.float64)
    x[1] = x[1].sort().values  # what counts comes last
    x[2] = x[2].sort(descending=True).values
    x[3] = (4 * x[3]).round() / 4  # ties, also at the limit
    x[4] = -power  # a crowd at the limit before the largest
    x[4, -1] = 0
    x[5, : n - 1] = -torch.inf
    x[6] = 1e8 + x[6]
    x[7] = -(1.02 ** -torch.arange(n, dtype=torch.float64))  # entries leave one after the other
    x[8, BLOCK:] = -torch.inf
    x[9] = 0
    top = x.amax(-1, keepdim=True)
    for ours, judge in zip(by_newton(x, top, power), by_sorting(x, top, power), strict=True):
        if ours.dtype == torch.int64 and ours.shape[1] > 1:
            assert [set(row) for row in ours.tolist()] == [set(row) for row in judge.tolist()]
        else:
            torch.testing.assert_close(ours, judge, atol=1e-12, rtol=0)
    single = x[:6].float()
    (index, size, _), judge = (find(single, single.amax(-1, keepdim=True), power) for find in (by_newton, by_sorting))
    assert (size == judge[1]).all()
    assert [set(row) for row in index.tolist()] == [set(row) for row in judge[0].tolist()]


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0])
def test_sums_to_one_over_many_entries(generator, fn, scale):
    p = fn(5.0 + scale * torch.randn(3, 100_000, generator=generator, dtype=torch.float64))
    assert (p.sum(-1) - 1).abs().max() < 1e-14


@pytest.mark.parametrize("fn", MAPS)
def test_threads_change_nothing(generator, fn):
    x = 0.1 * torch.randn(70, 10_000, generator=generator)
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append((*by_newton(x, x.amax(-1, keepdim=True), 1 + (fn is sl.entmax15)), fn(x)))
    finally:
        torch.set_num_threads(before)
    for one, more in zip(*answers, strict=True):
        torch.testing.assert_close(one, more, atol=0, rtol=0)


@pytest.mark.parametrize("fn", MAPS)
def test_strides(generator, fn):
    x = torch.randn(8, 6, 10, generator=generator)
    for view in (x[::2, 1:, ::3], x.transpose(0, 2), x[:, :1].expand(8, 6, 10), x.flip(0)[:, 2]):
        for dim in range(view.ndim):
            torch.testing.assert_close(fn(view, dim), fn(view.contiguous(), dim), atol=0, rtol=0)


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)])
def test_derivatives_of_an_empty_batch(fn, shape):
    x = torch.zeros(*shape, 4, requires_grad=True)
    fn(x).sum().backward()
    assert x.grad.shape == x.shape


@pytest.fixture(params=MAPS, ids=lambda fn: fn.__name__)
def case(request, generator):
    """A map, rows x, the loss of one row, and what plain autograd says of it."""
    fn = request.param
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, generator=generator, dtype=torch.float64)

    def loss(row):
        return (fn(row) * weight).square().sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sum(loss(row) for row in leaf), leaf)
    return fn, x, loss, gradient


def test_func_first_order(case):
    fn, x, loss, gradient = case
    torch.testing.assert_close(grad(loss)(x[0]), gradient[0])
    torch.testing.assert_close(vmap(grad(loss))(x), gradient)
    jacobian = torch.autograd.functional.jacobian(fn, x[0])
    torch.testing.assert_close(jacrev(fn)(x[0]), jacobian)
    torch.testing.assert_close(jacfwd(fn)(x[0]), jacobian)
    torch.testing.assert_close(vmap(jacfwd(fn))(x)[0], jacobian)
    torch.testing.assert_close(jvp(fn, (x[0],), (gradient[0],))[1], jacobian @ gradient[0])


def test_func_second_order(case):
    _, x, loss, _ = case
    expected = torch.stack([torch.autograd.functional.hessian(loss, row) for row in x])
    torch.testing.assert_close(hessian(loss)(x[0]), expected[0])
    torch.testing.assert_close(jacrev(jacrev(loss))(x[0]), expected[0])
    torch.testing.assert_close(vmap(hessian(loss))(x), expected)


def test_vmap(case, generator):
    fn, *_ = case
    x = torch.randn(3, 4, 5, generator=generator)
    expected = fn(x)
    torch.testing.assert_close(vmap(fn)(x), expected)
    torch.testing.assert_close(vmap(fn, in_dims=1, out_dims=1)(x), expected)
    torch.testing.assert_close(vmap(vmap(fn))(x), expected)
    torch.testing.assert_close(vmap(vmap(fn, in_dims=1), in_dims=1)(x.permute(2, 1, 0)), expected.transpose(0, 1))
    torch.testing.assert_close(vmap(lambda part: fn(part, 0), in_dims=2, out_dims=2)(x), fn(x, 0))


@pytest.mark.parametrize("fn", MAPS)
def test_errors_under_transforms_name_the_rows(fn):
    x = torch.zeros(2, 3, 4)
    x[1, 2, 0] = torch.nan
    for call in (lambda: vmap(fn)(x), lambda: vmap(vmap(fn))(x), lambda: vmap(grad(lambda row: fn(row).sum()))(x[1])):
        with pytest.raises(sl.ArgumentError, match=r"x: NaN or \+inf in row (\(1, 2\) \(1 of 6\)|2 \(1 of 3\))"):
            call()
    x[1, 2] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"x: every entry is -inf in row \(1, 2\) \(1 of 6\)"):
        vmap(fn)(x)


def check_compiled(fn, backend, generator):
    compiled = torch.compile(fn, fullgraph=True, backend=backend)
    for scale, shape, dtype in [
        (1.0, (4, 9), torch.float64),
        (1e-3, (4, 9), torch.float64),
        (1.0, (5, 300), torch.float32),
        (1.0, (1, 1), torch.float32),
        (1.0, (0, 3), torch.float32),
        (1.0, (2, 3, 8), torch.bfloat16),
    ]:
        x = (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
        p, weight = fn(x), torch.randn(shape, generator=generator).to(dtype)
        torch.testing.assert_close(compiled(x), p)
        torch.testing.assert_close(
            torch.autograd.grad((compiled(x) * weight).sum(), x), torch.autograd.grad((p * weight).sum(), x)
        )


@pytest.mark.parametrize("fn", MAPS)
def test_compile(fn, generator):
    torch._dynamo.reset()
    check_compiled(fn, "aot_eager", generator)
    x = torch.randn(4, 9, generator=generator)
    torch.testing.assert_close(torch.compile(lambda x: fn(x, 0), fullgraph=True, backend="aot_eager")(x), fn(x, 0))
    with pytest.raises(sl.ArgumentError, match=r"x: NaN or \+inf in row 1 \(1 of 4\)"):
        torch.compile(fn, fullgraph=True, backend="aot_eager")(x.index_fill(0, torch.tensor(1), torch.nan))


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="torch's compiler needs one")
@pytest.mark.parametrize("fn", MAPS)
def test_compile_to_machine_code(fn, generator):
    torch._dynamo.reset()
    check_compiled(fn, "inductor", generator)


def test_compile_of_a_gradient(case):
    _, x, loss, gradient = case
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(grad(loss), fullgraph=True, backend="aot_eager")(x[0]), gradient[0])


@pytest.mark.parametrize("fn", MAPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(fn, dtype, generator):
    layer, x = torch.nn.Linear(6, 8), torch.randn(5, 6, generator=generator)
    with torch.autocast("cpu", dtype):
        scores = layer(x)
        p = fn(scores)
        loss = (p * torch.arange(8)).sum()
    assert p.dtype == scores.dtype == dtype
    torch.testing.assert_close(p, fn(scores.float()).to(dtype), atol=0, rtol=0)
    loss.backward()
    assert torch.isfinite(layer.weight.grad).all()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_operator(power, dtype, generator):
    x = torch.randn(6, 9, generator=generator).to(dtype)
    torch.library.opcheck(torch.ops.structlat.simplex_support.default, (x, power, [2, 3]))
