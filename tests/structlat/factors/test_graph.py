import copy
import pickle
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import structlat as sl
from structlat.factors import FactorGraph, lp_sparsemap
from structlat.factors.layout import alike
from structlat.structure import Structure
from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from tests.structlat.factors.cases import ACYCLIC, LOOPY


def test_add_says_where_the_factor_is():
    graph = FactorGraph(variables=6)
    assert graph.add(Xor(3), [0, 1, 2]) == 0
    assert graph.add(sl.LinearChain(2, 2), torch.tensor([[2, 3], [4, 5]], dtype=torch.int32)) == 1
    assert graph.add(Pair(), np.array([[0, 5], [1, 4]])) == 2
    assert [f.variables.tolist() for f in graph.factors] == [[0, 1, 2], [[2, 3], [4, 5]], [[0, 5], [1, 4]]]
    assert [f.lead for f in graph.factors] == [(), (), (2,)]
    assert graph.extra_shapes == ((1, 2, 2), (2, 1))
    assert repr(graph) == "FactorGraph(variables=6, factors=[Xor(3), LinearChain(2, 2), 2 x Pair()])"
    assert repr(FactorGraph(2, symmetric=True)) == "FactorGraph(variables=2, factors=[], symmetric=True)"


def test_variables_are_copied():
    index = torch.tensor([0, 1])
    graph = FactorGraph(variables=3)
    graph.add(Pair(), index)
    index += 1
    assert graph.factors[0].variables.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("structure", "variables", "match"),
    [
        (Pair, [0, 1], "structure: got Pair as a class"),
        (3, [0, 1], "structure: got 3"),
        (Pair(), [0, 1, 2], r"variables: got shape (3,); Pair() expects [*lead, *shape] with shape (2,)"),
        (sl.LinearChain(2, 2), [0, 1, 2, 3], "variables: got shape (4,)"),
        (Pair(), torch.zeros(0, 2, dtype=torch.int64), "variables: got shape (0, 2)"),
        (Pair(), [0.0, 1.0], "variables: got dtype torch.float64"),
        (Pair(), torch.tensor([True, False]), "variables: got dtype torch.bool"),
        (Pair(), [0, 5], "variables: got 5; expected numbers from 0 to 4"),
        (Pair(), [-1, 2], "variables: got -1; expected numbers from 0 to 4"),
        (Pair(), [[0, 1], [3, 3]], "variables: got 3 twice in one factor"),
        (Pair(), [[0, 1], [2]], "variables: got [[0, 1], [2]]"),
    ],
)
def test_what_is_no_factor_is_refused(structure, variables, match):
    graph = FactorGraph(variables=5)
    with pytest.raises(sl.ArgumentError, match=re.escape(match)):
        graph.add(structure, variables)
    assert graph.factors == ()


@pytest.mark.parametrize("came", [0, -1, 1.5, "3"])
def test_bad_number_of_variables(came):
    with pytest.raises(sl.ArgumentError, match=f"variables: got {came!r}"):
        FactorGraph(came)


# Cycles.


def test_acyclic_of_known_graphs():
    assert FactorGraph(3).acyclic
    assert all(make().acyclic for make in ACYCLIC.values())
    assert not any(make().acyclic for make in LOOPY.values())
    twice = FactorGraph(3)
    twice.add(Xor(3), [0, 1, 2])
    twice.add(Pair(), [0, 1])  # two factors that share two variables are a cycle
    assert not twice.acyclic
    star = FactorGraph(4)
    star.add(Pair(), [[0, 1], [0, 2], [0, 3]])
    assert star.acyclic
    star.add(Pair(), [1, 2])  # what was asked before is not kept
    assert not star.acyclic


def test_acyclic_against_networkx(generator):
    seen = set()
    for _ in range(60):
        n = 9
        graph, other = FactorGraph(n), nx.Graph()
        other.add_nodes_from(range(n))
        for number in range(int(torch.randint(1, 6, (1,), generator=generator))):
            size = int(torch.randint(1, 4, (1,), generator=generator))
            parts = torch.randperm(n, generator=generator)[:size]
            graph.add(Or(size), parts)
            other.add_edges_from((f"factor {number}", i) for i in parts.tolist())
        assert graph.acyclic == nx.is_forest(other)
        seen.add(graph.acyclic)
    assert seen == {True, False}


# The regulariser.


