"""What all estimators share: one constructor, one call, one answer; and how the caller's loss is asked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structlat.errors import ArgumentError, check_count
from structlat.structure import Structure
from structlat.tractable import has_sums

LossFn = Callable[[Tensor, Tensor], Tensor]


class Estimate(NamedTuple):
    """What an estimator says about E[loss] under q, the distribution over structures that the scores give; [*batch]."""

    surrogate: Tensor
    """To be differentiated: the gradient of its mean is that of E[loss], for the scores and for what is inside the
    loss. Its number is ``value``."""
    value: Tensor
    """The estimate of E[loss], without a graph; of VIMCO, of its bound."""
    entropy: Tensor
    """Of q, in nats, differentiable; of estimators that perturb, the entropy of the perturbation."""
    calls: Tensor
    """How many structures the loss was asked about; int64."""


class Loss:
    """The caller's loss of structures, asked in one call, and its answer checked."""

    def __init__(self, fn: LossFn, structure: Structure, vertices: bool, dtype: torch.dtype) -> None:
        if not callable(fn):
            raise ArgumentError(f"loss_fn: got {type(fn).__name__}; expected a function from (z, i) to losses [N]")
        self.fn, self.structure, self.vertices, self.dtype = fn, structure, vertices, dtype

    def takes_vertices(self) -> bool:
        """Whether what it gets are vertices, asked for or because z is its own."""
        return self.vertices or type(self.structure).vertex is Structure.vertex

    def __call__(self, z: Tensor, there: Tensor | None = None) -> Tensor:
        """Losses [S, *batch] of z [S, *batch, *event]; 0 where ``there`` [S, *batch] is False, which is not asked."""
        lead = z.shape[: z.ndim - len(self.structure.event_shape)]
        return self._ask(z, lead, there, self.vertices)

    def of_vertices(self, a: Tensor) -> Tensor:
        """Losses [S, *batch] of vertices a [S, *batch, *shape], relaxed ones or such as have a derivative."""
        return self._ask(a, a.shape[: a.ndim - len(self.structure.shape)], None, False)

    def flat(self, z: Tensor, row: Tensor) -> Tensor:
        """Losses [N] of vertices or structures z [N, ...] of the flat rows [N]."""
        out = self.fn(z, row)
        if not isinstance(out, Tensor) or out.shape != row.shape or out.is_complex():
            came = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"loss_fn: returned {came}; expected a tensor of real losses [N] with N = {len(row)}")
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def _ask(self, x: Tensor, lead: torch.Size, there: Tensor | None, vertices: bool) -> Tensor:
        x = x.reshape(lead.numel(), *x.shape[len(lead) :])
        row = torch.arange(lead[1:].numel(), device=x.device).repeat(lead[0])
        kept = None if there is None else there.reshape(lead.numel()).nonzero().squeeze(1)
        if kept is not None:
            x, row = x[kept], row[kept]
        out = self.flat(self.structure.vertex(x).to(self.dtype) if vertices else x, row)
        if kept is not None:
            out = out.new_zeros(lead.numel()).index_put((kept,), out)
        return out.reshape(lead)


class Call(NamedTuple):
    """One call of an estimator, as its formula sees it."""

    loss: Loss
    scores: Tensor
    extra: tuple[Tensor, ...]
    context: Tensor | None
    generator: torch.Generator | None


