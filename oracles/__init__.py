"""Exact combinatorial oracles over finite sets of structures: NumPy arrays in, arrays out.

One space a module, each with the same four functions:

    argmax(scores, ...)     the best structure of each row of a batch
    topk(scores, ..., k)    the k best of each row, best first, and which of them exist
    enumerate(...)          every structure
    cardinality(...)        how many there are, as a Python int

Oracles maximise. ``-inf`` forbids a part; a structure is feasible where its score is above ``-inf``.
All arrays have exactly one batch dimension B, which may be 0. `hypergraph` has the four, and sums and samples, for any
dynamic program that is written down as hyperedges. `partition` gives the k best of any space
from nothing but its argmax. `compiled` says how a solver that is compiled itself asks an oracle without Python.
"""

from oracles import bits, budget, categorical, chain, compiled, hypergraph, matching, partition

__all__ = ["bits", "budget", "categorical", "chain", "compiled", "hypergraph", "matching", "partition"]
