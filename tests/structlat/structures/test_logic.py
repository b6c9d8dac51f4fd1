from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from tests.structure_tests import StructureTests


class TestXor(StructureTests):
    cases = (Xor(1), Xor(2), Xor(5))
    counts = (1, 2, 5)


class TestAtMostOne(StructureTests):
    cases = (AtMostOne(1), AtMostOne(2), AtMostOne(5))
    counts = (2, 3, 6)


class TestOr(StructureTests):
    cases = (Or(1), Or(2), Or(4))
    counts = (1, 3, 15)


class TestPair(StructureTests):
    cases = (Pair(),)
    counts = (4,)

    @staticmethod
    def used_extra(structure, z):
        """The extra part is used where both bits are on."""
        return [[(0,)] if bool((z == 1).all()) else []]
