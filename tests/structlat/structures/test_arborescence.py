"""The log-partition of arborescences: against determinants and enumeration, at all scales, with all derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from oracles import arborescence
from structlat.structures._arborescence import log_trees


def enumerated(scores, multi_root):
    every = torch.from_numpy(arborescence.enumerate(scores.shape[1], multi_root))
    return torch.logsumexp(scores[:, torch.arange(scores.shape[1]), every].sum(-1), 1)


def draw(generator, rows, n, scale=1.0, share=0.0):
    scores = scale * torch.randn(rows, n, n + 1, generator=generator, dtype=torch.float64)
    drawn = torch.rand(scores.shape, generator=generator) < share
    return torch.where(drawn, -torch.inf, scores)


def laplacian(scores):
    """Of the weights among the words, and from the root."""
    weight = scores.exp()
    among = weight[..., 1:] * (1 - torch.eye(scores.shape[1], dtype=torch.float64))
    return torch.diag_embed(among.sum(-1)) - among, weight[..., 0]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("multi_root", [True, False])
def test_against_enumeration(generator, multi_root, scale, share):
    feasible = 0
    for n in (1, 2, 3, 5):
        scores = draw(generator, 12, n, scale, share).requires_grad_()
        want, got = enumerated(scores, multi_root), log_trees(scores, multi_root)
        some = ~torch.isneginf(want)
        feasible += int(some.sum())
        assert torch.equal(torch.isneginf(got), ~some)
        torch.testing.assert_close(got[some], want[some], rtol=1e-13, atol=1e-13 * max(scale, 1))
        (gradient,) = torch.autograd.grad(got.sum(), scores)
        assert (gradient[~some] == 0).all()
        assert (gradient[torch.isneginf(scores)] == 0).all()
        (expected,) = torch.autograd.grad(want[some].sum(), scores)
        # what is nearly a tie at a large scale is one but for the rounding of the scores
        close = {"rtol": 0, "atol": 1e-12 * max(scale, 1)}
        torch.testing.assert_close(gradient[some], expected[some].nan_to_num(), **close)
    assert feasible > 10


def test_determinants(generator):
    """The matrix-tree theorem, where its determinant can be had: one root, any number of them, and each word's."""
    scores = draw(generator, 5, 12)
    inner, root = laplacian(scores)
    want = torch.linalg.slogdet(inner + torch.diag_embed(root)).logabsdet
    torch.testing.assert_close(log_trees(scores), want, rtol=1e-12, atol=1e-12)
    each = []
    for r in range(12):
        kept = torch.arange(12) != r
        each.append(torch.linalg.slogdet(inner[:, kept][:, :, kept]).logabsdet + root[:, r].log())
    want = torch.logsumexp(torch.stack(each), 0)
    torch.testing.assert_close(log_trees(scores, False), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("multi_root", [True, False])
def test_a_part_that_needs_all_but_impossible_arcs(multi_root):
    """Two words that want each other, e^5000 to one: the weight of what is left has to survive beside it."""
    scores = torch.tensor([[[-5000.0, 0.0, 0.0], [-5000.0, 0.0, 0.0]]], dtype=torch.float64)
    want = -5000 + torch.tensor([2.0], dtype=torch.float64).log()
    torch.testing.assert_close(log_trees(scores, multi_root), want, rtol=1e-15, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("multi_root", [True, False])
def test_derivatives(generator, multi_root, share):
    masked = draw(generator, 4, 4, share=share)
    masked[0, :, 1:3] = -torch.inf  # two words that nobody hangs on
    masked[1] = -torch.inf  # nothing is feasible
    finite = torch.isfinite(masked)
    variables = torch.where(finite, masked, 0).requires_grad_()

    def total(x):
        x = torch.where(finite, x, -torch.inf)
        out = log_trees(x, multi_root)
        return out[~torch.isneginf(out.detach())]

    assert len(total(variables)) in (2, 3)
    assert gradcheck(total, variables)
    assert gradgradcheck(total, variables)


@pytest.mark.parametrize("multi_root", [True, False])
def test_second_derivatives_at_large_scales_are_numbers(generator, multi_root):
    scores = draw(generator, 3, 5, 1e4, 0.2).requires_grad_()
    (gradient,) = torch.autograd.grad(log_trees(scores, multi_root).sum(), scores, create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), scores)
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("multi_root", [True, False])
def test_transforms(generator, multi_root):
    scores = draw(generator, 6, 4, share=0.1)

    def total(x):
        return log_trees(x, multi_root).sum()

    want = torch.func.grad(total)(scores)
    each = torch.func.vmap(torch.func.grad(lambda x: total(x.unsqueeze(0))))(scores)
    torch.testing.assert_close(each, want, rtol=0, atol=1e-14)
    for function in (total, torch.func.grad(total)):
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(scores), function(scores), rtol=1e-14, atol=1e-14)
    along = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    _, slope = torch.func.jvp(total, (scores,), (along,))
    torch.testing.assert_close(slope, (want * along).sum(), rtol=1e-12, atol=0)


def test_an_empty_batch():
    assert log_trees(torch.zeros(0, 3, 4, dtype=torch.float64)).shape == (0,)
    assert log_trees(torch.zeros(0, 3, 4, dtype=torch.float64), False).shape == (0,)
