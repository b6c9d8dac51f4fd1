import itertools

import pytest
import torch

import structlat as sl
from tests.structlat.structures.padding import check_padded
from tests.structure_tests import StructureTests


def segments(z):
    """(start, length, label) of each, in order."""
    return [(t, d + 1, label) for t, d, label in torch.nonzero(z).tolist()]


def compositions(length, labels, longest):
    """How many labelled segmentations: a linear recurrence (Fibonacci numbers for one label and segments up to 2)."""
    ways = [1]
    for t in range(1, length + 1):
        ways.append(labels * sum(ways[t - d] for d in range(1, min(t, longest) + 1)))
    return ways[-1]


class TestSemiMarkov(StructureTests):
    cases = (sl.SemiMarkov(1, 2, 3), sl.SemiMarkov(5, 1, 2), sl.SemiMarkov(3, 2, 2), sl.SemiMarkov(3, 1, 3))
    counts = (2, 8, 16, 4)

    @staticmethod
    def used_extra(structure, z):
        return [[(t, before, label) for (_, _, before), (t, _, label) in itertools.pairwise(segments(z))]]


def test_counts_by_recurrence():
    assert TestSemiMarkov.counts[2] == compositions(3, 2, 2)
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    for n in (1, 2, 10, 59):
        assert sl.SemiMarkov(n, 1, 2).cardinality() == fibonacci[n]
    assert sl.SemiMarkov(12, 3, 4).cardinality() == compositions(12, 3, 4)


def test_segments_tile_the_sequence():
    for z in sl.SemiMarkov(4, 2, 3).enumerate():
        position = 0
        for start, length, _ in segments(z):
            assert start == position
            position += length
        assert position == 4


def test_contains():
    space = sl.SemiMarkov(2, 1, 2)
    z = torch.zeros(4, 2, 2, 1)
    z[0, 0, 1] = 1  # one segment of two
    z[1, 0, 0] = z[1, 1, 0] = 1  # two of one
    z[2, 0, 0] = 1  # a gap
    z[3, 0, 1] = z[3, 1, 0] = 1  # an overlap
    assert space.contains(z).tolist() == [True, True, False, False]


def test_with_segments_of_one_it_is_a_chain(generator):
    semi, chain = sl.SemiMarkov(5, 3, 1), sl.LinearChain(5, 3)
    x = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    t = torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64)
    wide = torch.cat([torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64), t], 1)
    torch.testing.assert_close(
        sl.sparsemap(semi, x.unsqueeze(2), wide).mean.squeeze(2), sl.sparsemap(chain, x, t).mean, atol=1e-9, rtol=0
    )
    torch.testing.assert_close(semi.log_partition(x.unsqueeze(2), wide), chain.log_partition(x, t))


@pytest.mark.parametrize("shared", [True, False])
def test_a_padded_batch_is_each_example_alone(generator, shared):
    big, lengths = sl.SemiMarkov(5, 2, 3), [5, 3, 1, 0]
    scores = torch.randn(4, 5, 3, 2, generator=generator, dtype=torch.float64)
    transition = torch.randn((2, 2) if shared else (4, 5, 2, 2), generator=generator, dtype=torch.float64)

    def part(row, x, n):
        if n == 1:
            return x if shared else x[row, : lengths[row]]
        return x[row, : lengths[row]]

    check_padded(
        generator,
        big,
        [scores[:3], transition if shared else transition[:3]],
        lambda *x: big.mask(*x, lengths=torch.tensor(lengths[:3])),
        lambda row: sl.SemiMarkov(lengths[row], 2, 3),
        part,
    )
    z = sl.argmax(big, *big.mask(scores, transition, lengths=torch.tensor(lengths)))
    assert segments(z[3]) == [(t, 1, 0) for t in range(5)]


@pytest.mark.parametrize("bad", [{"length": 0}, {"labels": 0}, {"max_length": 0}])
def test_sizes_are_checked(bad):
    with pytest.raises(sl.ArgumentError, match=f"{next(iter(bad))}: got 0"):
        sl.SemiMarkov(**{"length": 3, "labels": 2, "max_length": 2, **bad})
