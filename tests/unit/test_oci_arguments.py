# SPDX-License-Identifier: Apache-2.0
"""The arguments of `docker run`: where options end and the image begins."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from convgpu.oci import arguments
from convgpu.oci.arguments import parse_run_arguments


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("alpine", "alpine"),
        ("alpine sh -c 'echo --name=x'", "alpine"),
        ("-it --rm alpine", "alpine"),
        ("-itd alpine -v /x:/y", "alpine"),
        ("--name web -p 8080:80 nginx", "nginx"),
        ("--name=web -p8080:80 nginx", "nginx"),
        ("-itv /data:/data python:3 python", "python:3"),
        ("-e A=1 -e=B=2 -eC=3 --env D=4 busybox", "busybox"),
        ("--rm=false -i=true busybox", "busybox"),
        (
            "--gpus all --runtime nvidia nvidia/cuda:13.0.0-base-ubuntu24.04 nvidia-smi",
            "nvidia/cuda:13.0.0-base-ubuntu24.04",
        ),
        ("--net host --net-alias a --dns-opt b image", "image"),
        ("--rm -- image --rm", "image"),
        ("--new-option=value image", "image"),
        ("-h host -c 512 -m 1g -u 0 -w /tmp -l a=b -a stdin image", "image"),
    ],
)
def test_the_image_is_found(line, image):
    parsed = parse_run_arguments(shlex.split(line))
    assert parsed.image == image
    assert parsed.unknown is None


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("--new-option value image", "--new-option"),
        ("--rm --new-switch image", "--new-switch"),
        ("-itz image", "-itz"),
        ("-it -Z image", "-Z"),
        ("--name", "--name"),
        ("-e", "-e"),
    ],
)
def test_an_option_that_nobody_knows_ends_the_reading(line, unknown):
    """Whether the next argument belongs to it cannot be told, so the image cannot be told."""
    parsed = parse_run_arguments(shlex.split(line))
    assert parsed.image is None
    assert parsed.unknown == unknown


def test_no_image_at_all():
    for line in ([], ["--rm"], ["--"]):
        parsed = parse_run_arguments(line)
        assert (parsed.image, parsed.unknown) == (None, None)


def test_values_are_kept_in_order_whatever_the_form():
    parsed = parse_run_arguments(shlex.split("-v /a:/a --volume=/b:/b -tv/c:/c -v=/d:/d --rm image -v /e:/e"))
    assert parsed.values("volume") == ("/a:/a", "/b:/b", "/c:/c", "/d:/d")
    assert parsed.values("tty") == ("true",)


@pytest.mark.skipif(shutil.which("docker") is None, reason="no `docker` client on this machine to compare with")
def test_no_option_of_this_machines_docker_is_misread():
    """The client prints its help without an engine. A column for the type marks an option that takes a value."""
    text = subprocess.run(["docker", "run", "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  (?:-(\w), |    )--([\w-]+)(?: (\w[\w-]*))?(?:  |$)", text, re.MULTILINE)
    assert len(listed) > 80, "the form of Docker's help has changed"
    known = arguments._VALUE_OPTIONS | arguments._SWITCHES
    for letter, name, kind in listed:
        if name in known:
            assert name in (arguments._VALUE_OPTIONS if kind else arguments._SWITCHES), name
        if letter in arguments._LETTERS:
            assert arguments._LETTERS[letter] == name
    unknown = sorted({name for _, name, _ in listed} - known)
    if unknown:
        pytest.skip(f"this machine's docker is newer than the table, which lacks {', '.join(unknown)}")
