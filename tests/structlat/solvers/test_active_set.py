"""The active set where others break: dependent structures, near ties, drift, tiny and huge scores, its own
bookkeeping."""

import numpy as np
import pytest
import torch

import structlat as sl
from structlat.problem import needs_graph
from structlat.solvers.active_set import active_set
from structlat.solvers.face import complete_face
from structlat.solvers.kkt import with_graph
from tests.judge import draw


def run(structure, *inputs, **options):
    settings = {"tol": 1e-9, "max_iter": None, "validate": False, "keep_trace": False, **options}
    first = structure.argmax(*inputs)
    return active_set(structure, inputs[0], tuple(inputs[1:]), first, **settings)


def lifted(structure, z):
    a = structure.vertex(z).reshape(len(z), -1).double().numpy()
    return np.hstack([a, np.ones((len(a), 1))])


def problems(generator):
    chain = sl.LinearChain(12, 4)
    yield chain, draw(chain, generator, 12, 0.1)
    matching = sl.BipartiteMatching(6, 6)
    yield matching, draw(matching, generator, 12)
    subsets = sl.BudgetBitVector(24, 8, exact=True, symmetric=False)
    yield subsets, draw(subsets, generator, 12)
    bits = sl.BitVector(48, symmetric=False)
    yield bits, draw(bits, generator, 12, 0.7)


def test_what_holds_after_any_number_of_rounds(generator):
    """p > 0, sum 1, an affinely independent support, the optimum on it; and the objective never goes down."""
    for structure, inputs in problems(generator):
        last = np.full(12, -np.inf)
        for max_iter in (*range(1, 12), 20, 40, 80):
            solution = run(structure, *inputs, max_iter=max_iter)
            for row in range(12):
                there = solution.p[row] > 0
                z, p = solution.z[row][there], solution.p[row][there].numpy()
                assert abs(p.sum() - 1) < 1e-12
                a = lifted(structure, z)
                assert np.linalg.matrix_rank(a) == len(a)
                mean = p @ a[:, :-1]
                t = structure.score(z, *(x[row : row + 1] for x in inputs)).numpy()
                assert np.ptp(t - a[:, :-1] @ mean) < 1e-9
                objective = p @ t - mean @ mean / 2
                assert objective >= last[row] - 1e-12
                last[row] = objective


def test_trace(generator):
    bits = sl.BitVector(20)
    post = sl.sparsemap(bits, torch.randn(2, 3, 20, generator=generator), solver="active_set", trace=True)
    trace = post.info.trace
    rounds = int(post.info.iterations.max())
    assert trace.gap.shape == (rounds, 2, 3) == trace.support_size.shape
    for index in np.ndindex(2, 3):
        n = int(post.info.iterations[index])
        gap = trace.gap[(slice(None), *index)]
        assert torch.isfinite(gap[:n]).all()
        assert torch.isnan(gap[n:]).all()
        assert float(gap[n - 1]) == float(post.info.gap[index])
    assert sl.sparsemap(bits, torch.randn(20), solver="active_set").info.trace is None


def test_calls_are_counted():
    class Counting(sl.BitVector):
        rows = 0

        def argmax(self, scores, *extra):
            self.rows += len(scores)
            return super().argmax(scores)

    bits = Counting(30)
    post = sl.sparsemap(bits, torch.randn(7, 30, generator=torch.Generator().manual_seed(0)), solver="active_set")
    assert int(post.info.oracle_calls.sum()) == bits.rows
    assert torch.equal(post.info.oracle_calls, post.info.iterations + 1)


def test_the_oracle_sees_only_unfinished_rows():
    class Sizes(sl.BitVector):
        def argmax(self, scores, *extra):
            sizes.append(len(scores))
            return super().argmax(scores)

    sizes = []
    x = torch.cat([torch.full((5, 16), 9.0), 0.5 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0))])
    sl.sparsemap(Sizes(16), x, solver="active_set")
    assert sizes[:2] == [7, 7]
    assert set(sizes[2:]) <= {1, 2}


