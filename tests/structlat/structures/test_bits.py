import pytest
import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


def clip(x, gamma, symmetric):
    return ((x / gamma + 1) / 2 if symmetric else x / gamma).clamp(0, 1)


class TestBitVector(StructureTests):
    cases = (sl.BitVector(1), sl.BitVector(4), sl.BitVector(5, symmetric=False))
    counts = (2, 16, 32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("scale", [1e-10, 0.1, 1.0, 100.0, 1e6])
def test_marginals_are_a_clip(generator, symmetric, gamma, scale):
    x = scale * torch.randn(16, 40, generator=generator, dtype=torch.float64)
    x[:, 3] = -torch.inf
    post = sl.sparsemap(sl.BitVector(40, symmetric), x, gamma=gamma, solver="active_set", on_failure="raise")
    assert (post.mean - clip(x, gamma, symmetric)).abs().max() < 1e-7


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("equal", [False, True])
def test_jacobian_at_128_bits(generator, symmetric, equal):
    """The gap does not certify the gradient: the completed face does."""
    x = torch.randn(3, 128, generator=generator, dtype=torch.float64)
    if equal:
        x = torch.full_like(x, 0.0 if symmetric else 0.4)
    x.requires_grad_()
    post = sl.sparsemap(sl.BitVector(128, symmetric), x, solver="active_set")
    mean = post.mean
    for seed in range(4):
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (ours,) = torch.autograd.grad((mean * weights).sum(), x, retain_graph=True)
        (theirs,) = torch.autograd.grad((clip(x, 1.0, symmetric) * weights).sum(), x)
        assert (ours - theirs).abs().max() < 1e-8


def test_whole_jacobian_at_128_bits(generator):
    x = torch.randn(128, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: sl.sparsemap(sl.BitVector(128), y, solver="active_set").mean, x
    )
    want = torch.diag(((x > -1) & (x < 1)).double() / 2)
    assert (jacobian - want).abs().max() < 1e-8


def test_p_alone_would_give_a_wrong_gradient(generator):
    """What the face completion is for: without it the marginals' gradient is off by far more than a tolerance."""
    x = torch.randn(128, generator=generator, dtype=torch.float64).requires_grad_()
    post = sl.sparsemap(sl.BitVector(128), x, solver="active_set")
    through_p = post.probs @ post.vertices
    torch.testing.assert_close(through_p, post.mean, atol=1e-12, rtol=0)
    weights = torch.randn(128, generator=generator, dtype=torch.float64)
    (wrong,) = torch.autograd.grad(through_p @ weights, x)
    (right,) = torch.autograd.grad(clip(x, 1.0, True) @ weights, x)
    assert (wrong - right).abs().max() > 0.1


@pytest.mark.parametrize("n", [513, 700])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_topk_of_many_bits(generator, n, k):
    x = torch.randn(4, n, generator=generator)
    z, valid = sl.BitVector(n).topk(x.double(), k=k)
    assert valid.all()
    # brute force over the only bits that can differ: the k of smallest |score|
    for row in range(4):
        near = x[row].abs().argsort()[: min(k, 12)]
        flips = sl.BitVector(len(near)).enumerate().bool()
        others = (x[row] > 0).double().repeat(len(flips), 1)
        others[:, near] = torch.where(flips, 1 - others[:, near], others[:, near])
        best = (others @ x[row].double()).sort(descending=True).values[:k]
        got = z[row].double() @ x[row].double()
        assert (got[: len(best)] >= best - 1e-9).all()
        if k <= 12:
            torch.testing.assert_close(got, best, atol=1e-9, rtol=0)


def test_k_past_the_number_of_structures():
    post = sl.topk_sparsemax(sl.BitVector(3), 0.1 * torch.randn(2, 3), k=9)
    assert post.info.exact.all()
    assert (post.support_size <= 8).all()


def test_size_is_checked():
    with pytest.raises(sl.ArgumentError, match="n: got 0"):
        sl.BitVector(0)


def test_settings_belong_to_the_instance():
    plain, symmetric = sl.BitVector(3, symmetric=False), sl.BitVector(3)
    x = torch.zeros(3)
    assert sl.sparsemap(plain, x).mean.tolist() == [0, 0, 0]
    assert sl.sparsemap(symmetric, x).mean.tolist() == [0.5, 0.5, 0.5]
    assert plain.symmetric is False


def test_a_padded_batch_is_each_example_alone(generator):
    space, lengths = sl.BitVector(5), torch.tensor([5, 1, 3])
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        space,
        [x],
        lambda y: [space.mask(y, lengths)],
        lambda row: sl.BitVector(int(lengths[row])),
        lambda row, y, n: y[row, : lengths[row]],
    )
    assert (sl.sparsemap(space, space.mask(x, torch.tensor(0))).mean == 0).all()


def test_what_mask_refuses():
    space = sl.BitVector(4)
    for x, lengths, text in (
        (torch.zeros(2, 4), torch.tensor([5, 1]), r"lengths: outside 0\.\.4 in row 0 \(1 of 2\)"),
        (torch.zeros(2, 4), torch.ones(2), r"lengths: got torch.float32"),
        (torch.zeros(2, 4), torch.ones(3, dtype=torch.int64), r"lengths: got shape \(3,\)"),
        (torch.zeros(2, 3), torch.tensor(1), r"scores: got shape \(2, 3\)"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            space.mask(x, lengths)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_sums_of_many_bits_are_those_of_independent_ones(generator, scale):
    x = (scale * torch.randn(3, 200, generator=generator, dtype=torch.float64)).requires_grad_()
    total = sl.BitVector(200).log_partition(x)
    want = (x.clamp(min=0) + (-x.abs()).exp().log1p()).sum(-1)
    torch.testing.assert_close(total, want, rtol=1e-14, atol=1e-13)
    (slope,) = torch.autograd.grad(total.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, x.sigmoid(), rtol=1e-14, atol=1e-300)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curvature, x.sigmoid() * (-x).sigmoid(), rtol=1e-13, atol=1e-15)
