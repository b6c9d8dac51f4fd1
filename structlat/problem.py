"""The door of the library: one checked, flattened batch of scores that every normalizer works on.

Whatever a caller may get wrong about ``scores``, ``extra`` and ``gamma`` is said here, in words, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structlat.errors import ArgumentError, InfeasibleError
from structlat.operators import guard, transformed
from structlat.structure import Structure


def needs_graph(*tensors: Tensor) -> bool:
    """Whether anybody can ask for a derivative: backward (grad mode), forward (a tangent is there), or a transform."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()  # whatever is traced later cannot be seen now
    if transformed() or any(torch.autograd.forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


@dataclass(frozen=True)
class Problem:
    """Scores and extra scores of a flat batch, in float64 (a copy: later changes in place do not reach it).

    ``scores`` [B, *shape] and ``extra`` [B or 1, *extra_shape] (1: shared by all rows) carry the caller's graph; the
    last of ``extra`` are the structure's own. ``dtype`` and ``batch_shape`` are what answers go back to.
    """

    structure: Structure
    scores: Tensor
    extra: tuple[Tensor, ...]
    batch_shape: torch.Size
    dtype: torch.dtype

    @property
    def probs_dtype(self) -> torch.dtype:
        """float32 or wider: probabilities are not kept in half precision."""
        return torch.promote_types(self.dtype, torch.float32)

    def detached(self) -> tuple[Tensor, list[Tensor]]:
        """``scores`` and ``extra`` without their graph: what operators take."""
        return self.scores.detach(), [x.detach() for x in self.extra]

    def given(self) -> tuple[Tensor, ...]:
        """Scores [*batch, *shape] and extra scores as the caller gave them, [*batch, *extra_shape] or shared."""
        count = len(self.extra) - len(self.structure.own_extra)
        rows = len(self.scores)
        extra = (self.unflatten(x) if len(x) == rows else x.squeeze(0) for x in self.extra[:count])
        return self.unflatten(self.scores), *extra

    def scaled(self, gamma: Tensor) -> Problem:
        """The same SparseMAP with gamma 1 and without ``symmetric``: nothing behind this knows of either.

        Symmetric regularisation is that of ``scores + gamma`` at ``2 gamma`` (``gamma`` [B or 1], as ``make_gamma``).
        """
        factor = 2 if self.structure.symmetric else 1

        def per_row(x: Tensor) -> Tensor:
            return gamma.reshape(-1, *(1,) * (x.ndim - 1))

        moves = needs_graph(gamma)

        def divided(x: Tensor) -> Tensor:
            if not moves:
                return x / (factor * per_row(x))
            forbidden = torch.isneginf(x)  # the slope of -inf / gamma is NaN, even where nothing comes back through it
            return torch.where(forbidden, -torch.inf, torch.where(forbidden, 0, x) / (factor * per_row(x)))

        scores = self.scores + per_row(self.scores) if self.structure.symmetric else self.scores
        extra = tuple(divided(x) for x in self.extra)
        return Problem(self.structure, divided(scores), extra, self.batch_shape, self.dtype)

    def score(self, z: Tensor) -> Tensor:
        """Differentiable scores [B, K] of ``z`` [B, K, *event]."""
        return self.structure.score(z, self.scores.unsqueeze(1), *(x.unsqueeze(1) for x in self.extra))

    def with_scores(self, scores: Tensor) -> Problem:
        """The same problem with other scores [B, *shape]."""
        return Problem(self.structure, scores, self.extra, self.batch_shape, self.dtype)

    def feasible(self, x: Tensor, bad: Tensor) -> Tensor:
        """``x`` [B, ...]; InfeasibleError where ``bad`` [B] says that a row has no structure."""
        text = infeasible_text(self.structure)
        return guard(self.unflatten(x), self.unflatten(bad), InfeasibleError, text).reshape(x.shape)

    def unflatten(self, x: Tensor) -> Tensor:
        """Give [B, ...] its batch dimensions back."""
        return x.reshape(self.batch_shape + x.shape[1:])

    def dressed(self, z: Tensor) -> Tensor:
        """Structures [B, ...] as the caller has them: batch shape, device, and dtype where the space has none."""
        z = z.to(device=self.scores.device, dtype=self.structure.event_dtype or self.dtype)
        return self.unflatten(z)


def infeasible_text(structure: Structure, said: str = "") -> str:
    """The words for rows without a structure, ``{rows}`` to be filled in; ``said`` is what the oracle had to say."""
    return (
        f"scores: no structure of {type(structure).__name__} is feasible in {{rows}}{said}; expected at least one "
        "structure all of whose parts are above -inf"
    )


def make_problem(structure: Structure, scores: Tensor, extra: tuple[Tensor, ...]) -> Problem:
    """Check and flatten ``scores`` [*batch, *shape] and ``extra`` [broadcastable to *batch, *extra_shape].

    Raises
    ------
    ArgumentError
        A wrong type, dtype, shape or number of tensors; NaN or +inf.
    """
    name = type(structure).__name__
    if not isinstance(structure, Structure) or getattr(structure, "shape", None) is None:
        came = f"{structure.__name__} as a class" if isinstance(structure, type) else repr(structure)
        raise ArgumentError(f"structure: got {came}; expected an instance of structlat.Structure whose `shape` is set")
    shape = torch.Size(structure.shape)
    _check_tensor("scores", scores)
    batch_shape = scores.shape[: scores.ndim - len(shape)]
    if scores.ndim < len(shape) or scores.shape[len(batch_shape) :] != shape:
        raise ArgumentError(
            f"scores: got shape {tuple(scores.shape)}; {name} expects [*batch, *shape] with shape {tuple(shape)}"
        )
    own = structure.own_extra
    expected = structure.extra_shapes[: len(structure.extra_shapes) - len(own)]
    if len(extra) != len(expected):
        raise ArgumentError(
            f"extra: got {len(extra)} tensors; {name} expects {len(expected)}, of shapes {[tuple(x) for x in expected]}"
        )
    flat = []
    for n, (x, extra_shape) in enumerate(zip(extra, expected, strict=True)):
        label = f"extra[{n}]"
        _check_tensor(label, x)
        if x.device != scores.device:
            raise ArgumentError(f"{label}: is on {x.device}; expected the device of scores, {scores.device}")
        flat.append(_flatten_extra(label, x, batch_shape, torch.Size(extra_shape)))
    for x, extra_shape in zip(own, structure.extra_shapes[len(expected) :], strict=True):
        flat.append(_flatten_own(structure, x.to(scores.device), batch_shape, torch.Size(extra_shape)))
    wide = _checked("scores", scores, len(shape))
    return Problem(
        structure, wide.reshape(batch_shape.numel(), *shape), tuple(flat), torch.Size(batch_shape), scores.dtype
    )


def _check_tensor(label: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{label}: got {type(x).__name__}; expected a floating-point torch.Tensor")
    if not x.is_floating_point():
        raise ArgumentError(f"{label}: got dtype {x.dtype}; expected a floating-point dtype")
    if x.layout != torch.strided or x.is_meta:
        came = "a tensor on the meta device" if x.is_meta else f"layout {x.layout}"
        raise ArgumentError(f"{label}: got {came}; expected a dense tensor with values")


def _checked(label: str, x: Tensor, event_ndim: int) -> Tensor:
    """A copy in float64: later changes in place do not reach it. NaN and +inf are refused, naming the rows."""
    entries = x.detach().flatten(start_dim=x.ndim - event_ndim) if event_ndim else x.detach().unsqueeze(-1)
    if entries.shape[-1] == 0:
        return x.to(torch.float64, copy=True)
    bad = ~(entries.amax(-1) < torch.inf)  # NaN is larger than anything
    where = "{rows}" if bad.ndim or label == "scores" else "what all rows share"
    text = f"{label}: NaN or +inf in {where}; expected finite numbers, or -inf to forbid a part"
    return guard(x.to(torch.float64, copy=True), bad, ArgumentError, text)


def _flatten_own(structure: Structure, x: Tensor, batch_shape: torch.Size, shape: torch.Size) -> Tensor:
    rows = x.shape[: x.ndim - len(shape)]
    if not _broadcasts(rows, batch_shape):
        raise ArgumentError(
            f"scores: got batch shape {tuple(batch_shape)}; {structure!r} was made for rows of shape {tuple(rows)}, "
            "which have to broadcast to it"
        )
    return _flatten_extra("own_extra", x, batch_shape, shape)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    try:
        return bool(torch.broadcast_shapes(shape, to) == to)
    except RuntimeError:
        return False


def _flatten_extra(label: str, x: Tensor, batch_shape: torch.Size, shape: torch.Size) -> Tensor:
    if not _broadcasts(x.shape, batch_shape + shape):
        raise ArgumentError(
            f"{label}: got shape {tuple(x.shape)}; expected one that broadcasts to [*batch, *extra_shape] = "
            f"{tuple(batch_shape + shape)}"
        )
    x = _checked(label, x, min(len(shape), x.ndim))
    own = x.shape[: max(x.ndim - len(shape), 0)]
    if own.numel() == 1:  # shared by all rows: keep one copy of it
        return x.reshape(x.shape[len(own) :]).expand(shape).unsqueeze(0)
    return x.expand(batch_shape + shape).reshape(batch_shape.numel(), *shape)


def check_gamma(gamma: Any) -> None:
    """Check ``gamma``, if it is no tensor: there, and where a layer keeps it."""
    try:
        fine = 0 < gamma < float("inf")
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"gamma: got {gamma!r}; expected a positive number or a tensor") from None
    if not fine:
        raise ArgumentError(f"gamma: got {gamma!r}; expected positive finite numbers")


def make_gamma(gamma: float | Tensor, problem: Problem) -> Tensor:
    """Check ``gamma``, a positive number or a tensor that broadcasts to [*batch]; float64 [B], or [1] if shared."""
    if isinstance(gamma, Tensor) and not gamma.is_floating_point():
        raise ArgumentError(f"gamma: got dtype {gamma.dtype}; expected a floating-point dtype")
    if not isinstance(gamma, Tensor):
        check_gamma(gamma)
    tensor = torch.as_tensor(gamma, dtype=torch.float64, device=problem.scores.device)
    if isinstance(gamma, Tensor):
        bad = ~((tensor.detach() > 0) & torch.isfinite(tensor.detach()))
        where = " in {rows}" if tensor.ndim else ""
        tensor = guard(
            tensor.clone(),
            bad,
            ArgumentError,
            f"gamma: got a number that is not positive{where}; expected positive finite numbers",
        )
    if tensor.numel() == 1 and tensor.ndim <= len(problem.batch_shape):
        return tensor.reshape(1)
    try:
        return tensor.expand(problem.batch_shape).reshape(problem.batch_shape.numel())
    except RuntimeError:
        raise ArgumentError(
            f"gamma: got shape {tuple(tensor.shape)}; expected a number or a shape that broadcasts to the batch "
            f"shape {tuple(problem.batch_shape)}"
        ) from None
