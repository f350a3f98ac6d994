# SPDX-License-Identifier: Apache-2.0
"""The engine's events stop for a while, as when it restarts: what happened meanwhile shows in its listing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from house import House

pytestmark = pytest.mark.root


def states(house: House) -> dict[str, str]:
    with house.client() as client:
        return {container.name: container.state for container in client.snapshot().containers}


def test_what_the_events_did_not_tell_is_taken_from_the_listing(house: House) -> None:
    house.start()
    kept = house.container("before", limit="2GiB")
    gone = house.container("gone", limit="2GiB")
    house.until("both are known", lambda: set(states(house)) == {"before", "gone"})
    house.docker.known[kept] = replace(house.docker.known[kept], name="after")
    house.docker.known[gone] = replace(house.docker.known[gone], state="exited")
    house.container("new", announce=False, limit="2GiB")
    house.docker.begin_anew()
    house.until("all of it is known", lambda: states(house) == {"after": "running", "new": "running"})
