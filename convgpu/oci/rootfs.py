# SPDX-License-Identifier: Apache-2.0
"""The root file system of a container that is about to start: what one must know before a library is preloaded.

Every symbolic link is followed as the container would follow it: one to `/etc/shadow` means the container's own.
Imports little: the runtime shim runs at every start.
"""

from __future__ import annotations

import os
import stat

MUSL_LOADERS = ("/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1")
GLIBC_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
GLIBC_IMITATION = "/lib/libgcompat.so.0"
"""gcompat lets musl images run glibc programs and brings the glibc loader's name with it."""
_MOST_LINKS = 40
"""As many as the kernel follows (MAXSYMLINKS)."""
_MOST_BYTES = 1 << 16


def has(root: str, path: str) -> bool:
    """Tell whether there is a file of that name in the container."""
    try:
        os.close(_open(root, path))
    except OSError:
        return False
    return True


def is_musl(root: str) -> bool:
    """Tell whether the container's programs are linked to musl, which reads no ld.so.preload."""
    musl = any(has(root, path) for path in MUSL_LOADERS)
    return musl and not (any(has(root, path) for path in GLIBC_LOADERS) and not has(root, GLIBC_IMITATION))


def read(root: str, path: str) -> bytes | None:
    """Return a small file's content; None: there is none."""
    try:
        descriptor = _open(root, path)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 -- pathlib is slow to load
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


def _open(root: str, path: str) -> int:
    """Return a descriptor (O_PATH) of a file, found without ever leaving the root.

    Raises:
        OSError: There is none, or too many links lead to it.
    """
    folders = [os.open(root, os.O_PATH | os.O_DIRECTORY)]
    rest = path.split("/")[::-1]
    links = 0
    try:
        while rest:
            name = rest.pop()
            if name == "..":
                if len(folders) > 1:
                    os.close(folders.pop())
            elif name not in ("", "."):
                found = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folders[-1])
                folders.append(found)
                if stat.S_ISLNK(os.fstat(found).st_mode):
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(f"more than {_MOST_LINKS} symbolic links")
                    target = os.readlink("", dir_fd=found)  # an empty path: the link that the descriptor is
                    rest += target.split("/")[::-1]
                    os.close(folders.pop())
                    while target.startswith("/") and len(folders) > 1:
                        os.close(folders.pop())
        return os.dup(folders[-1])
    finally:
        for descriptor in folders:
            os.close(descriptor)
