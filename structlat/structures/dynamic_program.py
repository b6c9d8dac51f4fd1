"""DynamicProgram: a space whose recursion is written down as hyperedges, and which gets every oracle for that."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oracles import hypergraph
from oracles.compiled import Compiled
from oracles.hypergraph import Hypergraph
from structlat.errors import ArgumentError
from structlat.operators import operator
from structlat.structure import ENUMERATION_LIMIT, structure_of
from structlat.structures._host import check_event, joined, refuse_past, to_numpy, to_torch
from structlat.structures._inside import Inside
from structlat.tractable import Tractable


class DynamicProgram(Tractable):
    """A space of derivations: a subclass sets ``shape`` and says, in :meth:`hyperedges`, how structures are built.

    MAP, k-best, enumeration, exact counts, membership, log-partition, marginals and exact samples follow. Derivations
    and structures have to correspond one to one, and no derivation may use a part twice; ``check_structure`` tells.

    z is the vertex. A space with another kind of z overrides :meth:`vertex` and :meth:`event`, its inverse.
    """

    _one_hot = False  # z are the places, along the last dimension, of the one part that is on

    @abc.abstractmethod
    def hyperedges(self) -> Iterable[tuple[Any, ...]]:
        """Yield ``(head, tails, parts)``, or ``(head, tails, parts, *extra_parts)``, in topological order.

        ``head`` is any hashable name of a node, ``tails`` are the nodes that it is built from (none: it stands for
        itself), each of which has had all of its edges before. ``parts`` are the indices into the scores that this
        edge uses (numbers or tuples), ``extra_parts`` those into each of the extra scores. The last head is the root.
        """

    def event(self, a: Tensor) -> Tensor:
        """The structure z [..., *event_shape] whose vertex is a [..., *shape] (bool). Default: a, as numbers."""
        return a

    @cached_property
    def graph(self) -> Hypergraph:
        """The hypergraph, pruned and in order; its parts are those of ``scores``, then those of the extra scores."""
        shapes = [torch.Size(self.shape), *(torch.Size(s) for s in self.extra_shapes)]
        try:
            return Hypergraph(hypergraph.by_index(self.hyperedges(), shapes), sum(s.numel() for s in shapes))
        except ValueError as error:
            raise ArgumentError(f"{type(self).__name__}.hyperedges: {error}") from None

    @cached_property
    def _inside(self) -> Inside:
        with torch.inference_mode(False):  # see Structure._every
            return Inside(self.graph, self._parts)

    @property
    def _parts(self) -> int:
        return torch.Size(self.shape).numel()

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The best derivation (Viterbi), in time linear in the number of hyperedges."""
        return self._structures(hypergraph.argmax(self.graph, *_host(scores, extra)), scores)

    def compiled(self) -> Compiled:
        """The oracle as C functions."""
        labels = torch.Size(self.shape)[-1] if self._one_hot else 0
        return hypergraph.compiled(self.graph, self._parts, labels)

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best derivations, lazily (Huang and Chiang 2005)."""
        z, valid = hypergraph.topk(self.graph, *_host(scores, extra), k=k)
        return self._structures(z, scores), to_torch(valid, scores)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Every structure, [|Z|, *event_shape]."""
        refuse_past(limit, self.cardinality(), repr(self))
        like = torch.empty(0, dtype=torch.float64, device="cpu")
        return self._structures(hypergraph.enumerate(self.graph), like)

    def cardinality(self) -> int:
        """How many derivations there are, exactly."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return hypergraph.cardinality(self.graph)

    def contains(self, z: Tensor) -> Tensor:
        """Whether a derivation uses just the parts of z."""
        check_event(self, z)
        a = self.vertex(z)
        lead = a.shape[: a.ndim - len(self.shape)]
        binary = ((a == 0) | (a == 1)).reshape(*lead, self._parts).all(-1)
        rows = (a == 1).reshape(lead.numel(), self._parts).cpu().numpy()
        found = hypergraph.derivations(self.graph, rows, self._parts)[1]
        same = self.event(a == 1).to(z.dtype) == z  # what no vertex tells: labels that do not exist
        if self.event_shape:
            same = same.flatten(start_dim=len(lead)).all(-1)
        return torch.from_numpy(found).to(a.device).reshape(lead) & binary & same

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """Scores of the parts that z uses, and of the extra parts that its derivation does.

        The derivation is looked up. A space that can say faster which extra parts z uses overrides this.
        """
        total = super().score(z, scores)
        if not extra:
            return total
        event = torch.Size(self.event_shape)
        lead = z.shape[: z.ndim - len(event)]
        sizes = [torch.Size(shape).numel() for shape in self.extra_shapes]
        used = _extra_parts(z.detach().reshape(lead.numel(), *event), self.handle).split(sizes, -1)
        for x, shape, part in zip(extra, self.extra_shapes, used, strict=True):
            on = part.reshape(*lead, *shape)
            # selected, not multiplied: 0 * -inf is NaN
            total = total + torch.where(on, x, 0).flatten(start_dim=-len(shape)).sum(-1)
        return total

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        more = None
        if extra:
            rows = max(len(x) for x in extra)
            more = torch.cat([x.expand(rows, *x.shape[1:]).flatten(start_dim=1) for x in extra], 1).T
        _build(self.handle)
        return self._inside.log_partition(scores.flatten(start_dim=1).T, more).expand(len(scores))

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        device = scores.device if generator is None else generator.device
        size = (count, len(scores), self.graph.longest)
        uniform = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        drawn = hypergraph.sample(self.graph, *_host(scores, extra), uniform=uniform.cpu().numpy())
        return self._structures(drawn, scores)

    def _structures(self, used: npt.NDArray[np.bool_], like: Tensor) -> Tensor:
        """Structures from the parts that derivations use, [..., P + Q]."""
        lead = used.shape[:-1]
        a = np.ascontiguousarray(used[..., : self._parts]).reshape(*lead, *self.shape)
        z = self.event(torch.from_numpy(a))
        return to_torch(z.numpy(), like, self.event_dtype or like.dtype)


@torch.compiler.assume_constant_result
def _build(handle: str) -> bool:
    """Build a structure's graph and layers, once: not as part of what a compiler or a transform traces.

    A compiler cannot trace it, and a tensor made inside a transform would belong to that transform.
    """
    structure = structure_of(handle)
    assert isinstance(structure, DynamicProgram)
    with torch._C._DisableFuncTorch():
        return structure._inside is not None


def _host(scores: Tensor, extra: tuple[Tensor, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return to_numpy(scores).reshape(len(scores), scores.shape[1:].numel()), joined(extra, len(scores))


def _extra_fake(z: Tensor, handle: str) -> Tensor:
    structure = structure_of(handle)
    return z.new_empty(z.shape[0], sum(torch.Size(s).numel() for s in structure.extra_shapes), dtype=torch.bool)


@operator("extra_parts", _extra_fake)
def _extra_parts(z: Tensor, handle: str) -> Tensor:
    """The extra parts that the derivations of z [N, *event_shape] use, [N, Q]; none where z is no structure."""
    structure = structure_of(handle)
    assert isinstance(structure, DynamicProgram)
    on = structure.vertex(z).reshape(len(z), structure._parts) > 0
    rest, _ = hypergraph.derivations(structure.graph, on.cpu().numpy(), structure._parts)
    return torch.from_numpy(rest).to(z.device)
