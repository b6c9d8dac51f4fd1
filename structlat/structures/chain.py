"""LinearChain: a label for each position, with scores for labels and for neighbouring pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import chain
from oracles.compiled import Compiled
from structlat.errors import ArgumentError, check_count, rows_text
from structlat.problem import make_problem
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._host import check_event, is_label, pick, refuse_past, to_numpy, to_torch


class LinearChain(Structure):
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

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The Viterbi path."""
        return to_torch(chain.argmax(to_numpy(scores), to_numpy(extra[0])), scores)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        return chain.compiled(self.length, self.states)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best paths, by k-best Viterbi."""
        z, valid = chain.topk(to_numpy(scores), to_numpy(extra[0]), k)
        return to_torch(z, scores), to_torch(valid, scores)

    def vertex(self, z: Tensor) -> Tensor:
        """One-hot labels, [..., length, states], in torch's default dtype."""
        return (z.unsqueeze(-1) == torch.arange(self.states, device=z.device)).to(torch.get_default_dtype())

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
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            came = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
            raise ArgumentError(f"lengths: got {came}; expected a tensor of an integer dtype")
        bad = (lengths < 0) | (lengths > self.length)
        if bool(bad.any()):
            raise ArgumentError(f"lengths: outside 0..{self.length} in {rows_text(bad)}")
        batch_shape = make_problem(self, unary, (transition,)).batch_shape
        try:
            lengths = lengths.to(unary.device).expand(batch_shape)
        except RuntimeError:
            raise ArgumentError(
                f"lengths: got shape {tuple(lengths.shape)}; expected one that broadcasts to {tuple(batch_shape)}"
            ) from None
        padding = torch.arange(self.length, device=unary.device) >= lengths.unsqueeze(-1)
        only_first = torch.full((self.states,), -torch.inf, dtype=unary.dtype, device=unary.device)
        only_first[0] = 0
        unary = torch.where(padding.unsqueeze(-1), only_first, unary)
        return unary, torch.where(padding[..., 1:, None, None], 0, transition)

    def __repr__(self) -> str:
        return f"LinearChain({self.length}, {self.states})"
