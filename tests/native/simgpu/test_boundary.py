# SPDX-License-Identifier: Apache-2.0
"""The boundary: what the resource manager's ioctls do, and whose memory is whose."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading

import pytest
from conftest import HERE, Sim, wait_until
from rm_client import (
    ALLOC,
    ALLOC_MEMORY,
    DEVICE,
    DUPLICATE,
    INVALID_ADDRESS,
    INVALID_CLIENT,
    INVALID_DEVICE,
    INVALID_PARENT,
    MEMORY,
    NO_MEMORY,
    NOT_FOUND,
    NOT_SUPPORTED,
    OK,
    SUBDEVICE,
    SYSTEM_MEMORY,
    VIRTUAL,
    RmClient,
    iowr,
)

from convgpu.core.units import GIB, KIB, MIB

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.mark.parametrize("short", [False, True], ids=["48-byte form", "32-byte form"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "XFER_CMD"])
def test_memory_is_charged_to_the_process_and_given_back(sim: Sim, short: bool, wrapped: bool) -> None:
    rm = sim.client()
    status, handle = rm.memory(rm.device(), 3 * MIB, short=short, wrapped=wrapped)
    assert (status, rm.taken_bytes) == (OK, 3 * MIB)
    assert sim.used() == sim.held_by(os.getpid()) == 3 * MIB
    assert rm.free(handle, wrapped=wrapped) == OK
    assert sim.empty()


@pytest.mark.parametrize(("asked", "taken"), [(1, 64 * KIB), (64 * KIB, 64 * KIB), (64 * KIB + 1, 128 * KIB)])
@pytest.mark.parametrize("length", [120, 128])
def test_the_size_is_rounded_to_64_kib_and_written_back(sim: Sim, asked: int, taken: int, length: int) -> None:
    rm = sim.client()
    assert rm.memory(rm.device(), asked, length=length)[0] == OK
    assert rm.taken_bytes == taken == sim.used()


def test_a_full_device_refuses_with_a_status_and_takes_nothing(sim: Sim) -> None:
    rm = sim.client()
    device = rm.device()
    assert rm.memory(device, 10 * GIB - 64 * KIB)[0] == OK
    assert rm.memory(device, 64 * KIB + 1, handle=77)[0] == NO_MEMORY
    assert rm.taken_bytes == 64 * KIB + 1  # untouched
    assert rm.free(77) == NOT_FOUND
    assert rm.memory(device, 64 * KIB)[0] == OK
    assert rm.memory(device, 1)[0] == NO_MEMORY
    assert rm.memory(device, 2**64 - 1)[0] == NO_MEMORY
    assert sim.used() == 10 * GIB


def test_freeing_a_device_frees_what_is_below_it(sim: Sim) -> None:
    rm = sim.client()
    first, second = rm.device(), rm.device()
    status, below = rm.allocate(first, SUBDEVICE)
    assert status == OK
    assert rm.memory(first, GIB)[0] == OK
    assert rm.memory(below, 2 * GIB)[0] == OK
    assert rm.memory(second, 4 * GIB)[0] == OK
    assert rm.free(first) == OK
    assert sim.used() == 4 * GIB
    assert rm.free(below) == NOT_FOUND


def test_freeing_the_root_frees_the_client(sim: Sim) -> None:
    rm = sim.client()
    assert rm.memory(rm.device(), GIB)[0] == OK
    assert rm.free(rm.client) == OK
    assert sim.empty()
    assert rm.memory(1, GIB)[0] == INVALID_CLIENT


def test_closing_the_descriptor_frees_its_clients_only(sim: Sim) -> None:
    rm, other = sim.client(), sim.client()
    assert rm.memory(rm.device(), GIB)[0] == OK
    assert other.memory(other.device(), 2 * GIB)[0] == OK
    assert sim.held_by(os.getpid()) == 3 * GIB  # two clients, one process
    sim.clients.remove(rm)
    rm.close()
    wait_until(lambda: sim.used() == 2 * GIB, "released")


def test_what_a_close_frees_is_there_for_the_next_request(sim: Sim) -> None:
    """A real driver is done when close returns; here the order of requests has to do, however many wait."""
    holders = [sim.client() for _ in range(40)]
    for holder in holders:
        assert holder.memory(holder.device(), 256 * MIB)[0] == OK
    taker = sim.client()
    device = taker.device()
    assert taker.memory(device, 64 * KIB)[0] == NO_MEMORY
    server = sim.status().pid or 0
    os.kill(server, signal.SIGSTOP)
    answers: list[int] = []
    try:
        for holder in holders:
            holder.close()
        thread = threading.Thread(target=lambda: answers.append(taker.memory(device, 10 * GIB)[0]))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    finally:
        os.kill(server, signal.SIGCONT)
    thread.join(10)
    sim.clients[:] = [taker]
    assert answers == [OK]


def test_a_killed_process_gives_everything_back_within_a_second(sim: Sim) -> None:
    code = (
        "from pathlib import Path; from rm_client import RmClient; import signal, sys\n"
        "rm = RmClient(Path(sys.argv[1])); rm.memory(rm.device(), 1 << 30); print('ready', flush=True); signal.pause()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(sim.device_dir)], cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert sim.held_by(child.pid) == GIB
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_until(sim.empty, "the kernel released the descriptor", within_s=1.0)
    child.stdout.close()


def test_what_takes_no_video_memory_is_not_charged(sim: Sim) -> None:
    rm = sim.client()
    device = rm.device()
    assert rm.allocate(device, SYSTEM_MEMORY, parameters=struct.pack("<128x"))[0] == OK
    assert rm.memory(device, GIB, flags=VIRTUAL)[0] == OK
    assert rm.allocate(device, 0x50A0, parameters=struct.pack("<128x"))[0] == OK
    assert sim.empty()


def test_alloc_memory_counts_the_class_that_counts(sim: Sim) -> None:
    rm = sim.client()
    device = rm.device()

    def alloc_memory(class_id: int) -> int:
        block = struct.pack("<IIIIIIQQIIiI", rm.client, device, 0, class_id, 0, 0, 0, 3 * MIB - 1, 9, 0, -1, 0)
        return int(struct.unpack_from("<I", rm.issue(ALLOC_MEMORY, block), 40)[0])

    assert alloc_memory(SYSTEM_MEMORY) == OK
    assert sim.used() == 0
    assert alloc_memory(MEMORY) == OK
    assert sim.used() == 3 * MIB


def test_a_duplicate_is_charged_to_nobody_as_long_as_its_owner_is_there(sim: Sim) -> None:
    owner, sharer = sim.client(), sim.client()
    status, handle = owner.memory(owner.device(), GIB)
    assert status == OK
    status, copy = sharer.duplicate(sharer.device(), owner.client, handle)
    assert status == OK
    assert sim.used() == sim.held_by(os.getpid()) == GIB
    assert owner.free(handle) == OK
    assert sim.used() == sim.held_by(os.getpid()) == GIB  # the sharer's now
    assert sharer.free(copy) == OK
    assert sim.empty()


def test_the_charge_goes_to_the_duplicate_that_was_made_last(sim: Sim) -> None:
    """As the driver's source has it: a duplicate is put behind what it was made of, and the next one takes over."""
    code = (
        "from pathlib import Path; from rm_client import RmClient; import sys\n"
        "rm = RmClient(Path(sys.argv[1]))\n"
        "print(rm.duplicate(rm.device(), int(sys.argv[2]), int(sys.argv[3]))[0], flush=True)\n"
        "sys.stdin.read()"
    )
    owner = sim.client()
    status, handle = owner.memory(owner.device(), GIB)
    assert status == OK
    sharers = []
    for _ in range(3):
        words = [sys.executable, "-c", code, str(sim.device_dir), str(owner.client), str(handle)]
        sharer = subprocess.Popen(words, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert sharer.stdout is not None
        assert sharer.stdout.readline() == "0\n"
        sharers.append(sharer)
    assert sim.status().gpus[0].process_bytes == {os.getpid(): GIB}
    assert owner.free(handle) == OK
    while sharers:
        last = sharers.pop()
        wait_until(lambda pid=last.pid: sim.status().gpus[0].process_bytes == {pid: GIB}, "the last one has it")
        last.communicate("")
    wait_until(sim.empty, "nobody has it")


def test_client_handles_are_global_and_a_stranger_may_not_use_them(sim: Sim) -> None:
    rm, other = sim.client(), sim.client()
    assert rm.client != other.client
    assert rm.client >> 16 == other.client >> 16 >= 0xC000  # a range of its own for each simulated driver
    code = (
        "from pathlib import Path; from rm_client import RmClient; import sys\n"
        "rm = RmClient(Path(sys.argv[1])); mine = int(sys.argv[2])\n"
        "print(rm.allocate(mine, 0x80, client=mine)[0], rm.free(mine, client=mine))"
    )
    words = [sys.executable, "-c", code, str(sim.device_dir), str(rm.client)]
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(INVALID_CLIENT)] * 2
    assert rm.device()  # still there


