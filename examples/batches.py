"""Data in an order that seed and epoch decide, so that a run that goes on meets the batches that it would have met."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


def mixed(*numbers: int) -> int:
    """A seed that depends on all of the numbers, none of them negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Batches(Sampler[Tensor]):
    """Batches of indices below ``count``: in a new order each epoch, or (``seed=None``) in the order of the data.

    Every process gets its share of each batch, the shares together being the batch that one process would get. For
    other kinds of batches override :meth:`draw` and :meth:`__len__`.
    """

    def __init__(self, count: int, size: int, seed: int | None = None) -> None:
        if seed is not None and size > count:
            raise ValueError(f"batch_size: got {size}; expected at most {count}, the examples that there are")
        self.count, self.size, self.seed = count, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch comes."""
        self.epoch = epoch

    def draw(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """The batches of an epoch. In training all have the same size, and the remainder is left out."""
        if generator is None:
            yield from torch.arange(self.count).tensor_split(len(self))
        else:
            order = torch.randperm(self.count, generator=generator)
            yield from order[: len(self) * self.size].split(self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """Of each batch, the share of this process."""
        rank, world = process()
        generator = None
        if self.count < world:
            raise ValueError(f"devices: got {world} processes for {self.count} examples; expected at most as many")
        if self.seed is not None:
            if self.size % world:
                raise ValueError(f"batch_size: got {self.size}; expected a multiple of the {world} processes")
            generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        for batch in self.draw(generator):
            yield batch[rank::world]

    def __len__(self) -> int:
        """How many batches an epoch has, in each process."""
        if self.seed is not None:
            return self.count // self.size
        return max(1, min(math.ceil(self.count / self.size), self.count // process()[1]))  # something for each process


class Loaders(NamedTuple):
    """What a model is trained on, what its best epoch is chosen on, and what its numbers are from."""

    train: DataLoader[Any]
    validation: DataLoader[Any]
    test: DataLoader[Any]


def loader(data: Dataset[Any], batches: Batches) -> DataLoader[Any]:
    """A loader that asks ``data`` for a whole batch at once: ``data[indices]``, as a TensorDataset takes them."""
    return DataLoader(data, sampler=batches, batch_size=None)
