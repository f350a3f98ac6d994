# SPDX-License-Identifier: Apache-2.0
"""What wins over what, and what a reload can change."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from convgpu.config.keys import KEYS, DaemonConfig, DeviceConfig
from convgpu.config.layers import (
    COMMAND_LINE,
    DEFAULT,
    ENVIRONMENT,
    FILE,
    Effective,
    Given,
    Layers,
    differences,
    merged,
)
from convgpu.core.amount import Amount
from convgpu.core.units import GIB
from convgpu.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    effective = Layers(file).read()
    assert (effective.config, effective.file, effective.sources) == (DaemonConfig(), None, {})


def test_what_is_given_stands_above_the_file_and_that_above_the_defaults(file: Path) -> None:
    file.write_text('reserve = "1GiB"\nseed = 3\nlog_dir = "/l"\n')
    given = {"seed": Given(4), "log_dir": Given(Path("/env"), ENVIRONMENT)}
    effective = Layers(file, given=given).read()
    assert effective.config == DaemonConfig(reserve=Amount(GIB), seed=4, log_dir=Path("/env"))
    assert [effective.source(name) for name in ("reserve", "seed", "log_dir", "safe")] == [
        FILE, COMMAND_LINE, ENVIRONMENT, DEFAULT,
    ]  # fmt: skip


def test_what_is_given_for_all_gpus_stands_above_the_file_s_single_ones(file: Path) -> None:
    file.write_text('[device.0]\nreserve = "1GiB"\nsafe = false\n')
    effective = Layers(file, given={"reserve": Given(Amount(5))}).read()
    assert effective.config.devices == {"0": {"safe": False}}
    both = {"reserve": Given(Amount(5)), "device.0.reserve": Given(Amount(6))}
    assert Layers(file, given=both).read().config.devices == {"0": {"safe": False, "reserve": Amount(6)}}


def test_a_file_that_must_be_there_is_missed(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        Layers(file, required=True).read()


def test_a_file_that_was_there_once_is_missed_when_it_is_gone(file: Path) -> None:
    file.write_text("seed = 3\n")
    layers = Layers(file)
    assert layers.read().config.seed == 3
    file.unlink()
    with pytest.raises(ConfigError) as caught:
        layers.read()
    assert caught.value.next_step == "put it back; an empty file stands for the defaults"
    file.write_text("")
    assert layers.read().config.seed == 0


def test_a_file_that_comes_later_is_read(file: Path) -> None:
    layers = Layers(file)
    layers.read()
    file.write_text("seed = 3\n")
    assert layers.read().config.seed == 3


def test_all_problems_are_in_one_error(file: Path) -> None:
    file.write_text("a = 1\nseed = -1\n")
    with pytest.raises(ConfigError) as caught:
        Layers(file).read()
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:1", f"{file}:2"]
    assert caught.value.exit_code == 2


def test_a_contradiction_between_the_layers_is_found(file: Path) -> None:
    file.write_text('default_limit = "1GiB"\n')
    with pytest.raises(ConfigError, match="default_guarantee 2GiB is more than default_limit 1GiB"):
        Layers(file, given={"default_guarantee": Given(Amount(2 * GIB))}).read()


def test_settings_that_are_made_in_a_program_count_as_given() -> None:
    config = DaemonConfig(seed=3, devices={"0": {"reserve": Amount(5)}})
    effective = Layers.of(config).read()
    assert effective.config == config
    assert effective.sources == {"seed": COMMAND_LINE, "device.0.reserve": COMMAND_LINE}


def test_a_reload_keeps_what_only_a_restart_can_change() -> None:
    old = Effective(
        config=DaemonConfig(probes="off", max_bypass=1), sources={"probes": COMMAND_LINE, "max_bypass": FILE}
    )
    config = DaemonConfig(probes="all", max_bypass=2, log_dir=Path("/l"))
    wanted = Effective(config=config, sources={"max_bypass": FILE, "log_dir": FILE})
    new = merged(old, wanted)
    assert new.config == DaemonConfig(probes="off", max_bypass=2)
    assert [new.source(name) for name in ("probes", "log_dir", "max_bypass")] == [COMMAND_LINE, DEFAULT, FILE]
    assert differences(old.config, new.config) == [("max_bypass", 1, 2)]
    assert differences(new.config, config) == [("log_dir", "/var/log/convgpu", "/l"), ("probes", "off", "all")]


def test_what_is_set_for_a_device_or_no_longer_is_a_difference() -> None:
    one, other = DaemonConfig(devices={"0": {"safe": False}}), DaemonConfig(devices={"1": {"reserve": Amount(GIB)}})
    assert differences(one, other) == [("device.0.safe", False, None), ("device.1.reserve", None, "1GiB")]


def test_what_may_be_set_for_single_gpus_is_what_a_device_has() -> None:
    own = [key for key in KEYS if key.per_device]
    assert {key.name for key in own} == {key.attribute for key in own} == {each.name for each in fields(DeviceConfig)}
