# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what it says, and what is wrong with it, each thing with its line."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convgpu.config.file import parse, read_text
from convgpu.config.groups import limit_of
from convgpu.config.keys import KEYS, DaemonConfig
from convgpu.core.amount import ACCEPTED_FORMS, Amount
from convgpu.core.groups import NAME_FORM
from convgpu.core.identity import GpuUuid
from convgpu.core.listen import Address
from convgpu.core.units import GIB, MIB
from convgpu.errors import ConfigError

UUID = "GPU-6b3f1d5e-0f0d-4c7b-9b7e-0d6a1f5f2c11"

EVERYTHING = f"""\
run_dir = "/r"
state_dir = "/s"
log_dir = "/l"
audit_max_size = "none"
audit_max_age = "90m"
audit_seal_interval = 5
audit_key = "/k"
on_audit_failure = "stop"
capacity = "90%"
reserve = 1073741824
default_limit = "25%"
default_guarantee = "1GiB"
algorithm = "fifo"
seed = 7
max_bypass = 0
safe = false
fail = "open"
probes = "physical"
interval = "500ms"
runtime_next = "crun"
runtime_unlabelled = "pass"
runtime_daemon_absent = "refuse"
watch = "all"
on_unwrapped = "stop"
on_bypass = "pause"
on_tampered = "notify"
on_external = "notify"
notify_command = "/usr/bin/logger -t 'conv gpu'"
group_without_limit = "refuse"
group_by_compose_project = true
metrics_listen = "[::]:9400"
metrics_remote = true
simulated = true

[groups.lab]
limit = "20GiB"

[groups.lab.device.1]
limit = "none"

[groups."lab/team"]
device.{UUID}.limit = "25%"

[device.0]
reserve = "2GiB"
capacity = "auto"

[device.{UUID}]
default_limit = "deny"
safe = true
"""


class Gpu(NamedTuple):
    uuid: GpuUuid
    index: int
    total_bytes: int = 8 * GIB


def problems(text: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.text) for problem in parse(text).problems]


def test_every_key_can_be_set() -> None:
    contents = parse(EVERYTHING)
    assert contents.problems == ()
    assert {key.name for key in KEYS} <= contents.values.keys()
    assert DaemonConfig.of(contents.values) == DaemonConfig(
        run_dir=Path("/r"),
        state_dir=Path("/s"),
        log_dir=Path("/l"),
        audit_max_size_bytes="none",
        audit_max_age_ns=5400 * 10**9,
        audit_seal_interval_ns=5 * 10**9,
        audit_key=Path("/k"),
        on_audit_failure="stop",
        capacity=Amount(share_ppm=900_000),
        reserve=Amount(GIB),
        default_limit=Amount(share_ppm=250_000),
        default_guarantee=Amount(GIB),
        algorithm="fifo",
        seed=7,
        max_bypass=0,
        safe=False,
        fail_policy="open",
        probes="physical",
        interval_s=0.5,
        runtime_next="crun",
        runtime_unlabelled="pass",
        runtime_daemon_absent="refuse",
        watch="all",
        on_unwrapped="stop",
        on_bypass="pause",
        on_tampered="notify",
        on_external="notify",
        notify_command=("/usr/bin/logger", "-t", "conv gpu"),
        group_without_limit="refuse",
        group_by_compose_project=True,
        metrics_listen=Address("::", 9400),
        metrics_remote=True,
        simulated=True,
        groups={"lab": {"": Amount(20 * GIB), "1": "none"}, "lab/team": {UUID: Amount(share_ppm=250_000)}},
        devices={
            "0": {"reserve": Amount(2 * GIB), "capacity": "auto"},
            UUID: {"default_limit": "deny", "safe": True},
        },
    )


def test_an_empty_file_is_the_defaults() -> None:
    assert DaemonConfig.of(parse("").values) == DaemonConfig()


