# SPDX-License-Identifier: Apache-2.0
"""Settings as others see them, and the pages that are made of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from convgpu.config.file import parse
from convgpu.config.keys import KEYS, DaemonConfig
from convgpu.config.layers import COMMAND_LINE, FILE, Effective, Layers
from convgpu.config.listing import list_settings, to_toml, toml_value
from convgpu.core.amount import Amount
from convgpu.core.units import GIB

ROOT = Path(__file__).resolve().parents[2]

AMOUNTS = st.builds(Amount, st.integers(1, 2**60)) | st.builds(Amount, st.just(0), st.integers(1, 1_000_000))
CONFIGS = st.builds(
    DaemonConfig,
    log_dir=st.sampled_from([Path("/l"), Path('/a "b"\\c')]),
    audit_max_size_bytes=st.integers(1, 2**60) | st.just("none"),
    audit_max_age_ns=st.integers(1, 2**60) | st.just("none"),
    audit_key=st.sampled_from([Path("/k"), "none"]),
    capacity=AMOUNTS | st.just("auto"),
    reserve=AMOUNTS | st.just(Amount()),
    default_limit=AMOUNTS | st.sampled_from(["none", "deny"]),
    seed=st.integers(0, 2**63 - 1),
    safe=st.booleans(),
    fail_policy=st.sampled_from(["open", "closed"]),
    interval_s=st.integers(50, 3_600_000).map(lambda ms: ms / 1000),
    groups=st.dictionaries(
        st.sampled_from(["lab", "lab/team", "2nd_lab"]),
        st.dictionaries(
            st.sampled_from(["", "1", "GPU-6b3f1d5e-0f0d-4c7b-9b7e-0d6a1f5f2c11"]),
            AMOUNTS | st.just("none"),
            min_size=1,
        ),
    ),
    devices=st.dictionaries(
        st.sampled_from(["0", "12", "GPU-6b3f1d5e-0f0d-4c7b-9b7e-0d6a1f5f2c11"]),
        st.fixed_dictionaries({"reserve": AMOUNTS}, optional={"safe": st.booleans(), "capacity": st.just("auto")}),
    ),
)


@given(CONFIGS)
def test_settings_written_as_a_file_set_the_same_again(config: DaemonConfig) -> None:
    contents = parse(to_toml(list_settings(Layers.of(config).read()), "/etc/convgpu/config.toml"))
    assert contents.problems == ()
    assert DaemonConfig.of(contents.values) == config


def test_the_example_sets_nothing_and_shows_every_key_with_its_default_and_meaning() -> None:
    example = (ROOT / "docs" / "config.example.toml").read_text()
    assert parse(example).values == {}
    text = " ".join(line.removeprefix("# ") for line in example.splitlines())
    for key in KEYS:
        assert f"\n#{key.name} = {toml_value(key.form.write(key.default))}\n" in example
        assert key.meaning in text


def test_every_line_of_the_example_can_be_brought_into_force() -> None:
    example = (ROOT / "docs" / "config.example.toml").read_text()
    contents = parse(re.sub(r"^#(?=\S)", "", example, flags=re.MULTILINE))
    assert contents.problems == ()
    of_tables = {"device.0.reserve", "groups.lab.limit"}
    assert contents.values.keys() == {key.name for key in KEYS} | of_tables
    plain = {name: value for name, value in contents.values.items() if name not in of_tables}
    assert DaemonConfig.of(plain) == DaemonConfig()


def test_the_pages_about_the_configuration_are_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "configuration.py", "--check"], check=True)


def test_a_setting_is_listed_with_value_source_and_what_a_restart_would_bring() -> None:
    config = DaemonConfig(reserve=Amount(GIB), devices={"0": {"safe": False}})
    effective = Effective(config=config, sources={"reserve": FILE, "device.0.safe": COMMAND_LINE})
    listed = {setting.key: setting for setting in list_settings(effective, DaemonConfig(probes="off"))}
    assert (listed["reserve"].value, listed["reserve"].source, listed["reserve"].live) == ("1GiB", "file", True)
    assert (listed["device.0.safe"].value, listed["device.0.safe"].source) == (False, "command line")
    assert (listed["probes"].value, listed["probes"].after_restart, listed["probes"].live) == ("all", "off", False)
    assert listed["log_dir"].after_restart is None
    assert list(listed)[: len(KEYS)] == [key.name for key in KEYS]
