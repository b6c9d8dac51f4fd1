"""Product: independent spaces side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError
from structlat.structure import ENUMERATION_LIMIT, Structure
from structlat.structures._host import check_event, refuse_past
from structlat.structures._pairs import best_pairs
from structlat.tractable import Tractable, flat_log_partition, flat_sample, has_sums


class Product(Structure):
    """One structure of each of several spaces: scores [*, d], z [e], all members' parts, and events, in a row.

    ``extra`` are the members' in their order. z is int64 if all members' are, otherwise it has the scores' dtype (half
    precision rounds labels past 256). A member may be any space, also one that brings nothing but ``argmax``.

    What is independent here are the scores: each member's MAP, marginals and softmax are those that it has alone. A
    sparse p is one of many with these marginals.

    Parameters
    ----------
    *spaces : Structure
        The members, all of them symmetric or none.
    """

    def __new__(cls, *spaces: Structure) -> Product:
        """A product is tractable where all members are."""
        sums = cls is Product and len(spaces) > 0 and all(isinstance(s, Structure) and has_sums(s) for s in spaces)
        made = super().__new__(_TractableProduct if sums else cls)
        assert isinstance(made, Product)
        return made

    def __init__(self, *spaces: Structure) -> None:
        if not spaces:
            raise ArgumentError("spaces: got none; expected at least one structlat.Structure")
        for i, space in enumerate(spaces):
            if not isinstance(space, Structure):
                raise ArgumentError(f"spaces[{i}]: got {space!r}; expected an instance of structlat.Structure")
        if len({bool(space.symmetric) for space in spaces}) > 1:
            odd = [repr(space) for space in spaces if space.symmetric]
            raise ArgumentError(
                f"spaces: got {', '.join(odd)} with symmetric=True beside members without; expected all or none, for "
                "both are regularised together (bits take symmetric=False)"
            )
        self.spaces = spaces
        self._parts = [torch.Size(space.shape).numel() for space in spaces]
        self._events = [torch.Size(space.event_shape).numel() for space in spaces]
        self.shape = torch.Size([sum(self._parts)])
        self.event_shape = torch.Size([sum(self._events)])
        self.event_dtype = torch.int64 if all(space.event_dtype is torch.int64 for space in spaces) else None
        self.symmetric = bool(spaces[0].symmetric)
        self.antichain = all(space.antichain for space in spaces)
        self._own = [len(space.own_extra) for space in spaces]
        shapes = [tuple(map(torch.Size, space.extra_shapes)) for space in spaces]
        self._given = [len(s) - own for s, own in zip(shapes, self._own, strict=True)]
        given = (shape for s, n in zip(shapes, self._given, strict=True) for shape in s[:n])
        own = (shape for s, n in zip(shapes, self._given, strict=True) for shape in s[n:])
        self.extra_shapes = (*given, *own)
        self.own_extra = tuple(itertools.chain.from_iterable(space.own_extra for space in spaces))
        self.intractable = next((f"{s!r} in it has none: {s.intractable}" for s in spaces if not has_sums(s)), "")

    def join(self, *scores: Tensor) -> Tensor:
        """One tensor [*batch, d] of the members' scores [*batch, *shape], which broadcast."""
        if len(scores) != len(self.spaces):
            raise ArgumentError(f"scores: got {len(scores)} tensors; expected {len(self.spaces)}, one a member")
        flat = []
        for i, (x, space) in enumerate(zip(scores, self.spaces, strict=True)):
            shape = torch.Size(space.shape)
            batch = x.shape[: max(x.ndim - len(shape), 0)]
            if x.shape != batch + shape:
                raise ArgumentError(f"scores[{i}]: got shape {tuple(x.shape)}; {space!r} expects [*, *{tuple(shape)}]")
            flat.append(x.reshape(*batch, shape.numel()))
        try:
            batch = torch.broadcast_shapes(*(x.shape[:-1] for x in flat))
        except RuntimeError:
            shapes = [tuple(x.shape[:-1]) for x in flat]
            raise ArgumentError(f"scores: got batch shapes {shapes}; expected some that broadcast") from None
        return torch.cat([x.expand(*batch, -1) for x in flat], -1)

    def split_scores(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each member's part [*batch, *shape] of scores, marginals or vertices [*batch, d]."""
        if x.ndim < 1 or x.shape[-1:] != self.shape:
            raise ArgumentError(f"x: got shape {tuple(x.shape)}; expected [*batch, {self.shape[0]}]")
        parts = x.split(self._parts, -1)
        return tuple(p.reshape(p.shape[:-1] + torch.Size(s.shape)) for p, s in zip(parts, self.spaces, strict=True))

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Each member's own structure [*batch, *event_shape] of z [*batch, e], in the member's dtype."""
        check_event(self, z)
        return tuple(
            part.reshape(part.shape[:-1] + torch.Size(space.event_shape)).to(space.event_dtype or z.dtype)
            for part, space in zip(z.split(self._events, -1), self.spaces, strict=True)
        )

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """Each member's."""
        return self._joined([space.argmax(x, *more) for space, x, *more in self._members(scores, extra)])

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best combinations of the members' k best, by two members at a time; ties in the members' order."""
        lists, values = [], []
        for space, x, *more in self._members(scores, extra):
            z, valid = space.topk(x, *more, k=k)
            value = space.score(z, x.unsqueeze(1), *(y.unsqueeze(1) for y in more))
            # rounding apart in order: what the sums below are compared by
            value, order = torch.where(valid, value, -torch.inf).sort(dim=-1, descending=True, stable=True)
            lists.append(_taken(z, order))
            values.append(value)
        index, total = best_pairs(values, k)
        valid = total > -torch.inf
        index = torch.where(valid, index, index[..., :1])
        return self._joined([_taken(z, at) for z, at in zip(lists, index, strict=True)], 2), valid

    def vertex(self, z: Tensor) -> Tensor:
        """The members' vertices in a row, [..., d]."""
        vertices = [space.vertex(part) for space, part in zip(self.spaces, self.split(z), strict=True)]
        return torch.cat([a.reshape(*z.shape[:-1], n) for a, n in zip(vertices, self._parts, strict=True)], -1)

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """The sum of the members' scores."""
        members = zip(self.split(z), self._members(scores, extra), strict=True)
        terms: list[Tensor] = [space.score(part, x, *more) for part, (space, x, *more) in members]
        return sum(terms[1:], terms[0])

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every combination, [|Z|, e], the last member's structures changing first.

        A member that differs by row takes part with the union over its rows.
        """
        refuse_past(limit, self.cardinality(), repr(self))
        lists = [space.enumerate(limit) for space in self.spaces]
        grid = torch.cartesian_prod(*(torch.arange(len(z)) for z in lists)).reshape(-1, len(lists))
        return self._joined([z[at] for z, at in zip(lists, grid.T, strict=True)])

    def cardinality(self) -> int:
        """The members' multiplied."""
        return math.prod(space.cardinality() for space in self.spaces)

    def contains(self, z: Tensor) -> Tensor:
        """Whether each member contains its part."""
        parts, whole = self.split(z), z.split(self._events, -1)
        inside = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        for space, part, before in zip(self.spaces, parts, whole, strict=True):
            same = (part.reshape(before.shape) == before).all(-1)  # no label was rounded
            inside = inside & same & space.contains(part)
        return inside

    def _members(self, scores: Tensor, extra: tuple[Tensor, ...]) -> list[Any]:
        """For each member itself, its scores, and its extra scores, those of its own last."""
        count = sum(self._given)
        given, own, members = iter(extra[:count]), iter(extra[count:]), []
        for i, (space, x) in enumerate(zip(self.spaces, self.split_scores(scores), strict=True)):
            more = [next(given) for _ in range(self._given[i])] + [next(own) for _ in range(self._own[i])]
            members.append((space, x, *more))
        return members

    def _joined(self, parts: Sequence[Tensor], lead: int = 1) -> Tensor:
        """Z [..., e] of the members' structures, which have ``lead`` dimensions in front of their own."""
        dtype = self.event_dtype or torch.float64
        flat = []
        for space, z, n in zip(self.spaces, parts, self._events, strict=True):
            check_event(space, z)
            flat.append(z.reshape(*z.shape[:lead], n).to(dtype))
        return torch.cat(flat, -1)

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.spaces))})"


class _TractableProduct(Product, Tractable):
    """The product of spaces that all have sums."""

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        members = self._members(scores, extra)
        total = torch.stack([flat_log_partition(space, x, *more) for space, x, *more in members]).sum(0)
        return torch.where(torch.isneginf(total), -torch.inf, total)  # one member without: no slope for the others

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        members = self._members(scores, extra)
        drawn = [flat_sample(space, x, *more, count=count, generator=generator) for space, x, *more in members]
        return self._joined(drawn, 2)


def _taken(z: Tensor, index: Tensor) -> Tensor:
    """The structures ``index`` [B, k] of z [B, K, *event]."""
    wide = index.reshape(index.shape + (1,) * (z.ndim - 2))
    return z.gather(1, wide.expand(index.shape + z.shape[2:]))
