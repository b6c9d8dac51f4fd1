"""Extra scores of the rows that a solver still works on, kept in the order in which it has those rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structlat.solvers.kernels import Floats, Ints
from structlat.structure import Structure


class Extras:
    """Extra scores [B, *extra_shape]: what all rows share is kept once, what each row has of its own moves with it."""

    def __init__(self, structure: Structure, extra: tuple[Tensor, ...]) -> None:
        self.structure = structure
        self._shared = [x.stride(0) == 0 or len(x) == 1 for x in extra]
        # each row's own are copied, for they will be moved
        self._own = [x[:1] if shared else x.clone() for x, shared in zip(extra, self._shared, strict=True)]
        self._direct: Callable[..., Tensor] | None = says(structure, "_added", "score")
        self._absolute = [] if self._direct else [_finite_size(x) for x in self._own]

    def first(self, rows: int, repeats: int = 1) -> tuple[Tensor, ...]:
        """What the oracle is asked with for the first rows, each ``repeats`` times over."""
        out = []
        for x, shared in zip(self._own, self._shared, strict=True):
            if shared:
                out.append(x.expand(rows * repeats, *x.shape[1:]))
            else:
                out.append(x[:rows] if repeats == 1 else x[:rows].repeat_interleave(repeats, 0))
        return tuple(out)

    def added(self, z: Tensor, start: int = 0) -> Floats:
        """What extra scores add to the scores of z [N, K, *event], and to their absolute sums: [2, N, K].

        The rows are those from ``start`` on.
        """
        n, k = z.shape[:2]
        if not self._own:
            return np.zeros((2, n, k))
        if self._direct:
            return self._direct(z, *self._rows(self._own, start, n)).numpy()
        none = torch.zeros((1, 1, *self.structure.shape), dtype=torch.float64, device="cpu")
        out = np.empty((2, n, k))
        for i, extra in enumerate((self._own, self._absolute)):
            score = self.structure.score(z, none, *(x.unsqueeze(1) for x in self._rows(extra, start, n)))
            out[i] = score.detach().numpy()
        return out

    def move(self, of: Ints, to: Ints) -> None:
        """Rows at the places ``of`` take the places ``to``."""
        for x in (*self._own, *self._absolute):
            if len(x) > 1:
                array = x.numpy()
                array[to] = array[of]

    def largest(self) -> list[Floats]:
        """The largest finite absolute value of each row, [B or 1], for each of them that is not empty."""
        return [_finite_size(x).reshape(len(x), -1).amax(-1).numpy() for x in self._own if x.numel()]

    def _rows(self, tensors: list[Tensor], start: int, n: int) -> list[Tensor]:
        return [x if shared else x[start : start + n] for x, shared in zip(tensors, self._shared, strict=True)]


def _finite_size(x: Tensor) -> Tensor:
    return torch.where(torch.isneginf(x), 0, x).abs()


def says(structure: Structure, name: str, instead: str) -> Any:
    """What a built-in space says in ``name`` for kernels to use instead of its method ``instead``.

    None where it says nothing, or where a subclass has brought that method anew.
    """
    owner = next(cls for cls in type(structure).__mro__ if instead in vars(cls))
    return getattr(structure, name) if name in vars(owner) else None