def test_handles_may_be_chosen_once(sim: Sim) -> None:
    rm = sim.client()
    assert rm.device(handle=0x5C000001) == 0x5C000001
    assert rm.allocate(rm.client, SUBDEVICE, handle=0x5C000001)[0] == DUPLICATE
    other = sim.client()
    assert other.device(handle=0x5C000001) == 0x5C000001  # handles of objects are the client's own


def test_errors_have_their_status(sim: Sim) -> None:
    rm = sim.client()
    device = rm.device()
    assert rm.memory(rm.client, GIB)[0] == INVALID_PARENT  # on no device
    assert rm.memory(0xDEAD, GIB)[0] == INVALID_PARENT
    assert rm.allocate(device, MEMORY, address=0x10)[0] == INVALID_ADDRESS
    assert rm.allocate(rm.client, DEVICE, parameters=struct.pack("<I52x", 1))[0] == INVALID_DEVICE
    assert rm.allocate(device, MEMORY, parameters=bytes(128), flags=1)[0] == NOT_SUPPORTED  # serialised
    assert rm.allocate(device, SUBDEVICE, client=0xC1D0FFFF)[0] == INVALID_CLIENT
    assert rm.free(0xDEAD) == NOT_FOUND
    assert sim.empty()


def test_a_size_that_cannot_be_written_back_is_not_taken(sim: Sim) -> None:
    """The parameters lie in read-only memory: the driver could not tell the caller what it took."""
    rm = sim.client()
    device = rm.device()
    page = mmap.mmap(-1, mmap.PAGESIZE)
    struct.pack_into("<Q", page, 64, MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ) == 0
    assert rm.allocate(device, MEMORY, address=address)[0] == INVALID_ADDRESS
    assert sim.empty()