def test_symmetric_is_what_the_factors_agree_on():
    assert not FactorGraph(3).symmetric
    graph = FactorGraph(4)
    graph.add(sl.BitVector(2), [0, 1])
    graph.add(sl.BudgetBitVector(2, 1), [1, 2])
    assert graph.symmetric
    graph.add(Pair(), [2, 3])
    with pytest.raises(sl.ArgumentError, match=r"symmetric: got None, and Bu?.*Pair\(\) does not"):
        _ = graph.symmetric
    with pytest.raises(sl.ArgumentError, match=r"expected FactorGraph\(..., symmetric=True or False\)"):
        lp_sparsemap(graph, torch.zeros(4), torch.zeros(1))
    assert graph.acyclic  # which needs to know of none
    for said in (True, False):
        graph = FactorGraph(4, symmetric=said)
        graph.add(sl.BitVector(2), [0, 1])
        graph.add(Pair(), [2, 3])
        assert graph.symmetric is said


# Which factors are answered by one call.


def kinds(graph):
    return [(group.structure, group.count) for group in graph.layout.groups]


def test_equal_structures_are_one_kind():
    graph = FactorGraph(8)
    for i in range(4):
        graph.add(Pair(), [i, i + 1])
    graph.add(Xor(3), [0, 1, 2])
    graph.add(Pair(), [[4, 5], [5, 6]])
    graph.add(Xor(2), [6, 7])
    graph.add(Xor(3), [5, 6, 7])
    assert [(type(s), s.shape.numel(), count) for s, count in kinds(graph)] == [(Pair, 2, 6), (Xor, 3, 2), (Xor, 2, 1)]
    layout = graph.layout
    assert layout.width == 6 * 2 + 2 * 3 + 2
    assert layout.degree.tolist() == [2, 3, 3, 2, 2, 3, 3, 2]
    assert len(layout.factor.unique()) == 9


def test_structures_that_differ_are_not_one_kind():
    one, other = (Structure.from_argmax(lambda s, k=k: (s > k).astype(float), 3) for k in (0, 1))
    assert not alike(one, other)
    assert alike(one, one)
    assert not alike(Xor(2), AtMostOne(2))
    assert not alike(sl.BudgetBitVector(3, 1), sl.BudgetBitVector(3, 2))
    assert not alike(sl.BitVector(3), sl.BitVector(3, symmetric=False))
    assert alike(sl.BitVector(3), sl.BitVector(3))
    assert alike(sl.BudgetBitVector(3, torch.tensor([1, 2])), sl.BudgetBitVector(3, torch.tensor([1, 2])))
    assert not alike(sl.BudgetBitVector(3, torch.tensor([1, 2])), sl.BudgetBitVector(3, torch.tensor([2, 2])))


def test_a_structure_that_knows_argmax_alone_can_be_a_factor(generator):
    """At most one of three bits, from the user's own function: the same answer as from the built-in space."""

    def best(scores):
        z = np.zeros(3)
        z[scores.argmax()] = scores.max() > 0
        return z

    scores = torch.randn(4, 4, generator=generator, dtype=torch.float64) + 0.5
    answers = []
    for space in (Structure.from_argmax(best, 3), AtMostOne(3)):
        graph = FactorGraph(4)
        graph.add(space, [[0, 1, 2], [1, 2, 3]])
        answers.append(lp_sparsemap(graph, scores, on_failure="raise").marginals)
    torch.testing.assert_close(*answers, atol=1e-8, rtol=0)


def test_pickle_and_deepcopy(generator):
    graph = LOOPY["structured"]()
    scores = [torch.randn(2, *s, generator=generator, dtype=torch.float64) for s in ((8,), *graph.extra_shapes)]
    want = lp_sparsemap(graph, *scores).marginals
    for other in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert repr(other) == repr(graph)
        torch.testing.assert_close(lp_sparsemap(other, *scores).marginals, want)


def test_the_page_about_graphs_runs(monkeypatch):
    text = (Path(__file__).parents[3] / "docs" / "factor_graphs.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    public = {"FactorGraph": FactorGraph, "lp_sparsemap": lp_sparsemap, "Pair": Pair, "Xor": Xor}
    for name, value in public.items():
        monkeypatch.setattr(sl, name, value, raising=False)
    torch.manual_seed(0)
    names = {}
    exec(code, names)
    assert names["post"].marginals.shape == (8, 6)
    assert names["scores"].grad.abs().sum() > 0
    assert names["coupling"].grad.abs().sum() > 0
