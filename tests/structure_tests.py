"""StructureTests: what every latent space is held to. A space's test file inherits it and names its cases.

``cases``: small instances, few enough structures to enumerate. ``counts``: how many structures each has, from a
formula. ``used_extra(structure, z)``, where there are extra scores: which of each of them z uses, as lists of indices.
Tests of softmax over all structures are in ``softmax_tests.py``.
"""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import structlat as sl
from structlat.map_oracle import ask_argmax
from structlat.structure import Structure
from structlat.tractable import Tractable
from tests.judge import SCALES, draw, enumerated_sparsemap, finite_difference, forbid, plain_score
from tests.softmax_tests import SoftmaxTests

KINDS = ("normal", "integer", "equal", "base")


class StructureTests(SoftmaxTests):
    cases: tuple[Structure, ...] = ()
    counts: tuple[int, ...] = ()

    @staticmethod
    def used_extra(structure, z):
        """Which of each of the extra scores z uses."""
        return []

    def pytest_generate_tests(self, metafunc):
        if "structure" in metafunc.fixturenames:
            metafunc.parametrize("structure", metafunc.cls.cases, ids=repr)
        for name, wanted in (("tractable", True), ("intractable", False)):
            if name in metafunc.fixturenames:
                cases = [case for case in metafunc.cls.cases if isinstance(case, Tractable) == wanted]
                metafunc.parametrize(name, cases, ids=repr)

    # Enumeration.

    def test_counts(self):
        for structure, count in zip(self.cases, self.counts, strict=True):
            every = structure.enumerate()
            assert structure.cardinality() == count == len(every)
            assert len(torch.unique(every, dim=0)) == count
            assert structure.contains(every).all()
            assert every.shape == (count, *structure.event_shape)

    def test_enumerate_refuses_past_its_limit(self, structure):
        count = structure.cardinality()
        with pytest.raises(sl.ArgumentError, match=rf"limit.*{count}.*more than {count - 1}|limit.*more than"):
            structure.enumerate(limit=count - 1)

    def test_defaults_agree_with_the_built_in(self, structure, generator):
        every = structure.enumerate()
        default = Structure.enumerate(structure)
        assert {tuple(z.reshape(-1).tolist()) for z in default} == {tuple(z.reshape(-1).tolist()) for z in every}
        assert Structure.cardinality(structure) == len(every)
        assert Structure.contains(structure, every).all()
        with pytest.raises(sl.ArgumentError, match="more than"):
            Structure.enumerate(structure, limit=len(every) - 1)
        for kind in KINDS:
            inputs = forbid(structure, draw(structure, generator, 3, kind=kind), generator)
            for k in (1, 2, 5, len(every) + 1):
                z, valid = Structure.topk(structure, *inputs, k=k)
                self._judge_topk(structure, inputs, z, valid, k)

    # MAP and k-best.

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("masked", [False, True])
    def test_argmax_against_enumeration(self, structure, generator, kind, masked):
        every = structure.enumerate()
        for scale in SCALES:
            inputs = draw(structure, generator, 6, scale, kind)
            if masked:
                inputs = forbid(structure, inputs, generator)
            z = sl.argmax(structure, *inputs)
            for row in range(6):
                one = [x[row] for x in inputs]
                best = max(plain_score(structure, other, one[0], one[1:], self.used_extra) for other in every)
                assert plain_score(structure, z[row], one[0], one[1:], self.used_extra) == pytest.approx(
                    best, rel=1e-12, abs=1e-11 * scale
                )

    def test_score_is_the_sum_over_the_parts(self, structure, generator):
        every = structure.enumerate()
        inputs = draw(structure, generator, 2)
        got = structure.score(every.unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
        for row in range(2):
            one = [x[row] for x in inputs]
            want = torch.tensor(
                [plain_score(structure, z, one[0], one[1:], self.used_extra) for z in every], dtype=torch.float64
            )
            torch.testing.assert_close(got[row], want, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("masked", [False, True])
    def test_topk_against_enumeration(self, structure, generator, kind, masked):
        for scale in (1e-6, 1.0, 1e6):
            inputs = draw(structure, generator, 3, scale, kind)
            if masked:
                inputs = forbid(structure, inputs, generator)
            count = structure.cardinality()
            for k in sorted(
                {*range(1, min(count, 6) + 1), count // 2 + 1, count - 1, count, count + 1, count + 2} - {0}
            ):
                z, valid = structure.topk(*inputs, k=k)
                self._judge_topk(structure, inputs, z, valid, k)

    def test_a_smaller_k_is_a_prefix(self, structure, generator):
        inputs = forbid(structure, draw(structure, generator, 3), generator)
        most, valid = structure.topk(*inputs, k=9)
        for k in range(1, 9):
            fewer, there = structure.topk(*inputs, k=k)
            assert torch.equal(there, valid[:, :k])
            assert torch.equal(fewer[there], most[:, :k][there])

    @staticmethod
    def _judge_topk(structure, inputs, z, valid, k):
        every = structure.enumerate()
        scores = structure.score(every.unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
        assert z.shape == (len(inputs[0]), k, *structure.event_shape)
        for row in range(len(z)):
            feasible = scores[row][torch.isfinite(scores[row])].sort(descending=True).values
            n = int(valid[row].sum())
            assert n == min(k, len(feasible))
            assert valid[row, :n].all()
            own = z[row, :n]
            assert len(torch.unique(own, dim=0)) == n
            assert structure.contains(own).all()
            got = structure.score(own, *(x[row : row + 1] for x in inputs))
            scale = float(feasible.abs().max())
            torch.testing.assert_close(got, feasible[:n], rtol=1e-12, atol=1e-12 * scale)
            assert (z[row, n:] == z[row, 0]).all()

    def test_infeasible_rows_are_named(self, structure, generator):
        inputs = draw(structure, generator, 4)
        for x in inputs if inputs[-1].numel() else inputs[:1]:
            x[[1, 3]] = -torch.inf
        if torch.isfinite(ask_argmax(structure, *inputs).score).all():  # nothing on is a structure here
            assert (structure.vertex(sl.argmax(structure, *inputs))[[1, 3]] == 0).all()
            return
        calls = (sl.argmax, sl.sparsemap, sl.topk_sparsemax, sl.marginalize)
        for call in calls:
            with pytest.raises(sl.InfeasibleError, match=r"rows 1, 3 \(2 of 4\)"):
                call(structure, *inputs)

    # SparseMAP.

    @pytest.mark.parametrize("gamma", [0.3, pytest.param(2.5, marks=pytest.mark.nightly)])
    @pytest.mark.parametrize("masked", [False, True])
    def test_sparsemap_against_the_enumerated_program(self, structure, generator, gamma, masked):
        for kind in KINDS:
            for scale in (1e-2, 1.0, 10.0):
                inputs = draw(structure, generator, 3, scale, kind)
                if masked:
                    inputs = forbid(structure, inputs, generator)
                post = sl.sparsemap(structure, *inputs, gamma=gamma, solver="active_set", on_failure="raise")
                want = enumerated_sparsemap(structure, inputs[0], inputs[1:], gamma)
                assert (post.mean - want).abs().max() < 1e-7
                self._judge_distribution(post)

    @staticmethod
    def _judge_distribution(post):
        assert post.info.converged.all()
        assert (post.probs >= 0).all()
        torch.testing.assert_close(
            post.probs.sum(-1), torch.ones(post.batch_shape, dtype=torch.float64), atol=1e-12, rtol=0
        )
        shape = post.structure.shape
        mean = (post.probs.reshape(post.probs.shape + (1,) * len(shape)) * post.vertices).sum(len(post.batch_shape))
        torch.testing.assert_close(post.mean, mean, atol=1e-12, rtol=0)
        assert (post.probs[~post.mask] == 0).all()
        assert (post.probs[..., 1:] <= post.probs[..., :-1]).all()  # most probable first
        assert torch.equal(post.support_size, post.mask.sum(-1))
        for row in range(len(post.probs)):
            a = post.vertices[row][post.mask[row]].reshape(int(post.support_size[row]), -1)
            lifted = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], -1)
            assert torch.linalg.matrix_rank(lifted) == len(a)  # affinely independent
            assert post.structure.contains(post.structures[row]).all()

    def test_gap_is_a_certificate(self, structure, generator):
        """The duality gap, computed over every structure, is what the solver said, and under its tolerance."""
        every = structure.enumerate()
        factor = 2 if structure.symmetric else 1
        for scale in (1e-3, 1.0, 1e3):
            inputs = draw(structure, generator, 4, scale)
            post = sl.sparsemap(structure, *inputs, solver="active_set")
            shifted = inputs[0] + 1 if structure.symmetric else inputs[0]
            gradient = shifted - factor * post.mean
            at = structure.score(every.unsqueeze(0), gradient.unsqueeze(1), *(x.unsqueeze(1) for x in inputs[1:]))
            own = structure.score(post.structures, gradient.unsqueeze(1), *(x.unsqueeze(1) for x in inputs[1:]))
            gap = at.amax(1) - (post.probs * own).sum(1)
            rounding = 1e-13 * max(scale, 1)
            s = structure.score(every.unsqueeze(0), shifted.unsqueeze(1), *(x.unsqueeze(1) for x in inputs[1:]))
            rho = structure.vertex(every).reshape(len(every), -1).sum(1).max()
            bound = 1e-9 * torch.minimum(s.abs().amax(1), factor * rho)
            assert (gap <= bound + 10 * rounding).all()
            assert (gap <= post.info.gap + 1e-11 * factor * rho + 10 * rounding).all()

    def test_auto_agrees_with_the_active_set(self, structure, generator):
        inputs = draw(structure, generator, 5)
        one = sl.sparsemap(structure, *inputs).mean
        other = sl.sparsemap(structure, *inputs, solver="active_set").mean
        assert (one - other).abs().max() < 1e-7

    def test_jacobian_against_finite_differences(self, structure, generator):
        inputs = draw(structure, generator, 2)
        for row in range(2):
            one = [x[row : row + 1] for x in inputs]

            def mean(x, extra=tuple(one[1:])):
                return sl.sparsemap(structure, x, *extra, solver="active_set").mean.reshape(-1)

            jacobian = torch.autograd.functional.jacobian(mean, one[0]).reshape(one[0].numel(), -1)
            want = finite_difference(structure, one[0], one[1:])
            assert (jacobian - want).abs().max() < 1e-6

    def test_gradcheck_of_the_marginals(self, structure, generator):
        gamma = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)

        def moments(scores, gamma, *extra):
            post = sl.sparsemap(structure, scores, *extra, gamma=gamma, solver="active_set")
            return post.mean, *post.extra_marginals

        inputs = [x.requires_grad_() for x in draw(structure, generator, 2)]
        args = (inputs[0], gamma, *inputs[1:])
        assert gradcheck(moments, args)
        assert gradgradcheck(moments, args, fast_mode=True)  # in random directions

    @pytest.mark.parametrize("solver", ["closed form", "active_set"])
    def test_derivatives_beside_forbidden_parts(self, structure, generator, solver):
        """gradcheck cannot move -inf: the finite scores alone are its variables."""
        if solver == "closed form":
            if structure.closed_form(*(torch.zeros(1, *s) for s in (structure.shape, *structure.extra_shapes))) is None:
                return  # "auto" is the active set
            solver = "auto"
        masked = forbid(structure, draw(structure, generator, 2), generator)
        finite = [torch.isfinite(x) for x in masked]
        variables = [torch.where(f, x, 0).requires_grad_() for f, x in zip(finite, masked, strict=True)]
        gamma = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)

        def moments(gamma, *variables):
            inputs = [torch.where(f, x, -torch.inf) for f, x in zip(finite, variables, strict=True)]
            post = sl.sparsemap(structure, *inputs, gamma=gamma, solver=solver)
            return post.mean, *post.extra_marginals

        assert gradcheck(moments, (gamma, *variables))
        assert gradgradcheck(moments, (gamma, *variables), fast_mode=True)
        shared = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(moments(shared, *variables)[0].square().sum(), shared)
        assert torch.isfinite(slope)

    def test_gradcheck_on_a_frozen_support(self, structure, generator):
        """p, expect and entropy, where the support found at the start is kept: p jumps where it changes."""
        inputs = [x.requires_grad_() for x in draw(structure, generator, 2)]
        gamma = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
        post = sl.sparsemap(structure, *inputs, gamma=gamma, solver="active_set")
        z, mask, vertices = post.structures, post.mask, post.vertices
        factor = 2 if structure.symmetric else 1

        def frozen(scores, gamma, *extra):
            per_row = gamma.reshape(-1, *(1,) * len(structure.shape))
            x = (scores + per_row if structure.symmetric else scores) / (factor * per_row)
            e = (y / (factor * gamma.reshape(-1, *(1,) * (y.ndim - 1))) for y in extra)
            s = structure.score(z, x.unsqueeze(1), *(y.unsqueeze(1) for y in e))
            p = _kkt(vertices, mask, s)
            weighted = p.unsqueeze(-1) * torch.sin(vertices.flatten(start_dim=2).cumsum(-1))
            return p, weighted.sum(1)

        args = (inputs[0], gamma, *inputs[1:])
        torch.testing.assert_close(frozen(*args)[0], post.probs, atol=1e-9, rtol=0)
        assert gradcheck(frozen, args)
        assert gradgradcheck(frozen, args, fast_mode=True)
        # and the library's own p has these derivatives
        for ours, theirs in zip(
            torch.autograd.grad((post.probs**2).sum(), args, allow_unused=True),
            torch.autograd.grad((frozen(*args)[0] ** 2).sum(), args, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)

    def test_expect_does_not_see_a_constant(self, structure, generator):
        for normalize in (
            lambda s, *x: sl.sparsemap(s, *x, solver="active_set"),
            sl.topk_sparsemax,
            lambda s, *x: sl.marginalize(s, *x, normalizer="sparsemax"),
        ):
            inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]

            def gradients(shift, inputs=inputs, normalize=normalize):
                post = normalize(structure, *inputs)
                loss = post.expect(lambda z, i: z.double().reshape(len(z), -1).sin().sum(-1) + shift)
                return torch.autograd.grad(loss.sum(), inputs)

            for a, b in zip(gradients(0.0), gradients(10.0), strict=True):
                torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)

    def test_entropy_has_a_finite_gradient(self, structure, generator):
        for kind in KINDS:
            inputs = draw(structure, generator, 3, kind=kind)
            inputs = [x.requires_grad_() for x in forbid(structure, inputs, generator)]
            for post in (
                sl.sparsemap(structure, *inputs),
                sl.topk_sparsemax(structure, *inputs, k=3),
                *(sl.marginalize(structure, *inputs, normalizer=n) for n in ("softmax", "sparsemax", "entmax15")),
            ):
                total = post.entropy().sum() + post.mean.sum() + (post.probs**2).sum()
                for gradient in torch.autograd.grad(total, inputs):
                    assert torch.isfinite(gradient).all()

    def test_scores_all_equal(self, structure):
        for value in (0.0, 0.5, -0.5, 100.0):
            inputs = [
                torch.full((2, *s), value, dtype=torch.float64) for s in (structure.shape, *structure.extra_shapes)
            ]
            post = sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
            want = enumerated_sparsemap(structure, inputs[0], inputs[1:])
            assert (post.mean - want).abs().max() < 1e-7
            self._judge_distribution(post)

    @pytest.mark.parametrize("value", [0.0, pytest.param(0.2, marks=pytest.mark.nightly)])
    def test_jacobian_where_scores_are_all_equal(self, structure, value):
        """A zero-initialised encoder: against one-sided differences of the enumerated solution, where those agree."""
        shapes = (structure.shape, *structure.extra_shapes)
        inputs = [torch.full((1, *s), value, dtype=torch.float64) for s in shapes]

        def mean(x):
            return sl.sparsemap(structure, x, *inputs[1:], solver="active_set").mean.reshape(-1)

        d = inputs[0].numel()
        jacobian = torch.autograd.functional.jacobian(mean, inputs[0]).reshape(d, d)
        directions = torch.randn(4, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        step = 1e-4
        directions = torch.cat([torch.eye(d, dtype=torch.float64), directions])

        def solved(step):
            moved = inputs[0] + step * directions.reshape(-1, *structure.shape)
            return enumerated_sparsemap(structure, moved, [x.expand(len(moved), *x.shape[1:]) for x in inputs[1:]])

        down, here, up = (solved(t).reshape(len(directions), -1) for t in (-step, 0.0, step))
        forward, backward = (up - here) / step, (here - down) / step
        if (forward - backward).abs().max() > 1e-4:
            pytest.skip("a kink of the projection itself: there is no Jacobian to compare with")
        assert (directions @ jacobian.T - (forward + backward) / 2).abs().max() < 1e-5

    @pytest.mark.parametrize("scale", [1e-10, 1e-3, 0.1, 100.0, 1e6])
    def test_scales(self, structure, generator, scale):
        for kind in ("normal", "integer", "base"):
            inputs = draw(structure, generator, 8, scale, kind)
            post = sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
            self._judge_distribution(post)

    def test_near_ties(self, structure, generator):
        inputs = draw(structure, generator, 8, kind="integer")
        inputs = [x + 1e-10 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
        post = sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
        self._judge_distribution(post)
        assert (post.info.iterations < 60).all()

    def test_noise_leaves_the_support(self, structure, generator):
        inputs = draw(structure, generator, 20)
        noisy = [x + 1e-7 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
        one, other = (sl.sparsemap(structure, *x, solver="active_set") for x in (inputs, noisy))
        for row in range(20):
            assert _support_set(one, row) == _support_set(other, row)

    # Shapes, dtypes, batches.

    def test_a_batch_is_a_loop(self, structure, generator):
        inputs = draw(structure, generator, 6)
        batch = sl.sparsemap(structure, *(x.requires_grad_() for x in inputs), solver="active_set")
        (jacobian,) = torch.autograd.grad((batch.mean**2).sum(), inputs[0])
        for row in range(6):
            one = [x[row].detach().requires_grad_() for x in inputs]
            alone = sl.sparsemap(structure, *one, solver="active_set")
            assert alone.batch_shape == ()
            torch.testing.assert_close(alone.mean, batch.mean[row], atol=1e-12, rtol=0)
            assert _support_set(alone, None) == _support_set(batch, row)
            (gradient,) = torch.autograd.grad((alone.mean**2).sum(), one[0])
            torch.testing.assert_close(gradient, jacobian[row], atol=1e-10, rtol=1e-9)

    @pytest.mark.parametrize("batch", [(), (4,), (2, 1, 3), (0,), (2, 0)])
    def test_batch_dimensions(self, structure, batch):
        shapes = (structure.shape, *structure.extra_shapes)
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(*batch, *s, generator=generator, dtype=torch.float64) for s in shapes]
        assert sl.argmax(structure, *inputs).shape == (*batch, *structure.event_shape)
        for post in (
            sl.sparsemap(structure, *inputs),
            sl.sparsemap(structure, *inputs, solver="active_set", gamma=torch.full(batch, 0.7)),
            sl.topk_sparsemax(structure, *inputs, k=3),
            sl.marginalize(structure, *inputs),
        ):
            assert post.batch_shape == batch
            assert post.probs.shape[:-1] == batch == post.support_size.shape == post.entropy().shape
            assert post.mean.shape == (*batch, *structure.shape) == post.variance.shape
            assert [x.shape for x in post.extra_marginals] == [(*batch, *s) for s in structure.extra_shapes]
            assert post.mode.shape == (*batch, *structure.event_shape)
            assert post.sample((5,)).shape == (5, *batch, *structure.event_shape)
            assert (
                post.expect(lambda z, i: z.double().reshape(len(z), structure.event_shape.numel())).shape[:-1] == batch
            )
            for name in ("gap", "iterations", "oracle_calls", "converged", "exact"):
                assert getattr(post.info, name).shape == batch
            assert repr(post)
            assert post.info.status

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_dtypes(self, structure, generator, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in draw(structure, generator, 3)]
        wide = [x.detach().double() for x in inputs]
        for call in (sl.sparsemap, sl.topk_sparsemax, sl.marginalize):
            post, exact = call(structure, *inputs), call(structure, *wide)
            assert post.mean.dtype == dtype == post.vertices.dtype
            assert post.probs.dtype == torch.promote_types(dtype, torch.float32)
            assert post.structures.dtype == (structure.event_dtype or dtype)
            assert post.info.converged.all()
            torch.testing.assert_close(post.probs.double(), exact.probs, atol=1e-6, rtol=0)
            (gradient,) = torch.autograd.grad((post.mean.double() ** 2).sum(), inputs[0])
            assert gradient.dtype == dtype

    def test_input_that_is_not_contiguous(self, structure, generator):
        inputs = draw(structure, generator, 4)
        strided = [torch.stack([x, x], -1)[..., 0] for x in inputs]
        torch.testing.assert_close(
            sl.sparsemap(structure, *strided).mean, sl.sparsemap(structure, *inputs).mean, atol=0, rtol=0
        )

    def test_inputs_are_left_as_they_were(self, structure, generator):
        inputs = draw(structure, generator, 3)
        kept = [x.clone() for x in inputs]
        state = torch.get_rng_state()
        sl.sparsemap(structure, *(x.requires_grad_() for x in inputs)).mean.sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))
        assert torch.equal(state, torch.get_rng_state())

    def test_scores_changed_after_the_call(self, structure, generator):
        """An optimizer that steps before the means are read does not change what they are."""
        inputs = [x.requires_grad_() for x in draw(structure, generator, 3)]
        post, same = (sl.sparsemap(structure, *inputs, solver="active_set") for _ in range(2))
        want = torch.autograd.grad((same.mean**2).sum(), inputs[0])
        with torch.no_grad():
            for x in inputs:
                x.mul_(-3)
        got = torch.autograd.grad((post.mean**2).sum(), inputs[0])
        torch.testing.assert_close(got, want)

    def test_two_backward_calls(self, structure, generator):
        inputs = [x.requires_grad_() for x in draw(structure, generator, 2)]
        post = sl.sparsemap(structure, *inputs, solver="active_set")
        loss = (post.probs**2).sum() + (post.mean**2).sum()
        loss.backward(retain_graph=True)
        first = inputs[0].grad.clone()
        loss.backward()
        torch.testing.assert_close(inputs[0].grad, 2 * first)
        # two quantities of one distribution have no graph in common that the first call would free
        post = sl.sparsemap(structure, *inputs, solver="active_set")
        inputs[0].grad = None
        (post.probs**2).sum().backward()
        (post.mean**2).sum().backward()
        torch.testing.assert_close(inputs[0].grad, first)

    # The other normalizers, and the distribution.

    def test_topk_sparsemax_against_enumeration(self, structure, generator):
        count = structure.cardinality()
        for kind in KINDS:
            inputs = draw(structure, generator, 6, 0.4, kind)
            full = sl.marginalize(structure, *inputs, normalizer="sparsemax")
            for k in (1, 2, 3, 10, count, count + 5):
                post = sl.topk_sparsemax(structure, *inputs, k=k)
                assert torch.equal(post.info.exact, (post.support_size < k) | torch.tensor(k >= count))
                assert (post.support_size <= k).all()
                scores = structure.score(structure.enumerate().unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
                best = scores.topk(min(k, count), dim=-1).values
                p = sl.sparsemax(best).sort(descending=True).values[:, : post.probs.shape[-1]]
                torch.testing.assert_close(post.probs.sort(descending=True).values, p, atol=1e-12, rtol=0)
                if kind == "normal":  # with ties the k best are not unique
                    same = (post.mean - full.mean).abs().flatten(start_dim=1).amax(-1)
                    assert (same[post.info.exact] < 1e-12).all()
                short = _sparsemax_objective(full, inputs) - _sparsemax_objective(post, inputs)
                assert (short <= post.info.gap + 1e-9).all()
                assert (short[post.info.exact].abs() < 1e-9).all()

    def test_marginalize_is_softmax_over_every_structure(self, structure, generator):
        inputs = draw(structure, generator, 3)
        post = sl.marginalize(structure, *inputs)
        every = structure.enumerate()
        s = structure.score(every.unsqueeze(0), *(x.unsqueeze(1) for x in inputs))
        p = torch.softmax(s, -1)
        a = structure.vertex(every).double()
        torch.testing.assert_close(post.mean, torch.einsum("bk,k...->b...", p, a), atol=1e-12, rtol=0)
        entropy = torch.distributions.Categorical(probs=p).entropy()
        torch.testing.assert_close(post.entropy(), entropy, atol=1e-10, rtol=0)

    def test_log_prob_mode_sample(self, structure, generator):
        inputs = draw(structure, generator, 3)
        post = sl.sparsemap(structure, *inputs, solver="active_set")
        torch.testing.assert_close(post.log_prob(post.mode).exp(), post.probs.amax(-1))
        drawn = post.sample((2000,), generator=generator)
        assert torch.isfinite(post.log_prob(drawn)).all()
        share = structure.vertex(drawn).double().mean(0)
        assert (share - post.mean).abs().max() < 5 * 0.5 / 2000**0.5
        every = structure.enumerate()
        total = post.log_prob(every.unsqueeze(1).expand(-1, 3, *structure.event_shape)).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))
        assert post.support.check(drawn).all()

    def test_pickle(self, structure, generator):
        inputs = [x.requires_grad_() for x in draw(structure, generator, 2)]
        post = sl.sparsemap(structure, *inputs)
        again = pickle.loads(pickle.dumps(post))
        torch.testing.assert_close(again.mean, post.mean.detach(), atol=1e-12, rtol=0)
        assert not again.probs.requires_grad
        assert repr(again) == repr(post)

    def test_training_after_an_evaluation(self, structure, generator):
        """What a structure keeps from a call in inference mode is not of that mode."""
        fresh = pickle.loads(pickle.dumps(structure))
        inputs = draw(fresh, generator, 2)
        calls = [sl.marginalize, sl.sparsemap, lambda *given: sl.topk_sparsemax(*given, k=2)]
        for call in calls:
            with torch.inference_mode():
                before = call(fresh, *inputs).mean.clone()
            wanted = [x.clone().requires_grad_() for x in inputs]
            after = call(fresh, *wanted)
            torch.testing.assert_close(after.mean.detach(), before)
            weights = torch.randn(after.mean.shape, generator=generator, dtype=torch.float64)
            loss = (after.mean * weights).sum() + after.expect(lambda z, i: z.double().reshape(len(z), -1).sum(1)).sum()
            torch.autograd.grad(loss, wanted)

    def test_check_structure(self, structure):
        sl.testing.check_structure(structure)

    def test_extra_marginals_are_slopes(self, structure, generator):
        """E[n_z] is the slope of the optimal value in the extra scores, and mu that in the scores (Danskin)."""
        inputs = [x.requires_grad_() for x in draw(structure, generator, 2)]
        post = sl.sparsemap(structure, *inputs, solver="active_set")
        s = structure.score(post.structures, *(x.unsqueeze(1) for x in inputs))
        value = (post.probs.detach() * s).sum()
        got = (post.mean, *post.extra_marginals)
        for moment, slope in zip(got, torch.autograd.grad(value, inputs), strict=True):
            torch.testing.assert_close(moment.detach(), slope, atol=1e-9, rtol=0)


def _kkt(vertices, mask, s):
    """The KKT system as it stands in the literature, solved with the multiplier as an unknown of its own."""
    rows, k = mask.shape
    a = torch.where(mask.unsqueeze(-1), vertices.flatten(start_dim=2).double(), 0)
    one = mask.double()
    top = torch.cat([a @ a.mT + torch.diag_embed(1 - one), one.unsqueeze(-1)], -1)
    bottom = torch.cat([one.unsqueeze(1), torch.zeros(rows, 1, 1, dtype=torch.float64)], -1)
    right = torch.cat([torch.where(mask, s - s[:, :1], 0), torch.ones(rows, 1, dtype=torch.float64)], -1)
    return torch.linalg.solve(torch.cat([top, bottom], 1), right)[:, :k]


def _support_set(post, row):
    structures, mask = (post.structures, post.mask) if row is None else (post.structures[row], post.mask[row])
    return {tuple(z.reshape(-1).tolist()) for z in structures[mask]}


def _sparsemax_objective(post, inputs):
    s = post.structure.score(post.structures, *(x.unsqueeze(1) for x in inputs))
    return (post.probs * s).sum(-1) - 0.5 * (post.probs**2).sum(-1)