@pytest.mark.parametrize("number", [ALLOC, 0x29, 0x2A, 211, 0xE0])
def test_a_block_of_the_wrong_size_is_einval(sim: Sim, number: int) -> None:
    rm = sim.client()
    with pytest.raises(OSError, match="Invalid argument") as caught:
        rm.issue(number, bytes(24))
    assert caught.value.errno == errno.EINVAL


def test_a_wrapped_block_that_is_nowhere_is_efault(sim: Sim) -> None:
    rm = sim.client()
    with pytest.raises(OSError, match="Bad address"):
        fcntl.ioctl(rm.descriptor, iowr(211, 16), bytearray(struct.pack("<IIQ", ALLOC, 48, 0x10)))
    with pytest.raises(OSError, match="Invalid argument"):  # no wrapping in a wrapping, no giant
        fcntl.ioctl(rm.descriptor, iowr(211, 16), bytearray(struct.pack("<IIQ", 211, 16, 0x10)))
    with pytest.raises(OSError, match="Invalid argument"):
        fcntl.ioctl(rm.descriptor, iowr(211, 16), bytearray(struct.pack("<IIQ", ALLOC, 1 << 20, 0x10)))


def test_a_thread_is_charged_as_its_process(sim: Sim) -> None:
    def work() -> None:
        rm = sim.client()
        assert rm.memory(rm.device(), MIB)[0] == OK

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sim.status().gpus[0].process_bytes == {os.getpid(): MIB}


