"""The latent spaces that are built in, one a file. Combinatorics lives in ``oracles``; here it meets torch."""

from structlat.structures.alignment import Alignment
from structlat.structures.binary_tree import BinaryTree
from structlat.structures.bits import BitVector
from structlat.structures.budget import BudgetBitVector
from structlat.structures.categorical import Categorical
from structlat.structures.chain import LinearChain
from structlat.structures.dependency_tree import DependencyTree
from structlat.structures.dynamic_program import DynamicProgram
from structlat.structures.general_matching import GeneralMatching
from structlat.structures.knapsack import Knapsack
from structlat.structures.logic import AtMostOne, Or, Pair, Xor
from structlat.structures.matching import BipartiteMatching
from structlat.structures.permutation import Permutation
from structlat.structures.product import Product
from structlat.structures.restricted import Restricted
from structlat.structures.semi_markov import SemiMarkov
from structlat.structures.shortest_path import ShortestPath
from structlat.structures.spanning_tree import SpanningTree

__all__ = [
    "Alignment",
    "AtMostOne",
    "BinaryTree",
    "BipartiteMatching",
    "BitVector",
    "BudgetBitVector",
    "Categorical",
    "DependencyTree",
    "DynamicProgram",
    "GeneralMatching",
    "Knapsack",
    "LinearChain",
    "Or",
    "Pair",
    "Permutation",
    "Product",
    "Restricted",
    "SemiMarkov",
    "ShortestPath",
    "SpanningTree",
    "Xor",
]
