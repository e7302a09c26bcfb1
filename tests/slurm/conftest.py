"""Fixtures: clusters in memory, and a real SLURM on this machine, one for all tests of a process and own ones."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster_in_memory import Cluster

from bench.errors import SetupError
from slurm import launch, states
from tools.devcluster import DevCluster, packages

BLOCK = 200  # ports of one cluster
FIRST, LAST = 26800, 32600  # below those that the system hands out


@pytest.fixture
def clusters(monkeypatch) -> dict[str, Cluster]:
    """Clusters in memory in the place of those there are, by name."""
    known = {"slurm": Cluster(100), "local": Cluster(40_000), "debug": Cluster(900)}
    for module in (launch, states):
        monkeypatch.setattr(module, "cluster_of", lambda name: known[name])
    monkeypatch.setattr(launch, "Slurm", Cluster)  # the one that has arrays of a largest size
    return known


@pytest.fixture
def slurm(clusters) -> Cluster:
    """The one called so."""
    return clusters["slurm"]


@pytest.fixture(scope="session")
def new_cluster() -> Callable[..., DevCluster]:
    """Makes and starts a cluster in a folder and on ports of its own; the caller stops it."""
    if packages.missing():
        reason = "no SLURM here (python -m tools.devcluster install)"
        if os.environ.get("BENCH_NEEDS_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = itertools.cycle(range(FIRST + worker * BLOCK, LAST - BLOCK, workers * BLOCK))

    def make(**settings) -> DevCluster:
        folder = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))  # short, for the sake of sockets
        try:
            for port in itertools.islice(ports, 30):
                cluster = DevCluster(folder, port=port, **settings)
                if not cluster.busy_ports():
                    break
            cluster.up()  # stops by itself what it started if it fails
        except BaseException:
            shutil.rmtree(folder)
            raise
        return cluster

    return make


@pytest.fixture(scope="session")
def cluster(new_cluster) -> Iterator[DevCluster]:
    """A cluster of 4 nodes with accounting, shared by the tests of one process. Tests use :func:`slurm_env`."""
    shared = new_cluster()
    yield shared
    shared.down(wipe=True)


@pytest.fixture
def slurm_env(cluster, monkeypatch) -> Iterator[DevCluster]:
    """The shared cluster, found by what the test starts. Afterwards it is without jobs, and whole again."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH_"))]:
        monkeypatch.delenv(name)
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    yield cluster
    try:
        cluster.reset()
    except SetupError:  # then the next test still gets one that works
        cluster.down()
        cluster.up()
        raise


@pytest.fixture
def own_cluster(new_cluster) -> Iterator[Callable[..., DevCluster]]:
    """Starts clusters with settings of the test's own, ``own_cluster(nodes=1, accounting=False)``; removed after it."""
    made: list[DevCluster] = []

    def make(**settings) -> DevCluster:
        made.append(new_cluster(**settings))
        return made[-1]

    yield make
    for one in made:
        one.down(wipe=True)
