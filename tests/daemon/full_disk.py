# SPDX-License-Identifier: Apache-2.0
"""A daemon on fakes whose log folder is small: fill it, ask, and tell as JSON what came of it.

`full_disk.py FOLDER POLICY`; FOLDER/log is a small file system of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
from house import House

from convgpu.core.units import MIB

REQUESTS = 30
"""Each leaves a record; together they are larger than what is left of the last page of the file."""


def main(folder: Path, policy: str) -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    ended: list[str] = []
    threading.excepthook = lambda about: ended.append(str(about.exc_value))
    house = House(folder, settings={"on_audit_failure": policy})
    house.start()
    peer = house.peer(house.container("alpha", limit="4GiB"))
    peer.do("hello")
    ballast = folder / "log" / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    granted = 0
    with contextlib.suppress(ValueError):  # the daemon is gone, and with it the peer
        for _ in range(REQUESTS):
            peer.do("acquire", MIB)
            granted += peer.do("answer")["type"] == "GRANTED"
    assert house._thread is not None
    if policy == "stop":
        house._thread.join(10)
    stopped = not house._thread.is_alive()
    ballast.unlink()
    if not stopped:
        with house.client() as client:
            client.annotate("there is space again")
        house.stop()
    peer.kill()
    records = [json.loads(line) for line in house.log.read_text().splitlines()]
    print(json.dumps({"granted": granted, "stopped": stopped, "error": "".join(ended), "records": records}))
    for group in (*house.groups, *{group.parent for group in house.groups}):
        with contextlib.suppress(OSError):
            group.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
