"""The cluster of the tests here: one for all tests of a worker, free of jobs when a test begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster, missing, slurm_cluster


@pytest.fixture(scope="session")
def started_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes; the test is skipped where there can be none."""
    if (reason := missing()) is not None:
        pytest.skip(f"no Slurm: {reason}")
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without jobs. After the test, jobs are killed and all nodes are up again."""
    yield started_cluster
    started_cluster.recover()
