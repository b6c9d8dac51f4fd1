"""SparseDistribution: a few structures with probabilities, as a torch distribution.

What every normalizer returns. It knows nothing of how its support was found: a :class:`Source` says what it consists
of, and is asked for a part when somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from structlat.errors import ArgumentError
from structlat.operators import as_made, in_inference_mode, unbatched
from structlat.solvers.info import SolverInfo
from structlat.structure import Structure

Support = tuple[Tensor, Tensor]  # structures [*batch, K, *event] and weights [*batch, K], with their graph


class Source:
    """The parts of a distribution, each asked for when it is read: the first two once, the others every time."""

    def probs(self) -> tuple[Tensor, Tensor]:
        """Probabilities [*batch, K], exactly 0 in the padding, and mask [*batch, K], False in the padding."""
        raise NotImplementedError

    def structures(self) -> Tensor:
        """The support [*batch, K, *event]; padding repeats the row's first structure."""
        raise NotImplementedError

    def log_probs(self) -> Tensor | None:
        """Logarithms [*batch, K], -inf in the padding, where they say more than p, which may be 0 by rounding."""
        return None

    def mean(self) -> Tensor | None:
        """The marginals [*batch, *shape] where they have a graph of their own; else None, for those of ``moments``."""
        return None

    def moments(self) -> Support:
        """A support and weights of the same first moments, whose derivatives are right where those of p are not."""
        raise NotImplementedError


class Given(Source):
    """A support that is there already."""

    def __init__(self, structures: Tensor, probs: Tensor, mask: Tensor | None, log_probs: Tensor | None = None) -> None:
        if mask is None:
            mask = probs.detach() > 0
            mask = mask | (torch.arange(mask.shape[-1], device=mask.device) == 0)
        self._structures, self._probs, self._mask, self._log_probs = structures, probs, mask, log_probs

    def probs(self) -> tuple[Tensor, Tensor]:
        """As they came."""
        return self._probs, self._mask

    def structures(self) -> Tensor:
        """As they came."""
        return self._structures

    def log_probs(self) -> Tensor | None:
        """As they came."""
        return self._log_probs

    def moments(self) -> Support:
        """Those of p."""
        return self._structures, self._probs


def _positive_fake(probs: Tensor) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return probs.new_empty(count, dtype=torch.int64), probs.new_empty(count, dtype=torch.int64)


