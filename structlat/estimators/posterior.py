"""The q that estimators sample: softmax over all structures, by sums where the space has them, else enumerated."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from structlat.errors import check_count
from structlat.estimators.base import Call, Estimator, check_listed
from structlat.gibbs import Gibbs
from structlat.normalizers import marginalize
from structlat.structure import Structure
from structlat.tractable import has_sums


class Drawn(NamedTuple):
    """Independent draws z [S, *batch, *event] with their log-probabilities [S, *batch], differentiable."""

    z: Tensor
    log_prob: Tensor


class Posterior(Protocol):
    """Softmax over all structures."""

    def draw(self, count: int, generator: torch.Generator | None) -> Drawn:
        """Draw ``count`` structures for each row."""

    def entropy(self) -> Tensor:
        """In nats, [*batch]."""


class Summed:
    """By log-partition and sampler: :class:`structlat.Gibbs`."""

    def __init__(self, structure: Structure, scores: Tensor, extra: tuple[Tensor, ...]) -> None:
        self.structure, self.scores, self.extra = structure, scores, extra
        self.gibbs = Gibbs(structure, scores, *extra, validate_args=False)

    def draw(self, count: int, generator: torch.Generator | None) -> Drawn:
        """Draw ``count`` structures for each row."""
        z = self.gibbs.sample((count,), generator=generator)
        return Drawn(z, self.gibbs.log_prob(z))

    def entropy(self) -> Tensor:
        """In nats, [*batch]."""
        return self.gibbs.entropy()


class Listed:
    """By enumeration: :func:`structlat.marginalize`."""

    def __init__(self, structure: Structure, scores: Tensor, extra: tuple[Tensor, ...]) -> None:
        self.post = marginalize(structure, scores, *extra)
        self.probs = self.post.probs

    def draw(self, count: int, generator: torch.Generator | None) -> Drawn:
        """Draw ``count`` structures for each row."""
        return self.take(pick(self.probs.detach(), count, generator))

    def take(self, index: Tensor) -> Drawn:
        """The structures ``index`` [S, *batch] of the list, which have probability."""
        at = index.movedim(0, -1)
        wide = at.reshape(at.shape + (1,) * len(self.post.event_shape)).expand(at.shape + self.post.event_shape)
        z = self.post.structures.gather(at.ndim - 1, wide).movedim(at.ndim - 1, 0)
        return Drawn(z, self.probs.gather(-1, at).log().movedim(-1, 0))

    def entropy(self) -> Tensor:
        """In nats, [*batch]."""
        return self.post.entropy()


def pick(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw indices [count, *batch] in proportion to ``weights`` [*batch, K], of which each row has a positive one."""
    batch, rows = weights.shape[:-1], weights.shape[:-1].numel()
    if rows * count == 0:
        return torch.zeros(count, *batch, dtype=torch.int64, device=weights.device)
    index = torch.multinomial(weights.reshape(rows, weights.shape[-1]), count, replacement=True, generator=generator)
    return index.T.reshape(count, *batch)


class Sampling(Estimator):
    """An estimator that draws from q: softmax over all structures."""

    def __init__(
        self,
        structure: Structure,
        samples: int,
        least: int = 1,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(structure, vertices=vertices, generator=generator)
        self.samples = check_count("samples", samples, least)
        if not has_sums(structure):
            why = f"it has no sampler, for {structure.intractable}, and all structures cannot be listed instead"
            check_listed(self.name, structure, why, "perturb-and-map")

    def _posterior(self, call: Call) -> Posterior:
        made = Summed if has_sums(self.structure) else Listed
        return made(self.structure, call.scores, call.extra)
