# SPDX-License-Identifier: Apache-2.0
"""Finding BPF's bcc, and telling it from the other program of that name."""

from __future__ import annotations

import os
import sys

import pytest

from convgpu.errors import EnvironmentMissingError
from convgpu.sources.bcc import captured_stderr, load_bcc

REAL = "from .libbcc import lib\nclass BPF: pass\n"
LIBRARY = "lib = 'libbcc'\n"


@pytest.fixture(autouse=True)
def _no_bcc_before_or_after():
    """The tests load packages called `bcc`; what the interpreter had comes back."""
    before = {name: module for name, module in sys.modules.items() if name == "bcc" or name.startswith("bcc.")}
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name == "bcc" or name.startswith("bcc.")]:
        del sys.modules[name]
    sys.modules.update(before)


def package(folder, init=REAL, library=LIBRARY):
    (folder / "bcc").mkdir(parents=True)
    (folder / "bcc/__init__.py").write_text(init)
    if library is not None:
        (folder / "bcc/libbcc.py").write_text(library)
    return folder


def test_the_distributions_package_is_found_and_its_folder_stays_off_the_path(tmp_path):
    folder = package(tmp_path / "usr/lib/python3/dist-packages")
    (folder / "click.py").write_text("raise RuntimeError('the distribution shadows the environment')")
    path = list(sys.path)
    module = load_bcc(search=[], root=tmp_path)
    assert module.BPF.__module__ == "bcc"
    assert module.__file__ == str(folder / "bcc/__init__.py")
    assert module.lib == "libbcc"
    assert sys.path == path


@pytest.mark.parametrize("folder", ["usr/lib/python3.12/site-packages", "usr/local/lib/python3/dist-packages"])
def test_other_distributions_folders_are_looked_in(tmp_path, folder):
    package(tmp_path / folder)
    assert load_bcc(search=[], root=tmp_path).lib == "libbcc"


def test_the_search_path_comes_first(tmp_path):
    package(tmp_path / "usr/lib/python3/dist-packages")
    mine = package(tmp_path / "mine", library="lib = 'mine'\n")
    assert load_bcc(search=["", str(mine)], root=tmp_path).lib == "mine"


def test_the_other_program_of_that_name_is_passed_over(tmp_path):
    other = package(tmp_path / "venv", init="raise RuntimeError('never import me')\n", library=None)
    package(tmp_path / "usr/lib/python3/dist-packages")
    assert load_bcc(search=[str(other)], root=tmp_path).lib == "libbcc"


def test_the_other_program_alone_is_told_apart_from_none(tmp_path):
    other = package(tmp_path / "venv", library=None)
    with pytest.raises(EnvironmentMissingError) as raised:
        load_bcc(search=[str(other)], root=tmp_path)
    assert "another program" in raised.value.message
    assert str(other) in raised.value.message
    assert "python3-bpfcc" in raised.value.next_step
    assert "pip uninstall bcc" in raised.value.next_step


def test_without_any_the_error_names_the_package(tmp_path):
    with pytest.raises(EnvironmentMissingError) as raised:
        load_bcc(search=[], root=tmp_path)
    assert "not installed" in raised.value.message
    assert "apt-get install python3-bpfcc" in raised.value.next_step


def test_a_missing_library_is_told(tmp_path):
    library = "import ctypes\nlib = ctypes.CDLL('libbcc-that-is-not-there.so.0')\n"
    package(tmp_path / "usr/lib/python3/dist-packages", library=library)
    with pytest.raises(EnvironmentMissingError) as raised:
        load_bcc(search=[], root=tmp_path)
    assert "libbcc-that-is-not-there.so.0" in raised.value.message
    assert "libbpfcc" in raised.value.next_step
    assert not any(name.startswith("bcc") for name in sys.modules)


def test_a_package_that_does_not_load_is_told(tmp_path):
    package(tmp_path / "usr/lib/python3/dist-packages", init="import nowhere_to_be_found\n")
    with pytest.raises(EnvironmentMissingError, match="nowhere_to_be_found"):
        load_bcc(search=[], root=tmp_path)


def test_one_that_is_loaded_already_is_used(tmp_path):
    package(tmp_path / "usr/lib/python3/dist-packages")
    module = load_bcc(search=[], root=tmp_path)
    assert load_bcc() is module


LIBRARY_OF_0_17 = """
import ctypes
received = []
@ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_ulong] * 6, ctypes.c_uint32)
def attach(*arguments):
    received.append(arguments)
    return 0
attach.argtypes = [ctypes.c_ulong] * 6
class lib:
    bpf_attach_uprobe = attach
"""


@pytest.mark.parametrize("times", [1, 2])
def test_the_argument_that_bcc_leaves_out_is_0(tmp_path, times):
    package(tmp_path / "usr/lib/python3/dist-packages", library=LIBRARY_OF_0_17)
    module = load_bcc(search=[], root=tmp_path)
    for _ in range(times - 1):
        assert load_bcc() is module
    module.lib.bpf_attach_uprobe(1, 2, 3, 4, 5, 6)
    assert sys.modules["bcc.libbcc"].received == [(1, 2, 3, 4, 5, 6, 0)]


def test_what_libraries_print_is_kept_from_stderr_when_it_explains_an_error(capfd):
    def fail():
        with captured_stderr() as printed:
            os.write(2, b"virtual/main.c:1: error\n")
            raise RuntimeError(printed())

    with pytest.raises(RuntimeError, match=r"virtual/main\.c:1: error"):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_is_printed_when_all_is_well_is_passed_on(capfd):
    with captured_stderr():
        os.write(2, b"somebody else's line\n")
    assert capfd.readouterr().err == "somebody else's line\n"
