"""structlat: sparse distributions over discrete and structured latent variables, for PyTorch.

Scores go in, a few structures with probabilities come out. See ``structure.py`` for what a latent space must bring,
``normalizers.py`` for the three ways from scores to a distribution, ``distribution.py`` for what comes back.
"""

from structlat import estimators, losses, structures, testing
from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError, InfeasibleError, NonConvergenceWarning
from structlat.factors import ConsensusInfo, FactorGraph, GraphMarginals, lp_sparsemap
from structlat.gibbs import Gibbs
from structlat.layers import Marginalize, SparseMAP, TopKSparsemax
from structlat.normalizers import argmax, marginalize, sparsemap, topk_sparsemax
from structlat.perturbation import perturb_and_map
from structlat.simplex import entmax15, sparsemax
from structlat.solvers.info import SolverInfo, Trace
from structlat.structure import Structure
from structlat.structures import (
    Alignment,
    AtMostOne,
    BinaryTree,
    BipartiteMatching,
    BitVector,
    BudgetBitVector,
    Categorical,
    DependencyTree,
    DynamicProgram,
    GeneralMatching,
    Knapsack,
    LinearChain,
    Or,
    Pair,
    Permutation,
    Product,
    Restricted,
    SemiMarkov,
    ShortestPath,
    SpanningTree,
    Xor,
)
from structlat.tractable import Tractable

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "ArgumentError",
    "AtMostOne",
    "BinaryTree",
    "BipartiteMatching",
    "BitVector",
    "BudgetBitVector",
    "Categorical",
    "ConsensusInfo",
    "DependencyTree",
    "DynamicProgram",
    "FactorGraph",
    "GeneralMatching",
    "Gibbs",
    "GraphMarginals",
    "InfeasibleError",
    "Knapsack",
    "LinearChain",
    "Marginalize",
    "NonConvergenceWarning",
    "Or",
    "Pair",
    "Permutation",
    "Product",
    "Restricted",
    "SemiMarkov",
    "ShortestPath",
    "SolverInfo",
    "SpanningTree",
    "SparseDistribution",
    "SparseMAP",
    "Structure",
    "TopKSparsemax",
    "Trace",
    "Tractable",
    "Xor",
    "argmax",
    "entmax15",
    "estimators",
    "losses",
    "lp_sparsemap",
    "marginalize",
    "perturb_and_map",
    "sparsemap",
    "sparsemax",
    "structures",
    "testing",
    "topk_sparsemax",
]
