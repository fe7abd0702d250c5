"""What several test files share: where the checkout is, and how a test of bytes is named."""

from pathlib import Path

import pytest


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: packed ones hold the second at which they were packed.

    Workers that collect at different seconds must find tests of the same names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
