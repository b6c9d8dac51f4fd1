import math

import pytest
import torch
from scipy.stats import chi2

import structlat as sl
from structlat.structures.dependency_tree import DependencyTree
from structlat.testing import check_structure
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests

VARIANTS = [(projective, multi_root) for projective in (True, False) for multi_root in (True, False)]


class TestDependencyTree(StructureTests):
    cases = (
        DependencyTree(1),
        DependencyTree(3, projective=True, multi_root=True),
        DependencyTree(4, projective=True, multi_root=False),
        DependencyTree(3, projective=False, multi_root=True),
        DependencyTree(3, projective=False, multi_root=False),
    )
    counts = (1, 12, 30, 16, 9)


def test_known_counts():
    """Projective trees are ternary trees (with one child of the root: pairs of them); all trees are Cayley's."""
    for n in range(1, 9):
        ternary = math.comb(3 * n, n) // (2 * n + 1)
        pairs = math.comb(3 * n - 2, n - 1) // n
        assert DependencyTree(n).cardinality() == ternary
        assert DependencyTree(n, multi_root=False).cardinality() == pairs
        assert DependencyTree(n, projective=False).cardinality() == (n + 1) ** (n - 1)
        assert DependencyTree(n, projective=False, multi_root=False).cardinality() == n ** (n - 1)
    assert DependencyTree(25).cardinality() == math.comb(75, 25) // 51


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_contains_all_heads_that_are_trees(projective, multi_root):
    """Of all heads that there are, one by one, by what the words mean."""
    n = 4
    space = DependencyTree(n, projective, multi_root)
    heads = torch.cartesian_prod(*[torch.arange(-1, n + 2)] * n)
    found = {tuple(z) for z in heads[space.contains(heads)].tolist()}
    assert found == {tuple(z) for z in space.enumerate().tolist()}
    assert found == {tuple(z) for z in heads.tolist() if self_made(z, projective, multi_root)}
    assert torch.equal(space.contains(heads.double()), space.contains(heads))
    assert not space.contains(heads.double() + 0.5).any()