def test_a_client_stays_charged_to_its_creator_when_a_child_uses_it(sim: Sim) -> None:
    """A child has the descriptor but is another process; the parent may be gone, the memory is not."""
    rm = sim.client()
    device = rm.device()
    child = os.fork()
    if child == 0:
        os._exit(rm.memory(device, MIB)[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == OK
    assert sim.status().gpus[0].process_bytes == {os.getpid(): MIB}


def test_a_very_deep_tree_is_freed_in_one_call(sim: Sim) -> None:
    rm = sim.client()
    top = parent = rm.device()
    for _ in range(20011):
        status, parent = rm.allocate(parent, SUBDEVICE)
        assert status == OK
    assert rm.memory(parent, MIB)[0] == OK
    assert rm.free(top) == OK
    assert sim.empty()


def test_two_gpus_have_instances_that_are_not_their_indices(two_gpus: Sim) -> None:
    """As measured: NVML index 0, at PCI 00:06, is instance 1. The map is read off three control commands."""
    rm = two_gpus.client()
    status, probed = rm.control(0x214, bytes(256))
    assert status == OK
    ids = [number for number in struct.unpack("<32I", probed[:128]) if number != 0xFFFFFFFF]
    assert sorted(ids) == [6, 7]
    found = {}
    for gpu_id in ids:
        old = rm.control(0x202, struct.pack("<I36x", gpu_id))
        new = rm.control(0x205, struct.pack("<I28x", gpu_id))
        pci = rm.control(0x21B, struct.pack("<I8x", gpu_id))
        assert old[0] == new[0] == pci[0] == OK
        assert struct.unpack_from("<III", old[1]) == struct.unpack_from("<III", new[1])
        found[struct.unpack("<IIHH", pci[1])[1:]] = struct.unpack_from("<III", new[1])[2]
    assert found == {(0, 0, 6): 1, (0, 0, 7): 0}
    assert rm.control(0x205, struct.pack("<I28x", 99))[0] != OK
    assert rm.control(0x1234, bytes(8)) == (OK, bytes(8))  # any other command does nothing

    gpus = two_gpus.status().gpus
    assert [(gpu.index, gpu.instance, gpu.pci) for gpu in gpus] == [(0, 1, "0000:00:06.0"), (1, 0, "0000:00:07.0")]
    assert rm.memory(rm.device(instance=1), 3 * MIB)[0] == OK
    assert (two_gpus.used(0), two_gpus.used(1)) == (3 * MIB, 0)


def test_every_device_file_speaks_the_same(sim: Sim) -> None:
    rm = sim.client("nvidia0")
    assert rm.memory(rm.device(), MIB)[0] == OK
    assert sim.used() == MIB
    uvm = os.open(sim.device_dir / "nvidia-uvm", os.O_RDWR)
    assert fcntl.ioctl(uvm, 0x30000001, 0) == 0  # UVM_INITIALIZE: a number without a size
    os.close(uvm)


def test_requests_of_many_processes_do_not_mix(sim: Sim) -> None:
    code = (
        "from pathlib import Path; from rm_client import RmClient; import sys\n"
        "rm = RmClient(Path(sys.argv[1])); device = rm.device()\n"
        "for n in range(211):\n"
        "    status, handle = rm.memory(device, 65536 * (n + 1))\n"
        "    assert status == 0 and rm.taken_bytes == 65536 * (n + 1)\n"
        "    assert rm.free(handle) == 0\n"
    )
    words = [sys.executable, "-c", code, str(sim.device_dir)]
    children = [subprocess.Popen(words, cwd=HERE) for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0, 0]
    assert sim.used() == 0


def test_the_first_client_of_a_process_decides_its_place_in_the_list(sim: Sim) -> None:
    rm = sim.client()
    assert rm.memory(rm.device(), MIB)[0] == OK
    second = RmClient(sim.device_dir)
    assert second.memory(second.device(), 2 * MIB)[0] == OK
    assert sim.status().gpus[0].process_bytes == {os.getpid(): 3 * MIB}
    second.close()


def test_the_status_is_of_one_moment_however_it_is_read(sim: Sim) -> None:
    rm = sim.client()
    device = rm.device()
    with (sim.device_dir / "status").open("rb", buffering=0) as status:
        begin = status.read(64)
        assert rm.memory(device, MIB)[0] == OK
        state = json.loads(begin + status.read())
    assert state["simulated"] is True
    assert state["gpus"][0]["used_bytes"] == 0
    assert sim.used() == MIB
