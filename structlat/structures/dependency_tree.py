"""DependencyTree: which word each word of a sentence hangs on."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles import arborescence
from oracles.compiled import Compiled
from structlat.errors import check_count
from structlat.problem import make_problem
from structlat.structure import ENUMERATION_LIMIT
from structlat.structures._arborescence import log_trees
from structlat.structures._host import check_event, is_label, pick, refuse_past, to_numpy, to_torch
from structlat.structures._lengths import checked_lengths
from structlat.structures._projective import ProjectiveTrees
from structlat.tractable import Tractable


class DependencyTree(Tractable):
    """Dependency trees of a sentence: scores [*, words, words + 1]; z [words] int64, the head of each word.

    ``scores[..., m, h]`` scores h as the head of word m: 0 is the root, h > 0 is word h - 1. So ``scores[..., m, m +
    1]``, a word as its own head, is in no tree, and never read.

    Parameters
    ----------
    words : int
        At least 1.
    projective : bool
        Trees that can be drawn above the sentence, the root on its left, without a crossing (MAP: Eisner 1996). Else
        all of them (MAP: Chu and Liu 1965, Edmonds 1967; sums: Koo et al. 2007).
    multi_root : bool
        Any number of words may hang on the root; else exactly one does.
    """

    event_dtype = torch.int64
    _one_hot = True
    antichain = True

    def __init__(self, words: int, projective: bool = True, multi_root: bool = True) -> None:
        self.words = check_count("words", words)
        self.projective = bool(projective)
        self.multi_root = bool(multi_root)
        self.shape = torch.Size([self.words, self.words + 1])
        self.event_shape = torch.Size([self.words])
        self._program = ProjectiveTrees(self.words, self.multi_root) if self.projective else None

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best tree, by Eisner's algorithm or Chu-Liu-Edmonds'."""
        if self._program is not None:
            return self._program.argmax(scores)
        return to_torch(arborescence.argmax(to_numpy(scores), self.multi_root), scores)

    def compiled(self) -> Compiled | None:
        """The oracle as C functions."""
        if self._program is not None:
            return self._program.compiled()
        return arborescence.compiled(self.words, self.multi_root)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best trees: lazily from Eisner's items, or by Lawler's partition."""
        if self._program is not None:
            return self._program.topk(scores, k=k)
        z, valid = arborescence.topk(to_numpy(scores), k, self.multi_root)
        return to_torch(z, scores), to_torch(valid, scores)

    def vertex(self, z: Tensor) -> Tensor:
        """One-hot heads, [..., words, words + 1], in torch's default dtype."""
        return (z.unsqueeze(-1) == torch.arange(self.words + 1, device=z.device)).to(torch.get_default_dtype())

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Sum of the scores of the arcs; -inf where a word has no head (-1: ``argmax`` found no tree)."""
        total = pick(scores, 1, torch.arange(self.words, device=z.device), z.clamp(min=0)).sum(-1)
        return torch.where((z >= 0).all(-1), total, -torch.inf)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every tree, [|Z|, words]."""
        refuse_past(limit, self.cardinality(), repr(self))
        if self._program is not None:
            return self._program.enumerate(limit)
        return torch.from_numpy(arborescence.enumerate(self.words, self.multi_root))

    def cardinality(self) -> int:
        """How many trees there are: counted by Eisner's recursion, or by Cayley's formula."""
        if self._program is not None:
            return self._program.cardinality()
        return arborescence.cardinality(self.words, self.multi_root)

    def contains(self, z: Tensor) -> Tensor:
        """Whether z are heads, from 0 to ``words``, of a tree of this space."""
        check_event(self, z)
        known = is_label(z, self.words + 1).all(-1)
        heads = torch.where(known.unsqueeze(-1), z, 0).to(torch.int64)
        above = torch.cat([torch.zeros_like(heads[..., :1]), heads], -1)
        for _ in range(self.words.bit_length()):  # twice as far up each time
            above = above.gather(-1, above)
        known &= (above == 0).all(-1)
        if not self.multi_root:
            known &= (heads == 0).sum(-1) == 1
        return known & ~_crosses(heads) if self.projective else known

    def mask(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores under which a padded batch gives what each example gives alone.

        Words from ``lengths`` on hang on the word before them (the first one on the root), at score 0, and nothing
        else hangs on them.

        Parameters
        ----------
        scores : Tensor [*batch, words, words + 1]
        lengths : integer Tensor that broadcasts to [*batch], from 0 to ``words``
        """
        batch_shape = make_problem(self, scores, ()).batch_shape
        n = checked_lengths("lengths", lengths, self.words, batch_shape, scores.device)[..., None, None]
        word = torch.arange(self.words, device=scores.device).unsqueeze(-1)
        head = torch.arange(self.words + 1, device=scores.device)
        own = torch.where(head > n, -torch.inf, scores)
        return torch.where(word < n, own, torch.where(head == word, 0.0, -torch.inf).to(scores.dtype))

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        if self._program is not None:
            return self._program._log_partition(scores)
        return log_trees(scores, self.multi_root)

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        if self._program is not None:
            return self._program._sample(scores, count=count, generator=generator)
        device = scores.device if generator is None else generator.device
        size = (count, len(scores), self.words)
        uniform = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        return to_torch(arborescence.sample(to_numpy(scores), uniform.cpu().numpy(), self.multi_root), scores)

    def __repr__(self) -> str:
        return f"DependencyTree({self.words}, projective={self.projective}, multi_root={self.multi_root})"


def _crosses(heads: Tensor) -> Tensor:
    """Whether two arcs of the heads [..., n], drawn above the sentence with the root on its left, cross."""
    word = torch.arange(1, heads.shape[-1] + 1, device=heads.device)
    low, high = torch.minimum(heads, word), torch.maximum(heads, word)
    starts = (low.unsqueeze(-1) < low.unsqueeze(-2)) & (low.unsqueeze(-2) < high.unsqueeze(-1))
    return (starts & (high.unsqueeze(-1) < high.unsqueeze(-2))).flatten(start_dim=-2).any(-1)
