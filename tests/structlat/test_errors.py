"""Bad input gets an error that names the argument, what came, what was expected, and the rows."""

import numpy as np
import pytest
import torch

import structlat as sl
from tests.judge import draw

BITS = sl.BitVector(3)
CALLS = (sl.argmax, sl.sparsemap, sl.topk_sparsemax, sl.marginalize)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (torch.zeros(2, 4), r"scores: got shape \(2, 4\).*shape \(3,\)"),
        (torch.tensor(1.0), r"scores: got shape \(\)"),
        (torch.zeros(2, 3, dtype=torch.int64), r"scores: got dtype torch.int64.*floating"),
        ([[0.0, 0.0, 0.0]], r"scores: got list.*torch.Tensor"),
        (torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]]), r"scores: NaN or \+inf in row 1 \(1 of 2\)"),
        (torch.tensor([[[0.0, 0, 0], [0, torch.inf, 0]]]), r"scores: NaN or \+inf in row \(0, 1\) \(1 of 2\)"),
        (torch.tensor([torch.nan, 0, 0]), r"scores: NaN or \+inf in the only row"),
    ],
)
def test_scores(call, scores, text):
    with pytest.raises(sl.ArgumentError, match=text):
        call(BITS, scores)


@pytest.mark.parametrize("call", CALLS)
def test_extra(call):
    chain = sl.LinearChain(3, 2)
    unary = torch.zeros(2, 3, 2)
    for extra, text in (
        ((), r"extra: got 0 tensors; LinearChain expects 1"),
        ((torch.zeros(2, 2), torch.zeros(2, 2)), r"extra: got 2 tensors"),
        ((torch.zeros(3, 3),), r"extra\[0\]: got shape \(3, 3\).*\(2, 2, 2, 2\)"),
        ((torch.zeros(2, 2, dtype=torch.int32),), r"extra\[0\]: got dtype torch.int32"),
        ((torch.full((2, 2), torch.nan),), r"extra\[0\]: NaN"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            call(chain, unary, *extra)


@pytest.mark.parametrize("gamma", [0.0, -1.0, torch.inf, torch.nan])
def test_gamma_has_to_be_positive(gamma):
    with pytest.raises(sl.ArgumentError, match=r"gamma: got .*expected positive"):
        sl.sparsemap(BITS, torch.zeros(2, 3), gamma=gamma)
    with pytest.raises(sl.ArgumentError, match=r"gamma: .*row 1 \(1 of 2\)"):
        sl.sparsemap(BITS, torch.zeros(2, 3), gamma=torch.tensor([1.0, gamma]))


@pytest.mark.parametrize("gamma", ["1", None, torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.int64)])
def test_gamma_of_a_wrong_kind(gamma):
    with pytest.raises(sl.ArgumentError, match="gamma: got"):
        sl.sparsemap(BITS, torch.zeros(2, 3), gamma=gamma)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
def test_k(k):
    with pytest.raises(sl.ArgumentError, match=r"k: got .*at least 1"):
        sl.topk_sparsemax(BITS, torch.zeros(2, 3), k=k)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"solver": "newton"}, r"solver: got 'newton'; expected one of 'auto', 'active_set'"),
        ({"on_failure": "pray"}, r"on_failure: got 'pray'"),
        ({"tol": -1.0}, r"tol: got -1.0"),
        ({"tol": "a"}, r"tol: got 'a'"),
        ({"tol": float("nan")}, r"tol: got nan"),
        ({"max_iter": 0}, r"max_iter: got 0"),
    ],
)
def test_options_of_sparsemap(options, text):
    with pytest.raises(sl.ArgumentError, match=text):
        sl.sparsemap(BITS, torch.zeros(2, 3), **options)


def test_normalizer():
    with pytest.raises(sl.ArgumentError, match=r"normalizer: got 'hardmax'; expected one of 'softmax'"):
        sl.marginalize(BITS, torch.zeros(2, 3), normalizer="hardmax")


@pytest.mark.parametrize(
    ("space", "z"),
    [
        (sl.BitVector(3), torch.zeros(5)),
        (sl.BudgetBitVector(3, 1), torch.zeros(7)),
        (sl.LinearChain(3, 2), torch.zeros(7, dtype=torch.int64)),
        (sl.BipartiteMatching(3, 3, partial=True), torch.tensor([0])),
    ],
    ids=repr,
)
def test_events_of_a_wrong_shape(space, z):
    with pytest.raises(sl.ArgumentError, match=r"z: got shape \(\d,\)"):
        space.contains(z)
    post = sl.sparsemap(space, torch.zeros(space.shape), *(torch.zeros(s) for s in space.extra_shapes))
    with pytest.raises(sl.ArgumentError, match=r"value: got shape \(\d,\)"):
        post.log_prob(z)


def test_scores_without_values():
    with pytest.raises(sl.ArgumentError, match="scores: got a tensor on the meta device"):
        sl.sparsemap(BITS, torch.zeros(3, device="meta"))
    with pytest.raises(sl.ArgumentError, match=r"scores: got layout torch.sparse_coo"):
        sl.sparsemap(BITS, torch.zeros(2, 3).to_sparse())


def test_nan_in_what_all_rows_share():
    with pytest.raises(sl.ArgumentError, match=r"extra\[0\]: NaN or \+inf in what all rows share"):
        sl.sparsemap(sl.LinearChain(3, 2), torch.zeros(2, 3, 2), torch.full((2, 2), torch.nan))


