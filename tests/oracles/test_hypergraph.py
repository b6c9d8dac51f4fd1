"""Hypergraphs made at random, and derivations listed by the definition: what the kernels are held against."""

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp

from oracles import hypergraph
from oracles.hypergraph import Hypergraph
from tests.oracles.brute_force import Judge, check_inputs, instances


def random_edges(seed, nodes=7, arity=3):
    """Edges of a small graph, each with a part of its own, so that derivations are told apart by their parts."""
    rng = np.random.default_rng(seed)
    edges, part = [], 0
    for v in range(nodes):
        for _ in range(rng.integers(1, 4)):
            count = int(rng.integers(0, min(v, arity) + 1)) if v < nodes - 1 else min(v, 2)
            # different tails: a node that is used twice would use its parts twice
            below = below_apart(edges, rng.permutation(v)[:count].tolist())
            edges.append((v, tuple(below), (part,)))
            part += 1
    return edges, part


def below_apart(edges, tails):
    """Of the tails, those that share no node below them."""
    seen, kept = set(), []
    for t in tails:
        own, stack = set(), [t]
        while stack:
            v = stack.pop()
            own.add(v)
            stack += [u for head, below, _ in edges if head == v for u in below]
        if not own & seen:
            seen |= own
            kept.append(t)
    return kept


def listed(edges):
    """All derivations of the last head, each as the set of parts that it uses, by recursion."""

    def of(node):
        out = []
        for head, tails, parts in edges:
            if head == node:
                for below in itertools.product(*(of(t) for t in tails)):
                    out.append(frozenset(parts).union(*below))
        return out

    return of(edges[-1][0])


def judge_of(edges, parts):
    derivations = listed(edges)
    z = np.zeros((len(derivations), parts), bool)
    for row, used in zip(z, derivations, strict=True):
        row[list(used)] = True
    return Judge(z, z)


@pytest.fixture(params=range(8))
def case(request):
    edges, parts = random_edges(request.param)
    return Hypergraph(edges, parts), judge_of(edges, parts), parts


def test_counting_and_enumeration(case):
    graph, judge, parts = case
    every = hypergraph.enumerate(graph)
    assert hypergraph.cardinality(graph) == len(every) == len(judge.structures)
    assert sorted(judge.positions(every, 1).tolist()) == list(range(len(every)))
    assert every.shape == (len(every), parts)


def test_argmax_and_topk(case):
    graph, judge, parts = case
    scores = instances(0, (parts,))
    judge.check_argmax(hypergraph.argmax(graph, scores), scores)
    count = len(judge.structures)
    for k in {1, 2, 3, count - 1, count, count + 3} - {0}:
        judge.check_topk(*hypergraph.topk(graph, scores, k=k), scores, k)


def test_a_smaller_k_is_a_prefix(case):
    graph, _, parts = case
    scores = np.random.default_rng(1).integers(-2, 3, (4, parts)).astype(float)  # with ties
    most, _ = hypergraph.topk(graph, scores, k=20)
    for k in range(1, 20):
        fewer, valid = hypergraph.topk(graph, scores, k=k)
        np.testing.assert_array_equal(fewer[valid], most[:, :k][valid])


def test_log_partition(case):
    graph, judge, parts = case
    scores = instances(2, (parts,))
    with np.errstate(invalid="ignore"):
        want = logsumexp(judge.scores(scores).astype(float), axis=1)
    np.testing.assert_allclose(hypergraph.log_partition(graph, scores), want, rtol=1e-12, atol=1e-9)


def test_samples(case):
    graph, judge, parts = case
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(2, parts))
    drawn = hypergraph.sample(graph, scores, uniform=rng.random((3000, 2, graph.longest)))
    s = judge.scores(scores).astype(float)
    p = np.exp(s - logsumexp(s, axis=1, keepdims=True))
    for b in range(2):
        share = np.bincount(judge.positions(drawn[:, b], 1), minlength=p.shape[1]) / 3000
        assert (np.abs(share - p[b]) < 5 * np.sqrt(p[b] * (1 - p[b]) / 3000) + 1e-12).all()
    # the chance of 1 - epsilon takes the last derivation there is, not one behind it
    last = hypergraph.sample(graph, scores, uniform=np.full((1, 2, graph.longest), np.nextafter(1, 0)))
    judge.positions(last, 2)


