"""The factors of a graph as a solver takes them: those of one kind side by side, answered by one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from structlat.structure import Structure


class Member(NamedTuple):
    """Where a factor of the graph (or those of its ``lead``) is: ``places`` in its group, ``extra`` among all extra."""

    factor: int
    places: slice
    extra: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """F factors of one kind with n parts each, which are ``variables`` [F, n], and ``columns`` among all parts."""

    structure: Structure
    variables: Tensor
    columns: slice
    members: tuple[Member, ...]

    @property
    def count(self) -> int:
        """F."""
        return len(self.variables)

    def take(self, x: Tensor) -> Tensor:
        """Its columns of x [B, E], as [B, F, *shape]."""
        return x[:, self.columns].reshape(len(x), self.count, *self.structure.shape)

    def flat(self, x: Tensor) -> Tensor:
        """Each factor of each row of x [B, F, ...] as a row of its own."""
        return x.reshape(len(x) * self.count, *x.shape[2:])

    def extra(self, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Its extra scores [B or 1, F, *extra_shape], of all [B or 1, *lead, *extra_shape]."""
        out = []
        for number, shape in enumerate(self.structure.extra_shapes):
            given = [(extra[m.extra[number]], m.places.stop - m.places.start) for m in self.members]
            rows = next((len(x) for x, _ in given if len(x) != 1), 1)
            out.append(torch.cat([x.expand(rows, *x.shape[1:]).reshape(rows, f, *shape) for x, f in given], 1))
        return tuple(out)


@dataclass(frozen=True)
class Layout:
    """All parts of all factors in one row, [E]: ``variable`` and ``factor`` [E] say whose each is; ``degree`` [n]."""

    groups: tuple[Group, ...]
    variable: Tensor
    factor: Tensor
    degree: Tensor

    @property
    def width(self) -> int:
        """E, how many parts all factors have together."""
        return len(self.variable)

    @property
    def disjoint(self) -> bool:
        """No variable is in two factors."""
        return bool((self.degree <= 1).all())

    def spread(self, x: Tensor) -> Tensor:
        """X [B, n] of the variables at all parts, [B, E]."""
        return x[:, self.variable.to(x.device)]

    def gather(self, x: Tensor) -> Tensor:
        """Sums [B, n] over the parts that each variable is, of x [B, E]."""
        return x.new_zeros(len(x), len(self.degree)).index_add(1, self.variable.to(x.device), x)

    @classmethod
    def of(cls, variables: int, factors: Sequence[tuple[Structure, Tensor]]) -> Layout:
        """Group the factors: ``structure`` and ``variables`` [*lead, *shape] of each."""
        given = [len(s.extra_shapes) - len(s.own_extra) for s, _ in factors]
        own_from, given_from = sum(given), 0
        kinds: list[tuple[Structure, list[tuple[int, Tensor, tuple[int, ...]]]]] = []
        for i, (structure, index) in enumerate(factors):
            own = len(structure.own_extra)
            extra = (*range(given_from, given_from + given[i]), *range(own_from, own_from + own))
            given_from, own_from = given_from + given[i], own_from + own
            same = next((k for kind, k in kinds if alike(kind, structure)), None)
            if same is None:
                same = []
                kinds.append((structure, same))
            same.append((i, index.reshape(-1, torch.Size(structure.shape).numel()), extra))
        groups, start, number = [], 0, 0
        owner: list[Tensor] = []
        for structure, parts in kinds:
            index, members, place = torch.cat([part for _, part, _ in parts]), [], 0
            for i, part, extra in parts:
                members.append(Member(i, slice(place, place + len(part)), extra))
                place += len(part)
            groups.append(Group(structure, index, slice(start, start + index.numel()), tuple(members)))
            owner.append(torch.arange(number, number + len(index)).repeat_interleave(index.shape[1]))
            start, number = start + index.numel(), number + len(index)
        none = torch.zeros(0, dtype=torch.int64, device="cpu")
        variable = torch.cat([none, *(group.variables.reshape(-1) for group in groups)])
        return cls(tuple(groups), variable, torch.cat([none, *owner]), variable.bincount(minlength=variables))


def alike(one: Any, other: Any) -> bool:
    """Whether two structures are of one class with equal attributes; what cannot be compared is not equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Structure):
        a, b = one.__getstate__(), other.__getstate__()
        return a.keys() == b.keys() and all(alike(value, b[name]) for name, value in a.items())
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(alike, one, other))
    return isinstance(one, (bool, int, float, str, bytes)) and bool(one == other)
