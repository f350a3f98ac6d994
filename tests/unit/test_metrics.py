# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: names, values, and that what is gone is gone."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from convgpu.config.keys import DaemonConfig
from convgpu.core.decision import Denied, Granted, Reason, Suspended
from convgpu.core.listen import Address, parse_address
from convgpu.core.status import FindingStatus, GroupStatus, GroupUsage, WitnessStatus
from convgpu.core.units import GIB
from convgpu.daemon.metering import Metering
from convgpu.errors import EnvironmentMissingError
from convgpu.metrics.endpoint import Endpoint, families
from convgpu.metrics.table import CONTAINER, METRICS, SUSPENDED_BUCKETS_S
from convgpu.metrics.tally import Tally
from convgpu.testing.snapshots import GPU_UUID, container_status, device_usage, sample_snapshot

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs" / "monitoring"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.prefix).parent / "bin")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: tools/setup --test")
SECOND = 1_000_000_000


class Question:
    """As much of a request as is counted."""

    request_id = 1


class Collected:
    def __init__(self, snapshot, tally):
        self._found = families(snapshot, tally, 1.5)

    def collect(self):
        return iter(self._found)

    def describe(self):
        return iter(())


def exposition(snapshot=None, tally=None):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected(snapshot or sample_snapshot(), tally or Tally()))
    return generate_latest(registry).decode()


def values(text):
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[f"convgpu_{name}", tuple(sorted(labels.items()))]


def busy_tally():
    tally = Tally()
    tally.decided(Granted(Question(), 0, None))
    tally.decided(Granted(Question(), 0, None))
    tally.decided(Suspended(Question(), 1, 1, None))
    tally.decided(Granted(Question(), 3 * SECOND, None, resumed=True))
    tally.decided(Suspended(Question(), 1, 1, None))
    tally.decided(Denied(Question(), Reason.WAIT_TIMEOUT, 60 * SECOND, None))
    tally.decided(Denied(Question(), Reason.LIMIT, 0, None))
    tally.decided(Suspended(Question(), 1, 1, None))
    tally.withdrawn()
    return tally


def everything():
    """A snapshot in which everything is known, and nothing is quiet."""
    snapshot = sample_snapshot()
    finding = FindingStatus(
        kind="bypass", uuid=GPU_UUID, reason="r", pids=(1,), since="s", action="log", container_id="c"
    )
    usage = replace(
        device_usage(GIB, 5 * GIB, assigned_bytes=2 * GIB, peak_bytes=3 * GIB, waiting=1, denied=2, suspended_ms=1500),
        managed_bytes=7, witness_bytes=8, nvml_bytes=9, requested_bytes=10,
    )  # fmt: skip
    held = GroupUsage(
        uuid=GPU_UUID,
        index=0,
        limit_bytes=13,
        source="command",
        assigned_bytes=14,
        used_bytes=15,
        waiting=16,
        over=True,
    )
    gpu = replace(snapshot.gpus[0], external_bytes=11, utilization_percent=25, temperature_c=40, used_bytes=12)
    return replace(
        snapshot,
        driver="580.1",
        groups=(GroupStatus(name="lab/team", containers=("all",), devices=(held,)),),
        containers=(*snapshot.containers, replace(container_status("all", usage), findings=(finding,))),
        gpus=(gpu,),
        witness=WitnessStatus(running=True, reason=None, attached=("a", "b"), missing=("c",), lost={"ring_full": 3}),
        audit_seq=41,
        audit_head="0123456789ab" + 52 * "f",
        undecided=("so and so",),
    )


def test_every_metric_of_the_table_is_served_with_its_kind_labels_and_help():
    found = {family.name: family for family in text_string_to_metric_families(exposition(everything(), busy_tally()))}
    assert set(found) == {metric.family for metric in METRICS.values()}
    for metric in METRICS.values():
        family = found[metric.family]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


def test_the_values_are_those_of_the_snapshot_in_base_units():
    found = values(exposition(everything(), busy_tally()))
    of = {"container": "all", "gpu_uuid": GPU_UUID}
    assert value(found, "container_memory_used_bytes", **of) == GIB
    assert value(found, "container_memory_limit_bytes", **of) == 5 * GIB
    assert value(found, "container_memory_managed_bytes", **of) == 7
    assert value(found, "container_memory_witness_bytes", **of) == 8
    assert value(found, "container_memory_nvml_bytes", **of) == 9
    assert value(found, "container_memory_requested_bytes", **of) == 10
    assert value(found, "container_suspended_seconds_total", **of) == 1.5
    assert value(found, "container_requests_denied_total", **of) == 2
    assert value(found, "gpu_utilization_ratio", gpu_uuid=GPU_UUID) == 0.25
    assert value(found, "gpu_memory_external_bytes", gpu_uuid=GPU_UUID) == 11
    assert value(found, "findings", gpu_uuid=GPU_UUID, kind="bypass") == 1
    assert value(found, "findings", gpu_uuid=GPU_UUID, kind="external") == 0
    assert value(found, "requests_waiting", gpu_uuid=GPU_UUID, kind="allocation") == 1
    assert value(found, "requests_waiting", gpu_uuid=GPU_UUID, kind="start") == 0
    assert value(found, "witness_probes", state="missing") == 1
    assert value(found, "witness_lost_events_total", kind="ring_full") == 3
    assert value(found, "audit_records_total") == 41
    assert value(found, "audit_head_prefix") == 0x0123456789AB
    assert value(found, "undecided_checks") == 1
    assert value(found, "group_memory_limit_bytes", group="lab/team", gpu_uuid=GPU_UUID) == 13
    assert value(found, "group_requests_waiting", group="lab/team", gpu_uuid=GPU_UUID) == 16
    assert value(found, "daemon_start_time_seconds") == 1.5


