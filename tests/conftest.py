from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workbench import Cluster


@pytest.fixture(scope="session", autouse=True)
def ipython_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clusters of the tests are kept apart from those of whoever runs them."""
    folder = tmp_path_factory.mktemp("ipython")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real cluster of 4 ranks for the whole session; use `cluster4`."""
    from workbench import Cluster

    cluster = Cluster(ranks=4, name=f"test-{os.getpid()}", devices="cpu", folder=tmp_path_factory.mktemp("runs"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def cluster4(shared_cluster: Cluster) -> Cluster:
    """A real cluster of 4 ranks, all of them there and no run on, whatever the test before has done to it."""
    shared_cluster.start()
    run = shared_cluster.run
    if run is not None and shared_cluster._feed is not None and shared_cluster._feed.finished() is None:
        shared_cluster._feed.end(patience=5)
    if shared_cluster.status().state != "up":
        shared_cluster.restart()
    return shared_cluster
