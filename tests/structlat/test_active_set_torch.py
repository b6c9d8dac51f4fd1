"""The active set in batched torch: against enumeration, against the kernels, and in its own bookkeeping."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import structlat as sl
from structlat.errors import ArgumentError
from structlat.solvers.active_set import active_set
from structlat.solvers.batched import BLOCK, STEPS, _start, solve
from structlat.solvers.batched_oracle import Oracle
from structlat.solvers.batched_run import Run
from structlat.solvers.kernels import CONTINUES
from tests.judge import draw, enumerated_sparsemap
from tests.structlat.batched_cases import (
    LARGE,
    SPACES,
    TorchSubsets,
    certificate,
    check_invariants,
    check_solution,
    mean,
    run,
    small_problems,
)

METHOD = "active_set_torch"


def start(structure, inputs, method=METHOD, tol=1e-9, keep_trace=False):
    oracle = Oracle(structure, inputs[0], tuple(inputs[1:]), validate=False)
    return Run(oracle, _start(oracle, structure.argmax(*inputs), None, method), STEPS[method], tol, keep_trace)


@pytest.mark.parametrize("structure", SPACES, ids=repr)
def test_against_the_enumerated_program(structure, generator):
    for name, inputs in small_problems(structure, generator, (1e-6, 1.0, 1e6)):
        solution = run(structure, inputs, METHOD)
        assert solution.converged.all(), name
        assert (mean(structure, solution) - enumerated_sparsemap(structure, inputs[0], inputs[1:])).abs().max() < 1e-7
        check_solution(structure, solution)


@pytest.mark.parametrize(("structure", "scale"), LARGE, ids=repr)
def test_against_the_kernels(structure, scale, generator):
    inputs = draw(structure, generator, 16, scale)
    ours = run(structure, inputs, METHOD)
    theirs = active_set(
        structure,
        inputs[0],
        tuple(inputs[1:]),
        structure.argmax(*inputs),
        tol=1e-9,
        max_iter=None,
        validate=False,
        keep_trace=False,
    )
    assert ours.converged.all()
    assert theirs.converged.all()
    # each gap bounds the distance from the optimum by sqrt(2 gap)
    bound = (2 * ours.gap).sqrt() + (2 * theirs.gap).sqrt() + 1e-9
    assert ((mean(structure, ours) - mean(structure, theirs)).flatten(1).norm(dim=1) <= bound).all()
    assert (ours.gap <= 1e-9 * structure.vertex(ours.z[:, 0]).flatten(1).sum(1).max() * 2 + 1e-12).all()
    check_solution(structure, ours)


@pytest.mark.parametrize(("structure", "scale"), LARGE, ids=repr)
def test_what_holds_after_every_round(structure, scale, generator):
    work = start(structure, draw(structure, generator, 6, scale))
    last = torch.full((6,), -torch.inf, dtype=torch.float64)
    for _ in range(60):
        work.make_room(1)
        work.advance()
        last = check_invariants(work.state, last)
        for row in range(6):
            a = work.state.v[row][work.state.p[row] > 0]
            assert torch.linalg.matrix_rank(torch.cat([a, torch.ones(len(a), 1)], 1)) == len(a)


class NoWaiting(TorchDispatchMode):
    """Fails on whatever makes the host wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "item", "_unique2", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, name
        if name in ("index", "index_put", "index_put_"):  # an index of bools is counted first
            assert all(i is None or i.dtype != torch.bool for i in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("structure", [TorchSubsets(12), TorchSubsets(12, 4)], ids=["bits", "subsets"])
@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("keep_trace", [False, True])
def test_no_round_waits_for_the_device(structure, method, keep_trace, generator):
    work = start(structure, draw(structure, generator, 5), method, keep_trace=keep_trace)
    for _ in range(3):
        work.make_room(BLOCK)
        with NoWaiting(), torch.no_grad():
            for _ in range(BLOCK):
                work.advance()
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool((work.state.status == CONTINUES).all())  # the guard does see a host that waits


def test_dependent_structures_move_p_along_the_null_direction(generator):
    """All scores of labels equal: only transitions matter, and the support meets dependent structures."""
    chain = sl.LinearChain(6, 2)
    inputs = draw(chain, generator, 32, 0.05)
    inputs[0] = torch.zeros_like(inputs[0])
    solution = run(chain, inputs, METHOD)
    assert solution.converged.all()
    assert certificate(chain, inputs, solution).max() < 1e-9
    check_solution(chain, solution)


def test_near_ties(generator):
    bits = sl.BudgetBitVector(12, 4, exact=True, symmetric=False)
    noise = draw(bits, generator, 8, 1e-10)[0]
    for base in (0.0, 1.0, 1e6):
        solution = run(bits, [base + noise], METHOD)
        assert solution.converged.all()
        assert (mean(bits, solution) - 4 / 12).abs().max() < 1e-9


def test_a_batch_is_a_loop_over_its_rows(generator):
    for structure, scale in LARGE:
        inputs = draw(structure, generator, 5, scale)
        whole = run(structure, inputs, METHOD)
        for row in range(5):
            one = run(structure, [x[row : row + 1] for x in inputs], METHOD)
            assert one.p.shape[0] == 1
            torch.testing.assert_close(mean(structure, one)[0], mean(structure, whole)[row], atol=1e-9, rtol=0)
            assert abs(int(one.iterations[0]) - int(whole.iterations[row])) <= 2


@pytest.mark.parametrize("method", STEPS)
def test_an_empty_batch_is_a_batch(method):
    for structure in SPACES:
        inputs = [torch.zeros(0, *s, dtype=torch.float64) for s in (structure.shape, *structure.extra_shapes)]
        first = torch.zeros(0, *structure.event_shape, dtype=structure.event_dtype or torch.float64)
        init = (first.unsqueeze(1).expand(0, 3, *structure.event_shape), torch.zeros(0, 3, dtype=torch.float64))
        for where in (None, init):
            solution = solve(
                structure,
                inputs[0],
                tuple(inputs[1:]),
                first,
                method=method,
                tol=1e-9,
                max_iter=None,
                validate=True,
                keep_trace=True,
                init=where,
            )
            assert solution.z.shape == (0, 1, *structure.event_shape)
            assert solution.p.shape == (0, 1)
            assert solution.gap.shape == solution.converged.shape == solution.oracle_calls.shape == (0,)
            assert solution.trace.gap.shape == (0, 0)


def test_shared_extra_scores_need_no_copy(generator):
    chain = sl.LinearChain(5, 3)
    unary, transition = draw(chain, generator, 4)
    shared = transition[:1]
    want = run(chain, [unary, shared.repeat(4, 1, 1, 1)], METHOD)
    for extra in (shared, shared.expand(4, -1, -1, -1)):
        first = chain.argmax(unary, shared.expand(4, -1, -1, -1))
        solution = solve(
            chain, unary, (extra,), first, method=METHOD, tol=1e-9, max_iter=None, validate=False, keep_trace=False
        )
        assert torch.equal(solution.z, want.z)
        assert torch.equal(solution.p, want.p)


def test_trace(generator):
    chain = sl.LinearChain(8, 3)
    solution = run(chain, draw(chain, generator, 5), METHOD, keep_trace=True)
    gap, size = solution.trace
    rounds = solution.iterations
    assert gap.shape == size.shape == (int(rounds.max()), 5)
    for row in range(5):
        n = int(rounds[row])
        assert torch.isfinite(gap[:n, row]).all()
        assert torch.isnan(gap[n:, row]).all()
        assert (size[n:, row] == 0).all()
        assert (size[:n, row] > 0).all()
        assert gap[n - 1, row] == solution.gap[row]
        assert size[n - 1, row] == (solution.p[row] > 0).sum()
    assert torch.equal(solution.oracle_calls, rounds + 1)  # the first structure was a call of its own


@pytest.mark.parametrize("max_iter", [1, 2, 3, 5, 8, 9, 20])
def test_an_early_end_is_a_distribution_with_its_own_gap(max_iter, generator):
    chain = sl.LinearChain(6, 3)
    inputs = draw(chain, generator, 6, 0.1)
    solution = run(chain, inputs, METHOD, max_iter=max_iter)
    assert not solution.converged.all()
    assert (solution.iterations <= max_iter).all()
    torch.testing.assert_close(certificate(chain, inputs, solution), solution.gap, atol=1e-9, rtol=0)
    check_solution(chain, solution)


def test_init_saves_rounds(generator):
    matching = sl.BipartiteMatching(8, 8)
    inputs = draw(matching, generator, 8)
    cold = run(matching, inputs, METHOD)
    again = run(matching, inputs, METHOD, init=(cold.z, cold.p))
    assert (again.iterations == 1).all()
    near = [inputs[0] + draw(matching, generator, 8, 1e-3)[0]]
    warm, fresh = run(matching, near, METHOD, init=(cold.z, cold.p)), run(matching, near, METHOD)
    assert warm.converged.all()
    assert warm.iterations.sum() < 0.5 * fresh.iterations.sum()
    torch.testing.assert_close(mean(matching, warm), mean(matching, fresh), atol=1e-7, rtol=0)


@pytest.mark.parametrize("method", STEPS)
def test_any_init_will_do(method, generator):
    """Duplicates, dependent and infeasible structures, weights that sum to anything, or nothing that is left."""
    chain = sl.LinearChain(4, 2)
    inputs = draw(chain, generator, 3)
    inputs[0][2, 0, 0] = -torch.inf
    z = chain.enumerate().repeat(2, 1).expand(3, -1, -1)
    p = torch.rand(z.shape[:2], generator=generator, dtype=torch.float64)
    p[1] = 0
    want = enumerated_sparsemap(chain, inputs[0], inputs[1:])
    tol = 1e-3 if method == "vanilla" else 1e-9
    solution = run(chain, inputs, method, init=(z, p), tol=tol)
    assert solution.converged.all()
    assert (mean(chain, solution) - want).abs().max() < (0.05 if method == "vanilla" else 1e-6)
    check_solution(chain, solution)
    only_forbidden = z[..., :1, :].clone()
    only_forbidden[..., 0] = 0
    solution = run(chain, inputs, method, init=(only_forbidden, torch.ones(3, 1, dtype=torch.float64)), tol=tol)
    assert solution.converged.all()


class Wrong(sl.Structure):
    """Maximises the first ``good`` times that it is asked, then answers with what is worst."""

    shape = torch.Size([6])

    def __init__(self, good):
        self.left = good

    def argmax(self, scores):
        self.left -= 1
        return (scores > 0 if self.left >= 0 else scores < 0).to(scores.dtype)


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("good", [2, 3, 4])
def test_an_oracle_that_does_not_maximise_certifies_nothing(method, good, generator):
    inputs = draw(Wrong(0), generator, 3, 0.4)
    solution = run(Wrong(good), [0.5 + 0.1 * inputs[0]], method, validate=False)
    assert not solution.converged.any()
    assert torch.isinf(solution.gap).all()
    assert (solution.p.sum(1) - 1).abs().max() < 1e-12


class Broken(sl.Structure):
    """Bits whose oracle breaks on the second call, in one of several ways."""

    shape = torch.Size([4])

    def __init__(self, how):
        self.how, self.calls = how, 0

    def argmax(self, scores):
        self.calls += 1
        z = (scores > 0).to(scores.dtype)
        if self.calls == 1:
            return z
        if self.how == "infeasible":
            return torch.ones_like(z)
        if self.how == "raises":
            raise ValueError("no way")
        return 0.5 * torch.ones_like(z) if self.how == "fraction" else z

    def contains(self, z):
        return torch.full(z.shape[:-1], self.how != "outside")


@pytest.mark.parametrize(
    ("how", "words", "validate"),
    [
        ("infeasible", "returned an infeasible structure", False),
        ("raises", "returned an infeasible structure", False),
        ("fraction", "no 0/1 vertex", True),
        ("outside", "no structure of this space", True),
    ],
)
def test_answers_that_are_no_structures_are_refused(how, words, validate, generator):
    scores = draw(Broken(how), generator, 3)[0].abs()
    scores[:, 0] = -torch.inf
    with pytest.raises(ArgumentError, match=words):
        run(Broken(how), [0.5 * scores], METHOD, validate=validate)
