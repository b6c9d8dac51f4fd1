"""FactorGraph: binary variables, and structures over some of them as factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from structlat.errors import ArgumentError, check_count
from structlat.factors.cycles import on_cycles
from structlat.factors.layout import Layout
from structlat.factors.space import Factor, FactorGraphScores
from structlat.structure import Structure


class FactorGraph:
    """Binary variables that structures share: each part of a factor is one of the variables.

    It is no :class:`structlat.Structure`, for with cycles there is no exact oracle: :func:`structlat.lp_sparsemap` is
    what gives its marginals.

    Parameters
    ----------
    variables : int
        How many there are, at least 1.
    symmetric : bool, optional
        Regularise being off like being on, as in :class:`structlat.Structure`: that of the variables, whatever the
        factors do when they stand alone. Default: what all factors agree on; plain where there are none.

    Examples
    --------
    >>> graph = sl.FactorGraph(variables=3)
    >>> graph.add(sl.Pair(), [[0, 1], [1, 2]])  # two factors of one kind
    0
    >>> graph.add(sl.AtMostOne(2), [0, 2])
    1
    """

    def __init__(self, variables: int, symmetric: bool | None = None) -> None:
        self.variables = check_count("variables", variables)
        self._symmetric = None if symmetric is None else bool(symmetric)
        self._factors: list[Factor] = []
        self._layout: Layout | None = None
        self._space: FactorGraphScores | None = None

    def add(self, structure: Structure, variables: Any) -> int:
        """Add a factor, or many of one structure at once, which is faster than one by one.

        Parameters
        ----------
        structure : Structure
            Extra scores of its own kind are given at the call of :func:`structlat.lp_sparsemap`, in the order in which
            factors were added.
        variables : integer Tensor, array or list [*lead, *shape]
            Which variable each part of the structure is; each at most once in a factor. With leading dimensions these
            are as many factors, whose extra scores and distributions have the dimensions, too.

        Returns
        -------
        int
            The place of its distribution among those of the answer.

        Raises
        ------
        ArgumentError
            No structure; another shape or dtype, a variable that there is not, or one that is twice in a factor.
        """
        if not isinstance(structure, Structure) or getattr(structure, "shape", None) is None:
            came = f"{structure.__name__} as a class" if isinstance(structure, type) else repr(structure)
            raise ArgumentError(
                f"structure: got {came}; expected an instance of structlat.Structure whose `shape` is set"
            )
        self._factors.append(Factor(structure, self._checked(structure, variables)))
        self._layout = self._space = None
        return len(self._factors) - 1

    def _checked(self, structure: Structure, variables: Any) -> Tensor:
        shape = torch.Size(structure.shape)
        try:
            index = variables if isinstance(variables, Tensor) else torch.from_numpy(np.asarray(variables))
        except (TypeError, ValueError):
            raise ArgumentError(f"variables: got {variables!r}; expected whole numbers [*lead, *shape]") from None
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ArgumentError(f"variables: got dtype {index.dtype}; expected an integer dtype")
        if index.ndim < len(shape) or index.shape[index.ndim - len(shape) :] != shape or index.numel() == 0:
            raise ArgumentError(
                f"variables: got shape {tuple(index.shape)}; {structure!r} expects [*lead, *shape] with shape "
                f"{tuple(shape)}, and at least one"
            )
        index = index.detach().to("cpu", torch.int64, copy=True)
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= self.variables:
            raise ArgumentError(
                f"variables: got {low if low < 0 else high}; expected numbers from 0 to {self.variables - 1}"
            )
        ordered = index.reshape(-1, shape.numel()).sort(-1).values
        twice = ordered[:, 1:] == ordered[:, :-1]
        if bool(twice.any()):
            raise ArgumentError(
                f"variables: got {int(ordered[:, 1:][twice][0])} twice in one factor; expected each at most once"
            )
        return index

    @property
    def factors(self) -> tuple[Factor, ...]:
        """What was added, in that order."""
        return tuple(self._factors)

    @property
    def extra_shapes(self) -> tuple[torch.Size, ...]:
        """Shapes of the extra scores, without batch, in the order in which ``lp_sparsemap`` takes them."""
        return tuple(shape for factor in self._factors for shape in factor.extra_shapes)

    @property
    def symmetric(self) -> bool:
        """Whether being off is regularised like being on. ArgumentError where factors disagree and nobody said."""
        if self._symmetric is not None:
            return self._symmetric
        by_kind = {bool(factor.structure.symmetric): factor.structure for factor in self._factors}
        if len(by_kind) > 1:
            raise ArgumentError(
                f"symmetric: got None, and {by_kind[True]!r} regularises being off like being on, {by_kind[False]!r} "
                "does not; expected FactorGraph(..., symmetric=True or False), which then holds for all variables"
            )
        return next(iter(by_kind), False)

    @property
    def acyclic(self) -> bool:
        """Whether variables and factors, joined where one has the other, are a forest: nothing is relaxed then."""
        layout = self.layout
        return not bool(on_cycles(layout, torch.ones(1, layout.width, dtype=torch.bool, device="cpu")).any())

    @property
    def layout(self) -> Layout:
        """The factors as a solver takes them: all of one kind together."""
        if self._layout is None:
            self._layout = Layout.of(self.variables, [(f.structure, f.variables) for f in self._factors])
        return self._layout

    @property
    def space(self) -> FactorGraphScores:
        """What the graph is called with, for the checks that all scores go through."""
        if self._space is None:
            self._space = FactorGraphScores(self.variables, self.symmetric, self._factors, self.layout)
        return self._space

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: what can be made again is left out."""
        return {**self.__dict__, "_layout": None, "_space": None}

    def __repr__(self) -> str:
        shown = [
            repr(factor.structure) if factor.lead == () else f"{factor.lead.numel()} x {factor.structure!r}"
            for factor in self._factors
        ]
        more = "" if self._symmetric is None else f", symmetric={self._symmetric}"
        return f"FactorGraph(variables={self.variables}, factors=[{', '.join(shown)}]{more})"
