"""What is asked of the scheduler and the workers beside a client that asks for itself."""

from __future__ import annotations

import dask
from distributed import Client

from dtk.runtime import workers_of


def test_workers_are_all_there_while_the_client_polls(cluster):
    with dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}), Client(cluster) as client:
        assert {len(workers_of(client)) for _ in range(300)} == {2}
