"""Every test computes on one thread: results are then the same everywhere, and cores are shared.

Cases that hypothesis and schemathesis draw are the same in every run of the same code, so that what
failed once is seen again; `HYPOTHESIS_PROFILE=default make test` draws others each time.
"""

import gc
import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import pytest
import torch
from hypothesis import settings

# On a GPU, runs repeat to the bit only so.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

torch.set_num_threads(1)
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of device that there is here; on a GPU, sums add up in the same order each time."""
    torch.use_deterministic_algorithms(request.param == "cuda")
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", autouse=True)
def _left_alone() -> None:
    """Leave what is there already out of garbage collection, with which each measured run begins.

    Hundreds of modules, and what their tests have left, would be looked through each time.
    """
    gc.collect()  # quick, as what was there at the module before is left alone already
    gc.freeze()
