"""Extra scores of the rows that a solver still works on, kept in the order in which it has those rows."""

from __future__ import annotations

import torch
from torch import Tensor

from structlat.solvers.kernels import Ints
from structlat.structure import Structure


class Extras:
    """Extra scores [B, *extra_shape] and their absolute values, -inf among these as 0.

    What all rows share is kept once; what each row has of its own is copied once, and moves as rows leave.
    """

    def __init__(self, structure: Structure, extra: tuple[Tensor, ...]) -> None:
        self.structure = structure
        self._none = torch.zeros(1, *structure.shape, dtype=torch.float64, device="cpu")
        self._shared = [x.stride(0) == 0 or len(x) == 1 for x in extra]
        own = [x[:1] if shared else x for x, shared in zip(extra, self._shared, strict=True)]
        self._both = [torch.stack([x, torch.where(torch.isneginf(x), 0, x).abs()]) for x in own]  # [2, B or 1, ...]

    def first(self, rows: int, repeats: int = 1) -> tuple[Tensor, ...]:
        """What the oracle is asked with for the first rows, each ``repeats`` times over."""
        out = []
        for both, shared in zip(self._both, self._shared, strict=True):
            x = both[0]
            if shared:
                out.append(x.expand(rows * repeats, *x.shape[1:]))
            else:
                out.append(x[:rows] if repeats == 1 else x[:rows].repeat_interleave(repeats, 0))
        return tuple(out)

    def added(self, z: Tensor, start: int = 0) -> Tensor | None:
        """What extra scores add to the scores of z [N, *event] or [N, K, *event], and to their absolute sums.

        [2, N] or [2, N, K]; None without extra scores. The rows are those from ``start`` on.
        """
        if not self._both:
            return None
        more = z.ndim - len(self.structure.event_shape)  # batch dimensions of z, which the extra scores are to have
        fitting = []
        for both, shared in zip(self._both, self._shared, strict=True):
            x = both if shared else both[:, start : start + len(z)]
            fitting.append(x.unsqueeze(2) if more == 2 else x)
        none = self._none.reshape((1,) * (more + 1) + self._none.shape[1:])
        score = self.structure.score(z.unsqueeze(0), none, *fitting)
        return score.expand(2, *z.shape[:more]).contiguous()

    def move(self, of: Ints, to: Ints) -> None:
        """Rows at the places ``of`` take the places ``to``."""
        for both, shared in zip(self._both, self._shared, strict=True):
            if not shared:
                both[:, torch.from_numpy(to)] = both[:, torch.from_numpy(of)]

    def largest(self) -> list[Tensor]:
        """The largest finite absolute value of each row, [B or 1], for each of them that is not empty."""
        return [both[1].flatten(1).amax(-1) for both in self._both if both[1, :1].numel()]
