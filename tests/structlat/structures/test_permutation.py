import math

import pytest
import torch

import structlat as sl
from structlat.structures.permutation import Permutation
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


class TestPermutation(StructureTests):
    cases = (Permutation(1), Permutation(3))
    counts = (1, 6)


def test_it_is_the_square_matching(generator):
    x = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    space, matching = Permutation(5), sl.BipartiteMatching(5, 5)
    assert torch.equal(space.enumerate(), matching.enumerate())
    assert space.cardinality() == math.factorial(5)
    assert torch.equal(sl.sparsemap(space, x).mean, sl.sparsemap(matching, x).mean)
    assert repr(space) == "Permutation(5)"
    with pytest.raises(sl.ArgumentError, match="n: got 0"):
        Permutation(0)


def test_a_padded_batch_is_each_example_alone(generator):
    space, lengths = Permutation(4), torch.tensor([4, 1, 3])
    x = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    check_padded(
        generator,
        space,
        [x],
        lambda y: [space.mask(y, lengths)],
        lambda row: Permutation(int(lengths[row])),
        lambda row, y, n: y[row, : lengths[row], : lengths[row]],
    )
    assert sl.argmax(space, space.mask(x, lengths))[1].tolist() == [0, 1, 2, 3]


def test_what_mask_refuses():
    for x, lengths, text in (
        (torch.zeros(2, 4, 4), torch.tensor([5, 1]), r"lengths: outside 0\.\.4 in row 0 \(1 of 2\)"),
        (torch.zeros(2, 4, 4), torch.tensor([True, True]), r"lengths: got torch.bool"),
        (torch.zeros(2, 4, 3), torch.tensor([1, 1]), r"scores: got shape \(2, 4, 3\)"),
    ):
        with pytest.raises(sl.ArgumentError, match=text):
            Permutation(4).mask(x, lengths)
