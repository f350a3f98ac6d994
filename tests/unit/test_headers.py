# SPDX-License-Identifier: Apache-2.0
"""Kernel headers: the running kernel's first, then any other's, merged where the distribution splits them."""

from __future__ import annotations

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.headers import HeaderChoice, ensure_headers

RUNNING = "6.18.44-cloud"


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def debian(root, version="6.1.0-56", flavour="amd64", arch="x86", common="common"):
    """Debian's split: the configured half and the common one."""
    half = f"usr/src/linux-headers-{version}-{flavour}"
    rest = f"usr/src/linux-headers-{version}-{common}"
    write(
        root,
        f"{half}/include/generated/autoconf.h",
        f"{half}/include/config/auto.conf",
        f"{half}/arch/{arch}/include/generated/uapi/asm/types.h",
        f"{rest}/include/linux/kconfig.h",
        f"{rest}/include/uapi/linux/bpf.h",
        f"{rest}/arch/{arch}/include/asm/ptrace.h",
        f"{rest}/Makefile",
    )
    return root / half, root / rest


def choose(tmp_path, **options):
    options = {"root": tmp_path / "root", "machine": "x86_64", "environ": {}} | options
    return ensure_headers(RUNNING, tmp_path / "cache", **options)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_the_running_kernels_own_headers_come_first(tmp_path, root):
    debian(root)
    write(root, "sys/kernel/kheaders.tar.xz", f"lib/modules/{RUNNING}/build/include/linux/kconfig.h")
    choice = choose(tmp_path)
    assert choice == HeaderChoice(path=root / f"lib/modules/{RUNNING}/build", release=RUNNING, exact=True, env={})


def test_debians_own_pair_of_links_is_complete(tmp_path, root):
    half, rest = debian(root, version="6.18.44")
    modules = root / "lib/modules" / RUNNING
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(half)
    (modules / "source").symlink_to(rest)
    assert choose(tmp_path).exact
    assert choose(tmp_path).env == {}


def test_a_dangling_link_of_a_removed_package_is_not_taken(tmp_path, root):
    modules = root / "lib/modules" / RUNNING
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/usr/src/gone")
    write(root, "sys/kernel/kheaders.tar.xz")
    assert choose(tmp_path) == HeaderChoice(path=None, release=RUNNING, exact=True, env={})


def test_a_split_package_becomes_one_folder_of_links(tmp_path, root):
    half, rest = debian(root)
    choice = choose(tmp_path)
    assert (choice.release, choice.exact) == ("6.1.0-56-amd64", False)
    assert choice.env == {"BCC_KERNEL_SOURCE": str(choice.path)}
    view = choice.path
    links = {str(path.relative_to(view)): path.readlink() for path in view.rglob("*") if path.is_symlink()}
    assert links == {
        "Makefile": rest / "Makefile",
        "include/generated": half / "include/generated",
        "include/config": half / "include/config",
        "include/linux": rest / "include/linux",
        "include/uapi": rest / "include/uapi",
        "arch/x86/include/generated": half / "arch/x86/include/generated",
        "arch/x86/include/asm": rest / "arch/x86/include/asm",
    }
    assert (view / "include/linux/kconfig.h").is_file()


def test_a_view_is_kept_and_built_again_when_its_package_changes(tmp_path, root):
    half, _ = debian(root)
    view = choose(tmp_path).path
    made = view.stat().st_ino
    assert choose(tmp_path).path.stat().st_ino == made
    write(root, "usr/src/linux-headers-6.1.0-56-common/include/net/sock.h")
    assert choose(tmp_path).path == view
    assert (view / "include/net/sock.h").is_file()
    (half / "include/config/auto.conf").unlink()
    (half / "include/config").rmdir()
    assert not (choose(tmp_path).path / "include/config").is_symlink()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [view.name]


def test_the_nearest_version_that_is_not_newer_is_taken(tmp_path, root):
    for version in ("5.10.0-30", "6.1.0-9", "6.1.0-56", "6.19.0-1"):
        debian(root, version=version)
    assert choose(tmp_path).release == "6.1.0-56-amd64"


def test_a_newer_version_is_better_than_none(tmp_path, root):
    debian(root, version="7.2.0-1")
    debian(root, version="6.19.0-1")
    assert choose(tmp_path).release == "6.19.0-1-amd64"


def test_a_half_without_its_other_half_is_passed_over(tmp_path, root):
    debian(root, version="5.10.0-30")
    write(root, "usr/src/linux-headers-6.1.0-56-amd64/include/generated/autoconf.h")
    assert choose(tmp_path).release == "5.10.0-30-amd64"


@pytest.mark.parametrize(("flavour", "common"), [("cloud-amd64", "common"), ("rt-amd64", "common-rt")])
def test_debians_flavours_find_their_common_half(tmp_path, root, flavour, common):
    _, rest = debian(root, flavour=flavour, common=common)
    assert (choose(tmp_path).path / "include/linux").readlink() == rest / "include/linux"


def test_ubuntus_package_is_complete_by_its_own_links(tmp_path, root):
    common = root / "usr/src/linux-headers-6.8.0-45"
    package = root / "usr/src/linux-headers-6.8.0-45-generic"
    write(common, "include/linux/kconfig.h", "arch/x86/include/asm/ptrace.h", "Makefile")
    write(package, "include/generated/autoconf.h")
    (package / "include/linux").symlink_to("../../linux-headers-6.8.0-45/include/linux")
    (package / "arch").symlink_to("../linux-headers-6.8.0-45/arch")
    choice = choose(tmp_path)
    assert (choice.path, choice.release) == (package, "6.8.0-45-generic")


def test_ubuntus_package_without_links_is_merged(tmp_path, root):
    common = root / "usr/src/linux-headers-6.8.0-45"
    write(common, "include/linux/kconfig.h", "arch/x86/include/asm/ptrace.h", "Makefile")
    write(
        root / "usr/src/linux-headers-6.8.0-45-generic",
        "include/generated/autoconf.h",
        "arch/x86/include/generated/asm/x.h",
    )
    assert (choose(tmp_path).path / "include/linux").readlink() == common / "include/linux"


def test_arm_has_a_folder_of_its_own(tmp_path, root):
    debian(root, flavour="arm64", arch="arm64")
    choice = choose(tmp_path, machine="aarch64")
    assert (choice.path / "arch/arm64/include/asm/ptrace.h").is_file()
    with pytest.raises(EnvironmentMissingError):
        choose(tmp_path, machine="x86_64")


def test_the_persons_own_choice_is_respected(tmp_path, root):
    debian(root)
    write(tmp_path, "mine/include/linux/kconfig.h")
    choice = choose(tmp_path, environ={"BCC_KERNEL_SOURCE": str(tmp_path / "mine")})
    assert (choice.path, choice.env) == (tmp_path / "mine", {})
    with pytest.raises(EnvironmentMissingError, match=r"BCC_KERNEL_SOURCE names .*/nowhere"):
        choose(tmp_path, environ={"BCC_KERNEL_SOURCE": str(tmp_path / "nowhere")})


def test_without_any_the_error_names_the_package(tmp_path, root):
    with pytest.raises(EnvironmentMissingError) as raised:
        choose(tmp_path)
    assert RUNNING in raised.value.message
    assert "linux-headers-amd64" in raised.value.next_step
    assert "linux-headers-generic" in raised.value.next_step


def test_an_unknown_machine_is_named(tmp_path, root):
    with pytest.raises(EnvironmentMissingError, match="sparc64"):
        choose(tmp_path, machine="sparc64")