def test_everything_that_is_wrong_is_said_at_once_with_its_line() -> None:
    text = f"""\
# what a lab had
reserv = "1GiB"
max_bypass = "often"
probes = "al"
safe = "yes"
zzz = 1
run_dir = "relative"

[device.0]
default-limit = "1GiB"
algorithm = "fifo"
reserve = "1.5"
colour = 3

[device."GPU 1"]
[gpu.0]
[device.{UUID}]
capacity = 0
"""
    assert problems(text) == [
        (2, "there is no key 'reserv'; did you mean 'reserve'?"),
        (3, "max_bypass: 'often' is not a whole number from 0 on"),
        (4, "probes: 'al' is none of all, physical, off; did you mean 'all'?"),
        (5, "safe: 'yes' is neither true nor false: write one of the two, without quotes"),
        (6, f"there is no key 'zzz'; known: {', '.join(key.name for key in KEYS)}"),
        (7, "run_dir: 'relative' is not an absolute path: begin it with /"),
        (10, "there is no key 'default-limit'; did you mean 'default_limit'?"),
        (11, "'algorithm' holds for all GPUs alike: write it above the first line with a ["),
        (
            12,
            f"reserve: '1.5' is not a whole number of bytes: write {ACCEPTED_FORMS}",
        ),
        (
            13,
            "there is no key 'colour'; a GPU may have capacity, reserve, default_limit, default_guarantee, safe",
        ),
        (15, "'GPU 1' names no GPU: write its index, or its UUID (GPU-...)"),
        (16, "there is no key 'gpu'; the only tables are [device.0], [groups.lab] and so on"),
        (18, "capacity: a capacity is at least 1 byte, not 0; to have it measured, write auto"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("reserve = \n", 1, "not TOML: Invalid value"),
        ('a = 1\nb = "open\n', 2, "not TOML"),
        ("seed = 1\nseed = 2\n", 2, "not TOML: Cannot overwrite a value"),
        ("x = [1,\n2\n", 2, "not TOML"),
        ("device = 3\n", 1, "device is a table for each GPU"),
        ("[[device]]\nreserve = 1\n", 1, "device is a table for each GPU"),
        ("[device]\nreserve = 1\n", 2, "for which GPU?"),
        ("[device]\n0 = 1\n", 2, "device.0 is a table"),
        ("[devices.0]\nreserve = 1\n", 1, "did you mean 'device'?"),
        ("[reserve]\nx = 1\n", 1, "a table is not a text in quotes"),
        ("[algorithms]\nx = 1\n", 1, "did you mean 'algorithm'?"),
    ],
)
def test_what_has_no_sense_is_located_too(text: str, line: int, part: str) -> None:
    ((at, said),) = problems(text)
    assert (at, part in said) == (line, True), said


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("reserve = 0.05", "0.05 is not a text in quotes"),
        ("reserve = -1", "-1 is not a text in quotes"),
        ("reserve = true", "true is not a text in quotes"),
        ("reserve = '101%'", "at most 100%"),
        ("capacity = '0'", "at least 1 byte"),
        ("default_limit = 0", "to let nothing through, write deny"),
        ("default_limit = 'denied'", "is not a size"),
        ("default_guarantee = 'none'", "is not a size"),
        ("algorithm = 'lottery'", "is not a scheduling algorithm; known: "),
        ("algorithm = 3", "3 is not a text"),
        ("seed = -1", "-1 is not a whole number"),
        ("seed = true", "true is not a whole number"),
        ("max_bypass = 1.5", "1.5 is not a whole number"),
        ("safe = 1", "1 is neither true nor false"),
        ("fail = 'opne'", "did you mean 'open'?"),
        ("interval = 0", "at least 50ms"),
        ("interval = '2h'", "at most 1h"),
        ("interval = 'none'", "there is always a next round"),
        ("interval = true", "is not a text"),
        ("log_dir = 3", "3 is not a text"),
        ("on_external = 'stop'", "'stop' is none of log, notify"),
        ("notify_command = 'true'", "'true' is not an absolute path"),
        ("notify_command = '/bin/sh -c \"x'", "No closing quotation"),
        ("notify_command = 1", "1 is not a text"),
    ],
)
def test_a_bad_value_is_refused_with_its_reason(line: str, part: str) -> None:
    ((_, said),) = problems(line)
    name = line.partition(" ")[0]
    assert said.startswith(f"{name}: ")
    assert part in said


def test_lines_are_right_after_strings_and_lists_that_span_lines() -> None:
    text = 'a = """\n[device.0]\nb = 1\n"""\nc = [\n  1,\n  2,\n]\n# [x]\nd = 1\n'
    assert [line for line, _ in problems(text)] == [1, 5, 10]


