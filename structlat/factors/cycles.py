"""Cycles of variables and factors: where a graph is a forest, marginals that agree are those of a distribution."""

from __future__ import annotations

from torch import Tensor

from structlat.factors.layout import Layout


def on_cycles(layout: Layout, kept: Tensor) -> Tensor:
    """Parts [B, E] that are left of ``kept`` [B, E] when variables and factors with one part only are taken off.

    They are taken off one after the other, until there are none: what is left lies on cycles, or between two.
    """
    variable, factor = layout.variable.to(kept.device), layout.factor.to(kept.device)
    factors = sum(group.count for group in layout.groups)
    while True:
        one = kept.long()
        at_variable = one.new_zeros(len(kept), len(layout.degree)).index_add(1, variable, one)
        at_factor = one.new_zeros(len(kept), factors).index_add(1, factor, one)
        left = kept & (at_variable[:, variable] > 1) & (at_factor[:, factor] > 1)
        if bool((left == kept).all()):
            return kept
        kept = left
