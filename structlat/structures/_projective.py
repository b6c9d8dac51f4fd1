"""Projective dependency trees as derivations: Eisner's algorithm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from structlat.structures.dynamic_program import DynamicProgram


class ProjectiveTrees(DynamicProgram):
    """Heads [words] of trees that can be drawn above the sentence, root first, without a crossing (Eisner 1996).

    A span is built from the word at one of its ends, which governs the rest of it: its dependents on that side have all
    been found ("done"), or the last of them is the word at the other end, whose own on that side are open. So each
    tree is built in just one way.
    """

    event_dtype = torch.int64
    _one_hot = True
    antichain = True

    def __init__(self, words: int, multi_root: bool) -> None:
        self.words = words
        self.multi_root = multi_root
        self.shape = torch.Size([words, words + 1])
        self.event_shape = torch.Size([words])

    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """Spans i..j, with the governing word on the left, or on the right; 0 is the root, which spans from 0 alone."""
        n = self.words
        first = 0 if self.multi_root else 1
        for width in range(n + 1 - first):
            for i in range(first, n + 1 - width):
                j = i + width
                if width == 0:
                    yield ("done", i, j, "left"), [], []
                    yield ("done", i, j, "right"), [], []
                    continue
                for k in range(i, j):
                    yield ("halves", i, j), [("done", i, k, "left"), ("done", k + 1, j, "right")], []
                yield ("open", i, j, "left"), [("halves", i, j)], [(j - 1, i)]
                for k in range(i + 1, j + 1):
                    yield ("done", i, j, "left"), [("open", i, k, "left"), ("done", k, j, "left")], []
                if i > 0:
                    yield ("open", i, j, "right"), [("halves", i, j)], [(i - 1, j)]
                    for k in range(i, j):
                        yield ("done", i, j, "right"), [("done", i, k, "right"), ("open", k, j, "right")], []
        if self.multi_root:
            yield "tree", [("done", 0, n, "left")], []
        else:
            for top in range(1, n + 1):
                yield "tree", [("done", 1, top, "right"), ("done", top, n, "left")], [(top - 1, 0)]

    def vertex(self, z: Tensor) -> Tensor:
        """One-hot heads, [..., words, words + 1], in torch's default dtype."""
        return (z.unsqueeze(-1) == torch.arange(self.words + 1, device=z.device)).to(torch.get_default_dtype())

    def event(self, a: Tensor) -> Tensor:
        """The head of each word, -1 for none."""
        return torch.where(a.any(-1), a.to(torch.int8).argmax(-1), -1)

    def __repr__(self) -> str:
        return f"ProjectiveTrees({self.words}, multi_root={self.multi_root})"
