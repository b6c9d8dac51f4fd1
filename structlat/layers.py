"""The normalizers as modules: settings at construction; the structure there too, or at the call."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from structlat.distribution import SparseDistribution
from structlat.errors import ArgumentError, check_choice, check_count
from structlat.normalizers import (
    NORMALIZERS,
    check_options,
    marginalize,
    sparsemap,
    topk_sparsemax,
)
from structlat.problem import check_gamma
from structlat.structure import Structure


class _Layer(nn.Module):
    """A normalizer with its settings. ``layer(scores, *extra)``, or ``layer(structure, scores, *extra)``."""

    def __init__(self, structure: Structure | None, **settings: Any) -> None:
        super().__init__()
        if structure is not None and not isinstance(structure, Structure):
            raise ArgumentError(f"structure: got {type(structure).__name__}; expected a structlat.Structure or None")
        self.structure = structure
        self.settings = settings

    def forward(self, *args: Structure | Tensor, **call: Any) -> SparseDistribution:
        """Scores [*batch, *shape] and extra scores, after a structure where none was given at construction."""
        structure: Any = self.structure
        if args and isinstance(args[0], Structure):
            structure, args = args[0], args[1:]
        if structure is None:
            raise ArgumentError("structure: none was given, neither at construction nor at the call")
        if not args:
            raise ArgumentError("scores: none were given; expected a tensor [*batch, *shape]")
        return self._normalize(structure, *args, **call)

    def _normalize(self, structure: Structure, *scores: Any) -> SparseDistribution:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The settings, as repr shows them."""
        shown = [repr(self.structure)] if self.structure is not None else []
        return ", ".join(shown + [f"{name}={value!r}" for name, value in self.settings.items()])


class Marginalize(_Layer):
    """:func:`structlat.marginalize` as a module."""

    def __init__(self, structure: Structure | None = None, normalizer: str = "softmax") -> None:
        check_choice("normalizer", normalizer, NORMALIZERS)
        super().__init__(structure, normalizer=normalizer)

    def _normalize(self, structure: Structure, *scores: Any) -> SparseDistribution:
        return marginalize(structure, *scores, **self.settings)


class TopKSparsemax(_Layer):
    """:func:`structlat.topk_sparsemax` as a module."""

    def __init__(self, structure: Structure | None = None, k: int = 10) -> None:
        super().__init__(structure, k=check_count("k", k))

    def _normalize(self, structure: Structure, *scores: Any) -> SparseDistribution:
        return topk_sparsemax(structure, *scores, **self.settings)


class SparseMAP(_Layer):
    """:func:`structlat.sparsemap` as a module; keyword arguments are those of the function.

    ``layer(scores, *extra, init=previous)`` starts from an earlier answer. A ``gamma`` that is an ``nn.Parameter`` is
    learned with the rest.
    """

    def __init__(
        self,
        structure: Structure | None = None,
        gamma: float | Tensor = 1.0,
        solver: str = "auto",
        tol: float = 1e-9,
        max_iter: int | None = None,
        on_failure: Literal["warn", "raise", "ignore"] = "warn",
        validate: bool = False,
        trace: bool = False,
    ) -> None:
        check_options(solver, tol, max_iter, on_failure)
        super().__init__(
            structure,
            solver=solver,
            tol=tol,
            max_iter=max_iter,
            on_failure=on_failure,
            validate=validate,
            trace=trace,
        )
        if not isinstance(gamma, Tensor):
            check_gamma(gamma)
        if isinstance(gamma, nn.Parameter) or not isinstance(gamma, Tensor):
            self.gamma = gamma
        else:
            self.register_buffer("gamma", gamma)

    def _normalize(
        self, structure: Structure, *scores: Any, init: SparseDistribution | None = None
    ) -> SparseDistribution:
        return sparsemap(structure, *scores, gamma=self.gamma, init=init, **self.settings)

    def extra_repr(self) -> str:
        """The settings, gamma among them."""
        gamma = self.gamma.tolist() if isinstance(self.gamma, Tensor) else self.gamma
        learned = " (learned)" if isinstance(self.gamma, nn.Parameter) else ""
        return f"{super().extra_repr()}, gamma={gamma!r}{learned}"
