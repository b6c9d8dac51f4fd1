import math

import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


def catalan(n):
    return math.comb(2 * n, n) // (n + 1)


class TestBinaryTree(StructureTests):
    cases = (sl.BinaryTree(1), sl.BinaryTree(1, labels=3), sl.BinaryTree(4), sl.BinaryTree(2, labels=2))
    counts = (1, 3, catalan(3), catalan(1) * 2**3)


def test_counts():
    assert sl.BinaryTree(12).cardinality() == catalan(11)
    assert sl.BinaryTree(9, labels=5).cardinality() == catalan(8) * 5**17


def test_narayana():
    """Trees by how many of their inner nodes have a leaf as their left child: Narayana numbers."""
    n = 6
    every = sl.BinaryTree(n).enumerate()
    found = [0] * n
    for z in every:
        spans = {(i, j) for i, j, _ in torch.nonzero(z).tolist()}
        # a leaf is a left child where its parent starts with it
        lefts = sum((i, i) in spans and any((i, j) in spans for j in range(i + 1, n)) for i in range(n))
        found[lefts] += 1
    narayana = [math.comb(n - 1, k) * math.comb(n - 1, k - 1) // (n - 1) for k in range(1, n)]
    assert found[1:] == narayana
    assert sum(narayana) == catalan(n - 1)


def test_spans_are_nested():
    for z in sl.BinaryTree(5).enumerate():
        spans = [(i, j) for i, j, _ in torch.nonzero(z).tolist()]
        assert len(spans) == 9
        for i, j in spans:
            for k, m in spans:
                assert j < k or m < i or (i <= k and m <= j) or (k <= i and j <= m)


def test_a_padded_batch_is_each_example_alone(generator):
    big, lengths = sl.BinaryTree(4, labels=2), [4, 2, 1, 3]
    scores = torch.randn(4, 4, 4, 2, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        big,
        [scores],
        lambda x: [big.mask(x, lengths=torch.tensor(lengths))],
        lambda row: sl.BinaryTree(lengths[row], labels=2),
        lambda row, x, n: x[row, : lengths[row], : lengths[row]],
    )
    assert big.mask(scores, lengths=torch.tensor([0] * 4)).isfinite().any()
    z = sl.argmax(big, big.mask(scores, lengths=torch.tensor([0] * 4)))
    assert big.contains(z).all()
