"""What all tests share: their names, the numbers they draw, and where the checkout is."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: packed ones hold the second at which they were packed.

    Workers that collect at different seconds must find tests of the same names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws is the same, whichever tests its worker has run before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