def self_made(heads, projective, multi_root):
    if min(heads) < 0 or max(heads) > len(heads):
        return False
    above = []
    for m in range(1, len(heads) + 1):
        line = [m]
        while line[-1] and len(line) <= len(heads):
            line.append(heads[line[-1] - 1])
        if line[-1]:
            return False
        above.append(line)
    if not multi_root and heads.count(0) != 1:
        return False
    # whatever is between a word and its head hangs, in the end, on that head
    between = ((m, h, range(min(m, h) + 1, max(m, h))) for m, h in enumerate(heads, 1))
    return not projective or all(h in above[w - 1] for _, h, words in between for w in words)


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_check_structure(projective, multi_root):
    check_structure(DependencyTree(4, projective, multi_root))


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_a_padded_batch_is_each_example_alone(generator, projective, multi_root):
    big, lengths = DependencyTree(4, projective, multi_root), [4, 2, 3, 2]
    scores = torch.randn(4, 4, 5, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        big,
        [scores],
        lambda x: [big.mask(x, lengths=torch.tensor(lengths))],
        lambda row: DependencyTree(lengths[row], projective, multi_root),
        lambda row, x, n: x[row, : lengths[row], : lengths[row] + 1],
    )
    masked = big.mask(scores, lengths=torch.tensor([0]))
    assert (sl.argmax(big, masked) == torch.arange(4)).all()
    assert big.log_partition(masked).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_log_partition_of_a_padded_batch(generator, projective, multi_root):
    big, lengths = DependencyTree(6, projective, multi_root), torch.tensor([2, 6, 1, 5])
    scores = 3 * torch.randn(4, 6, 7, generator=generator, dtype=torch.float64)
    total = big.log_partition(big.mask(scores, lengths))
    for row, n in enumerate(lengths.tolist()):
        alone = DependencyTree(n, projective, multi_root).log_partition(scores[row, :n, : n + 1])
        torch.testing.assert_close(total[row], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("multi_root", [True, False])
def test_projective_trees_are_all_trees_where_others_are_forbidden(generator, multi_root):
    """Scores that make a crossing worthless: the two algorithms, which share nothing, agree."""
    n = 5
    free, bound = (DependencyTree(n, projective, multi_root) for projective in (False, True))
    scores = torch.randn(40, n, n + 1, generator=generator, dtype=torch.float64)
    z = free.argmax(scores)
    fits = bound.contains(z)
    assert 3 < int(fits.sum()) < 35
    assert torch.equal(bound.argmax(scores)[fits], z[fits])
    best, other = (s.score(s.argmax(scores), scores) for s in (bound, free))
    assert (best[~fits] < other[~fits]).all()
    near = torch.arange(n).unsqueeze(-1) + 1 - torch.arange(n + 1)
    neighbours = torch.where((near.abs() <= 1) | (torch.arange(n + 1) == 0), scores, -torch.inf)
    neighbours[:, :, 0] = torch.where(torch.arange(n) == 0, scores[:, :, 0], -torch.inf)
    torch.testing.assert_close(free.log_partition(neighbours), bound.log_partition(neighbours))


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
def test_sums_against_enumeration(generator, projective, multi_root, masked):
    space = DependencyTree(4, projective, multi_root)
    every = space.enumerate()
    for scale in (1e-6, 1.0, 1e3):
        scores = scale * torch.randn(5, 4, 5, generator=generator, dtype=torch.float64)
        if masked:
            spared = space.vertex(every[torch.randint(len(every), (5,), generator=generator)]) > 0
            drawn = torch.rand(scores.shape, generator=generator) < 0.4
            scores = torch.where(drawn & ~spared, -torch.inf, scores)
        total = space.score(every, scores.unsqueeze(1))
        torch.testing.assert_close(space.log_partition(scores), total.logsumexp(1), rtol=1e-13, atol=1e-12)
        mean = (total.softmax(1)[..., None, None] * space.vertex(every)).sum(1)
        torch.testing.assert_close(space.marginals(scores), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_samples_have_their_probabilities(generator, projective, multi_root):
    """A chi-square test at the level 1e-3."""
    space, count = DependencyTree(3, projective, multi_root), 3000
    every = space.enumerate()
    scores = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    z = space.sample(scores, shape=(count,), generator=generator)
    assert z.dtype == torch.int64
    p = space.score(every, scores.unsqueeze(1)).softmax(1)
    seen = (z.unsqueeze(2) == every).all(-1).double().sum(0)
    assert (seen.sum(1) == count).all()
    statistic = ((seen - count * p) ** 2 / (count * p)).sum(1)
    assert (statistic < chi2.ppf(0.999, len(every) - 1)).all()
    again = space.sample(scores, shape=(5,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again, space.sample(scores, shape=(5,), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("projective", "multi_root"), VARIANTS)
def test_nothing_is_feasible(projective, multi_root):
    space = DependencyTree(3, projective, multi_root)
    scores = torch.zeros(2, 3, 4)
    scores[1, :, 0] = -torch.inf  # nobody may hang on the root
    for call in (sl.argmax, sl.sparsemap, space.__class__.marginals, space.__class__.sample):
        with pytest.raises(sl.InfeasibleError, match=r"row 1 \(1 of 2\)"):
            call(space, scores)
    assert torch.isneginf(space.log_partition(scores)).tolist() == [False, True]


def test_several_roots_are_needed_but_one_is_allowed():
    scores = torch.full((1, 3, 4), -torch.inf)
    scores[..., 0] = 0
    for projective in (True, False):
        assert sl.argmax(DependencyTree(3, projective), scores).tolist() == [[0, 0, 0]]
        with pytest.raises(sl.InfeasibleError):
            sl.argmax(DependencyTree(3, projective, multi_root=False), scores)


def test_what_is_refused():
    space = DependencyTree(3)
    for call, text in (
        (lambda: DependencyTree(0), "words: got 0"),
        (lambda: sl.argmax(space, torch.zeros(2, 3, 3)), r"scores: got shape \(2, 3, 3\)"),
        (lambda: space.contains(torch.zeros(2, 4, dtype=torch.int64)), r"z: got shape \(2, 4\)"),
        (lambda: space.mask(torch.zeros(2, 3, 4), torch.tensor([4, 1])), r"lengths: outside 0\.\.3 in row 0"),
        (lambda: DependencyTree(9, projective=False).enumerate(), "limit: .*100,000,000 structures"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            call()
