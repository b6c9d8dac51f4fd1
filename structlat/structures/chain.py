"""LinearChain: a label for each position, with scores for labels and for neighbouring pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from oracles import chain
from oracles.compiled import Compiled
from structlat.errors import ArgumentError, check_count
from structlat.problem import make_problem
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._host import check_event, is_label, pick, refuse_past, to_numpy, to_torch
from structlat.structures._lengths import checked_lengths
from structlat.structures.dynamic_program import DynamicProgram


class LinearChain(DynamicProgram):
    """Sequences of labels: scores [*, length, states], extra [*, length - 1, states, states]; z [length] int64.

    ``extra[..., t, i, j]`` scores label i at position t followed by label j; it is not regularised. [states, states] is
    shared by all rows and positions.

    Parameters
    ----------
    length, states : int
        At least 1.
    """

    event_dtype = torch.int64
    _one_hot = True
    antichain = True

    def __init__(self, length: int, states: int) -> None:
        self.length = check_count("length", length)
        self.states = check_count("states", states)
        self.shape = torch.Size([self.length, self.states])
        self.event_shape = torch.Size([self.length])
        self.extra_shapes = (torch.Size([self.length - 1, self.states, self.states]),)

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """Those of the oracle."""
        return chain.hyperedges(self.length, self.states)

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The Viterbi path, by a kernel of its own: several labels at a time."""
        return to_torch(chain.argmax(to_numpy(scores), to_numpy(extra[0])), scores)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return chain.compiled(self.length, self.states)

    def vertex(self, z: Tensor) -> Tensor:
        """One-hot labels, [..., length, states], in torch's default dtype."""
        return (z.unsqueeze(-1) == torch.arange(self.states, device=z.device)).to(torch.get_default_dtype())

    def event(self, a: Tensor) -> Tensor:
        """The labels."""
        return a.to(torch.uint8).argmax(-1)

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Sum of the scores of the labels and of their transitions."""
        position = torch.arange(self.length, device=z.device)
        total = pick(scores, 1, position, z).sum(-1)
        return total + pick(extra[0], 1, position[:-1], z[..., :-1], z[..., 1:]).sum(-1)

    def _added(self, z: Tensor, *extra: Tensor) -> Tensor:
        """What transitions add to the scores of z [B, K, length], and to their absolute sums: [2, B, K]."""
        return torch.from_numpy(chain.extra_scores(z.contiguous().numpy(), extra[0].contiguous().numpy()))

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every sequence of labels, [states^length, length], in lexicographic order."""
        refuse_past(limit, self.cardinality(), repr(self))
        return torch.from_numpy(chain.enumerate(self.length, self.states))

    def cardinality(self) -> int:
        """states^length."""
        return chain.cardinality(self.length, self.states)

    def contains(self, z: Tensor) -> Tensor:
        """Whether all labels are whole numbers from 0 to states - 1."""
        check_event(self, z)
        return is_label(z, self.states).all(-1)

    def ends(
        self,
        unary: Tensor,
        start: Tensor | None = None,
        end: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Unary scores with scores for the first and the last label added to them.

        Parameters
        ----------
        unary : Tensor [*batch, length, states]
        start, end : Tensors that broadcast to [*batch, states], optional
        lengths : integer Tensor that broadcasts to [*batch], from 0 to ``length``, optional
            The last label is that of position ``lengths - 1``. Where there is none, nothing is added. To be called
            before :meth:`mask`.

        Returns
        -------
        Tensor [*batch, length, states]
        """
        batch_shape = unary.shape[:-2]
        n = checked_lengths("lengths", lengths, self.length, batch_shape, unary.device)
        position = torch.arange(self.length, device=unary.device)
        for name, x, here in (
            ("start", start, (position == 0) & (n > 0).unsqueeze(-1)),
            ("end", end, position == (n - 1).unsqueeze(-1)),
        ):
            if x is None:
                continue
            if x.shape[-1:] != (self.states,):
                raise ArgumentError(
                    f"{name}: got shape {tuple(x.shape)}; expected one that broadcasts to [*batch, states] = "
                    f"{(*batch_shape, self.states)}"
                )
            unary = unary + torch.where(here.unsqueeze(-1), x.unsqueeze(-2), 0)
        return unary

    def mask(self, unary: Tensor, transition: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scores under which a padded batch gives what each example gives alone.

        Positions from ``lengths`` on carry label 0 with probability 1, at score 0.

        Parameters
        ----------
        unary : Tensor [*batch, length, states]
        transition : Tensor that broadcasts to [*batch, length - 1, states, states]
        lengths : integer Tensor that broadcasts to [*batch], from 0 to ``length``

        Returns
        -------
        unary, transition : Tensor, Tensor
            To be passed on as scores and extra.
        """
        batch_shape = make_problem(self, unary, (transition,)).batch_shape
        lengths = checked_lengths("lengths", lengths, self.length, batch_shape, unary.device)
        padding = torch.arange(self.length, device=unary.device) >= lengths.unsqueeze(-1)
        only_first = torch.full((self.states,), -torch.inf, dtype=unary.dtype, device=unary.device)
        only_first[0] = 0
        unary = torch.where(padding.unsqueeze(-1), only_first, unary)
        return unary, torch.where(padding[..., 1:, None, None], 0, transition)

    def __repr__(self) -> str:
        return f"LinearChain({self.length}, {self.states})"