@given(
    st.lists(
        st.sampled_from(
            ["reserve = 1", "zz = [\n1,\n2]", 'yy = """\n[a]\n"""', "", "# zz = 1", "  ", "ww = {a = 1}", "seed = 'x'"]
        ),
        unique=True,
    ),
    st.lists(st.sampled_from(["reserve = 1", "zz = 1", "safe = 2", "", "# [b]"]), unique=True),
)
def test_every_line_that_is_named_holds_what_is_complained_of(head: list[str], device: list[str]) -> None:
    text = "\n".join([*head, "[device.0]", *device])
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = text.split("\n")
    for line, said in problems(text):
        name = said.partition("'")[2].partition("'")[0] if said.startswith("there is no") else said.partition(":")[0]
        assert lines[line - 1].startswith(f"{name} ="), (line, said)


@pytest.mark.parametrize(
    ("content", "part"), [(b"\xff\xfe", "is not a text in UTF-8"), (None, "cannot be read: No such file")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_text(path)
    assert str(path) in caught.value.message
    assert part in caught.value.message


def test_a_folder_or_a_file_of_others_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_of_a_device_the_uuid_wins_over_the_index_and_that_over_all() -> None:
    text = f'reserve = "1GiB"\n[device.0]\nreserve = "2GiB"\nsafe = false\n[device.{UUID}]\nreserve = "3GiB"\n'
    config = DaemonConfig.of(parse(text).values)

    def of(uuid: str, index: int) -> tuple[Any, bool]:
        settings = config.of_device(uuid, index)  # type: ignore[arg-type]
        return settings.reserve, settings.safe

    assert of("GPU-other", 1) == (Amount(GIB), True)
    assert of("GPU-other", 0) == (Amount(2 * GIB), False)
    assert of(UUID, 0) == (Amount(3 * GIB), False)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('default_limit = "1GiB"\ndefault_guarantee = "2GiB"', 1),
        ('default_limit = "10%"\ndefault_guarantee = "11%"', 1),
        ('default_limit = "10%"\ndefault_guarantee = "2GiB"', 0),
        ('default_limit = "4GiB"\ndefault_guarantee = "2GiB"\n[device.0]\ndefault_limit = "1GiB"', 1),
        ('default_guarantee = "2GiB"', 0),
        ('on_bypass = "notify"\non_external = "notify"', 2),
        ('on_bypass = "notify"\nnotify_command = "/bin/true"', 0),
    ],
)
def test_a_guarantee_above_its_limit_is_a_contradiction(text: str, count: int) -> None:
    assert len(DaemonConfig.of(parse(text).values).contradictions()) == count


def test_devnull_is_an_empty_file() -> None:
    assert parse(read_text(Path(os.devnull))).values == {}


def test_sizes_are_whole_bytes_without_quotes_too() -> None:
    assert parse(f"reserve = {256 * MIB}").values == {"reserve": Amount(256 * MIB)}


def test_what_is_wrong_with_groups_is_said_with_its_line() -> None:
    text = """\
[groups.lab]
limit = "lots"
limits = "1GiB"
colour = 3
[groups.lab.team]
limit = "2GiB"
[groups."no group"]
limit = "1GiB"
[groups.big.device."GPU 1"]
limit = "1GiB"
[groups.poor]
limit = 0
"""
    found = problems(text)
    assert found[0][0] == 2
    assert found[0][1].startswith("limit: 'lots' is not a size")
    assert found[1:] == [
        (3, "there is no key 'limits'; did you mean 'limit'?"),
        (4, "there is no key 'colour'; a group has limit"),
        (5, 'a group in a group is written [groups."lab/team"]'),
        (7, f"'no group' is not the name of a group: write {NAME_FORM}"),
        (9, "'GPU 1' names no GPU: write its index, or its UUID (GPU-...)"),
        (12, "limit: a group's limit is at least 1 byte, not 0; where it bounds nothing, write none"),
    ]
    assert problems("groups = 3") == [(1, "groups has a table for each group: write [groups.lab]")]
    assert problems("groups.lab = 3") == [(1, 'groups.lab is a table: write [groups."lab"]')]


def test_the_limit_of_a_group_is_that_of_the_uuid_then_of_the_index_then_of_all() -> None:
    config = DaemonConfig.of(parse(EVERYTHING).values)
    first, second = Gpu(GpuUuid(UUID), 0), Gpu(GpuUuid("GPU-2"), 1)
    assert limit_of(config.groups["lab"], first) == 20 * GIB
    assert limit_of(config.groups["lab"], second) is None, "none on this one, whatever holds for all"
    assert limit_of(config.groups["lab/team"], first) == 2 * GIB, "a share of the memory of the GPU"
    assert limit_of(config.groups["lab/team"], second) is None