def test_extra_scores_are_further_parts(case):
    graph, _, parts = case
    rng = np.random.default_rng(4)
    cut, scores = parts // 2, rng.normal(size=(3, parts))
    for extra in (scores[:, cut:], scores[:1, cut:]):
        full = np.concatenate([scores[:, :cut], np.broadcast_to(extra, (3, parts - cut))], axis=1)
        own = scores[:, :cut]
        np.testing.assert_array_equal(hypergraph.argmax(graph, own, extra), hypergraph.argmax(graph, full))
        for one, other in zip(hypergraph.topk(graph, own, extra, k=4), hypergraph.topk(graph, full, k=4), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(hypergraph.log_partition(graph, own, extra), hypergraph.log_partition(graph, full))


def test_derivations_are_found_again(case):
    graph, judge, parts = case
    rest, found = hypergraph.derivations(graph, judge.structures, parts)
    assert found.all()
    assert rest.shape == (len(judge.structures), 0)
    # every part but the last few is told: they are read off
    cut = parts - 2
    vertices = judge.structures[:, :cut]
    unique = [(vertices == v).all(1).sum() == 1 for v in vertices]
    rest, found = hypergraph.derivations(graph, vertices, cut)
    assert found.all()
    np.testing.assert_array_equal(rest[unique], judge.structures[unique, cut:])
    rng = np.random.default_rng(5)
    others = rng.random((200, parts)) < 0.4
    there = [tuple(z.tolist()) in judge.index for z in others]
    np.testing.assert_array_equal(hypergraph.derivations(graph, others, parts)[1], there)


def test_inputs(case):
    graph, _, parts = case
    scores = instances(6, (parts,))[:12]
    check_inputs(lambda s: hypergraph.argmax(graph, s), lambda s, k=3: hypergraph.topk(graph, s, k=k), scores)


def test_layers_say_what_the_arrays_say(case):
    graph, _, _ = case
    nodes = 0
    for layer in graph.layers:
        assert layer.nodes[0] == nodes
        nodes = layer.nodes[1]
        positions = np.concatenate([*(np.arange(*graph.layers[i].nodes) for i in layer.sources), [graph.nodes]])
        np.testing.assert_array_equal(positions[layer.tails].T, graph.arrays.tails[slice(*layer.edges)])
    assert nodes == graph.nodes


def test_what_the_root_does_not_use_is_dropped():
    edges = [("a", (), (0,)), ("b", (), (1,)), ("c", ("a", "b"), ()), ("d", ("a",), (2,))]
    graph = Hypergraph(edges, 3)
    assert graph.nodes == 2
    np.testing.assert_array_equal(hypergraph.enumerate(graph), [[True, False, True]])


def test_a_deep_graph_needs_no_recursion():
    length = 20_000
    edges = [(0, (), ())] + [(t + 1, (t,), (2 * t + j,)) for t in range(length) for j in range(2)]
    graph = Hypergraph(edges, 2 * length)
    scores = np.random.default_rng(7).normal(size=(1, 2 * length))
    z, valid = hypergraph.topk(graph, scores, k=50)
    assert valid.all()
    values = (z * scores).sum(-1)[0]
    pairs = scores.reshape(length, 2)
    cheapest = np.sort(np.abs(pairs[:, 0] - pairs[:, 1]))
    np.testing.assert_allclose(values[0], pairs.max(1).sum())
    np.testing.assert_allclose(values[0] - values[1], cheapest[0], atol=1e-9)
    assert hypergraph.cardinality(graph) == 2**length


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ([], "there are none"),
        ([("a", ("b",), ())], "'a' is built from 'b', which no edge before builds"),
        ([("a", (), ()), ("b", ("a",), ()), ("a", (), (0,))], "'a' gets another edge after it was a tail"),
        ([("a", (), (3,))], r"'a' uses the parts \(3,\), expected numbers from 0 to 2"),
        ([("a", (), (-1,))], r"'a' uses the parts \(-1,\)"),
    ],
)
def test_what_is_refused(edges, text):
    with pytest.raises(ValueError, match=text):
        Hypergraph(edges, 3)


def test_wrong_shapes_are_refused():
    graph = Hypergraph([("a", (), (0, 2))], 3)
    for scores, extra in ((np.zeros((2, 2)), None), (np.zeros((2, 2)), np.zeros((3, 1))), (np.zeros(3), None)):
        with pytest.raises(ValueError, match="shape"):
            hypergraph.argmax(graph, scores, extra)
    with pytest.raises(ValueError, match="uniform has shape"):
        hypergraph.sample(graph, np.zeros((2, 3)), uniform=np.zeros((4, 3, 1)))
    with pytest.raises(ValueError, match="k is 0"):
        hypergraph.topk(graph, np.zeros((2, 3)), k=0)
