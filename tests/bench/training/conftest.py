"""Fixtures of the tests that run whole methods on tiny networks."""

import pytest
from support.plugins import known

from bench.conformance import tiny_networks


@pytest.fixture(scope="module", autouse=True)
def _own_plugins(request):
    """Methods of the file that a test module names as ``PLUGIN``, and the tiny networks, are known to its tests."""
    if not hasattr(request.module, "PLUGIN"):
        yield
        return
    with known(request.module.PLUGIN, tiny_networks.__file__):
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder for runs of a ``Subject``; each dense baseline in it is trained once."""
    return tmp_path_factory.mktemp("subjects")
