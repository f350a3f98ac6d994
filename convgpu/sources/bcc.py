# SPDX-License-Identifier: Apache-2.0
"""Finds the distribution's bcc from any Python, a virtual environment included.

bcc comes with the distribution (`python3-bpfcc`) as pure Python over libbcc.so.0, so every CPython 3 of the machine can
import it. The `bcc` on PyPI is another program. Only this one package is loaded: the distribution's folder does not
come onto `sys.path`, where its other packages would shadow those of the environment.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from convgpu.errors import EnvironmentMissingError

INSTALL_STEP: Final = "install the distribution's bcc: `sudo apt-get install python3-bpfcc` on Debian and Ubuntu"

_DISTRIBUTION_FOLDERS: Final = (
    "usr/lib/python3/dist-packages",  # Debian, Ubuntu
    "usr/lib/python3*/site-packages",  # Fedora, Arch, openSUSE
    "usr/local/lib/python3*/dist-packages",  # bcc built from source on Debian
    "usr/local/lib/python3*/site-packages",
)
_MARK: Final = "libbcc.py"
"""Present in every version of BPF's bcc, and in no other package of that name."""
_ATTACH_UPROBE_ARGUMENTS: Final = 7


def bcc_folders(search: Iterable[str], root: Path) -> Iterator[Path]:
    """Yield every folder called `bcc` that Python or the distribution would offer, each once, best first."""
    seen = set()
    candidates = [Path(entry) for entry in search if entry]
    for pattern in _DISTRIBUTION_FOLDERS:
        candidates += sorted(root.glob(pattern), reverse=True)
    for candidate in candidates:
        folder = candidate / "bcc"
        if folder not in seen and (folder / "__init__.py").is_file():
            seen.add(folder)
            yield folder


def load_bcc(search: Iterable[str] | None = None, root: Path = Path("/")) -> ModuleType:
    """Import BPF's bcc.

    Args:
        search: Folders to look in first; None: `sys.path` and `PYTHONPATH`.
        root: Root of the file system in which the distribution's folders are looked for.

    Raises:
        EnvironmentMissingError: There is none, there is only the other program of that name, or libbcc.so.0 or a part
            of the package cannot be loaded.
    """
    loaded = sys.modules.get("bcc")
    if search is None:
        if loaded is not None and hasattr(loaded, "BPF"):
            _mend(loaded)
            return loaded
        search = [*sys.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    others = []
    for folder in bcc_folders(search, root):
        if (folder / _MARK).is_file():
            return _load_package(folder)
        others.append(str(folder))
    if others:
        raise EnvironmentMissingError(
            f"the `bcc` in {', '.join(others)} is not BPF's bcc but another program of that name",
            next_step=f"{INSTALL_STEP}; the `bcc` of PyPI may be removed (`pip uninstall bcc`)",
        )
    raise EnvironmentMissingError("bcc, which loads the eBPF programs, is not installed", next_step=INSTALL_STEP)


def _load_package(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bcc", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise EnvironmentMissingError(f"{folder} cannot be imported", next_step=INSTALL_STEP)
    _unload()
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module  # bcc's own modules import each other through this name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bcc's escapes in plain strings: SyntaxWarning from Python 3.12 on
            spec.loader.exec_module(module)
    except OSError as error:
        _unload()
        raise EnvironmentMissingError(
            f"bcc was found in {folder}, but its library cannot be loaded: {error}",
            next_step="install the library that belongs to it: `sudo apt-get install --reinstall libbpfcc`",
        ) from error
    except Exception as error:
        _unload()
        raise EnvironmentMissingError(
            f"bcc was found in {folder}, but does not load in Python {sys.version_info.major}."
            f"{sys.version_info.minor}: {error}",
            next_step=f"re{INSTALL_STEP}",
        ) from error
    _mend(module)
    return module


def _mend(module: ModuleType) -> None:
    """Give libbcc's bpf_attach_uprobe the argument that bcc's Python leaves out since 0.17 (iovisor/bcc issue 5236).

    It is ref_ctr_offset, where in the file a counter of attached probes lies. Left out, it is what the stack held: the
    kernel then counts in the data of whoever maps that file, or refuses a second probe with another such number.
    """
    attach = getattr(getattr(module, "lib", None), "bpf_attach_uprobe", None)
    known = getattr(attach, "argtypes", None)
    if attach is None or known is None or len(known) != _ATTACH_UPROBE_ARGUMENTS - 1:
        return
    attach.argtypes = [*known, ctypes.c_uint32]
    module.lib.bpf_attach_uprobe = lambda *arguments: attach(*arguments, *[0] * (len(known) + 1 - len(arguments)))


def _unload() -> None:
    for name in [name for name in sys.modules if name == "bcc" or name.startswith("bcc.")]:
        del sys.modules[name]


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what libbcc's clang and the kernel's verifier print on descriptor 2; yields a function that returns it.

    What was printed during a block that ends well is passed on; after an exception it is for the handler to tell. The
    descriptor belongs to the process, so other threads' lines are kept back for as long.
    """
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)

        def text() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace").strip()

        try:
            yield text
        except BaseException:
            _restore(real)
            raise
        _restore(real)
        passed_on = text()
        if passed_on:
            os.write(2, passed_on.encode() + b"\n")


def _restore(real: int) -> None:
    sys.stderr.flush()
    os.dup2(real, 2)
    os.close(real)