def test_expect_does_not_pay_for_the_face():
    """The face is completed when somebody asks for the means, and not before."""

    class Counting(sl.BitVector):
        rows = 0

        def argmax(self, scores, *extra):
            self.rows += len(scores)
            return super().argmax(scores)

    bits = Counting(40)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    post = sl.sparsemap(bits, x, solver="active_set")
    post.expect(lambda z, i: z.sum(-1)).sum().backward()
    assert bits.rows == int(post.info.oracle_calls.sum())
    with torch.no_grad():
        _ = post.mean
    assert bits.rows == int(post.info.oracle_calls.sum())
    _ = post.mean
    paid = bits.rows
    assert paid > int(post.info.oracle_calls.sum())
    _ = post.mean
    assert bits.rows == paid


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_completed_face_has_every_dimension(generator, symmetric):
    """On bits the optimal face has one dimension a bit that is neither on nor off."""
    bits = sl.BitVector(60, symmetric)
    x = torch.randn(6, 60, generator=generator, dtype=torch.float64)
    scaled = (x + 1) / 2 if symmetric else x
    solution = run(bits, scaled)
    z, p, mask = complete_face(bits, scaled, (), solution.z, solution.p)
    inside = ((scaled > 0) & (scaled < 1)).sum(-1)
    assert torch.equal(mask.sum(-1), inside + 1)
    fixed = (scaled <= 0) | (scaled >= 1)
    for row in range(6):
        members = z[row][mask[row]]
        assert (members[:, fixed[row]] == (scaled[row, fixed[row]] > 0)).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(6, dtype=torch.float64))


def test_sensitivity_leaves_the_sum_of_p(generator):
    a = torch.rand(3, 4, 9, generator=generator, dtype=torch.float64).round()
    a[:, 0] = 0
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    p, scores = torch.zeros(3, 4, dtype=torch.float64), torch.rand(3, 4, generator=generator, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda t: with_graph(p, t, a, mask), scores)
    slopes = torch.stack([slopes[b, :, b] for b in range(3)])
    assert slopes.sum(1).abs().max() < 1e-10
    assert (slopes[~(mask.unsqueeze(-1) & mask.unsqueeze(-2))] == 0).all()


def test_needs_graph():
    x = torch.zeros(2, requires_grad=True)
    assert needs_graph(x)
    assert not needs_graph(x.detach())
    with torch.no_grad():
        assert not needs_graph(x)


def test_integer_scores_and_ties_converge(generator):
    for structure, _ in problems(generator):
        inputs = draw(structure, generator, 30, kind="integer")
        post = sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
        assert post.info.converged.all()


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_scale_converges(generator, scale, dtype):
    for structure, inputs in problems(generator):
        inputs = [(scale * x).to(dtype) for x in inputs]
        sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")


@pytest.mark.nightly
@pytest.mark.parametrize(("length", "states"), [(20, 5), (30, 8)])
def test_a_thousand_chains(generator, length, states):
    chain = sl.LinearChain(length, states)
    post = sl.sparsemap(chain, *draw(chain, generator, 1000, 0.1), on_failure="raise")
    assert post.info.converged.all()


@pytest.mark.nightly
@pytest.mark.parametrize("scale", [1e-10, 1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_chains_at_every_scale(generator, scale):
    """Where all scores are tiny, what is left is a linear program over the face of the uniform mean: many rounds."""
    chain = sl.LinearChain(20, 5)
    post = sl.sparsemap(chain, *draw(chain, generator, 4, scale), on_failure="raise")
    assert post.info.converged.all()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_random_problems(seed):
    generator = torch.Generator().manual_seed(seed)
    for structure, _ in problems(generator):
        for kind in ("normal", "integer", "base"):
            for scale in (1e-10, 1e-3, 0.1, 1.0, 100.0, 1e6):
                inputs = draw(structure, generator, 50, scale, kind)
                sl.sparsemap(structure, *inputs, solver="active_set", on_failure="raise")
