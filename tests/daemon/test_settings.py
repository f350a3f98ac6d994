# SPDX-License-Identifier: Apache-2.0
"""What a daemon does with its settings: at its start, and when it reads them again while containers run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from house import House, PeerProcess

from convgpu.api import Client, SettingChange
from convgpu.core.units import GIB, MIB
from convgpu.errors import ConfigError
from convgpu.testing.gpus import make_gpu

pytestmark = pytest.mark.root

UNKNOWN = 6
SERVE = Path(__file__).parent / "serve.py"


def holder(house: House, name: str, size_bytes: int, **labels: str) -> PeerProcess:
    """Start a container of one process that holds so much."""
    peer = house.peer(house.container(name, **labels))
    peer.do("hello")
    peer.do("acquire", size_bytes)
    assert peer.do("answer")["type"] == "GRANTED"
    peer.do("settle", size_bytes)
    return peer


def waiter(house: House, name: str, size_bytes: int, **labels: str) -> PeerProcess:
    """Start a container of one process that waits for so much."""
    peer = house.peer(house.container(name, **labels))
    peer.do("hello")
    peer.do("acquire", size_bytes)
    house.until(f"{name} waits", lambda: name in queue(house))
    return peer


def queue(house: House) -> list[str]:
    with house.client() as client:
        return [entry.container_name for entry in client.snapshot().queue]


def reload(house: House, text: str) -> dict[str, tuple[Any, Any]]:
    """Write the file and have it read; return what changed."""
    house.config_file.write_text(text)
    with house.client() as client:
        return {change.key: (change.old, change.new) for change in client.config_reload().changed}


def settings(client: Client) -> dict[str, tuple[Any, str, Any]]:
    return {each.key: (each.value, each.source, each.after_restart) for each in client.config_show().settings}


def test_the_settings_that_a_daemon_starts_with_are_in_the_log_and_can_be_shown(house: House) -> None:
    house.config_file.write_text('reserve = "1GiB"\nmax_bypass = 3\n')
    house.settings["max_bypass"] = 5
    house.start()
    with house.client() as client:
        shown = settings(client)
        assert client.config_show().file == str(house.config_file)
        assert client.snapshot().gpus[0].capacity_bytes == 9 * GIB
    assert shown["reserve"] == ("1GiB", "file", None)
    assert shown["max_bypass"] == (5, "command line", None)
    assert shown["algorithm"] == ("fifo", "default", None)
    (start,) = house.records("daemon.start")
    assert (start["settings"]["reserve"], start["settings"]["max_bypass"], start["seed"]) == ("1GiB", "5", 0)


def test_a_smaller_reserve_serves_those_that_wait(house: House) -> None:
    house.config_file.write_text('reserve = "4GiB"\n')
    house.start()
    holder(house, "alpha", 5 * GIB, limit="5GiB")
    beta = waiter(house, "beta", 2 * GIB, limit="4GiB", guarantee="0")
    assert reload(house, 'reserve = "2GiB"\n') == {"reserve": ("4GiB", "2GiB")}
    assert beta.do("answer")["type"] == "GRANTED"
    (changed,) = house.records("config.changed")
    assert (changed["old_settings"], changed["settings"]) == ({"reserve": "4GiB"}, {"reserve": "2GiB"})
    assert (changed["file"], changed["needs_restart"]) == (str(house.config_file), {})
    (capacity,) = house.records("capacity.changed")
    assert (capacity["old_capacity_bytes"], capacity["capacity_bytes"]) == (6 * GIB, 8 * GIB)
    assert capacity["reason"] == "configuration"
    (resumed,) = house.until("it is written", lambda: house.records("decision.resumed"))
    assert changed["seq"] < capacity["seq"] < resumed["seq"], "the cause stands before what follows from it"


def test_a_larger_reserve_takes_nothing_that_is_in_use(house: House) -> None:
    house.start()
    alpha = holder(house, "alpha", 8 * GIB, limit="8GiB")
    assert reload(house, 'capacity = "4GiB"\n') == {"capacity": ("auto", "4GiB")}
    assert alpha.do("page")["used"] == 8 * GIB
    with house.client() as client:
        assert client.snapshot().gpus[0].capacity_bytes == 4 * GIB


def test_another_algorithm_and_another_bound_reorder_those_that_wait(house: House) -> None:
    house.start()
    first = holder(house, "first", 5 * GIB, limit="5GiB", guarantee="0")
    holder(house, "second", 5 * GIB, limit="5GiB", guarantee="0")
    waiter(house, "alpha", 5 * GIB, limit="5GiB", guarantee="0")
    beta = waiter(house, "beta", 5 * GIB, limit="5GiB", guarantee="0")
    assert queue(house) == ["alpha", "beta"]
    reload(house, 'algorithm = "recent-use"\n')
    assert queue(house) == ["beta", "alpha"]
    with house.client() as client:
        assert client.snapshot().algorithm == "recent-use"
    first.kill()
    assert beta.do("answer")["type"] == "GRANTED"
    (resumed,) = house.until("it is written", lambda: house.records("decision.resumed"))
    assert resumed["algorithm"] == "recent-use"
    waiter(house, "gamma", 5 * GIB, limit="5GiB", guarantee="0")
    assert queue(house) == ["gamma", "alpha"]
    reload(house, 'algorithm = "recent-use"\nmax_bypass = 1\n')
    assert queue(house) == ["alpha", "gamma"], "it was passed over once"


@pytest.mark.parametrize("text", ["safe = false\n", "[device.0]\nsafe = false\n"])
def test_without_the_safety_rule_what_is_free_is_handed_out(house: House, text: str) -> None:
    house.start()
    holder(house, "alpha", 5 * GIB, limit="8GiB", guarantee="0")
    beta = waiter(house, "beta", 4 * GIB, limit="8GiB", guarantee="0")
    reload(house, text)
    assert beta.do("answer")["type"] == "GRANTED"


def test_the_fail_policy_reaches_processes_that_run_and_those_that_come(house: House) -> None:
    house.start()
    alpha = holder(house, "alpha", GIB, limit="4GiB")
    assert alpha.do("policy") == "closed"
    assert reload(house, 'fail = "open"\n') == {"fail": ("closed", "open")}
    assert alpha.do("policy") == "open"
    assert holder(house, "beta", GIB, limit="4GiB").do("policy") == "open"


def test_a_shorter_interval_holds_at_once(house: House) -> None:
    house.settings["interval_s"] = 1.0
    house.config_file.write_text('interval = "1h"\n')
    house.start()
    alpha = holder(house, "alpha", GIB, limit="4GiB")
    house.nvml.process_bytes[make_gpu().uuid] = {alpha.process.pid: 3 * GIB}
    assert reload(house, 'interval = "50ms"\n') == {"interval": ("1h", "50ms")}
    house.until("it has lasted for some looks", lambda: house.records("finding.raised"))


def test_another_default_limit_is_for_containers_that_come_later(house: House) -> None:
    house.config_file.write_text('default_limit = "4GiB"\n')
    house.start()
    before = house.peer(house.container("before"))
    before.do("hello")
    reload(house, 'default_limit = "25%"\ndefault_guarantee = 0\n')
    after = house.peer(house.container("after"))
    after.do("hello")
    assert (before.do("query")["total"], after.do("query")["total"]) == (4 * GIB, 2560 * MIB)
    with house.client() as client:
        limits = {info.name: info for info in client.limit_list()}
    assert (limits["before"].guarantee_bytes, limits["after"].guarantee_bytes) == (4 * GIB, 0)
    reload(house, 'default_limit = "deny"\n')
    answer = house.peer(house.container("denied")).do("hello")
    assert (answer["type"], answer["reason"]) == ("REFUSED", UNKNOWN)


def test_what_needs_a_restart_is_named_and_left_as_it_is(house: House) -> None:
    house.start()
    house.config_file.write_text("simulated = true\nseed = 7\nmax_bypass = 9\n")
    with house.client() as client:
        change = client.config_reload()
        assert change.changed == (SettingChange(key="max_bypass", old=64, new=9),)
        assert {each.key for each in change.needs_restart} == {"simulated", "seed"}
        assert settings(client)["simulated"] == (False, "default", True)
        assert settings(client)["max_bypass"] == (9, "file", None)
        assert not client.snapshot().simulated
    (changed,) = house.records("config.changed")
    assert changed["needs_restart"] == {"simulated": "true", "seed": "7"}
    house.stop()
    house.start()
    with house.client() as client:
        assert client.snapshot().simulated


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('reserve = "2GiB"\nreserv = 1\nprobes = "x"\n', "2: there is no key 'reserv'; did you mean 'reserve'?"),
        ('reserve = "2GiB"\n[device.7]\nsafe = false\n', "there is no GPU '7'"),
        ('reserve = "2GiB"\n[device.0]\ncapacity = "11GiB"\n', "more than GPU 0 has (10GiB)"),
        ('reserve = "2GiB"\nreserve = "3GiB"\n', "not TOML"),
        (None, "there is no"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_so(
    house: House, caplog: pytest.LogCaptureFixture, text: str | None, said: str
) -> None:
    house.config_file.write_text('reserve = "1GiB"\n')
    house.start()
    with house.client() as client:
        before = client.config_show()
        if text is None:
            house.config_file.unlink()
        else:
            house.config_file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            client.config_reload()
        assert said in caught.value.message
        assert client.config_show() == before
        assert client.snapshot().gpus[0].capacity_bytes == 9 * GIB
    (rejected,) = house.records("config.rejected")
    assert said in rejected["reason"]
    assert (rejected["by_uid"], house.records("config.changed")) == (0, [])
    assert any(said in record.message for record in caplog.records), "and on stderr, for whoever sent a signal"


def test_a_file_that_has_not_changed_changes_nothing(house: House) -> None:
    house.config_file.write_text('reserve = "1GiB"\n')
    house.start()
    assert reload(house, 'reserve = "1024MiB"\n') == {}
    assert house.records("config.changed") == []


def test_sighup_reads_the_file_again_and_a_bad_one_does_no_harm(house: House) -> None:
    house.config_file.write_text("max_bypass = 1\n")
    daemon = subprocess.Popen([sys.executable, "-P", SERVE, house.folder], stderr=subprocess.PIPE, text=True)
    try:
        house.until("it answers", house.config.paths.control_socket.exists)
        house.config_file.write_text("max_bypass = 2\n")
        daemon.send_signal(signal.SIGHUP)
        with house.client() as client:
            house.until("it is in force", lambda: settings(client)["max_bypass"][0] == 2)
            house.config_file.write_text("max_bypas = 3\n")
            daemon.send_signal(signal.SIGHUP)
            house.until("it is rejected", lambda: house.records("config.rejected"))
            assert settings(client)["max_bypass"][0] == 2
        assert house.records("config.rejected")[0]["by_uid"] is None
        daemon.terminate()
        _, said = daemon.communicate(timeout=10)
        assert daemon.returncode == 0
        assert f"{house.config_file}:1: there is no key 'max_bypas'; did you mean 'max_bypass'?" in said
    finally:
        daemon.kill()
        daemon.communicate()


def test_a_default_share_is_a_limit_of_its_own_on_each_device(house: House) -> None:
    house.nvml.devices = (make_gpu(0, 8 * GIB), make_gpu(1, 16 * GIB))
    house.config_file.write_text('default_limit = "25%"\n[device.1]\nreserve = "4GiB"\n')
    house.start()
    peer = house.peer(house.container("alpha"))
    peer.do("hello")
    assert peer.do("limits") == [2 * GIB, 3 * GIB]
    assert [peer.do("query", "first", slot)["total"] for slot in (0, 1)] == [2 * GIB, 3 * GIB]
    with house.client() as client:
        (info,) = client.limit_list()
        assert (info.limit_bytes, info.source) == (3 * GIB, "default")
        assert [(each.index, each.limit_bytes) for each in info.devices] == [(0, 2 * GIB), (1, 3 * GIB)]
        assert client.limit_set("alpha", GIB).old_limit_bytes == 3 * GIB
        assert peer.do("limits") == [GIB, GIB]
        assert client.limit_remove("alpha").new_limit_bytes == 3 * GIB
        assert peer.do("limits") == [2 * GIB, 3 * GIB]
    seen = [record["limit_bytes"] for record in house.records("container.seen")]
    assert seen == [2 * GIB, 3 * GIB]


def test_a_restarted_daemon_gives_a_running_container_the_default_that_it_had(house: House) -> None:
    house.config_file.write_text('default_limit = "25%"\n')
    house.start()
    peer = house.peer(house.container("alpha"))
    instance = peer.do("hello")["request"]
    peer.do("acquire", 2 * GIB)
    peer.do("answer")
    peer.do("settle", 2 * GIB)
    house.stop()
    house.config_file.write_text('default_limit = "10%"\n')
    house.start()
    peer.do("hello", "again", instance)
    assert peer.do("query", "again")["total"] == 2560 * MIB
    later = house.peer(house.container("later"))
    later.do("hello")
    assert later.do("query")["total"] == 1024 * MIB
