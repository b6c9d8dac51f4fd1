"""The latent spaces that are built in, one a file. Combinatorics lives in ``oracles``; here it meets torch."""

from structlat.structures.bits import BitVector
from structlat.structures.budget import BudgetBitVector
from structlat.structures.categorical import Categorical
from structlat.structures.chain import LinearChain
from structlat.structures.matching import BipartiteMatching

__all__ = [
    "BipartiteMatching",
    "BitVector",
    "BudgetBitVector",
    "Categorical",
    "LinearChain",
]
