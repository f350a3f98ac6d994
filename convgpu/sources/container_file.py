# SPDX-License-Identifier: Apache-2.0
"""Opens a file of a container as the real file that it is, without being led astray by that container.

A path inside a container is the container's word: it may turn into a link to anywhere while it is looked up. So links
are followed inside the process's own root only (openat2 with RESOLVE_IN_ROOT).

What a container sees is mostly an overlay: one file of an image layer has another device number in each container,
while probes belong to the file of the layer. That file is found where the mount's own options say, so that it is known
as one, and so that no probe keeps a container's file system mounted. After the container has changed the file, it is
another one, in the container's own layer.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from convgpu.sources.procfs import PROC

_OPENAT2: Final = 437  # the same number on every architecture
_OPEN_HOW: Final = struct.Struct("<QQQ")
_RESOLVE_NO_MAGICLINKS: Final = 0x02  # linux/openat2.h
_RESOLVE_IN_ROOT: Final = 0x10
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class OpenFile(NamedTuple):
    """An open file, to be closed by who asked for it.

    Attributes:
        descriptor: For reading.
        path: Where it lies, for people.
    """

    descriptor: int
    path: str


def open_file(path: str, proc: Path = PROC) -> OpenFile:
    """Open a file by a path on the host, `/proc/PID/root/...` and `/proc/PID/exe` included.

    Raises:
        OSError: There is none, or it leads out of the container.
    """
    parts = PurePosixPath(path).relative_to(proc).parts if PurePosixPath(path).is_relative_to(proc) else ()
    process = proc / "self"
    if len(parts) > 2 and parts[0].isdigit() and parts[1] == "root":
        process = proc / parts[0]
        inside = "/" + "/".join(parts[2:])
        direct = _open_below(process / "root", inside)
    elif len(parts) == 2 and parts[0].isdigit() and parts[1] == "exe":
        process = proc / parts[0]
        inside = str(Path(path).readlink()).removesuffix(" (deleted)")
        direct = os.open(path, _FLAGS)
    else:
        inside = os.path.realpath(path)
        direct = os.open(inside, _FLAGS)
    below = _open_in_layer(process, inside, direct)
    if below is None:
        return OpenFile(direct, path)
    os.close(direct)
    return below


def _open_in_layer(process: Path, inside: str, direct: int) -> OpenFile | None:
    """Open the same file where it really lies, if it is seen through an overlay."""
    seen = os.fstat(direct)
    for layer, rest in _layers(process, inside):
        try:
            descriptor = _open_below(layer, rest)
        except OSError:
            continue
        real = os.fstat(descriptor)
        # The first layer that has the file has the right one; this holds what is cheap to hold against it.
        if (real.st_size, real.st_mode, real.st_mtime_ns) == (seen.st_size, seen.st_mode, seen.st_mtime_ns):
            return OpenFile(descriptor, f"{layer}{rest}")
        os.close(descriptor)
        return None
    return None


def _layers(process: Path, inside: str) -> Iterator[tuple[Path, str]]:
    """Yield the folders in which an overlay looks for a file, topmost first, with the file's path in them."""
    try:
        lines = (process / "mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return
    best: tuple[str, str, str] | None = None
    for (
        line
    ) in lines:  # proc(5): id, parent, device, root, mount point, ..., -, type, source, options of the superblock
        fields = line.partition(" - ")[0].split()
        if len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        is_below = inside == point or inside.startswith(point.rstrip("/") + "/")
        if is_below and (best is None or len(point) >= len(best[0])):  # a later mount hides an earlier one
            best = (point, _unescaped(fields[3]), line)
    if best is None:
        return
    point, root, line = best
    described = line.partition(" - ")[2].split(maxsplit=2)
    if len(described) < 3 or described[0] != "overlay":
        return
    rest = root.rstrip("/") + inside[len(point.rstrip("/")) :]
    settings = dict(item.partition("=")[::2] for item in re.split(r"(?<!\\),", described[2]))
    folders = [settings["upperdir"]] if "upperdir" in settings else []
    folders += re.split(r"(?<!\\):", settings.get("lowerdir", ""))
    for folder in folders:
        plain = re.sub(r"\\([:,\\])", r"\1", _unescaped(folder))
        if plain.startswith("/"):
            yield Path(plain), rest


def _unescaped(text: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _open_below(root: Path, path: str) -> int:
    """Open a path as if `root` were the root of the file system."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = ctypes.create_string_buffer(_OPEN_HOW.pack(_FLAGS, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS))
        name = ctypes.create_string_buffer(os.fsencode(path))
        libc = ctypes.CDLL(None, use_errno=True)
        result: int = libc.syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_int(folder), name, how, ctypes.c_size_t(_OPEN_HOW.size)
        )
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        return result
    finally:
        os.close(folder)
