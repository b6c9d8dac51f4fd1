"""One torch thread a worker (two cores are shared by all workers), and the Numba kernels loaded before any test is
timed."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """A class without a case for a test (a log-partition of what has none) leaves it out, instead of skipping it."""
    items[:] = [item for item in items if "NOTSET" not in item.name]


@pytest.fixture(scope="session", autouse=True)
def _warm_kernels():
    import structlat as sl

    assert sl.sparsemap(sl.BitVector(2), torch.zeros(1, 2, requires_grad=True), solver="active_set").mean.requires_grad


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20260101)
