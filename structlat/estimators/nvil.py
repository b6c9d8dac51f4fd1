"""NVIL: the score-function estimator with a baseline that a network reads off the example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structlat.errors import ArgumentError, check_count
from structlat.estimators.base import Call, Estimate, count_of
from structlat.estimators.posterior import Sampling
from structlat.structure import Structure


class NVIL(Sampling):
    """The score-function estimator whose baseline b(context) is learned: unbiased.

    (loss(z) - b) log q(z) + loss(z) + (loss(z) - b)^2, where b is held fixed in the first term and the loss in the
    last, which trains the network and nothing else. The estimator's parameters belong into an optimizer.

    Parameters
    ----------
    structure : Structure
    network : nn.Module, optional
        From the context [*batch, ...] to [*batch] or [*batch, 1]. Default: ``hidden`` rectified units and a linear one.
    context_size : int, optional
        How many numbers the default network reads of each row. Default: as many as there are at the first call, as in
        ``nn.LazyLinear``; several processes need to know before.
    hidden : int
        Units of the default network.
    samples : int
        For each row.
    vertices, generator
        As in :class:`Estimator`. The default network gets its weights from the generator, too.

    Notes
    -----
    Mnih and Gregor (2014), *Neural Variational Inference and Learning in Belief Networks*, without their normalization
    of the signal. In evaluation mode the estimate is the same.
    """

    name = "nvil"

    def __init__(
        self,
        structure: Structure,
        network: nn.Module | None = None,
        context_size: int | None = None,
        hidden: int = 128,
        samples: int = 1,
        *,
        vertices: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(structure, samples, vertices=vertices, generator=generator)
        if network is None:
            network = _Perceptron(check_count("hidden", hidden), generator)
            if context_size is not None:
                network(torch.zeros(1, check_count("context_size", context_size)), 1)
        elif not isinstance(network, nn.Module) or context_size is not None:
            came = type(network).__name__ + ("" if context_size is None else f" and context_size={context_size!r}")
            raise ArgumentError(f"network: got {came}; expected an nn.Module alone, or a context_size, or neither")
        self.network = network

    def _estimate(self, call: Call) -> Estimate:
        q = self._posterior(call)
        entropy = q.entropy()
        baseline = self._baseline(call.context, entropy.shape)
        z, log_prob = q.draw(self.samples, call.generator)
        losses = call.loss(z)
        signal = losses.detach() - baseline
        surrogate = (signal.detach() * log_prob + losses + signal.square()).mean(0)
        return Estimate(surrogate, losses.mean(0), entropy, count_of(self.samples, entropy))

    def _baseline(self, context: Tensor | None, batch: torch.Size) -> Tensor:
        expected = f"expected a tensor [*batch, ...] with batch shape {tuple(batch)}, which the baseline is read off"
        if not isinstance(context, Tensor):
            raise ArgumentError(f"context: got {type(context).__name__}; {expected}")
        if context.shape[: len(batch)] != batch:
            raise ArgumentError(f"context: got shape {tuple(context.shape)}; {expected}")
        x = context.detach()  # the squared error is not to reach the encoder
        out = self.network(x, len(batch)) if isinstance(self.network, _Perceptron) else self.network(x)
        if not isinstance(out, Tensor) or out.shape not in (batch, torch.Size([*batch, 1])):
            came = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ArgumentError(f"network: returned {came}; expected shape {tuple(batch)} or {(*batch, 1)}")
        return out.reshape(batch)

    def settings(self) -> dict[str, Any]:
        """The number of samples; the network shows itself."""
        return {"samples": self.samples}


class _Perceptron(nn.Module):
    """One hidden layer, for whatever number of inputs comes first."""

    def __init__(self, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first, self.second = _Linear(hidden, generator), _Linear(1, generator)

    def forward(self, x: Tensor, lead: int) -> Tensor:
        """[*batch, ...] with ``lead`` dimensions of batch to [*batch, 1]."""
        x = x.reshape(*x.shape[:lead], x.shape[lead:].numel()).to(self.first.weight.dtype)
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class _Linear(nn.LazyLinear):
    """A linear layer that is made when first called, its weights drawn from a generator."""

    def __init__(self, out: int, generator: torch.Generator | None) -> None:
        super().__init__(out)
        self._generator = generator
        self._inference = torch.is_inference_mode_enabled()

    def initialize_parameters(self, *args: Any) -> None:
        """As where the layer was constructed: the first call may come in inference mode, and training after it."""
        with torch.inference_mode(self._inference):
            super().initialize_parameters(*args)

    def reset_parameters(self) -> None:
        """As in ``nn.Linear``: uniform within 1 / sqrt(inputs)."""
        if self.has_uninitialized_params() or not self.in_features:
            return
        generator = self._generator
        del self._generator
        device = None if generator is None else generator.device
        for x in (self.weight, self.bias):
            uniform = torch.rand(x.shape, generator=generator, device=device)
            x.data.copy_((2 * uniform - 1) / self.in_features**0.5)
