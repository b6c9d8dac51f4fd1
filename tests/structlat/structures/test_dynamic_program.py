"""DynamicProgram as its users meet it: spaces of their own, with and without extra scores."""

import itertools
import pickle

import pytest
import torch

import structlat as sl
from tests.judge import draw
from tests.structure_tests import StructureTests


class Apart(sl.DynamicProgram):
    """n bits, no two neighbours on; an extra score for each pair of neighbours that are both off."""

    def __init__(self, n, pairs=False):
        self.n = n
        self.shape = torch.Size([n])
        self.extra_shapes = (torch.Size([n - 1]),) if pairs else ()

    def hyperedges(self):
        yield (0, 0), [], []
        yield (0, 1), [], [0]
        for i in range(1, self.n):
            yield (i, 0), [(i - 1, 0)], [], *([[i - 1]] if self.extra_shapes else [])
            yield (i, 0), [(i - 1, 1)], []
            yield (i, 1), [(i - 1, 0)], [(i,)]
        for on in range(2):
            yield "all", [(self.n - 1, on)], []

    def __repr__(self):
        return f"Apart({self.n}, {len(self.extra_shapes)})"


class Ternary(sl.DynamicProgram):
    """Trees whose inner nodes have three children, over the leaves 0..n - 1; parts are spans i..j."""

    def __init__(self, n):
        self.n = n
        self.shape = torch.Size([n, n])

    def hyperedges(self):
        for width in range(0, self.n, 2):
            for i in range(self.n - width):
                j = i + width
                if width == 0:
                    yield (i, j), [], [(i, j)]
                for k in range(i, j, 2):
                    for m in range(k + 1, j, 2):
                        yield (i, j), [(i, k), (k + 1, m), (m + 1, j)], [(i, j)]

    def __repr__(self):
        return f"Ternary({self.n})"


class TestDynamicProgram(StructureTests):
    cases = (Apart(1), Apart(5), Apart(4, pairs=True), Ternary(5))
    counts = (2, 13, 8, 3)

    @staticmethod
    def used_extra(structure, z):
        off = [i for i, (a, b) in enumerate(itertools.pairwise(z.tolist())) if not a and not b]
        return [[(i,) for i in off]]


def test_fibonacci():
    a, b = 1, 2
    for n in range(1, 60):
        assert Apart(n).cardinality() == b
        a, b = b, a + b


def test_a_graph_is_built_once_and_not_pickled():
    space = Apart(6, pairs=True)
    assert space.graph is space.graph
    assert len(pickle.dumps(space)) < 1000
    again = pickle.loads(pickle.dumps(space))
    assert torch.equal(again.enumerate(), space.enumerate())


def test_two_derivations_of_one_structure_are_found_out():
    class Twice(sl.DynamicProgram):
        shape = torch.Size([2])

        def hyperedges(self):
            yield "a", [], [0]
            yield "b", [], [0]
            yield "all", ["a"], []
            yield "all", ["b"], []

    with pytest.raises(AssertionError, match=r"twice|share one"):
        sl.testing.check_structure(Twice())


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ([("a", [], [2])], r"Wrong.hyperedges: edges: 'a' uses the part 2, expected an index into shape \(2,\)"),
        ([("a", [], [(0, 1)])], r"'a' uses the part \(0, 1\)"),
        ([("a", [], [0], [0])], r"'a' came with 2 groups of parts, expected 1 to 1"),
        ([("a", ["b"], [])], "'a' is built from 'b', which no edge before builds"),
        ([], "there are none"),
    ],
)
def test_what_is_refused(edges, text):
    class Wrong(sl.DynamicProgram):
        shape = torch.Size([2])

        def hyperedges(self):
            return edges

    with pytest.raises(sl.ArgumentError, match=text):
        sl.sparsemap(Wrong(), torch.zeros(3, 2))


@pytest.mark.parametrize("shared", [True, False])
def test_extra_scores_shared_by_all_rows_or_not(generator, shared):
    space = Apart(6, pairs=True)
    scores, extra = draw(space, generator, 4)
    extra = extra[:1] if shared else extra
    for call in (sl.sparsemap, sl.topk_sparsemax, sl.Gibbs):
        post = call(space, scores, extra)
        for row in range(4):
            alone = call(space, scores[row], extra[0 if shared else row])
            torch.testing.assert_close(post.mean[row], alone.mean, atol=1e-9, rtol=0)
            torch.testing.assert_close(post.extra_marginals[0][row], alone.extra_marginals[0], atol=1e-9, rtol=0)


def test_a_score_of_its_own_is_what_solvers_use(generator):
    """Whoever overrides ``score`` is believed, not the compiled oracle's word for it."""

    class Louder(Apart):
        def score(self, z, scores, *extra):
            return super().score(z, scores, *extra)

    scores, extra = draw(Apart(5, pairs=True), generator, 3)
    one, other = (sl.sparsemap(c(5, pairs=True), scores, extra) for c in (Apart, Louder))
    torch.testing.assert_close(one.mean, other.mean, atol=1e-9, rtol=0)
    assert sl.solvers.compiled.oracle_of(Louder(5)) is None
    assert sl.solvers.compiled.oracle_of(Apart(5)) is not None


def test_a_space_that_is_first_met_inside_a_transform(generator):
    """Its tables must not belong to the transform in which they were made."""
    space = Apart(5, pairs=True)
    inputs = draw(space, generator, 3)
    inside = torch.func.vmap(torch.func.grad(space.log_partition))(*inputs)
    torch.testing.assert_close(inside, space.marginals(*inputs))
    torch.testing.assert_close(torch.func.vmap(space.marginals)(*inputs), inside)