class Estimator(nn.Module):
    """An estimate of E[loss] under a distribution q over structures, whose gradient trains encoder and loss alike.

    Parameters
    ----------
    structure : Structure
    vertices : bool
        Whether the loss gets vertices a_z [N, *shape], in the scores' dtype, instead of structures z [N, *event].
    generator : torch.Generator, optional
        What is drawn from. Default: torch's own. Copies and pickles of the estimator have one of their own, that goes
        on from the same state; ``state_dict`` holds the state, so that a checkpoint restores it. None of this is so for
        a generator that is given at the call.
    """

    name: str  # in errors

    def __init__(
        self, structure: Structure, *, vertices: bool = False, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if not isinstance(structure, Structure):
            raise ArgumentError(f"structure: got {_named(structure)}; expected an instance of structlat.Structure")
        self.structure = structure
        self.vertices = bool(vertices)
        self.generator = generator

    def forward(
        self,
        loss_fn: LossFn,
        scores: Tensor,
        *extra: Tensor,
        context: Tensor | None = None,
        vertices: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimate E[loss]; in evaluation mode too, where nothing that is kept is changed.

        Parameters
        ----------
        loss_fn : callable
            ``loss_fn(z, i) -> [N]``, called once. z [N, *event] are structures, i [N] (int64) the flat row of the batch
            that each belongs to: ``x[i]`` is its example.
        scores : Tensor [*batch, *shape]
        extra : Tensors that broadcast to [*batch, *extra_shape]
        context : Tensor [*batch, ...], optional
            What the baseline of :class:`NVIL` reads; others have no use for it.
        vertices, generator
            Instead of those given at construction.

        Raises
        ------
        ArgumentError
            Bad scores, a loss of the wrong shape; InfeasibleError where a row has no feasible structure.
        """
        if not isinstance(scores, Tensor):
            raise ArgumentError(f"scores: got {type(scores).__name__}; expected a tensor [*batch, *shape]")
        asked = Loss(loss_fn, self.structure, self.vertices if vertices is None else vertices, scores.dtype)
        call = Call(asked, scores, extra, context, self.generator if generator is None else generator)
        surrogate, value, entropy, calls = self._estimate(call)
        value = value.detach()
        # the number of a surrogate says nothing by itself, and people plot it
        return Estimate(value + (surrogate - surrogate.detach()), value, entropy, calls)

    def _estimate(self, call: Call) -> Estimate:
        """The formula. The number of the surrogate is of no importance."""
        raise NotImplementedError

    def anneal(self, step: int) -> float | None:
        """Cool down for a training step, if there is a temperature; returns it."""
        check_count("step", step, 0)
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Estimator:
        """What is kept, averages and temperatures, is never in less than float32: half precision would not do."""
        kept = {name: x for name, x in self._buffers.items() if x is not None and x.is_floating_point()}
        super()._apply(fn, recurse)
        for name, x in kept.items():
            now = self._buffers[name]
            if now is not None and now.itemsize < x.itemsize and now.itemsize < 4:
                self._buffers[name] = x.to(now.device)
        return self

    def _refuse(self, why: str) -> NotImplementedError:
        """The error for a structure that the estimator is not defined for, with two that would do."""
        return refusal(self.name, self.structure, why, "sfe" if has_sums(self.structure) else "perturb-and-map")

    def get_extra_state(self) -> Tensor:
        """The generator's state; empty where there is none."""
        return torch.empty(0, dtype=torch.uint8) if self.generator is None else self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from that state, if there is a generator; one of another kind of device is left as it is."""
        if self.generator is None or not len(state):
            return
        if len(state) != len(self.generator.get_state()):
            warnings.warn(
                f"{self.name}: the state is that of a generator of another kind of device than "
                f"{str(self.generator.device)!r}; the generator is left as it is",
                stacklevel=2,
            )
            return
        self.generator.set_state(state.cpu())

    def settings(self) -> dict[str, Any]:
        """What ``repr`` shows beside the structure."""
        return {}

    def extra_repr(self) -> str:
        """The structure and the settings."""
        shown = self.settings() | ({"vertices": True} if self.vertices else {})
        return ", ".join([repr(self.structure), *(f"{name}={value!r}" for name, value in shown.items())])


def refusal(name: str, structure: Structure, why: str, other: str) -> NotImplementedError:
    """The error for a structure that an estimator is not defined for: "sparsemap" would do, and another."""
    return NotImplementedError(f"{name}: not defined for {structure!r}, for {why}; 'sparsemap' and {other!r} would do")


def check_listed(name: str, structure: Structure, why: str, other: str) -> None:
    """Enumerate the structures, which every call will ask for; refuse if they are too many, for ``why``."""
    try:
        structure._every  # noqa: B018
    except ArgumentError as error:
        many = str(error).partition(";")[0].removeprefix("limit: ")
        raise refusal(name, structure, f"{why}: {many}", other) from None


def check_positive(name: str, value: float) -> float:
    """Check a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ArgumentError(f"{name}: got {value!r}; expected a finite number above 0")
    return float(value)


def count_of(number: int, like: Tensor) -> Tensor:
    """``calls`` [*batch] where it is the same for all rows."""
    return torch.full(like.shape, number, dtype=torch.int64, device=like.device)


def _named(x: object) -> str:
    return f"{x.__name__} as a class" if isinstance(x, type) else type(x).__name__
