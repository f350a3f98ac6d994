# SPDX-License-Identifier: Apache-2.0
"""`convgpu config`: what is wrong with a file, what is in force, what a reload changed."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from convgpu.api import ConfigStatus
from convgpu.cli.main import main
from convgpu.config.file import parse
from convgpu.config.keys import KEYS
from convgpu.config.layers import Given, Layers
from convgpu.core.amount import Amount
from convgpu.core.units import GIB
from convgpu.paths import DEFAULT_RUN_DIR, configured_run_dir
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.toml"


@pytest.fixture
def convgpu(tmp_path, file):
    def invoke(*arguments, run_dir=tmp_path):
        environment = {"CONVGPU_RUN_DIR": str(run_dir) if run_dir else None, "CONVGPU_CONFIG": str(file)}
        return CliRunner(env=environment).invoke(main, arguments, prog_name="convgpu")

    return invoke


@pytest.fixture
def server(tmp_path, file):
    file.write_text('reserve = "1GiB"\n[device.0]\ndefault_limit = "25%"\n')
    layers = Layers(file, given={"seed": Given(7)})
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock", layers) as fake:
        yield fake


def test_a_file_that_is_well_is_said_to_be(convgpu, file):
    file.write_text('reserve = "1GiB"\n[device.0]\nsafe = false\n')
    done = convgpu("config", "check")
    assert (done.exit_code, done.stdout) == (0, f"{file}: 2 settings, all well\n")


def test_everything_that_is_wrong_is_printed_one_line_each_and_the_status_is_2(convgpu, file):
    file.write_text("reserv = 1\nprobes = 'some'\n\n[device.0]\nsafe = 1\n")
    done = convgpu("config", "check", str(file))
    assert done.exit_code == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines[:3]] == [f"{file}:1", f"{file}:2", f"{file}:5"]
    assert lines[0].endswith("did you mean 'reserve'?")
    assert lines[3] == f"{file}: 3 problems"


def test_what_contradicts_itself_is_wrong_too(convgpu, file):
    file.write_text('default_limit = "1GiB"\ndefault_guarantee = "2GiB"\n')
    done = convgpu("config", "check")
    assert done.exit_code == 2
    assert "default_guarantee 2GiB is more than default_limit 1GiB" in done.stderr


def test_no_file_is_no_mistake_but_a_named_one_must_be_there(convgpu, file):
    assert convgpu("config", "check").stdout == f"There is no {file}: the defaults hold.\n"
    assert convgpu("config", "check", str(file)).exit_code == 2


def test_show_asks_the_daemon_and_says_where_each_setting_comes_from(convgpu, server):
    done = convgpu("config", "show")
    assert done.exit_code == 0
    rows = {line.split("   ")[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["reserve"] == ["reserve", "1GiB", "file"]
    assert rows["seed"] == ["seed", "7", "command", "line"]
    assert rows["safe"] == ["safe", "true", "default"]
    assert rows["device.0.default_limit"] == ["device.0.default_limit", "25%", "file"]
    assert server.requests == ["config_show"]


def test_show_json_is_the_api_s_own(convgpu, server, file):
    status = msgspec.json.decode(convgpu("config", "show", "--format", "json").stdout, type=ConfigStatus)
    assert status.file == str(file)
    assert {setting.key: setting.value for setting in status.settings}["seed"] == 7


def test_show_toml_sets_the_same_again(convgpu, server):
    contents = parse(convgpu("config", "show", "--format", "toml").stdout)
    assert contents.problems == ()
    quarter = Amount(share_ppm=250_000)
    assert contents.values == {"reserve": Amount(GIB), "seed": 7, "device.0.default_limit": quarter}


def test_without_a_daemon_show_says_so_and_shows_the_file(convgpu, file):
    file.write_text("seed = 9\n")
    done = convgpu("config", "show", "--format", "json")
    assert done.exit_code == 0
    assert "no ConvGPU daemon answers" in done.stderr
    listed = {setting["key"]: setting for setting in json.loads(done.stdout)["settings"]}
    assert (listed["seed"]["value"], listed["seed"]["source"]) == (9, "file")


def test_without_a_daemon_a_file_with_mistakes_is_not_shown(convgpu, file):
    file.write_text("sed = 9\n")
    done = convgpu("config", "show")
    assert done.exit_code == 2
    assert f"{file}:1: there is no key 'sed'; did you mean 'seed'?" in done.stderr


def test_a_file_can_be_shown_without_asking_the_daemon(convgpu, server, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("seed = 11\n")
    listed = json.loads(convgpu("config", "show", "--config", str(other), "--format", "json").stdout)["settings"]
    assert next(setting["value"] for setting in listed if setting["key"] == "seed") == 11
    assert server.requests == []


def test_defaults_are_a_file_to_begin_with(convgpu, server):
    shown = convgpu("config", "show", "--defaults", "--format", "toml").stdout
    assert parse(shown).values == {}
    assert all(f"\n#{key.name} = " in shown for key in KEYS)
    assert server.requests == []


def test_reload_prints_what_changed_and_what_needs_a_restart(convgpu, server, file):
    file.write_text('reserve = "2GiB"\nprobes = "off"\nseed = 9\n')
    done = convgpu("config", "reload")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "reserve: 1GiB -> 2GiB",
        "device.0.default_limit: 25% -> not set",
        "probes: all -> off: needs a restart of the daemon",
    ]


def test_reload_without_a_change_says_so(convgpu, server):
    assert convgpu("config", "reload").stdout == "Nothing has changed.\n"


def test_reload_of_a_bad_file_has_status_2_and_every_line(convgpu, server, file):
    file.write_text("a = 1\nb = 2\n")
    done = convgpu("config", "reload")
    assert done.exit_code == 2
    assert f"{file}:1: there is no key 'a'" in done.stderr
    assert f"{file}:2: there is no key 'b'" in done.stderr
    assert "next: correct the file" in done.stderr


def test_every_command_looks_for_the_daemon_where_the_file_says(convgpu, file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file.write_text(f'run_dir = "{tmp_path / "elsewhere"}"\n')
    with FakeControlServer(sample_snapshot(), tmp_path / "elsewhere" / "control.sock"):
        assert convgpu("ps", run_dir=None).exit_code == 0
        assert convgpu("ps").exit_code == 3, "the environment wins over the file"


@pytest.mark.parametrize("content", [None, "run_dir = 3\n", "run_dir = \n", "seed = 3\n", b"\xff"])
def test_a_file_that_names_no_folder_does_not_stop_a_command(file, content):
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert configured_run_dir(file) == DEFAULT_RUN_DIR