def test_whole_numbers_may_be_numpys():
    assert sl.topk_sparsemax(sl.BitVector(np.int64(3)), torch.zeros(3), k=np.int64(2)).support_size <= 2


def test_a_default_device_does_not_matter():
    """Host tensors are made on the host whatever the default device is."""
    x = torch.randn(2, 3)
    with torch.device("meta"):
        post = sl.sparsemap(BITS, x, solver="active_set", trace=True)
        assert post.mean.device.type == "cpu"


def test_the_warning_points_at_the_caller():
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    layer = sl.SparseMAP(sl.BitVector(40), solver="active_set", max_iter=2)
    for call in (lambda: layer(x), lambda: sl.sparsemap(sl.BitVector(40), x, solver="active_set", max_iter=2)):
        with pytest.warns(sl.NonConvergenceWarning) as caught:
            call()
        assert caught[0].filename == __file__


def test_an_oracle_that_contradicts_itself_is_not_called_converged():
    """An answer worse than an earlier one proves that the oracle does not maximise: nothing is certified then."""

    class AnyBits(sl.BitVector):
        generator = torch.Generator().manual_seed(0)

        def argmax(self, scores, *extra):
            return torch.randint(2, scores.shape, generator=self.generator).to(scores.dtype)

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(sl.NonConvergenceWarning, match="does not return a true maximum"):
        post = sl.sparsemap(AnyBits(6), x, solver="active_set")
    assert torch.isinf(post.info.gap[~post.info.converged]).all()
    assert (~post.info.converged).sum() >= 6


def test_topk_says_what_it_is_not():
    post = sl.topk_sparsemax(sl.BitVector(6), 0.01 * torch.randn(4, 6), k=3)
    assert not post.info.exact.any()
    assert "Exact among the structures it was given, and in 0 of 4 rows" in post.info.status


def test_structure():
    with pytest.raises(sl.ArgumentError, match="structure: got 3"):
        sl.sparsemap(3, torch.zeros(2, 3))
    with pytest.raises(sl.ArgumentError, match="structure: got BitVector as a class"):
        sl.sparsemap(sl.BitVector, torch.zeros(2, 3))


def test_what_is_too_large_says_how_large():
    with pytest.raises(sl.ArgumentError, match=r"limit: BitVector\(40.*1,099,511,627,776 structures, more than 65536"):
        sl.marginalize(sl.BitVector(40), torch.zeros(40))


def test_every_error_is_a_value_error():
    assert issubclass(sl.InfeasibleError, sl.ArgumentError)
    assert issubclass(sl.ArgumentError, ValueError)


def test_infeasible_rows_with_two_batch_dimensions():
    x = torch.zeros(2, 3, 4)
    x[1, 2] = -torch.inf
    with pytest.raises(sl.InfeasibleError, match=r"scores: no structure of Categorical.*row \(1, 2\) \(1 of 6\)"):
        sl.sparsemap(sl.Categorical(4), x)


class TestNonConvergence:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    bits = sl.BitVector(40)

    def test_warns(self):
        with pytest.warns(sl.NonConvergenceWarning, match=r"rows 0, 1, 2 \(3 of 3\).*three likely causes"):
            post = sl.sparsemap(self.bits, self.x, max_iter=2, solver="active_set")
        assert not post.info.converged.any()
        assert not post.info.exact.any()
        assert (post.info.gap > 0).all()
        # what comes back is still a distribution, and its mean is its mean
        torch.testing.assert_close(post.probs.sum(-1), torch.ones(3))
        assert (post.probs[post.mask] > 0).all()
        torch.testing.assert_close(post.mean, torch.einsum("bk,bkd->bd", post.probs, post.vertices))

    def test_raises(self):
        with pytest.raises(sl.NonConvergenceWarning, match="Stopped before"):
            sl.sparsemap(self.bits, self.x, max_iter=2, solver="active_set", on_failure="raise")

    def test_ignores(self):
        post = sl.sparsemap(self.bits, self.x, max_iter=2, solver="active_set", on_failure="ignore")
        assert "Stopped before the certificate" in post.info.status
        assert "converged=False" in repr(post)


def test_not_converged_without_a_batch_dimension(generator):
    inputs = draw(sl.LinearChain(6, 3), generator, 1)
    with pytest.warns(sl.NonConvergenceWarning, match="the only row"):
        sl.sparsemap(sl.LinearChain(6, 3), *(x[0] for x in inputs), max_iter=1)


def test_extra_scores_that_are_one_number_a_row(generator):
    class Toll(sl.Structure):
        """Bits, and a toll for more than one of them."""

        shape, extra_shapes = torch.Size([3]), (torch.Size([]),)

        def argmax(self, scores, toll):
            every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
            values = self.score(every, scores.unsqueeze(1), toll.unsqueeze(1))
            return every[values.argmax(1)]

        def score(self, z, scores, toll):
            return super().score(z, scores) + torch.where(z.sum(-1) > 1, toll, 0)

    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    toll = torch.tensor([-0.3, 0.0, -1.0, 0.2, 0.0], dtype=torch.float64)
    post = sl.sparsemap(Toll(), x, toll, on_failure="raise")
    free = sl.sparsemap(sl.BitVector(3, symmetric=False), x)
    torch.testing.assert_close(post.mean[[1, 4]], free.mean[[1, 4]], atol=1e-8, rtol=0)
    assert (post.mean[2].sum() <= free.mean[2].sum() + 1e-9).all()
