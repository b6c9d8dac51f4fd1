"""Graphs of factors: structures that share binary variables, and LP-SparseMAP over them."""

from structlat.factors.graph import FactorGraph
from structlat.factors.marginals import ConsensusInfo, GraphMarginals
from structlat.factors.relaxation import lp_sparsemap
from structlat.factors.space import Factor

__all__ = ["ConsensusInfo", "Factor", "FactorGraph", "GraphMarginals", "lp_sparsemap"]