def test_the_whole_prefix_of_a_head_survives_the_text_format():
    head = "fedcba987654" + 52 * "0"
    found = values(exposition(replace(sample_snapshot(), audit_head=head)))
    assert int(value(found, "audit_head_prefix")) == 0xFEDCBA987654


def test_decisions_are_counted_by_outcome_and_only_denials_by_reason():
    found = values(exposition(tally=busy_tally()))
    counted = {
        (labels["outcome"], labels["reason"]): count
        for (name, pairs), count in found.items()
        if name == "convgpu_decisions_total" and (labels := dict(pairs))
    }
    assert counted == {
        ("granted", ""): 2,
        ("resumed", ""): 1,
        ("suspended", ""): 3,
        ("withdrawn", ""): 1,
        ("denied", "limit"): 1,
        ("denied", "wait_timeout"): 1,
    }


def test_only_those_that_waited_are_in_the_histogram():
    found = values(exposition(tally=busy_tally()))
    assert value(found, "request_suspended_seconds_count", outcome="granted") == 1
    assert value(found, "request_suspended_seconds_sum", outcome="granted") == 3
    assert value(found, "request_suspended_seconds_bucket", outcome="granted", le="1.0") == 0
    assert value(found, "request_suspended_seconds_bucket", outcome="granted", le="5.0") == 1
    assert value(found, "request_suspended_seconds_bucket", outcome="granted", le="+Inf") == 1
    assert value(found, "request_suspended_seconds_count", outcome="denied") == 1
    assert value(found, "request_suspended_seconds_bucket", outcome="denied", le="15.0") == 0
    assert value(found, "request_suspended_seconds_bucket", outcome="denied", le="60.0") == 1


def test_a_copy_of_the_counts_stays_as_it_was():
    tally = busy_tally()
    copied = tally.copy()
    before = exposition(tally=copied)
    assert before == exposition(tally=tally)
    tally.decided(Granted(Question(), 3 * SECOND, None, resumed=True))
    tally.withdrawn()
    assert exposition(tally=copied) == before != exposition(tally=tally)


def test_what_is_gone_has_no_series_any_more():
    snapshot = sample_snapshot()
    before = exposition(snapshot)
    assert 'container="beta"' in before
    after = exposition(replace(snapshot, containers=snapshot.containers[:1]))
    assert 'container="beta"' not in after
    assert 'container="alpha"' in after


def test_there_are_so_many_series_for_each_container_and_no_more():
    snapshot = sample_snapshot()

    def count(number):
        containers = tuple(container_status(f"c{each}", device_usage(GIB, GIB)) for each in range(number))
        return len(values(exposition(replace(snapshot, containers=containers, queue=()))))

    per_container = count(2) - count(1)
    assert per_container <= 1 + sum(metric.labels == CONTAINER for metric in METRICS.values())
    assert count(100) - count(1) == 99 * per_container


def test_no_label_holds_what_changes_without_end():
    """A pid, a hash or a sequence number as a label would make a new series each time."""
    names = {label for metric in METRICS.values() for label in metric.labels}
    assert names == {
        "version", "algorithm", "driver", "simulated", "gpu_uuid", "gpu", "name", "container", "container_id", "image",
        "state", "guarded", "group", "kind", "outcome", "reason",
    }  # fmt: skip


def test_two_containers_of_one_name_are_told_apart():
    one = container_status("same", device_usage(GIB, GIB))
    other = replace(one, container_id="f" * 64)
    text = exposition(replace(sample_snapshot(), containers=(one, other)))
    assert len(set(re.findall(r'convgpu_container_memory_used_bytes\{container="(same@\w{12})"', text))) == 2


def test_what_is_not_known_has_no_sample_and_is_not_0():
    odd = container_status("odd", replace(device_usage(None, GIB), witness_bytes=None))
    text = exposition(replace(sample_snapshot(), containers=(odd,)))
    assert 'convgpu_container_memory_used_bytes{container="odd"' not in text
    assert 'convgpu_container_memory_limit_bytes{container="odd"' in text


