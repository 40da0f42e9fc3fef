"""The cluster of the tests here: one for all tests of a file, free of jobs when a test begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster, missing, slurm_cluster


@pytest.fixture(scope="module")
def node_timeout_seconds() -> int:
    """The time after which Slurm gives up a node: long, because on a busy machine a node that is well answers late."""
    return 60


@pytest.fixture(scope="module")
def started_cluster(tmp_path_factory: pytest.TempPathFactory, node_timeout_seconds: int) -> Iterator[Cluster]:
    """A cluster of three nodes; the test is skipped where there can be none."""
    if (reason := missing()) is not None:
        pytest.skip(f"no Slurm: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster(folder, nodes=3, node_timeout_seconds=node_timeout_seconds) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without jobs. After the test, jobs are killed and all nodes are up again."""
    yield started_cluster
    started_cluster.recover()
