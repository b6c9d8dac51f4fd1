"""SparseDistribution as torch users know distributions; its moments are tested with every structure."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import Bernoulli, Independent, kl_divergence

import structlat as sl

BITS = sl.BitVector(4)


@pytest.fixture
def post(generator):
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    return sl.sparsemap(BITS, x)


def test_it_is_a_torch_distribution(post):
    assert isinstance(post, torch.distributions.Distribution)
    assert post.batch_shape == (3,)
    assert post.event_shape == (4,)
    assert post.has_enumerate_support
    assert post.support.is_discrete
    assert post.support.event_dim == 1
    assert post.enumerate_support().shape == (post.probs.shape[-1], 3, 4)
    torch.testing.assert_close(post.stddev, post.variance.sqrt())
    torch.testing.assert_close(post.perplexity(), post.entropy().exp())
    assert "BitVector(4" in repr(post)


def test_made_by_hand():
    z = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0]])
    q = sl.SparseDistribution(BITS, z, torch.tensor([0.25, 0.75]))
    assert q.batch_shape == ()
    assert q.mean.tolist() == [0.75, 0.25, 0.25, 0]
    assert q.variance.tolist() == [0.1875, 0.1875, 0.1875, 0]
    assert q.mode.tolist() == [1, 0, 0, 0]
    assert float(q.log_prob(z[0])) == pytest.approx(math.log(0.25))
    assert float(q.entropy()) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_made_by_hand_wrongly():
    z = torch.zeros(2, 4)
    with pytest.raises(sl.ArgumentError, match="structures, probs: got shapes"):
        sl.SparseDistribution(BITS, z, torch.tensor([1.0]))
    with pytest.raises(ValueError, match="probs"):
        # said out loud: a torch.compile earlier in the process switches torch's default off
        sl.SparseDistribution(BITS, z, torch.tensor([0.9, 0.9]), validate_args=True)


def test_the_padding_does_not_count(generator):
    """Two rows of different support: padding repeats a structure, which must not be counted twice."""
    x = torch.stack([torch.full((4,), 5.0), 0.3 * torch.randn(4, generator=generator)]).double()
    post = sl.sparsemap(BITS, x, solver="active_set")
    assert post.support_size[0] == 1 < post.support_size[1]
    assert (post.structures[0] == 1).all()
    assert float(post.log_prob(torch.ones(2, 4))[0]) == 0.0
    assert float(post.entropy()[0]) == 0.0
    assert post.probs[0, 1:].eq(0).all()


def test_expect_is_one_call_without_zeros(post):
    calls = []

    def fn(z, i):
        calls.append((z, i))
        return z.sum(-1, keepdim=True) + i.unsqueeze(-1)

    out = post.expect(fn)
    assert out.shape == (3, 1)
    (z, i), *rest = calls
    assert not rest
    assert len(z) == len(i) == int(post.support_size.sum())
    assert i.dtype == torch.int64
    torch.testing.assert_close(out.squeeze(-1), post.mean.sum(-1) + torch.arange(3))


def test_expect_reaches_what_is_inside_fn(post):
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    post.expect(lambda z, i: z @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, post.mean.sum(0).detach())


def test_expect_with_vertices(generator):
    chain = sl.LinearChain(3, 2)
    post = sl.sparsemap(chain, torch.randn(2, 3, 2, generator=generator), torch.zeros(2, 2))
    out = post.expect(lambda a, i: a, vertices=True)
    torch.testing.assert_close(out, post.mean)


def test_expect_refuses_what_does_not_fit(post):
    with pytest.raises(sl.ArgumentError, match=r"fn: returned shape \(4,\); expected .* N = "):
        post.expect(lambda z, i: torch.zeros(4))
    with pytest.raises(sl.ArgumentError, match="fn: returned float"):
        post.expect(lambda z, i: 1.0)


def test_expect_under_vmap_says_what_to_do():
    def loss(p):
        z = torch.eye(4)[:2]
        return sl.SparseDistribution(BITS, z, p, validate_args=False, mask=p > -1).expect(lambda z, i: z.sum(-1))

    with pytest.raises(RuntimeError, match="use `probs` and `structures`"):
        torch.func.vmap(loss)(torch.full((3, 2), 0.5))


def test_samples_come_from_the_generator_given(post):
    drawn = [post.sample((50,), generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    torch.manual_seed(0)
    one = post.sample()
    torch.manual_seed(0)
    assert torch.equal(one, post.sample())


def test_expand(post):
    wide = post.expand((5, 3))
    assert wide.batch_shape == (5, 3)
    assert wide.mean.shape == (5, 3, 4)
    assert wide.info.gap.shape == (5, 3)
    torch.testing.assert_close(wide.entropy()[2], post.entropy())
    weights = torch.randn(4, dtype=torch.float64)
    assert wide.mean.requires_grad
    torch.testing.assert_close((wide.mean @ weights)[1], post.mean @ weights)


def test_kl(post, generator):
    torch.testing.assert_close(kl_divergence(post, post), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    prior = Independent(Bernoulli(probs=torch.full((3, 4), 0.5, dtype=torch.float64)), 1)
    torch.testing.assert_close(kl_divergence(post, prior), 4 * math.log(2) - post.entropy())
    uniform = sl.marginalize(BITS, torch.zeros(3, 4, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(post, uniform), 4 * math.log(2) - post.entropy())
    assert torch.isinf(kl_divergence(uniform, post)).all()


def test_kl_broadcasts(post):
    wide = post.expand((4, 3))
    assert kl_divergence(post, wide).shape == (4, 3)
    torch.testing.assert_close(kl_divergence(wide, post), torch.zeros(4, 3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_structures_that_were_enumerated_are_not_pickled():
    bits = sl.BitVector(10)
    sl.marginalize(bits, torch.zeros(10))
    assert len(pickle.dumps(bits)) < 1000


def test_deepcopy_is_detached(post):
    again = copy.deepcopy(post)
    assert torch.equal(again.probs, post.probs)
    assert not again.mean.requires_grad


def test_log_prob_off_the_support_has_a_finite_gradient(generator):
    x = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    post = sl.topk_sparsemax(BITS, x, k=2)
    every = BITS.enumerate().unsqueeze(1).expand(-1, 2, 4)
    logs = post.log_prob(every)
    assert torch.isneginf(logs).any()
    (gradient,) = torch.autograd.grad(logs[torch.isfinite(logs)].sum(), x)
    assert torch.isfinite(gradient).all()


def test_no_grad_and_grad_do_not_mix(generator):
    """Means that were read without a graph first, as for a log line, still have one afterwards."""
    x = torch.randn(2, 4, generator=generator).requires_grad_()
    post = sl.sparsemap(BITS, x)
    with torch.no_grad():
        assert not post.mean.requires_grad
    assert post.mean.requires_grad
    with torch.no_grad():
        frozen = sl.sparsemap(BITS, x)
    assert not frozen.probs.requires_grad
    assert not frozen.mean.requires_grad


# Read first without a graph, and with numbers far apart.

MAKERS = {
    "closed form": lambda x: sl.sparsemap(BITS, x),
    "solver": lambda x: sl.sparsemap(BITS, x, solver="active_set"),
    "top-k": lambda x: sl.topk_sparsemax(BITS, x, k=3),
    "softmax": lambda x: sl.marginalize(BITS, x),
    "sparsemax": lambda x: sl.marginalize(BITS, x, normalizer="sparsemax"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_whoever_reads_it_first_does_not_take_the_graph(make, generator):
    x = torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def slope(post):
        value = post.entropy().sum() + post.expect(lambda z, i: z.cumsum(-1).square().sum(-1)).sum()
        return torch.autograd.grad(value + post.mean.square().sum(), x)[0]

    want = slope(make(x))
    assert want.abs().max() > 0
    for mode in (torch.inference_mode, torch.no_grad):
        post = make(x)
        with mode():
            assert post.support_size.shape == post.entropy().shape == (2,)
            assert post.mode.shape == post.mean.shape == (2, 4)
        torch.testing.assert_close(slope(post), want)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_made_and_read_in_inference_mode(make, generator):
    x = torch.randn(2, 4, generator=generator)
    with torch.inference_mode():
        post = make(x)
        inside = post.entropy(), post.mean, post.expect(lambda z, i: z.sum(-1))
    for a, b in zip((post.entropy(), post.mean, post.expect(lambda z, i: z.sum(-1))), inside, strict=True):
        assert torch.equal(a, b)


def test_log_probabilities_of_a_softmax_where_p_is_zero_in_its_dtype():
    x = torch.tensor([[0.0, -90, 1], [0, -770, 1], [0, -torch.inf, 1]], requires_grad=True)
    post, target = sl.marginalize(sl.Categorical(3), x), torch.tensor([1, 1, 1])
    want = torch.log_softmax(x.double(), -1)[:, 1]
    for q in (post, post.expand((2, 3)), pickle.loads(pickle.dumps(post))):
        torch.testing.assert_close(q.log_prob(target).double(), want.expand(q.batch_shape))
    (slope,) = torch.autograd.grad(post.log_prob(target)[:2].sum(), x)
    (expected,) = torch.autograd.grad(want[:2].sum(), x)
    torch.testing.assert_close(slope, expected.float())


def test_kl_of_structures_and_single_parts(post):
    parts = Bernoulli(logits=torch.zeros(4, dtype=torch.float64))
    assert kl_divergence(post, Independent(parts, 1)).shape == (3,)
    with pytest.raises(sl.ArgumentError, match=r"q: got event shape \(\); expected \(4,\).*Independent"):
        kl_divergence(post, parts)
    with pytest.raises(sl.ArgumentError, match=r"q: got event shape \(\); expected \(4,\)"):
        kl_divergence(post, sl.marginalize(sl.Categorical(4), torch.zeros(3, 4)))