def test_a_name_with_quotes_and_lines_breaks_nothing():
    odd = container_status('a"b\\c\nd', device_usage(GIB, GIB))
    found = values(exposition(replace(sample_snapshot(), containers=(odd,))))
    assert value(found, "container_memory_used_bytes", container='a"b\\c\nd', gpu_uuid=GPU_UUID) == GIB


@needs_promtool
def test_promtool_finds_nothing_to_say_about_the_exposition():
    text = exposition(everything(), busy_tally())
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_promtool
def test_promtool_accepts_the_alerts_and_they_are_raised_when_they_should():
    subprocess.run([PROMTOOL, "check", "rules", MONITORING / "alerts.yml"], check=True)
    subprocess.run([PROMTOOL, "test", "rules", MONITORING / "alerts_test.yml"], check=True)


def test_alerts_and_dashboard_ask_for_series_that_exist():
    known = set()
    for metric in METRICS.values():
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        known |= {metric.series + ending for ending in endings}
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    alerts = (MONITORING / "alerts.yml").read_text()
    named = set(re.findall(r"\bconvgpu_\w+", " ".join((*queries, *variables, alerts))))
    assert named
    assert named <= known


def test_the_panels_of_the_dashboard_do_not_lie_on_each_other():
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert all(x < 24 for x, _ in places)
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
def test_promtool_can_read_every_query_of_the_dashboard(tmp_path):
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # YAML is a superset of JSON
    subprocess.run([PROMTOOL, "check", "rules", "--lint=none", file], check=True)


def test_the_buckets_rise():
    assert list(SUSPENDED_BUCKETS_S) == sorted(set(SUSPENDED_BUCKETS_S))


class Loop:
    """An event loop in a thread, as the daemon's is for those who scrape."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self.loop

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def free_port(host="127.0.0.1", family=socket.AF_INET):
    with socket.socket(family) as trial:
        trial.bind((host, 0))
        return trial.getsockname()[1]


def fetch(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_the_endpoint_measures_afresh_but_not_more_often_than_twice_a_second():
    looks = 0

    async def snapshot():
        nonlocal looks
        looks += 1
        return sample_snapshot()

    address = Address("127.0.0.1", free_port())
    with Loop() as loop:
        endpoint = Endpoint(address, snapshot, Tally(), loop)
        endpoint.open()
        try:
            kind, text = fetch(address)
            for _ in range(5):
                fetch(address)
            assert 1 <= looks < 6
        finally:
            endpoint.close()
    assert kind.startswith("text/plain")
    assert 'convgpu_container_memory_used_bytes{container="alpha"' in text
    with pytest.raises(urllib.error.URLError):
        fetch(address)


def test_a_look_that_fails_is_an_error_of_the_scrape_and_the_next_one_works(capfd):
    fail = True

    async def snapshot():
        if fail:
            raise ZeroDivisionError
        return sample_snapshot()

    address = Address("127.0.0.1", free_port())
    with Loop() as loop:
        endpoint = Endpoint(address, snapshot, Tally(), loop)
        endpoint.open()
        try:
            with pytest.raises(urllib.error.HTTPError):
                fetch(address)
            fail = False
            assert "convgpu_witness_up" in fetch(address)[1]
        finally:
            endpoint.close()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_an_address_that_is_taken_is_said_with_what_to_do():
    with socket.socket() as taken, Loop() as loop:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = Endpoint(Address("127.0.0.1", taken.getsockname()[1]), None, Tally(), loop)
        with pytest.raises(EnvironmentMissingError, match="in use") as raised:
            endpoint.open()
    assert "metrics_listen" in raised.value.next_step


def test_off_unless_configured():
    """Nothing listens, and what it would take is not even loaded."""
    code = (
        "import asyncio, sys\n"
        "from convgpu.config.keys import DaemonConfig\n"
        "from convgpu.daemon.metering import Metering\n"
        "from convgpu.metrics.tally import Tally\n"
        "Metering(DaemonConfig(), None, Tally()).open()\n"
        "print('prometheus_client' in sys.modules, 'http.server' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    asyncio.run(Metering(DaemonConfig(), None, Tally()).close())


@pytest.mark.parametrize(("listen", "refused"), [("127.0.0.1:1", False), ("[::1]:1", False), ("0.0.0.0:1", True)])
def test_other_machines_are_let_in_only_on_purpose(listen, refused):
    config = DaemonConfig(metrics_listen=parse_address(listen))
    found = config.contradictions()
    assert bool(found) is refused
    assert not refused or "metrics_remote = true" in found[0]
    assert DaemonConfig(metrics_listen=parse_address(listen), metrics_remote=True).contradictions() == []
