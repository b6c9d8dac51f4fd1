"""Exact: no sampling. A normalizer lists the support, and the loss is asked about all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError, check_count
from structlat.estimators.base import Call, Estimate, Estimator, check_listed, refusal
from structlat.layers import Marginalize, SparseMAP, TopKSparsemax
from structlat.structure import Structure
from structlat.structures.bits import BitVector
from structlat.structures.budget import BudgetBitVector


class Exact(Estimator):
    """sum_z p_z loss(z) over the support of a normalizer: no variance, as many calls as structures have probability.

    In evaluation mode it is the same. Nothing is drawn; a generator is taken and left alone.

    Parameters
    ----------
    layer : nn.Module
        From scores to a :class:`structlat.SparseDistribution`: :class:`structlat.SparseMAP`,
        :class:`structlat.TopKSparsemax` or :class:`structlat.Marginalize`, its structure given at construction.
    vertices, generator
        As in :class:`Estimator`.
    """

    name = "exact"

    def __init__(self, layer: nn.Module, *, vertices: bool = False, generator: torch.Generator | None = None) -> None:
        structure: Any = getattr(layer, "structure", None)
        if not isinstance(layer, nn.Module) or not isinstance(structure, Structure):
            raise ArgumentError(
                f"layer: got {layer!r}; expected a module such as structlat.SparseMAP(structure), with its structure "
                "given at construction"
            )
        super().__init__(structure, vertices=vertices, generator=generator)
        self.layer = layer

    def _estimate(self, call: Call) -> Estimate:
        post = self.layer(call.scores, *call.extra)
        if not isinstance(post, SparseDistribution):
            raise ArgumentError(f"layer: returned {type(post).__name__}; expected a SparseDistribution")
        value = post.expect(call.loss.flat, vertices=call.loss.vertices)
        return Estimate(value, value, post.entropy(), post.support_size)

    def extra_repr(self) -> str:
        """Nothing that the layer does not show."""
        return "vertices=True" if self.vertices else ""


def softmax(structure: Structure, *, vertices: bool = False, generator: torch.Generator | None = None) -> Exact:
    """Exact under softmax over every structure, enumerated."""
    return _marginalized("softmax", structure, vertices, generator)


def sparsemax(structure: Structure, *, vertices: bool = False, generator: torch.Generator | None = None) -> Exact:
    """Exact under sparsemax over every structure, enumerated."""
    return _marginalized("sparsemax", structure, vertices, generator)


def topk(
    structure: Structure, k: int = 10, *, vertices: bool = False, generator: torch.Generator | None = None
) -> Exact:
    """Exact under sparsemax over the k best structures."""
    return Exact(TopKSparsemax(structure, k), vertices=vertices, generator=generator)


def sparsemap(
    structure: Structure, *, vertices: bool = False, generator: torch.Generator | None = None, **options: Any
) -> Exact:
    """Exact under SparseMAP; ``options`` are those of :class:`structlat.SparseMAP`, ``gamma`` first of all."""
    return Exact(SparseMAP(structure, **options), vertices=vertices, generator=generator)


def sparsemap_budget(
    structure: Structure,
    budget: int | None = None,
    *,
    vertices: bool = False,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Exact:
    """Exact under SparseMAP over bits of which at most ``budget`` are on.

    ``structure`` is a :class:`structlat.BitVector` (``budget``: by default half of its bits) or a
    :class:`structlat.BudgetBitVector`, which has its own.
    """
    if isinstance(structure, BitVector):
        if structure.decomposition != "levels":
            came = f"decomposition={structure.decomposition!r}"
            raise ArgumentError(
                f"structure: got {structure!r} with {came}; expected 'levels', for budgets have no other"
            )
        most = structure.n // 2 if budget is None else check_count("budget", budget, 0)
        structure = BudgetBitVector(structure.n, most, symmetric=structure.symmetric)
    elif not isinstance(structure, BudgetBitVector):
        raise refusal("sparsemap-budget", structure, "only bits have a budget", "topk")
    elif budget is not None:
        raise ArgumentError(f"budget: got {budget!r} for {structure!r}; expected None, for it has its own")
    return sparsemap(structure, vertices=vertices, generator=generator, **options)


def _marginalized(name: str, structure: Structure, vertices: bool, generator: torch.Generator | None) -> Exact:
    layer = Marginalize(structure, name)
    if isinstance(structure, Structure):
        check_listed(name, structure, "all structures have to be listed", "topk")
    return Exact(layer, vertices=vertices, generator=generator)