@unbatched(
    "positive",
    _positive_fake,
    "expect: cannot run under vmap, for the rows have supports of different sizes; use `probs` and `structures`, which "
    "are padded: (probs * fn(structures)).sum(-1)",
)
def positive(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns where probs [B, K] is positive."""
    row, column = torch.nonzero(probs > 0, as_tuple=True)
    return row, column


class InStructure(constraints.Constraint):
    """The constraint of torch.distributions for "a structure of this space"."""

    is_discrete = True

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """How many trailing dimensions one structure has."""
        return len(self.structure.event_shape)

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is a structure of the space."""
        return self.structure.contains(value)


class SparseDistribution(Distribution):
    """A distribution over structures that lists its whole support.

    Parameters
    ----------
    structure : Structure
        The latent space.
    structures : Tensor [*batch, K, *event]
        The support of each row, then padding: the row's first structure again. The normalizers list the most probable
        first (softmax over all of Z: in the order of ``structure.enumerate``).
    probs : Tensor [*batch, K], floating point
        Probabilities, exactly 0 in the padding.
    mask : Tensor [*batch, K], bool, optional
        False in the padding. Default: ``probs > 0``, and the first entry.
    info : SolverInfo, optional
        How the support was found. Default: that of a closed form.
    dtype : torch.dtype, optional
        Of ``mean`` and ``vertices``. Default: that of ``probs``.
    """

    arg_constraints = {"probs": constraints.simplex}  # noqa: RUF012 (as torch declares it)
    has_enumerate_support = True

    def __init__(
        self,
        structure: Structure,
        structures: Tensor,
        probs: Tensor,
        mask: Tensor | None = None,
        info: SolverInfo | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool | None = None,
    ) -> None:
        event_shape = torch.Size(structure.event_shape)
        if probs.ndim < 1 or probs.shape[-1] < 1 or structures.shape != probs.shape + event_shape:
            raise ArgumentError(
                f"structures, probs: got shapes {tuple(structures.shape)} and {tuple(probs.shape)}; expected "
                f"[*batch, K, *{tuple(event_shape)}] and [*batch, K] with K >= 1"
            )
        if info is None:
            info = SolverInfo.closed_form(probs.shape[:-1])
        self._take(structure, Given(structures, probs, mask), probs.shape[:-1], info, dtype or probs.dtype)
        super().__init__(probs.shape[:-1], event_shape, validate_args=validate_args)

    @classmethod
    def from_source(
        cls, structure: Structure, source: Source, batch_shape: torch.Size, info: SolverInfo, dtype: torch.dtype
    ) -> SparseDistribution:
        """A distribution whose parts are made when somebody reads them; ``dtype`` is that of means and vertices."""
        self = cls.__new__(cls)
        self._take(structure, source, batch_shape, info, dtype)
        Distribution.__init__(self, batch_shape, torch.Size(structure.event_shape), validate_args=False)
        return self

    def _take(
        self, structure: Structure, source: Source, batch_shape: torch.Size, info: SolverInfo, dtype: torch.dtype
    ) -> None:
        self.structure = structure
        self.info = info
        self.dtype = dtype
        self._source = source
        self._inference = in_inference_mode()
        self._weights: tuple[Tensor, Tensor] | None = None
        self._structures: Tensor | None = None

    # What it is.

    @property
    def probs(self) -> Tensor:
        """Probabilities of the support, [*batch, K], exactly 0 in the padding; float32 or wider."""
        return self._weighted()[0]

    @property
    def mask(self) -> Tensor:
        """False in the padding, [*batch, K]."""
        return self._weighted()[1]

    @property
    def structures(self) -> Tensor:
        """The support, [*batch, K, *event]. Those of a closed form are made when this is first read."""
        if self._structures is None:
            with as_made(self._inference):
                self._structures = self._source.structures()
        return self._structures

    @property
    def support(self) -> constraints.Constraint:
        """The constraint "is a structure of this space"."""
        return InStructure(self.structure)

    @property
    def support_size(self) -> Tensor:
        """How many structures have positive probability, [*batch]."""
        return (self.probs > 0).sum(-1)

    @property
    def vertices(self) -> Tensor:
        """The structures' 0/1 vectors, [*batch, K, *shape]."""
        return self.structure.vertex(self.structures).to(self.dtype)

    @property
    def mode(self) -> Tensor:
        """The structure of highest probability, [*batch, *event]. It need not be the MAP structure."""
        best = self.probs.argmax(-1)
        return self._pick(self.structures, best.unsqueeze(-1)).squeeze(len(self.batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The support with K in front, [K, *batch, *event], as in torch. Every row has its own: ``expand`` is moot."""
        return self.structures.movedim(len(self.batch_shape), 0)

    def __repr__(self) -> str:
        sizes = self.support_size
        size = f"{int(sizes.min())} to {int(sizes.max())}" if sizes.numel() else "none"
        return (
            f"SparseDistribution(structure={self.structure!r}, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, support_size={size}, "
            f"converged={bool(self.info.converged.all())})"
        )

    # Moments.

    @property
    def mean(self) -> Tensor:
        """The marginals E[a_z], [*batch, *shape]. Differentiable, also where the support changes.

        After ``sparsemap`` by the active set, the first access with a graph completes the optimal face: at least one
        call of the oracle for each of its dimensions, which for many hundred parts takes far longer than the solution.
        """
        mean = self._source.mean()
        if mean is None:
            structures, weights = self._source.moments()
            a = self.structure.vertex(structures).to(weights.dtype)
            weights = weights.reshape(weights.shape + (1,) * len(self.structure.shape))
            # no matrix product: its threads would hang in a forked child
            mean = (weights * a).sum(len(self.batch_shape))
        return mean.to(self.dtype)

    @property
    def marginals(self) -> Tensor:
        """The field's name for ``mean``."""
        return self.mean

    @property
    def extra_marginals(self) -> tuple[Tensor, ...]:
        """E[n_z], how often each extra part is used: a tuple of [*batch, *extra_shape]. Differentiable.

        Of the caller's extra scores, not of those that the space brings itself.
        """
        structure = self.structure
        structures, weights = self._source.moments()
        ones = (1,) * len(self.batch_shape)
        scores = weights.new_zeros(*ones, 1, *structure.shape)
        zeros = [weights.new_zeros(*self.batch_shape, 1, *s) for s in structure.extra_shapes]
        count = len(zeros) - len(structure.own_extra)
        extra, own = zeros[:count], zeros[count:]
        if not extra:
            return ()

        def score(*extra: Tensor) -> Tensor:
            return structure.score(structures, scores, *extra, *own)

        # the score is linear in the extra scores, and n_z is its slope
        pulled = torch.func.vjp(score, *extra)[1](weights)
        return tuple(x.squeeze(len(self.batch_shape)).to(self.dtype) for x in pulled)

    @property
    def variance(self) -> Tensor:
        """Var[a_z] of each part, [*batch, *shape]."""
        mean = self.mean
        return mean * (1 - mean)

    def entropy(self) -> Tensor:
        """-sum p log p over the support, in nats, [*batch]. Its gradient is finite: 0 log 0 is left out."""
        inside = self.probs > 0
        safe = torch.where(inside, self.probs, 1)
        return -torch.where(inside, safe * safe.log(), 0).sum(-1)

    def expect(self, fn: Callable[[Tensor, Tensor], Tensor], vertices: bool = False) -> Tensor:
        """E[fn(z)], exactly, by one call of ``fn`` on the supports of the whole batch.

        Parameters
        ----------
        fn : callable
            ``fn(z, i) -> [N, *out]``. z [N, *event] are all structures of positive probability, i [N] (int64) the flat
            row of the batch that each belongs to: ``x[i]`` is its example.
        vertices : bool
            Give ``fn`` the vertices a_z [N, *shape] instead of z.

        Returns
        -------
        Tensor
            [*batch, *out], differentiable through the probabilities and through ``fn``.
        """
        rows = self.batch_shape.numel()
        k = self.probs.shape[-1]
        probs = self.probs.reshape(rows, k)
        row, column = positive(probs.detach())
        z = self.structures.reshape(rows, k, *self.event_shape)[row, column]
        if vertices:
            z = self.structure.vertex(z).to(self.dtype)
        out = fn(z, row)
        if not isinstance(out, Tensor) or out.ndim < 1 or out.shape[0] != len(row):
            came = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"fn: returned {came}; expected a tensor of shape [N, *out] with N = {len(row)}")
        weights = probs[row, column].reshape(-1, *(1,) * (out.ndim - 1))
        weighted = weights * out
        total = weighted.new_zeros(rows, *out.shape[1:]).index_add(0, row, weighted)
        return total.reshape(self.batch_shape + out.shape[1:])

    # As a torch distribution.

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of z [*sample, *batch, *event]; -inf off the support."""
        event = value.shape[max(value.ndim - len(self.event_shape), 0) :]
        if event != self.event_shape:
            raise ArgumentError(
                f"value: got shape {tuple(value.shape)}; expected [*sample, *batch, *event] with event shape "
                f"{tuple(self.event_shape)}"
            )
        if self._validate_args:
            self._validate_sample(value)
        at = -1 - len(self.event_shape)
        same = value.unsqueeze(at) == self.structures
        same = same.flatten(start_dim=same.ndim - len(self.event_shape)).all(-1) if self.event_shape else same
        logs = self._source.log_probs()
        if logs is not None:
            found = same & ~torch.isneginf(logs)
            return torch.where(found.any(-1), torch.where(found, logs, 0).sum(-1), -torch.inf)
        p = torch.where(same & self.mask, self.probs, 0).sum(-1)
        return torch.where(p > 0, torch.where(p > 0, p, 1).log(), -torch.inf)

    def sample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw z [*sample_shape, *batch, *event]; from torch's generator, or from one of your own."""
        sample_shape = torch.Size(sample_shape)
        rows, count = self.batch_shape.numel(), sample_shape.numel()
        if rows * count == 0:
            return self.structures.new_zeros(sample_shape + self.batch_shape + self.event_shape)
        with torch.no_grad():
            index = torch.multinomial(
                self.probs.reshape(rows, -1), count, replacement=True, generator=generator
            ).reshape(*self.batch_shape, count)
            drawn = self._pick(self.structures, index).movedim(len(self.batch_shape), 0)
        return drawn.reshape(sample_shape + self.batch_shape + self.event_shape)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: SparseDistribution | None = None
    ) -> SparseDistribution:
        """The same distribution with its batch dimensions broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        own = self.batch_shape
        torch.broadcast_shapes(own, batch_shape)  # an error in torch's words
        info = self.info.map(lambda x: x.expand(batch_shape + x.shape[len(own) :]))
        return SparseDistribution.from_source(
            self.structure, _Expanded(self, batch_shape), batch_shape, info, self.dtype
        )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: values without their graph."""
        state = dict(self.__dict__)
        state["_structures"] = structures = self.structures.detach()
        state["_weights"] = probs, mask = self.probs.detach(), self.mask
        logs = self._source.log_probs()
        state["_source"] = Given(structures, probs, mask, None if logs is None else logs.detach())
        return state

    def _weighted(self) -> tuple[Tensor, Tensor]:
        if self._weights is None:
            # they are kept, and the first to read them may do so without a graph
            with as_made(self._inference), torch.enable_grad():
                self._weights = self._source.probs()
        return self._weights

    def _pick(self, x: Tensor, index: Tensor) -> Tensor:
        """Take x [*batch, K, *event] at index [*batch, n] -> [*batch, n, *event]."""
        wide = index.reshape(index.shape + (1,) * len(self.event_shape))
        return x.gather(len(self.batch_shape), wide.expand(index.shape + self.event_shape))


class _Expanded(Source):
    """The parts of ``base``, broadcast to more batch dimensions."""

    def __init__(self, base: SparseDistribution, batch_shape: torch.Size) -> None:
        self.base, self.batch_shape = base, batch_shape

    def _widen(self, x: Tensor) -> Tensor:
        return x.expand(self.batch_shape + x.shape[len(self.base.batch_shape) :])

    def probs(self) -> tuple[Tensor, Tensor]:
        return self._widen(self.base.probs), self._widen(self.base.mask)

    def structures(self) -> Tensor:
        return self._widen(self.base.structures)

    def log_probs(self) -> Tensor | None:
        logs = self.base._source.log_probs()
        return None if logs is None else self._widen(logs)

    def mean(self) -> Tensor | None:
        mean = self.base._source.mean()
        return None if mean is None else self._widen(mean)

    def moments(self) -> Support:
        structures, weights = self.base._source.moments()
        return self._widen(structures), self._widen(weights)


@register_kl(SparseDistribution, Distribution)
def _kl_sparse(p: SparseDistribution, q: Distribution) -> Tensor:
    """KL(p || q), exact over p's support, for any q with a ``log_prob`` of structures (a prior, another sparse p)."""
    if p.event_shape != q.event_shape:
        raise ArgumentError(
            f"q: got event shape {tuple(q.event_shape)}; expected {tuple(p.event_shape)}, that of p's structures; "
            "torch.distributions.Independent makes one structure of independent parts"
        )
    p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    other = q.log_prob(p.enumerate_support()).movedim(0, -1)
    inside = p.probs > 0
    ratio = torch.where(inside, p.probs, 1).log() - torch.where(inside, other, 0)
    return torch.where(inside, p.probs * ratio, 0).sum(-1)
