"""Restricted: a space some of whose parts are fixed for good."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from oracles import partition
from structlat.errors import ArgumentError
from structlat.lawler import zero_inputs
from structlat.map_oracle import ask_argmax
from structlat.operators import operator
from structlat.structure import ENUMERATION_LIMIT, Structure, structure_of
from structlat.structures._host import refuse_past, to_numpy, to_torch
from structlat.tractable import Tractable, flat_log_partition, flat_sample, has_sums

SHOWN = 8  # parts in an error or a repr
VANISHING = 50.0  # nats: exp(-50) is far below the last digit of a number in double precision


class Restricted(Structure):
    """The structures of ``space`` that have every part in ``on`` and none in ``off``; scores, extra and z as there.

    Any space will do: its own oracles are asked, with a bonus for what is forced that outweighs everything else. The
    fixed parts keep their scores, and their place in the regulariser.

    Parameters
    ----------
    space : Structure
    on, off : bool Tensor [*space.shape], optional
        True where a part is fixed. Default: nowhere.

    Raises
    ------
    ArgumentError
        A wrong type, dtype or shape; parts in both; or no structure that is left, naming the parts.
    """

    def __new__(cls, space: Structure, on: Tensor | None = None, off: Tensor | None = None) -> Restricted:
        """It is tractable where the space is."""
        sums = cls is Restricted and isinstance(space, Structure) and has_sums(space)
        made = super().__new__(_TractableRestricted if sums else cls)
        assert isinstance(made, Restricted)
        return made

    def __getnewargs__(self) -> tuple[Structure, Tensor, Tensor]:
        """For pickle and deepcopy."""
        return self.space, self.on, self.off

    def __init__(self, space: Structure, on: Tensor | None = None, off: Tensor | None = None) -> None:
        if not isinstance(space, Structure):
            raise ArgumentError(f"space: got {space!r}; expected an instance of structlat.Structure")
        self.space = space
        self.shape = torch.Size(space.shape)
        self.on, self.off = self._checked("on", on), self._checked("off", off)
        if bool((self.on & self.off).any()):
            raise ArgumentError(f"on, off: got {_parts_text(self.on & self.off)} in both; expected each in one of them")
        self.extra_shapes, self.own_extra = space.extra_shapes, space.own_extra
        self.event_shape, self.event_dtype = torch.Size(space.event_shape), space.event_dtype
        self.symmetric, self.antichain, self.intractable = space.symmetric, space.antichain, space.intractable
        answers = (ask_argmax(self, scores, *extra) for scores, extra in zero_inputs(self))
        if not any(bool(torch.isfinite(answer.score).all()) for answer in answers):
            said = {"on": "has", "off": "lacks"}
            fixed = {name: x for name, x in (("on", self.on), ("off", self.off)) if x.any()}
            asked = " and ".join(f"{said[name]} {_parts_text(x)}" for name, x in fixed.items())
            raise ArgumentError(f"{', '.join(fixed)}: no structure of {space!r} {asked}; expected at least one")

    def argmax(self, scores: Tensor, *extra: Tensor) -> Tensor:
        """The space's, with a bonus on what is forced."""
        return self.space.argmax(*self._forced(scores, extra))

    def topk(self, scores: Tensor, *extra: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The space's, with a bonus on what is forced: those that have all of it come first."""
        z, valid = self.space.topk(*self._forced(scores, extra), k=k)
        value = self.score(z, scores.unsqueeze(1), *(x.unsqueeze(1) for x in extra))
        value, order = torch.where(valid, value, -torch.inf).sort(dim=-1, descending=True, stable=True)
        valid = value > -torch.inf
        order = torch.where(valid, order, order[:, :1])
        wide = order.reshape(order.shape + (1,) * (z.ndim - 2))
        return z.gather(1, wide.expand(order.shape + z.shape[2:])), valid

    def vertex(self, z: Tensor) -> Tensor:
        """The space's, what is fixed included."""
        return self.space.vertex(z)

    def score(self, z: Tensor, scores: Tensor, *extra: Tensor) -> Tensor:
        """The space's; -inf for what is no structure of this one."""
        return torch.where(self._obeys(z), self.space.score(z, scores, *extra), -torch.inf)

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Tensor:
        """Those of the space that are left, in its order; where there are too many to look through, by argmax alone."""
        try:
            every = self.space.enumerate()
        except ArgumentError:
            return super().enumerate(limit)
        every = every[self._obeys(every)]
        refuse_past(limit, len(every), repr(self))
        return every

    def contains(self, z: Tensor) -> Tensor:
        """Whether the space contains z, and what is fixed is as it should be."""
        return self.space.contains(z) & self._obeys(z)

    def _obeys(self, z: Tensor) -> Tensor:
        on, off = self.on.to(z.device), self.off.to(z.device)
        broken = (on | off) & ((self.space.vertex(z) > 0) != on)
        return ~(broken.flatten(start_dim=broken.ndim - len(self.shape)).any(-1) if self.shape else broken)

    def _free(self, scores: Tensor) -> Tensor:
        """Scores without those of what is forced on (0, or -inf if that is forbidden), -inf on what is off."""
        on, off = self.on.to(scores.device), self.off.to(scores.device)
        return torch.where(off, -torch.inf, torch.where(on & ~torch.isneginf(scores), 0, scores))

    def _forced(self, scores: Tensor, extra: tuple[Tensor, ...]) -> list[Tensor]:
        """Scores and extra scores of a flat batch under which the space's oracles give structures of this one."""
        free = self._free(scores)
        if not bool(self.on.any()):
            return [free, *extra]
        on = self.on.flatten().expand(len(scores), -1).numpy()
        outweighed = partition.restrict(to_numpy(free), tuple(map(to_numpy, extra)), on, on & False)
        return [to_torch(outweighed[0], scores), *(to_torch(x, scores) for x in outweighed[1])]

    def _checked(self, name: str, parts: Tensor | None) -> Tensor:
        if parts is None:
            return torch.zeros(self.shape, dtype=torch.bool, device="cpu")
        if not isinstance(parts, Tensor) or parts.dtype != torch.bool or parts.shape != self.shape:
            came = f"{parts.dtype} {tuple(parts.shape)}" if isinstance(parts, Tensor) else type(parts).__name__
            raise ArgumentError(
                f"{name}: got {came}; expected a bool tensor {tuple(self.shape)}, True where it is fixed"
            )
        return parts.to("cpu", copy=True)

    def __repr__(self) -> str:
        fixed = [f", {name}={_listed(x)}" for name, x in (("on", self.on), ("off", self.off)) if x.any()]
        return f"Restricted({self.space!r}{''.join(fixed)})"


class _TractableRestricted(Restricted, Tractable):
    """Of a space that has sums: those in which structures that lack a forced part have vanished."""

    @cached_property
    def _log_count(self) -> float:
        """At least the logarithm of the number of structures of the space."""
        total = [flat_log_partition(self.space, scores, *extra) for scores, extra in zero_inputs(self.space)]
        return float(torch.logsumexp(torch.cat(total), 0))

    def _log_partition(self, scores: Tensor, *extra: Tensor) -> Tensor:
        rewarded, bonus, feasible = self._rewarded(scores, extra)
        on = self.on.to(scores.device)
        fixed = torch.where(on, scores, 0).flatten(start_dim=1).sum(-1)
        total = flat_log_partition(self.space, rewarded, *extra) - bonus * on.sum() + fixed
        return torch.where(feasible, total, -torch.inf)

    def _sample(self, scores: Tensor, *extra: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        rewarded, _, _ = self._rewarded(scores, extra)
        return flat_sample(self.space, rewarded, *extra, count=count, generator=generator)

    def _rewarded(self, scores: Tensor, extra: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores with a bonus in place of those of what is forced, the bonus [B], and which rows are feasible, [B]."""
        bonus, feasible = _bonus(scores.detach(), [x.detach() for x in extra], self.handle)
        each = bonus.reshape(-1, *(1,) * len(self.shape))
        return torch.where(self.on.to(scores.device), each, self._free(scores)), bonus, feasible


def _bonus_fake(scores: Tensor, extra: list[Tensor], handle: str) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[0]), scores.new_empty(scores.shape[0], dtype=torch.bool)


@operator("restricted_bonus", _bonus_fake)
def _bonus(scores: Tensor, extra: list[Tensor], handle: str) -> tuple[Tensor, Tensor]:
    """A score for each part that is forced, [B], with which all others have vanished; and which rows are feasible.

    The best structure that lacks a forced part, times their number, comes to exp(-50) of the best one that has them
    all: two questions to the oracle give a smaller bonus than any bound from the scores alone, and fewer lost digits.
    """
    space = structure_of(handle)
    assert isinstance(space, _TractableRestricted)
    if not len(scores):
        return _bonus_fake(scores, extra, handle)
    wide = [x.cpu().expand(len(scores), *x.shape[1:]) for x in (scores, *extra)]
    free, own = ask_argmax(space.space, space._free(wide[0]), *wide[1:]), ask_argmax(space, *wide)
    feasible = torch.isfinite(own.score)
    least = space.space.score(own.z, space._free(wide[0]), *wide[1:])
    bonus = torch.where(feasible, free.score - least, 0) + space._log_count + VANISHING
    return bonus.to(scores.device), feasible.to(scores.device)


def _listed(parts: Tensor) -> str:
    index = [part[0] if len(part) == 1 else tuple(part) for part in parts.nonzero().tolist()]
    more = f", ... ({len(index)})" if len(index) > SHOWN else ""
    return f"[{', '.join(map(str, index[:SHOWN]))}{more}]"


def _parts_text(parts: Tensor) -> str:
    return f"part{'s' if parts.sum() > 1 else ''} {_listed(parts)[1:-1]}"
