import pytest
import torch


@pytest.fixture(autouse=True)
def subnormal_numbers():
    """A script that was run in this process may have switched them off, for all tests that come after."""
    yield
    torch.set_flush_denormal(False)
