# SPDX-License-Identifier: Apache-2.0
"""Mounts that users ask for, and those that ConvGPU adds."""

from __future__ import annotations

import csv
from pathlib import PurePosixPath

import pytest

from convgpu.oci.arguments import parse_run_arguments
from convgpu.oci.mounts import bind_argument, mounts_of


def mount_of(*options):
    (mount,) = mounts_of(parse_run_arguments([*options, "image"]))
    return str(mount.target), mount.bind


@pytest.mark.parametrize(
    ("options", "target", "bind"),
    [
        (("-v", "/usr:/usr:ro"), "/usr", True),
        (("-v", "./here:/there/"), "/there", True),
        (("-v", "cache:/root/.cache"), "/root/.cache", False),
        (("-v", "/anonymous"), "/anonymous", False),
        (("--tmpfs", "/run:size=64m"), "/run", False),
        (("--mount", "type=bind,source=/a,target=/b//c/../d,readonly"), "/b/d", True),
        (("--mount", 'type=volume,dst=/x,"volume-opt=o=addr=1,rw"'), "/x", False),
        (("--mount", "Type=bind,src=/a,destination=/b"), "/b", True),
    ],
)
def test_every_form_is_understood(options, target, bind):
    assert mount_of(*options) == (target, bind)


def test_a_mount_without_a_target_is_left_to_docker():
    assert mounts_of(parse_run_arguments(["--mount", "type=bind,source=/a", "image"])) == ()


def test_a_mount_covers_itself_and_what_is_below_it():
    (mount,) = mounts_of(parse_run_arguments(["-v", "/usr:/usr", "image"]))
    assert mount.covers(PurePosixPath("/usr"))
    assert mount.covers(PurePosixPath("/usr/local/lib"))
    assert not mount.covers(PurePosixPath("/usrlocal"))


def test_odd_paths_survive_dockers_csv():
    written = bind_argument('/a,b "c"', "/t")
    assert next(csv.reader([written])) == ["type=bind", 'source=/a,b "c"', "target=/t", "readonly"]
