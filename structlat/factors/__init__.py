"""Graphs of factors: structures that share binary variables, and LP-SparseMAP over them."""

from structlat.factors.graph import Factor, FactorGraph
from structlat.factors.marginals import ConsensusInfo, GraphMarginals
from structlat.factors.relaxation import lp_sparsemap

__all__ = ["ConsensusInfo", "Factor", "FactorGraph", "GraphMarginals", "lp_sparsemap"]
