"""Images that cost nothing: ten shapes and a little noise, as idx files."""

import gzip

import numpy as np

SIDE = 28
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
FILES["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def images(count, seed=0):
    """uint8 [count, 28, 28] and labels [count], the classes in turn."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    shapes = np.random.default_rng(0).integers(0, 200, (10, SIDE, SIDE))
    return (shapes[labels] + rng.integers(0, 56, (count, SIDE, SIDE))).astype(np.uint8), labels


def idx(array):
    """By hand, not by the code that is tested."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(folder, train=400, test=200, compressed=False):
    """The four files of a data set into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate({"train": train, "test": test}.items()):
        for name, array in zip(FILES[part], images(count, seed), strict=True):
            content = idx(array)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                (folder / name).write_bytes(content)
