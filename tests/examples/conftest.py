import pytest
import torch

from tests.examples.scripts import ROOT


@pytest.fixture(scope="session", autouse=True)
def examples():
    """The scripts are to be imported, as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        yield


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """What a script that was run in this process may have set, for all tests that come after."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
