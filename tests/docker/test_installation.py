# SPDX-License-Identifier: Apache-2.0
"""`convgpu install` and `uninstall` on this very machine, with a real engine, in a view of it that ends with the test.

What the two write goes into folders laid over the machine's own, in a mount namespace: so everything that was left over
would be seen there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from convgpu.testing.stage import pack_root

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd"),
]

PLACES = ("etc", "usr/local", "var/lib")
OF_DOCKER = "etc/docker/key.json"
"""dockerd 20.10 writes it at its first start."""
DAEMON_JSON = '{"log-level": "warn",  "max-concurrent-downloads": 2}'
SYSTEMCTL = """#!/bin/sh
# A stand-in for systemd's: it starts nothing, and reloads the test's engine.
case "$*" in "reload docker.service") exec kill -HUP "$(cat {pid})" ;; esac
"""
SCRIPT = r"""
set -e
folder=$1
trap '[ ! -f "$folder/pid" ] || kill "$(cat "$folder/pid")"; wait' EXIT
for place in etc usr/local var/lib; do
    mount -t overlay none -o "lowerdir=/$place,upperdir=$1/upper/$place,workdir=$1/work/$place" "/$place"
done
mount -t tmpfs none /run && mkdir -p /run/systemd/system  # here systemd runs, as far as `convgpu install` can see
mkdir -p /etc/docker
printf %s "$2" >/etc/docker/daemon.json
engine() {
    dockerd --iptables=false --ip6tables=false --bridge=none --data-root "$1/data" --exec-root "$1/exec" \
        --pidfile "$1/pid" --host "$DOCKER_HOST" >"$1/log" 2>&1 &
    until docker info >/dev/null 2>&1; do kill -0 $! || { tail -3 "$1/log"; exit 1; }; sleep 0.1; done
}
runtimes() { docker info --format '{{json .Runtimes}}'; }
until_it_says() {
    for _ in $(seq 50); do
        runtimes | grep -q convgpu && found=yes || found=no
        [ $found = "$1" ] && return
        sleep 0.1
    done
    echo "after five seconds the engine does not say $1" && exit 1
}
run() { docker run --rm --network none "$@"; }

engine "$1"
docker import "$1/root.tar" image >/dev/null
convgpu install --default-runtime
echo "== again"; convgpu install
until_it_says yes
echo "== runtimes"; runtimes
echo "== plugin"; docker convgpu --version
echo "== bad"; run --runtime convgpu --label convgpu.limit=much image true 2>&1 || true
echo "== good"
run --label convgpu.limit=1GiB -v /usr:/usr:ro image /usr/bin/cat /etc/ld.so.preload
echo "== uninstall"; convgpu uninstall
echo "== free"; run -v /usr:/usr:ro image /usr/bin/sh -c 'cat /etc/ld.so.preload; echo started' 2>&1
echo "== after"; runtimes; cat /etc/docker/daemon.json; echo
docker convgpu ps 2>&1 || true
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="cvg-install-"))
    for place in PLACES:
        (made / "upper" / place).mkdir(parents=True)
        (made / "work" / place).mkdir(parents=True)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_all_of_it_works_and_is_undone(folder: Path) -> None:
    (folder / "root.tar").write_bytes(pack_root())
    systemctl = folder / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(SYSTEMCTL.format(pid=folder / "pid"))
    systemctl.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{systemctl.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONVGPU_CONFIG": os.devnull,  # the machine's own settings are none of this test's business
        "DOCKER_HOST": f"unix://{folder}/docker.sock",
        "DOCKER_CONFIG": str(folder),
    }
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", str(folder), DAEMON_JSON]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=90, env=environment)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    said = {title: text for title, _, text in (part.partition("\n") for part in done.stdout.split("== "))}
    assert said["again"].startswith("Everything is in place.\n")
    assert json.loads(said["runtimes"])["convgpu"]["path"] == "/usr/local/bin/convgpu-runtime"
    assert said["plugin"].startswith("convgpu ")
    assert "label convgpu.limit: 'much' is not a size" in said["bad"]
    assert said["good"].endswith("libconvgpu.so\n")
    assert "removed /usr/local/bin/convgpu-runtime" in said["uninstall"]
    assert "restarted" not in said["uninstall"]
    # What the container writes to its two streams arrives in any order.
    assert "started" in said["free"].splitlines(), "the default runtime of this running engine is the one of before"
    runtimes, settings, plugin = said["after"].split("\n", 2)
    assert "convgpu" not in json.loads(runtimes)
    assert settings == DAEMON_JSON
    assert "convgpu" in plugin
    assert "command" in plugin, "Docker says that it has none of that name"
    left = {str(path.relative_to(folder / "upper")) for path in (folder / "upper").rglob("*") if not path.is_dir()}
    # What the start of a guarded container made is state, as a daemon's: it stays.
    state = {name for name in left if name.startswith("var/lib/convgpu/preload/")}
    assert left - state - {OF_DOCKER} == {"etc/docker/daemon.json"}, "only what the test itself put there"
