# SPDX-License-Identifier: Apache-2.0
"""Kernel headers for bcc's compiler: the running kernel's where there are any, else those of another kernel.

The programs in `bpf/` touch no structure of the kernel, so headers of another version compile them just as well.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from convgpu.errors import EnvironmentMissingError

SOURCE_VARIABLE: Final = "BCC_KERNEL_SOURCE"
"""bcc's own variable: the folder of a kernel source or headers tree."""

KERNEL_ARCHITECTURES: Final = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
}
"""The kernel's folder under `arch/` by the machine's name (uname -m)."""

_COMMON: Final = Path("include/linux/kconfig.h")
_CONFIGURED: Final = Path("include/generated/autoconf.h")
_VERSION: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChoice:
    """Which headers bcc will use.

    Attributes:
        path: Folder of the headers; None: bcc unpacks the kernel's own archive (kheaders).
        release: Kernel release that they belong to, or the name of their package.
        exact: Whether they are those of the running kernel.
        env: Variables that must be set while bcc compiles.
    """

    path: Path | None
    release: str
    exact: bool
    env: dict[str, str] = field(default_factory=dict)


def ensure_headers(
    release: str,
    cache_dir: Path,
    *,
    root: Path = Path("/"),
    machine: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> HeaderChoice:
    """Find kernel headers, and build a merged view of a split package where that is the only way.

    In this order: the folder that `BCC_KERNEL_SOURCE` names, `/lib/modules/RELEASE/{build,source}`,
    `/sys/kernel/kheaders.tar.xz`, an installed headers package, nearest version first.

    Args:
        release: The running kernel (`uname -r`).
        cache_dir: Where a merged view is kept; made if missing.
        root: Root of the file system to look in.
        machine: Machine name (`uname -m`); None: this one.
        environ: Where `BCC_KERNEL_SOURCE` may be set.

    Raises:
        EnvironmentMissingError: There are no headers at all, `BCC_KERNEL_SOURCE` names a folder without, or this
            machine's architecture is not known.
    """
    machine = machine or platform.machine()
    arch = KERNEL_ARCHITECTURES.get(machine)
    if arch is None:
        raise EnvironmentMissingError(f"no kernel headers are known for the architecture {machine}")
    named = environ.get(SOURCE_VARIABLE)
    if named:
        if not (Path(named) / "include").is_dir():
            raise EnvironmentMissingError(
                f"{SOURCE_VARIABLE} names {named}, where there are no kernel headers",
                next_step=f"unset {SOURCE_VARIABLE}, or let it name a folder with the kernel's include/ and arch/",
            )
        return HeaderChoice(path=Path(named), release=Path(named).name, exact=release in named)
    modules = root / "lib/modules" / release
    # On Debian `build` has the configuration and `source` the common part; bcc knows how to use the two.
    if any((modules / name / _COMMON).is_file() for name in ("build", "source")):
        return HeaderChoice(path=modules / "build", release=release, exact=True)
    if (root / "sys/kernel/kheaders.tar.xz").exists():
        return HeaderChoice(path=None, release=release, exact=True)
    for package in _installed(root / "usr/src", release):
        path = _usable(package, arch, cache_dir)
        if path is not None:
            name = package.name.removeprefix("linux-headers-")
            return HeaderChoice(path=path, release=name, exact=False, env={SOURCE_VARIABLE: str(path)})
    raise EnvironmentMissingError(
        f"there are no kernel headers on this machine, neither for the running kernel {release} nor for another",
        next_step="install some: `sudo apt-get install linux-headers-amd64` on Debian (linux-headers-arm64 on ARM), "
        "`linux-headers-generic` on Ubuntu; they need not be those of the running kernel",
    )


def _installed(sources: Path, release: str) -> list[Path]:
    """Return configured header packages, the newest that is not newer than the running kernel first."""
    running = _version(release)
    configured = [folder for folder in sources.glob("linux-headers-*") if (folder / _CONFIGURED).is_file()]
    older = sorted((f for f in configured if _version(f.name) <= running), key=lambda f: _version(f.name), reverse=True)
    newer = sorted((f for f in configured if _version(f.name) > running), key=lambda f: _version(f.name))
    return older + newer


def _version(name: str) -> tuple[int, ...]:
    """Return the numbers of a release, the flavour's left out: `6.1.0-56-amd64` is (6, 1, 0, 56)."""
    upstream, _, rest = name.removeprefix("linux-headers-").partition("-")
    abi = rest.partition("-")[0]
    return tuple(int(number) for number in _VERSION.findall(upstream)) + ((int(abi),) if abi.isdigit() else ())


def _usable(package: Path, arch: str, cache_dir: Path) -> Path | None:
    """Return a folder that bcc can use as it is: the package itself where it is complete, else a merged view."""
    if (package / _COMMON).is_file() and (package / "arch" / arch / "include/asm").is_dir():
        return package  # Ubuntu links the common part in; Fedora and Arch do not split
    base = package.name
    while "-" in base.removeprefix("linux-headers-"):
        base = base.rpartition("-")[0]
        # Debian: -common, -common-rt. Ubuntu: the same name less the flavour.
        for name in (f"{base}-common", f"{base}-common-rt", base):
            common = package.parent / name
            if (common / _COMMON).is_file() and (common / "arch" / arch / "include").is_dir():
                return _merged(package, common, arch, cache_dir)
    return None


def _merged(package: Path, common: Path, arch: str, cache_dir: Path) -> Path:
    """Build a folder of links to both halves of a split package, unless it is there and whole."""
    view = cache_dir / f"{package.name.removeprefix('linux-headers-')}-{arch}"
    wanted: dict[str, Path] = {"Makefile": common / "Makefile"}
    for folder in ("include", f"arch/{arch}/include"):
        for half in (common, package):  # what both have is taken from the configured half
            for entry in sorted((half / folder).iterdir()):
                wanted[f"{folder}/{entry.name}"] = entry
    present = {str(path.relative_to(view)): path.readlink() for path in view.rglob("*") if path.is_symlink()}
    if present == wanted:
        return view
    cache_dir.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{view.name}-", dir=cache_dir))
    fresh.chmod(0o755)
    for name, target in wanted.items():
        link = fresh / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    # An older view, of a package that was upgraded in between, goes as a whole.
    shutil.rmtree(view, ignore_errors=True)
    fresh.rename(view)
    return view
