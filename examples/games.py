"""Games of the signal game: images to play with, as features, and games drawn from them."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from batches import Batches
from data import DataError, Name, load_images, split
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

IMAGES = 16  # in a game
COMPONENTS = 64
Distractors = Literal["any", "same", "other", "concepts"]


class Pool(NamedTuple):
    """Images to make games of: features [N, F] and the class of each [N], int64."""

    features: Tensor
    labels: Tensor


class Pools(NamedTuple):
    """Three pools that have no image in common, and where they are from."""

    train: Pool
    validation: Pool
    test: Pool
    data: dict[str, Any]


@functools.lru_cache(maxsize=1)  # the cells of a grid share it
def load_components(dataset: Name, data_root: str | None, cache: str | None) -> Pools:
    """The principal components of a data set's images."""
    images = load_images(dataset, data_root, cache)
    count = len(images.train)
    train, held = split(count, [count - count // 12, count // 12], seed=0)
    every = torch.cat([images.train, images.test]).flatten(1).numpy().astype(np.float32) / 255
    with threadpool_limits(1):  # on a busy machine more of them wait for one another
        components = PCA(COMPONENTS, whiten=True, svd_solver="covariance_eigh").fit(every[train])
        features = torch.from_numpy(components.transform(every)).float()
    data = images.provenance | {
        "features": f"{COMPONENTS} whitened principal components, fitted to the training images",
        "game_images": f"{len(train):,} of the training images to train with, {len(held):,} to validate with; "
        f"{len(images.test):,} test images",
    }
    return Pools(
        Pool(features[train], images.train_labels[train]),
        Pool(features[held], images.train_labels[held]),
        Pool(features[count:], images.test_labels),
        data,
    )


class _Plain(pickle.Unpickler):
    """Reads lists, strings, numbers and NumPy arrays, and no other objects: to unpickle one is to run its code."""

    def find_class(self, module: str, name: str) -> Any:
        """What arrays are made with; all else is refused."""
        if (module.replace("numpy._core", "numpy.core"), name) in _ARRAYS:
            return super().find_class(module, name)
        raise DataError(f"labels: expected a list or an array of strings; got one that holds {module}.{name}")


_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
FEATURES, OBJECTS = "ours_images_single_sm0.h5", "ours_images_single_sm0.objects"


def load_features(folder: Path) -> Pools:
    """The published features of Bouchacourt and Baroni (2018), as the paper uses them: one concept an image of a game.

    In ``train`` and in ``test`` under the folder, or in itself: ``ours_images_single_sm0.h5`` holds one array
    [N, 4096], whatever its key; ``ours_images_single_sm0.objects`` a pickled list or array of N strings, the concepts.
    Features are scaled to length 1. A tenth of the training images, at random, is for validation; where there is no
    ``test``, another is for the test.
    """
    own_test = (folder / "test").is_dir()
    sources = [folder / "train", folder / "test"] if own_test else [folder]
    read = [_features(source) for source in sources]
    concepts, numbers = np.unique([label for _, labels, _ in read for label in labels], return_inverse=True)
    features, labels = torch.cat([x for x, _, _ in read]), torch.from_numpy(numbers)
    trained, count = len(read[0][0]), len(features)
    tenth = trained // 10
    if own_test:
        parts = [*split(trained, [trained - tenth, tenth], seed=0), torch.arange(trained, count)]
    else:
        parts = split(count, [count - 2 * tenth, tenth, tenth], seed=0)
    sizes = "{:,} to train, {:,} to validate, {:,} to test".format(*map(len, parts))
    data = {
        "dataset": "imagenet",
        "source": "published features",
        "md5": {str(name.relative_to(folder)): digest for _, _, md5 in read for name, digest in md5.items()},
        "game_images": f"{sizes}{'' if own_test else ', at random'}; {len(concepts):,} concepts",
    }
    train, validation, test = (Pool(features[part], labels[part]) for part in parts)
    return Pools(train, validation, test, data)


def _features(folder: Path) -> tuple[Tensor, list[str], dict[Path, str]]:
    """Features [N, F] of length 1, N concepts, and the MD5 of each file."""
    import h5py

    files = [folder / FEATURES, folder / OBJECTS]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: not there; expected the published ImageNet features and their labels")
    with h5py.File(files[0]) as archive:
        (key,) = archive
        features = F.normalize(torch.from_numpy(np.asarray(archive[key], np.float32)), dim=1)
    with files[1].open("rb") as pickled:
        labels = read_labels(pickled)
    if len(labels) != len(features):
        raise DataError(f"{folder}: got {len(features)} rows of features and {len(labels)} labels; expected as many")
    md5 = {file: hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() for file in files}
    return features, labels, md5


def read_labels(file: IO[bytes]) -> list[str]:
    """A pickled list or array of strings, and nothing else."""
    labels = _Plain(file, encoding="latin1").load()
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError("labels: expected a pickled list or array of strings")
    return labels


def draw_games(labels: Tensor, count: int, distractors: Distractors, generator: torch.Generator) -> Tensor:
    """``count`` games of a pool with ``labels`` [N]: 16 different images and the place of the target, [count, 17].

    The 15 others are, as ``distractors`` says, any images, images of the target's class, of other classes than that, or
    of as many classes as there are images, all different ("concepts").
    """
    order = labels.argsort(stable=True)  # each class a stretch, so that its images are numbers in a row
    ranked = labels[order]
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    classes = int((sizes > 0).sum())
    possible = {
        "any": len(labels) >= IMAGES,
        "same": int(sizes[sizes > 0].min()) >= IMAGES,
        "other": len(labels) - int(sizes.max()) >= IMAGES - 1,
        "concepts": classes >= IMAGES,
    }
    if not possible[distractors]:
        raise DataError(f"{len(labels)} images of {classes} classes are too few for games with {distractors!r} images")
    games = torch.empty(count, IMAGES, dtype=torch.int64)
    games[:, 0] = torch.randint(len(labels), (count,), generator=generator)
    left = torch.arange(count)
    while len(left):
        own = ranked[games[left, :1]]
        start, size = starts[own], sizes[own]
        room = {"same": size, "other": len(labels) - size}.get(distractors, torch.full_like(size, len(labels)))
        others = (torch.rand(len(left), IMAGES - 1, dtype=torch.float64, generator=generator) * room).long()
        if distractors == "same":
            others += start
        elif distractors == "other":
            others += torch.where(others >= start, size, 0)  # past the stretch of the target's class
        games[left, 1:] = others
        distinct = (ranked if distractors == "concepts" else order)[games[left]].sort(1).values
        # again, where an image, or a concept, came twice: the others, and not the target, or some would be rarer
        left = left[(distinct.diff() == 0).any(1)]
    place = torch.randint(IMAGES, (count, 1), generator=generator)
    target = games.gather(1, torch.zeros_like(place))
    games[:, :1] = games.gather(1, place)
    games.scatter_(1, place, target)
    return torch.cat([order[games], place], 1)


class TrainingGames(Batches):
    """New games each epoch: batches [size, 1, 17]."""

    def __init__(self, labels: Tensor, distractors: Distractors, steps: int, size: int, seed: int) -> None:
        super().__init__(steps * size, size, seed)
        self.labels, self.distractors = labels, distractors

    def draw(self, generator: torch.Generator | None) -> Iterator[Tensor]:
        """The games of an epoch."""
        assert generator is not None
        yield from draw_games(self.labels, self.count, self.distractors, generator).unsqueeze(1).split(self.size)


class Played(Dataset[tuple[Tensor, Tensor]]):
    """From games [B, G, 17] to what the players see: features [B, G, 16, F] and the target's place [B, G]."""

    def __init__(self, features: Tensor, games: Tensor | None = None) -> None:
        self.features, self.games = features, games

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Games as they are, or by their number where there is a list of them."""
        games = index if self.games is None else self.games[index]
        return self.features[games[..., :-1]], games[..., -1]


def fixed_games(pool: Pool, count: int, kinds: Sequence[Distractors], seed: int) -> Tensor:
    """``count`` games of each kind, side by side: [count, kinds, 17]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw_games(pool.labels, count, kind, generator) for kind in kinds], 1)
