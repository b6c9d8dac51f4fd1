"""SoftmaxTests: log-partition, marginals, samples and Gibbs of tractable spaces, against all structures enumerated.

Spaces that are not tractable have to say why.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from scipy.stats import chi2
from torch.autograd import gradcheck, gradgradcheck

import structlat as sl
from structlat.map_oracle import ask_argmax
from tests.judge import draw, forbid, softmax

MOST = 100  # structures, for a chi-square test of a few thousand samples


class SoftmaxTests:
    @pytest.mark.parametrize("masked", [False, True])
    def test_log_partition_against_enumeration(self, tractable, generator, masked):
        for kind in ("normal", "equal", "base"):
            for scale in (1e-6, 1.0, 1e3):
                inputs = draw(tractable, generator, 4, scale, kind)
                if masked:
                    inputs = forbid(tractable, inputs, generator)
                inputs = [x.requires_grad_() for x in inputs]
                want, p, every = softmax(tractable, inputs)
                got = tractable.log_partition(*inputs)
                torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-10)
                mean = torch.einsum("bz,z...->b...", p, tractable.vertex(every).double())
                gibbs = sl.Gibbs(tractable, *inputs)
                slopes = torch.autograd.grad(got.sum(), inputs)
                for moment in (tractable.marginals(*inputs), gibbs.mean, slopes[0]):
                    torch.testing.assert_close(moment, mean, rtol=0, atol=1e-9)
                for moment, slope in zip(gibbs.extra_marginals, slopes[1:], strict=True):
                    torch.testing.assert_close(moment, slope, rtol=0, atol=1e-9)
                entropy = torch.where(p > 0, -p * torch.where(p > 0, p, 1).log(), 0).sum(-1)
                torch.testing.assert_close(gibbs.entropy(), entropy, rtol=1e-9, atol=1e-9 * max(scale, 1))

    def test_second_derivative_of_the_log_partition(self, tractable, generator):
        inputs = [x.requires_grad_() for x in draw(tractable, generator, 2)]
        assert gradcheck(tractable.log_partition, inputs)
        assert gradgradcheck(tractable.log_partition, inputs, fast_mode=True)  # in random directions
        assert gradcheck(lambda *x: sl.Gibbs(tractable, *x).entropy(), inputs)

    def test_derivatives_of_the_log_partition_beside_forbidden_parts(self, tractable, generator):
        masked = forbid(tractable, draw(tractable, generator, 3), generator)
        finite = [torch.isfinite(x) for x in masked]
        variables = [torch.where(f, x, 0).requires_grad_() for f, x in zip(finite, masked, strict=True)]

        def sums(*variables):
            inputs = [torch.where(f, x, -torch.inf) for f, x in zip(finite, variables, strict=True)]
            return tractable.log_partition(*inputs), sl.Gibbs(tractable, *inputs).entropy()

        assert gradcheck(sums, variables)
        assert gradgradcheck(lambda *x: sums(*x)[0], variables, fast_mode=True)

    def test_log_partition_where_nothing_is_feasible(self, tractable, generator):
        inputs = draw(tractable, generator, 3)
        for x in inputs if inputs[-1].numel() else inputs[:1]:
            x[1] = -torch.inf
        inputs = [x.requires_grad_() for x in inputs]
        got = tractable.log_partition(*inputs)
        if torch.isfinite(ask_argmax(tractable, *(x.detach() for x in inputs)).score).all():
            assert torch.isfinite(got).all()  # nothing on is a structure here
            return
        assert torch.isneginf(got).tolist() == [False, True, False]
        for gradient in torch.autograd.grad(got[[0, 2]].sum(), inputs):
            assert torch.isfinite(gradient).all()
        for call in (sl.Gibbs, lambda s, *x: s.marginals(*x), lambda s, *x: s.sample(*x)):
            with pytest.raises(sl.InfeasibleError, match="row 1"):
                call(tractable, *inputs)

    def test_samples_have_their_probabilities(self, tractable, generator):
        assert tractable.cardinality() <= MOST, "a case of a test class is small"
        inputs = forbid(tractable, draw(tractable, generator, 2), generator)
        _, p, every = softmax(tractable, inputs)
        count = 4000
        z = tractable.sample(*inputs, shape=(count,), generator=torch.Generator().manual_seed(5))
        assert z.shape == (count, 2, *tractable.event_shape)
        same = z.unsqueeze(2) == every
        same = same.flatten(start_dim=3).all(-1) if tractable.event_shape else same
        assert (same.sum(-1) == 1).all()  # each is one of the structures
        for row in range(2):
            seen, expected = same[:, row].sum(0).double(), count * p[row]
            assert (seen[expected == 0] == 0).all()
            rare = expected < 5
            seen = torch.cat([seen[~rare], seen[rare].sum().reshape(1)])
            expected = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
            statistic = float(((seen - expected).square() / expected.clamp(min=1e-300)).sum())
            assert statistic < chi2.ppf(1 - 1e-5, max(len(seen) - 1, 1)) + 1e-9

    def test_samples_follow_their_generator(self, tractable, generator):
        inputs = draw(tractable, generator, 3)
        state = torch.get_rng_state()
        one, other = (
            tractable.sample(*inputs, shape=(2, 5), generator=torch.Generator().manual_seed(9)) for _ in range(2)
        )
        assert torch.equal(one, other)
        assert torch.equal(state, torch.get_rng_state())
        assert one.shape == (2, 5, 3, *tractable.event_shape)
        assert tractable.contains(one).all()

    def test_gibbs_is_a_distribution(self, tractable, generator):
        inputs = draw(tractable, generator, 2)
        gibbs = sl.Gibbs(tractable, *inputs)
        _, p, every = softmax(tractable, inputs)
        got = gibbs.log_prob(every.unsqueeze(1).expand(-1, 2, *tractable.event_shape))
        torch.testing.assert_close(got.exp().T, p, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gibbs.log_prob(gibbs.mode).exp(), p.amax(-1), rtol=1e-9, atol=1e-12)
        assert gibbs.support.check(gibbs.sample((3,), generator=generator)).all()
        wider = gibbs.expand((3, 2))
        torch.testing.assert_close(wider.mean, gibbs.mean.expand(3, *gibbs.mean.shape))
        assert repr(tractable) in repr(gibbs)

    @pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
    def test_batch_dimensions_of_sums(self, tractable, generator, batch):
        shapes = (tractable.shape, *tractable.extra_shapes)
        inputs = [torch.randn(*batch, *s, generator=generator) for s in shapes]
        assert tractable.log_partition(*inputs).shape == batch
        assert tractable.log_partition(*inputs).dtype == torch.float32
        assert tractable.marginals(*inputs).shape == (*batch, *tractable.shape)
        assert tractable.sample(*inputs, shape=(4,), generator=generator).shape == (4, *batch, *tractable.event_shape)
        gibbs = sl.Gibbs(tractable, *inputs)
        assert gibbs.entropy().shape == gibbs.log_partition.shape == batch
        assert gibbs.mean.shape == (*batch, *tractable.shape)

    def test_training_after_an_evaluation_of_sums(self, tractable, generator):
        fresh = pickle.loads(pickle.dumps(tractable))
        inputs = draw(fresh, generator, 2)
        with torch.inference_mode():
            before = sl.Gibbs(fresh, *inputs).mean.clone()
        wanted = [x.clone().requires_grad_() for x in inputs]
        q = sl.Gibbs(fresh, *wanted)
        torch.testing.assert_close(q.mean.detach(), before)
        torch.autograd.grad(q.entropy().sum() + q.log_prob(q.sample()).sum(), wanted)

    def test_sums_under_transforms(self, tractable, generator):
        inputs = draw(tractable, generator, 3)

        def total(*inputs):
            gibbs = sl.Gibbs(tractable, *inputs)
            sines = gibbs.mean.sin().flatten(start_dim=gibbs.log_partition.ndim).sum(-1)
            return gibbs.log_partition + gibbs.entropy() + sines

        want = total(*inputs)
        torch.testing.assert_close(torch.func.vmap(total)(*inputs), want, rtol=1e-9, atol=1e-9)
        x = [y.clone().requires_grad_() for y in inputs]
        gradients = torch.autograd.grad(total(*x).sum(), x)
        every = tuple(range(len(inputs)))
        per_row = torch.func.vmap(torch.func.grad(total, argnums=every))(*inputs)
        tangents = [torch.cos(y) for y in inputs]
        slope = torch.func.jvp(total, tuple(inputs), tuple(tangents))[1]
        for a, b in zip(per_row, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
        moved = sum((g * t).flatten(start_dim=1).sum(-1) for g, t in zip(gradients, tangents, strict=True))
        torch.testing.assert_close(slope, moved, rtol=1e-8, atol=1e-8)

    def test_what_is_intractable_says_why(self, intractable, generator):
        inputs = draw(intractable, generator, 2)
        for call in (
            intractable.log_partition,
            intractable.marginals,
            intractable.sample,
            lambda *x: sl.Gibbs(intractable, *x),
        ):
            with pytest.raises(NotImplementedError, match=r"for .*perturb_and_map"):
                call(*inputs)
